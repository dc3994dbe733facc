"""A recipe as an object: `load` reads it, and its methods plan, build and show it."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dem_build.engine.interrupt import Interrupt
from dem_build.errors import UsageError
from dem_build.recipe.edited import value_text
from dem_build.session.build import building
from dem_build.session.ending import draw_report, report_inputs
from dem_build.session.outlook import look_ahead
from dem_build.session.recorded import verdict_of, why_lines
from dem_build.session.session import Call, checked, open_session
from dem_build.study.following import follower
from dem_build.study.planned import Explanation, StudyPlan
from dem_build.study.results import StudyBuild, StudyResults
from dem_build.study.weights import StoredModel, StoredVector

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from os import PathLike

    from dem_build.session.build import Built
    from dem_build.session.session import Session
    from dem_build.study.figures import Figures

OFFLINE = "HF_HUB_OFFLINE"


def load(  # noqa: PLR0913  the options that all that follows has in common
    recipe: str | PathLike[str],
    *,
    set: Mapping[str, object] | Sequence[str] = (),  # noqa: A002  as `--set`
    cache: str | PathLike[str] | None = None,
    machine: str | PathLike[str] | None = None,
    offline: bool = False,
    require_remote: bool = False,
) -> Study:
    """Read a recipe, and find all its mistakes.

    Nothing is written, and no data is read. Whatever is called later reads the recipe again: what is changed in its
    file counts from then on.

    Args:
        recipe: Its TOML file.
        set: Keys to override, as `{"train.learning_rate": 1e-5}`; or texts as `--set` takes them,
            `["train.learning_rate=1e-5"]`.
        cache: The folder of the store; by default the one that `dem` would use.
        machine: The machine file; likewise.
        offline: Ask no hub and no remote for anything.
        require_remote: Fail where a remote does not answer.

    Raises:
        RecipeError: Mistakes in the recipe, all of them.
    """
    call = Call(
        cache=None if cache is None else os.fspath(cache),
        machine=None if machine is None else Path(machine),
        overrides=_overrides(set),
        offline=offline,
        require_remote=require_remote,
        own_process=False,
    )
    named = os.fspath(recipe)
    name = checked(named, call.overrides).name
    return Study(named, name, call)


def _overrides(given: Mapping[str, object] | Sequence[str]) -> tuple[str, ...]:
    if isinstance(given, str):
        raise UsageError(
            f"set is the text {given!r}", hint='a dict, as {"train.learning_rate": 1e-5}, or a list'
        )
    if isinstance(given, Mapping):
        return tuple(f"{key}={_toml(key, value)}" for key, value in given.items())
    return tuple(given)


def _toml(key: str, value: object) -> str:
    if value is None:
        raise UsageError("TOML has no None", where=key, hint="leave the key out, or set another value")
    return value_text(_plain(value))


def _plain(value: Any) -> Any:
    """A value as `tomllib` would read it: no path, no tuple, no number of numpy."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value.item() if hasattr(value, "item") else value


class Study:
    """A recipe; `load` makes it.

    Each method looks at the recipe and the cache as they are when it is called. What a plan or results say stays as it
    was: ask again after a build.

    Attributes:
        recipe: The recipe's file, as it was named.
        name: Its name.
    """

    def __init__(self, recipe: str, name: str, call: Call) -> None:
        self.recipe = recipe
        self.name = name
        self._call = call

    def plan(self, actions: Sequence[str] = (), *, rebuild: Sequence[str] = ()) -> StudyPlan:
        """What would run, why, and what it will take; nothing is written.

        Args:
            actions: Only these, and what they need; by default all. Names, or patterns of a shell: `loss:composed:*`.
            rebuild: Actions that are to run though they are recorded; likewise.

        Raises:
            DemError: As `dem plan` fails: a mistake in a file, a name that is no action, a store that cannot be read.
        """
        with self._opened(replace(self._call, targets=_names(actions), rebuild=_names(rebuild))) as session:
            return StudyPlan(look_ahead(session))

    def build(  # noqa: PLR0913  the options of `dem build`
        self,
        actions: Sequence[str] = (),
        *,
        rebuild: Sequence[str] = (),
        jobs: int | None = None,
        keep_going: bool = False,
        no_train: bool = False,
        locked: bool = False,
        trust_tasks: bool = False,
        progress: bool = True,
    ) -> StudyBuild:
        """Run what is due, and publish the model, as `dem build` does; other processes may build beside it.

        An interruption (Ctrl-C, or a notebook's stop button) asks what runs to save its state, a second one ends it at
        once; the next build goes on from there.

        Args:
            actions: Only these, and what they need; by default all. Names, or patterns of a shell: `loss:composed:*`.
            rebuild: Actions that run though they are recorded; likewise.
            jobs: Actions at once; by default what the machine file says.
            keep_going: After a failure, do what can be done.
            no_train: Fail where a vector is missing.
            locked: Fail where the lock is not what is there.
            trust_tasks: Run local task files, which are code.
            progress: Show it: in the cell's output of a notebook, else on stderr. Without, warnings are Python's.

        Raises:
            DemError: As `dem build` fails, with the same text. Of several actions that failed, the first is raised and
                has the others as notes.
            GateError: All was built, and a gate of the recipe failed; the model is published.
            KeyboardInterrupt: It was stopped, and what was done is saved.
        """
        call = replace(
            self._call,
            targets=_names(actions),
            rebuild=_names(rebuild),
            jobs=jobs,
            keep_going=keep_going,
            no_train=no_train,
            locked=locked,
            trust_tasks=trust_tasks,
        )
        interrupt, follows = Interrupt(), follower(progress=progress)
        with self._environment(), interrupt, building(self.recipe, call, follows, interrupt) as built:
            pass
        if built.outcome.interrupted:
            if interrupt.last == signal.SIGTERM:
                signal.raise_signal(
                    signal.SIGTERM
                )  # whoever sent it wants this process to end, which it now can
            raise KeyboardInterrupt(str(built.error)) from built.error
        _raise(built)
        with self._opened(replace(self._call, targets=call.targets)) as session:
            return StudyBuild(
                built, StudyResults(report_inputs(session)), built.ending.model, built.ending.report
            )

    @property
    def results(self) -> StudyResults:
        """What is recorded of the recipe, as data frames.

        Raises:
            DemError: As `dem report` fails.
        """
        with self._opened() as session:
            return StudyResults(report_inputs(session))

    @property
    def figures(self) -> Figures:
        """The sections of the report, each to be shown by itself.

        Raises:
            DemError: As `dem report` fails.
        """
        return self.results.figures

    def why(self, action: str) -> Explanation:
        """Why an action is due, or is not: each parameter and input that differs from its last build.

        Raises:
            DemError: As `dem why` fails.
        """
        with self._opened() as session:
            verdict = verdict_of(session, action)
            return Explanation(verdict.action.name, verdict.status.value, tuple(why_lines(session, action)))

    def report(self) -> Path:
        """Draw `report.html` of what is recorded, and return where it is.

        Raises:
            DemError: As `dem report` fails.
        """
        with self._opened() as session:
            return draw_report(session)[0]

    def vector(self, name: str) -> StoredVector:
        """A vector that was built: of a dataset (`math`), or of any action that makes one (`vector:math`).

        Raises:
            UsageError: There is none of this name, or it was never built.
            StoreError: It is damaged or gone.
        """
        with self._opened() as session:
            return StoredVector(session, name)

    def model(self, name: str = "composed") -> StoredModel:
        """A model that was built: the composed one, `base`, `trunk`, a baseline, or that of any action that makes one.

        Raises:
            UsageError: There is none of this name, or it was never built.
            StoreError: It is damaged or gone.
        """
        with self._opened() as session:
            return StoredModel(session, name)

    @contextmanager
    def _opened(self, call: Call | None = None) -> Iterator[Session]:
        with self._environment():
            yield open_session(self.recipe, call or self._call)

    @contextmanager
    def _environment(self) -> Iterator[None]:
        """What a call says to libraries by the environment, for as long as it lasts."""
        before = os.environ.get(OFFLINE)
        try:
            yield
        finally:
            if before is None:
                os.environ.pop(OFFLINE, None)
            else:
                os.environ[OFFLINE] = before

    def __repr__(self) -> str:
        settings = "".join(f", {text}" for text in self._call.overrides)
        return f"Study({self.recipe!r}{settings})"


def _names(given: Sequence[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def _raise(built: Built) -> None:
    """Raise what went wrong, if anything did."""
    if (error := built.error) is None:
        return
    for result in built.outcome.failed:
        if result.error is not None and result.error is not error:
            error.add_note(f"{result.action.name} failed, too: {result.error}")
    raise error
