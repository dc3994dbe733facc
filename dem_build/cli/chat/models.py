"""The models of a recipe that can be talked to: what each is made of, what of that is not built, and ω that move.

A model that `compose` makes is composed in memory, of vectors in the store: it need not have been built itself. Any
other, such as a matched one, is loaded as it was built. Nothing is trained, searched or fitted.
"""

from __future__ import annotations

import math
import shlex
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from dem_build.action import BASE, COMPOSED, HEAL, UNHEALED
from dem_build.actions.compose.methods import METHODS
from dem_build.actions.compose.spec import KIND as COMPOSE
from dem_build.actions.compose.spec import single_model
from dem_build.cli.edit.changes import opened
from dem_build.errors import EvaluationError, UsageError
from dem_build.hardware import cpus
from dem_build.plan import preimage_of
from dem_build.recipe import Tune
from dem_build.recipe.edited import with_omegas
from dem_build.recipe.messages import nearest
from dem_build.session.summed import (
    Omega,
    counts,
    live_model,
    method_params,
    named_omegas,
    recorded_outputs,
    terms_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from dem_build.action import Action
    from dem_build.cli.edit.changes import Draft
    from dem_build.data.turns import Turn
    from dem_build.digest import JSON, Output
    from dem_build.model.generation import Answered
    from dem_build.model.live import LiveModel, Omegas
    from dem_build.model.tokenizer import BaseTokenizer
    from dem_build.session.session import Session

FEWER = "ask fewer models side by side: each that was asked stays loaded"
LARGEST = 3.4e38
"""ω is a float32."""


class Settings(NamedTuple):
    """How models answer.

    Attributes:
        max_new_tokens: Most tokens of an answer.
        temperature, top_p, seed: As of `Sampling`.
    """

    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


BOUNDS = {
    "max_new_tokens": (1, 1 << 31),
    "temperature": (0.0, 1e3),
    "top_p": (1e-6, 1.0),
    "seed": (0, 1 << 62),
}
"""Between which each setting is."""


def settings_of(given: Mapping[str, JSON], usual: Settings) -> Settings:
    """Settings as somebody gives them, and the usual ones where he does not.

    Raises:
        UsageError: One is no number, or beyond its bounds.
    """
    found = usual._asdict()
    for name, (low, high) in BOUNDS.items():
        value = given.get(name, found[name])
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise UsageError(f"{name} is {value!r}", hint=f"give a number from {low:g} to {high:g}")
        found[name] = type(found[name])(value)
    return Settings(**found)


class ChatModels:
    """The models of a planned recipe, each loaded when it is first needed. Any thread may use them, one at a time.

    Args:
        session: The recipe; what it looks up is in use until the chat ends.
        draft: Its file, as it was read before that.
        work: A folder for links to files of the store.

    Attributes:
        names: All of them: the base, the composed model, each vector's alone, and those beside it.
        live: The one whose ω can be moved; None where there is none.
        fixed: Why there is none.
        method: The recipe's way to compose.
        draft: The recipe's file, as it was when it was last read or written.
    """

    def __init__(self, session: Session, draft: Draft, work: Path) -> None:
        self._session, self._work = session, work
        self._lock = threading.RLock()
        self._loaded: dict[str, LiveModel] = {}
        self._known = recorded_outputs(session.plan)
        recipe, graph = session.recipe, session.plan.graph
        self._vectors = vectors = recipe.omegas  # which is made anew each time
        others = [name for name in graph.models if name not in (BASE, COMPOSED, *vectors)]
        self.names = (BASE, COMPOSED, *vectors, *others)
        self.method = METHODS[recipe.compose.method]
        self.draft = draft
        self.live: str | None = None
        self.fixed = ""
        self._tokenizer: BaseTokenizer | None = None
        self._found: dict[str, Omega] | None = None
        self._omega: dict[str, Omega] | None = None
        if graph.actions[graph.composing].kind is COMPOSE:
            self.live = UNHEALED if HEAL in graph.stages else COMPOSED
        else:
            self.fixed = (
                f"{COMPOSED} is as it was built: `{self.method.name}` is no sum that another ω could be put in here. "
                "Change omega in the recipe, and build"
            )

    @property
    def named(self) -> str:
        """The recipe, as the user named it."""
        return self._session.named

    @property
    def recipe_name(self) -> str:
        """The recipe's own name."""
        return self._session.recipe.name

    @property
    def vectors(self) -> tuple[str, ...]:
        """The vectors whose ω can be moved."""
        return tuple(self._vectors) if self.live else ()

    @property
    def bounds(self) -> tuple[float, float]:
        """Between which ω a slider moves: those of a search."""
        return (self._session.recipe.tune or Tune()).bounds

    def require(self, names: Sequence[str]) -> None:
        """Refuse what is no model of the recipe, or is made of what is not built.

        Raises:
            UsageError: There is such a name.
        """
        for name in names:
            if name not in self.names:
                what = f"there is no model {name!r} in this recipe"
                raise UsageError(what, where=self.named, hint=nearest(name, self.names))
            if self.missing(name):
                self.look_again()
            if missing := self.missing(name):
                raise self._not_built(name, missing)

    def missing(self, name: str) -> list[str]:
        """The actions that a model is made of and that were not built when somebody last looked."""
        return [action for action in self._needs(name) if action not in self._known]

    def look_again(self) -> None:
        """Look in the store for what another terminal has built meanwhile; what was there stays what it was."""
        if not self._session.plan.up_to_date:
            self._session = self._session.planned_again()
            self._known = recorded_outputs(self._session.plan) | self._known

    def _not_built(self, name: str, missing: Sequence[str]) -> UsageError:
        command = shlex.join(["dem", "build", self.named, "--", *missing])
        are = "is" if len(missing) == 1 else "are"
        what = f"{name} cannot be asked: {', '.join(missing)} {are} not built"
        return UsageError(what, where=self.named, hint=f"`{command}`; a chat builds nothing")

    def _action(self, name: str) -> Action:
        """What makes a model."""
        recipe, graph = self._session.recipe, self._session.plan.graph
        if name in self._vectors:
            return single_model(recipe, name).starting_from(graph.origin)
        return graph.actions[graph.models[name]]

    def _is_summed(self, action: Action) -> bool:
        # In another type it is rounded twice before it is judged, and so has to be as it was built.
        return action.kind is COMPOSE and action.params["dtype"] == self._session.recipe.compose.dtype

    def _needs(self, name: str) -> tuple[str, ...]:
        action = self._action(name)
        return action.upstream if self._is_summed(action) else (action.name,)

    # ω

    @property
    def omega(self) -> dict[str, Omega]:
        """Vector → its ω in the model that is `live`.

        Raises:
            UsageError: There is none, or what it is made of is not built.
        """
        if self.live is None:
            raise UsageError(f"no ω can be moved: {self.fixed}", where=self.named)
        if self._omega is None:
            self.require([self.live])
            self._found = named_omegas(self._session, self._action(self.live), self._known)
            self._omega = dict(self._found)
        return self._omega

    def move(self, changes: Mapping[str, float | None]) -> float | None:
        """Give vectors another ω, and compose the model where it is loaded.

        Args:
            changes: Vector → its ω; None for the one that it began with.

        Returns:
            The seconds that it took; None where the model is not loaded, and so is composed when it is asked.

        Raises:
            UsageError: There is no such vector, or an ω that the method has no use for.
            CheckpointError: The sum is not finite; nothing has changed.
        """
        begun = time.monotonic()
        with self._lock:
            before = self.omega
            found = self._found or {}
            if unknown := [name for name in changes if name not in before]:
                what = f"there is no vector {unknown[0]!r} in this recipe"
                raise UsageError(what, where=self.named, hint=nearest(unknown[0], before))
            moved = {name: found[name] if omega is None else omega for name, omega in changes.items()}
            after = before | moved
            self._refuse(after)
            seconds = None
            if self.live in self._loaded:
                self._become(self.live, after)
                seconds = time.monotonic() - begun
            self._omega = after  # no sooner: what is written meanwhile is what was composed
        return seconds

    def _refuse(self, omegas: Mapping[str, Omega]) -> None:
        numbers = {name: omega for name, omega in omegas.items() if not isinstance(omega, dict)}
        for name, omega in numbers.items():
            if not abs(omega) < LARGEST or (self.method.shares and omega < 0):
                wanted = "a number from 0 on" if self.method.shares else "a finite number"
                raise UsageError(f"ω of {name} is {omega:g}", hint=f"give {wanted}")
        if (self.method.total is not None or self.method.shares) and not any(omegas.values()):
            raise UsageError(
                f"with `{self.method.name}`, no vector is no model", hint="give an ω other than 0"
            )

    def note(self) -> str:
        """What should be known of the ω as they are; empty for nothing."""
        total = self.method.total
        if total is None or self._omega is None:
            return ""
        found = math.fsum(mean_of(omega) for omega in self._omega.values())
        return (
            ""
            if abs(found - total) < 1e-6
            else f"the ω sum to {found:g}, not {total:g}: so is the base scaled"
        )

    def changed_text(self) -> str:
        """The recipe's text with the ω as they are.

        Raises:
            UsageError: A recipe cannot say them.
        """
        omegas, numbers = self.omega, {}
        recipe = self._session.recipe
        if overrides := self._session.call.overrides:
            what = f"the recipe has not what --set says ({', '.join(overrides)})"
            raise UsageError(what, where=self.named, hint="write that into it, and chat without --set")
        for name, omega in omegas.items():
            if isinstance(omega, dict):
                what = f"ω of {name} is another one in each layer, as the search found it, and a recipe has one number"
                raise UsageError(what, where=self.named, hint=f"give {name} one ω for all layers first")
            numbers["datasets" if name in recipe.datasets else "vectors", name] = omega
        return with_omegas(self.draft.text, numbers)

    def written(self) -> Draft:
        """Take the recipe's file, in which the ω stand now, for the one to begin from."""
        self.draft = opened(self.named)
        self._found = dict(self.omega)
        return self.draft

    # Models

    def load(self, names: Sequence[str]) -> None:
        """Load models, so that the first question need not wait for that.

        Raises:
            UsageError: As of `require`.
            CheckpointError: One cannot be loaded.
        """
        self.require(names)
        with self._lock:
            for name in names:
                self._model(name)

    def _model(self, name: str) -> LiveModel:
        if name not in self._loaded:
            self.require([name])
            from dem_build.model.environment import memory_told  # noqa: PLC0415  torch: only when it is needed

            action = self._action(name)
            with memory_told(EvaluationError, f"while loading {name}", FEWER):
                self._loaded[name] = live_model(
                    self._session, self._known, action, self._work, summed=self._is_summed(action)
                )
        self._become(name)
        return self._loaded[name]

    def _view(self, output: Output) -> Path:
        return self._session.store.views.view(output, self._work, output.digest)

    def _become(self, name: str, omegas: Mapping[str, Omega] | None = None) -> None:
        action = self._action(name)
        if not self._is_summed(action):
            return
        method, params = method_params(action)
        self._loaded[name].become(method, params, self._terms(name, action, omegas), cpus())

    def _terms(self, name: str, action: Action, omegas: Mapping[str, Omega] | None) -> Omegas:
        """ω of each vector of a model that is summed, as a build would give them to `compose`."""
        known = self._known
        if name == self.live:
            return terms_of(omegas or self.omega, known)
        entries: list[Any] = [e for e in preimage_of(action, known)["inputs"] if e["of"] == "delta"]
        searched = [known[t.at.action][t.at.output] for t in action.takes if t.of == "omega"]
        if not searched:
            return {entry["sha256"]: entry["omega"] for entry in entries}
        from dem_build.actions.tune.omega import read_omega  # noqa: PLC0415  numpy, for this alone

        found = read_omega(self._session.store.objects.open(searched[0]))
        return {e["sha256"]: found[e["sha256"]] for e in entries if counts(found[e["sha256"]])}

    def ask(
        self,
        name: str,
        turns: Sequence[Turn],
        settings: Settings,
        tell: Callable[[str], None],
        stopping: Callable[[], bool] = lambda: False,
    ) -> Answered:
        """Have a model answer the last of some turns.

        Args:
            name: The model.
            turns: A conversation that ends with the user.
            settings: How.
            tell: Called with each piece of the answer; an empty one says that it is this model's turn.
            stopping: Asked after each token whether to end.

        Raises:
            UsageError: As of `require`; or the conversation is longer than the model takes.
            DataError: The chat template refuses the turns.
            CheckpointError: The model cannot be loaded.
            EvaluationError: Memory ran out.
        """
        from dem_build.model.context_length import most_tokens  # noqa: PLC0415  torch: only when it is needed
        from dem_build.model.environment import memory_told  # noqa: PLC0415  as above
        from dem_build.model.generation import Sampling, answer_prompt, prompt_of, stops_of  # noqa: PLC0415  as above

        # One at a time: two on one CPU take twice as long each, and wait for each other's threads beside that.
        with self._lock, memory_told(EvaluationError, "while answering", FEWER):
            model = self._model(name)
            tell("")
            ids = prompt_of(self.tokenizer, turns)
            base = self._known[BASE]
            most = most_tokens(self._session.store.objects.open(base["config"]))
            room = settings.max_new_tokens if most is None else min(settings.max_new_tokens, most - len(ids))
            if room < 1:
                what = f"the model takes {most} tokens, and the conversation has {len(ids)}"
                raise UsageError(what, hint="begin anew: /reset")
            # Another draw in each turn, and the same one for each model.
            seed = settings.seed + sum(turn["role"] == "user" for turn in turns) - 1
            return answer_prompt(
                model.model,
                self.tokenizer,
                ids,
                room=room,
                stops=stops_of(self.tokenizer, self._session.store.objects.open(base["generation_config"])),
                sampling=Sampling(settings.temperature, settings.top_p, seed),
                tell=tell,
                stopping=stopping,
            )

    @property
    def tokenizer(self) -> BaseTokenizer:
        """The base's, with which every vector was trained."""
        if self._tokenizer is None:
            from dem_build.model.tokenizer import BaseTokenizer  # noqa: PLC0415  torch: only when it is needed

            self.require([BASE])
            self._tokenizer = BaseTokenizer(self._view(self._known[BASE]["tokenizer"]))
        return self._tokenizer

    def settle(self, seconds: float) -> bool:
        """Wait for what is at work to end, so long at most, or as long as it takes where that is -1; whether it has.

        Then nothing begins any more but in this thread.
        """
        return self._lock.acquire(timeout=seconds)

    def close(self) -> None:
        """Let go of the models' files."""
        for model in self._loaded.values():
            model.close()


def mean_of(omega: Omega) -> float:
    """One number for an ω: where each layer has its own, their mean."""
    return math.fsum(omega.values()) / len(omega) if isinstance(omega, dict) else omega
