"""One recipe at two revisions: planned from both, built at the head, compared and judged."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dem_build.compare import Side, Standing, compare
from dem_build.compare.keys import match_keys
from dem_build.compare.sides import nodes
from dem_build.errors import GRAVITY, DemError, NotUpToDateError, Problem, RecipeError, UsageError
from dem_build.estimate import estimates
from dem_build.lock import lock
from dem_build.lock.absent import is_absent
from dem_build.plan import History, Status, make_plan
from dem_build.recipe import cache_folder, load_machine, read_recipe
from dem_build.report.comparison import COMPOSED, subject
from dem_build.report.cost import on_devices
from dem_build.report.gates import GateResult, check
from dem_build.report.inputs import BuildRecords
from dem_build.review import told
from dem_build.review.document import (
    AskedPrompt,
    RecipeReview,
    ToldChange,
    ToldMistake,
    Trouble,
    Weakened,
    shown,
)
from dem_build.review.stale import stale
from dem_build.review.takes import takes_of
from dem_build.review.untrusted import refuse_excess, refuse_names, refuse_sources
from dem_build.review.weakened import bounds, weakened
from dem_build.session.build import run_plan
from dem_build.session.session import not_locked, open_workplace, planned, session_of
from dem_build.session.sharing import Pushing
from dem_build.view.follow import make_listener
from dem_build.view.plan import recipe_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console

    from dem_build.compare import SideBySide
    from dem_build.digest import JSON
    from dem_build.engine.interrupt import Interrupt
    from dem_build.engine.outcome import Outcome
    from dem_build.estimate.estimates import Estimate
    from dem_build.plan import Plan
    from dem_build.recipe import Gate, Recipe
    from dem_build.report.gates import Reference
    from dem_build.review.found import RecipeFile, RecipePair
    from dem_build.review.repository import GitBlob
    from dem_build.review.stale import Digests
    from dem_build.review.untrusted import Boundary
    from dem_build.session.session import Call, Planned, Session, Workplace

MACHINE = "machine.toml"


@dataclass(frozen=True)
class _Revision:
    """A recipe at one revision.

    Attributes:
        named: What messages call its file: a path from where the user is.
        locked: Its lock's document.
    """

    named: str
    locked: JSON
    found: Planned


@dataclass(frozen=True)
class _Built:
    """What is recorded of a recipe at one revision, and what is not.

    Attributes:
        outcome: What became of a build; None where none was needed, or allowed.
        due: Action that is due → what it is expected to take.
    """

    side: Side
    plan: Plan
    outcome: Outcome | None
    due: Mapping[str, Estimate]


@dataclass(frozen=True)
class Reviewer:
    """Reviews recipes, one after another.

    Attributes:
        digests: What files of the repository hash to.
        commits: Base and head.
        boundary: What a stranger's recipe may read; None where the head is trusted.
        console: Where a build is followed.
        interrupt: Whether the user asked to stop.
    """

    call: Call
    digests: Digests
    commits: tuple[str, str]
    files: tuple[Mapping[str, GitBlob], Mapping[str, GitBlob]]
    boundary: Boundary | None
    console: Console
    interrupt: Interrupt

    @property
    def root(self) -> Path:
        """The repository's folder."""
        return self.digests.repository.root

    def _named(self, recipe: RecipeFile) -> Path:
        """What messages call a recipe's file: its path from where the user is."""
        return Path(os.path.relpath(self.root / recipe.path))

    def review(self, pair: RecipePair) -> RecipeReview:
        """Review one recipe; whatever is wrong with it is part of the review."""
        bare = RecipeReview(
            path=shown(pair.path, 1000),
            was=self._was(pair),
            change=ToldChange.CHANGED if pair.before else ToldChange.ADDED,
        )
        recipe_line(pair.path, self.console)
        if pair.after is None:
            return self._removed(pair, bare)
        if self.interrupt.count:
            return bare.model_copy(update={"status": 130, "trouble": Trouble(what="the call was stopped")})
        try:
            return self._reviewed(pair, pair.after, bare)
        except DemError as error:
            return self._refused(pair, bare, error)

    def _was(self, pair: RecipePair) -> str | None:
        moved = pair.before is not None and pair.after is not None and pair.before.path != pair.after.path
        return shown(pair.before.path, 1000) if moved and pair.before is not None else None

    def _removed(self, pair: RecipePair, bare: RecipeReview) -> RecipeReview:
        """Tell of a recipe that is gone, and of the gates that go with it."""
        gates = tuple(
            Weakened(
                gate=shown(f"{gate.metric} on {subject(gate.task)}", 1000),
                how="removed",
                was=shown(bounds(gate)),
                why="the recipe is removed",
            )
            for gate in _gates_of(pair.before)
        )
        return bare.model_copy(update={"change": ToldChange.REMOVED, "weakened": gates})

    def _refused(self, pair: RecipePair, bare: RecipeReview, error: DemError) -> RecipeReview:
        if self.boundary is None and self._was_so(pair, error):
            notes = (shown(f"as at the base revision: {error}"),)
            return bare.model_copy(update={"change": ToldChange.UNCHANGED, "notes": notes})
        trouble = Trouble(
            what=shown(error.what),
            where=shown(error.where, 1000) if error.where else None,
            hint=shown(error.hint) if error.hint else None,
            mistakes=tuple(map(self._mistake, error.problems[:200]))
            if isinstance(error, RecipeError)
            else (),
        )
        change = ToldChange.BROKEN if isinstance(error, RecipeError) else bare.change
        return bare.model_copy(update={"change": change, "status": error.exit_status, "trouble": trouble})

    def _was_so(self, pair: RecipePair, error: DemError) -> bool:
        """Whether a recipe that cannot be reviewed is one that nobody touched, with what it is made of."""
        before, after = pair.before, pair.after
        if before is None or after is None or before != replace(after, path=before.path):
            return False
        named = self._named(after)
        if isinstance(error, RecipeError):  # and not of a machine file, which nobody looked at there
            return {problem.file for problem in error.problems} <= {str(named), str(lock.lock_path(named))}
        if not isinstance(error, NotUpToDateError):
            return False
        place = open_workplace(self.call, named)
        try:
            found = [self._revision(recipe, place).found for recipe in (before, after)]
        except NotUpToDateError:
            return True
        sides = zip(found, self.files, strict=True)
        old, new = (stale(one.recipe, one.lock, files, self.digests) for one, files in sides)
        return old == new

    def _mistake(self, problem: Problem) -> ToldMistake:
        whole = os.path.normpath(Path.cwd() / problem.file)
        file = os.path.relpath(whole, self.root) if whole.startswith(f"{self.root}{os.sep}") else problem.file
        return ToldMistake(
            file=shown(file, 1000),
            line=problem.line,
            key=shown(problem.key, 1000),
            what=shown(problem.what),
            hint=shown(problem.hint),
        )

    # What a recipe asks for at a revision: of git and the lock alone.

    def _revision(self, recipe: RecipeFile, place: Workplace) -> _Revision:
        """Plan a recipe as it stands at a revision.

        Raises:
            RecipeError: Mistakes of the recipe or its lock.
            NotUpToDateError: There is no lock, or it is not of the recipe.
        """
        named = self._named(recipe)
        path = lock.lock_path(named)
        locked = None if recipe.lock is None else lock.parse(recipe.lock, path)
        found = planned(named, recipe.text, locked, place.store.records)
        if found.stale:
            raise not_locked(str(named), self.call, path, found.stale)
        return _Revision(str(named), locked, found)

    def _reviewed(self, pair: RecipePair, recipe: RecipeFile, bare: RecipeReview) -> RecipeReview:
        named = self._named(recipe)
        if self.boundary is not None:
            self._refuse_machine(named, recipe.path)
            self._refuse_names(pair, recipe, named)
        place = open_workplace(self.call, named)
        with ExitStack() as stack:
            stack.enter_context(place.store.in_use())
            after = self._revision(recipe, place)
            if changed := stale(after.found.recipe, after.found.lock, self.files[1], self.digests):
                raise not_locked(after.named, self.call, lock.lock_path(named), [*changed])
            before, missing = self._before(pair, place)
            if before is not None and (same := _unchanged(before.found, after.found)) is not None:
                return bare.model_copy(update={"change": ToldChange.UNCHANGED, "notes": same})
            if self.boundary is not None:
                # Of one that only moved, or whose lock changed.
                refuse_names(after.found.recipe, self.boundary)
                refuse_sources(after.found.recipe, after.found.lock, self.boundary)
            return self._judged(pair, bare, place, after, (before, missing))

    def _before(self, pair: RecipePair, place: Workplace) -> tuple[_Revision | None, str]:
        """The recipe at the base revision, or why it tells nothing there."""
        if pair.before is None:
            return None, ""
        try:
            return self._revision(pair.before, place), ""
        except DemError as error:
            return None, shown(f"at the base revision, {error}")

    def _refuse_names(self, pair: RecipePair, recipe: RecipeFile, named: Path) -> None:
        """Refuse what a recipe that was changed names, before a lock is asked for it.

        Raises:
            RecipeError: There is something.
        """
        if self.boundary is None or (pair.before is not None and pair.before.text == recipe.text):
            return
        found, problems = read_recipe(named, written=recipe.text)
        if found is not None and not problems:
            refuse_names(found, self.boundary)

    def _refuse_machine(self, named: Path, path: str) -> None:
        """Refuse a machine file or a cache that a stranger brings: they say where this machine reads and writes.

        Raises:
            RecipeError: There is one.
        """
        beside = (Path(path).parent / MACHINE).as_posix()
        here = named.parent / MACHINE
        ours = self.files[0].get(beside)
        if self.call.machine is None and not os.environ.get("DEM_MACHINE") and os.path.lexists(here):
            same = ours is not None and ours.regular and not here.is_symlink()
            if ours is None or not same or here.read_bytes() != self.digests.repository.read(ours):
                what = "is not what the base revision has, and says where this machine reads and writes"
                problem = Problem(str(here), 0, "", what, "--machine FILE names one that you trust")
                raise RecipeError([problem])
        cache = cache_folder(self.call.cache, *load_machine(self.call.machine, named), named)
        folder = Path(os.path.normpath(cache))
        inside = os.path.relpath(os.path.realpath(folder), self.root)
        names = (Path(os.path.relpath(folder, self.root)).as_posix(), Path(inside).as_posix())
        if any(file == n or file.startswith(f"{n}/") for file in self.files[1] for n in names):
            hint = "--cache DIR names a folder that is not in the repository"
            what = "the cache is part of the head: its records are a stranger's"
            raise RecipeError([Problem(str(folder), 0, "", what, hint)])

    # What is recorded of it, and made.

    def _judged(
        self,
        pair: RecipePair,
        bare: RecipeReview,
        place: Workplace,
        after: _Revision,
        then: tuple[_Revision | None, str],
    ) -> RecipeReview:
        before, missing = then
        built = self._built(after, place, head=True)
        whole = built.plan.up_to_date
        base = None
        if before is not None:
            base = self._built(before, place, head=False, run=whole)
            missing = _lacks(base)
        comparison = compare(base.side if base else Side("nothing"), built.side)
        recipe = after.found.recipe
        names = comparison.keys.names

        def line_of(index: int) -> int:
            return recipe.problem(f"gates[{index}]", "").line

        reached: Mapping[tuple[str, str], Reference | None] | None = None
        if bare.change is not ToldChange.ADDED:
            reached = told.references(comparison, base.side, names.task) if base else {}
        results = built.side.results
        gates = check(recipe.gates, results, reached) if whole else [*map(_unjudged, recipe.gates)]
        weak = weakened(
            before.found.recipe.gates if before else _gates_of(pair.before),
            recipe.gates,
            names.task,
            (results, reached) if whole else None,
            line_of,
        )
        costs = comparison.costs[1]
        found = bare.model_copy(
            update={
                "weakened": tuple(weak),
                "gates": told.tell_gates(gates, line_of),
                "metrics": told.tell_metrics(comparison) if whole else (),
                "omega": told.tell_omega(comparison),
                "reasons": told.tell_reasons(comparison) if before else (),
                "actions": told.tell_actions(
                    built.outcome, built.due, built.plan.graph, partial(_line_of, recipe)
                ),
                "prompts": _prompts(comparison, base, built),
                "keys": told.tell_keys(comparison),
                "model_before": base.side.results.model_digest if base else None,
                "model_after": results.model_digest,
                "cost": shown(on_devices(costs.own)) if costs.own else "",
                "recorded": (len(built.plan.of(Status.HIT)), len(built.plan.verdicts)),
                "no_baseline": missing,
                "notes": _renamed(names.renamed),
            }
        )
        return found.model_copy(update={"status": _status(built, found)})

    def _built(self, revision: _Revision, place: Workplace, *, head: bool, run: bool = True) -> _Built:
        """Build what may be built of a revision, and read what is recorded of it.

        Args:
            revision: The recipe there.
            place: The store.
            head: Whether it is the head: the base revision is trusted, and nothing of it is trained.
            run: Whether anything may run at all.

        Raises:
            DemError: It cannot be built, or what is recorded cannot be read.
        """
        no_train = self.call.no_train or not head
        call = replace(self.call, no_train=no_train, keep_going=self.call.keep_going or no_train)
        # Planned again: what the other revision's build has made since may be this one's, too.
        session = session_of(revision.named, call, revision.found, place, revision.locked).planned_again()
        plan, outcome = session.plan, None
        # Nothing that takes a vector can be made before the vector is.
        waits = no_train and _waits_for_training(plan)
        if run and not waits and (others := _others(plan, place)):
            if head:
                hint = "check the head out, and put back what was changed since"
                raise UsageError(
                    "is not what is locked at the head", where=os.path.relpath(others[0]), hint=hint
                )
            waits = True  # what lies here is the head's, or somebody's work
        if run and not plan.up_to_date and not waits:
            session.require_trust()
            if self.boundary is not None and head:
                expected = estimates(plan, place.store, place.machine)
                found = revision.found
                takes = takes_of(found.recipe, found.lock, plan, expected, trains=not no_train)
                refuse_excess(found.recipe, takes, self.boundary.policy)
            outcome = self._run(session, place)
            plan = make_plan(plan.graph, place.store.records, History())
        place.store.records.adopt()
        due = {e.name: e for e in estimates(plan, place.store, place.machine)}
        read = BuildRecords(plan.graph, plan.records, place.store.objects.read_bytes)
        side = Side.of_build(self.commits[head][:12], read, due={n: e.seconds for n, e in due.items()})
        failed = {r.action.name for r in outcome.failed if not _waits(r.error)} if outcome else set()
        return _Built(side, plan, outcome, {n: e for n, e in due.items() if n not in failed})

    def _run(self, session: Session, place: Workplace) -> Outcome:
        """Run what is due, and push what it makes."""
        leases = None if session.plan.up_to_date else place.sharing.leases()
        with ExitStack() as ending:
            if leases is not None:
                ending.callback(leases.close)
            pusher = place.sharing.pusher(
                place.store, leases.release if leases is not None else lambda _: None
            )
            with make_listener(self.console) as listener:
                place.sharing.voice = listener
                followed = listener if pusher is None else Pushing(listener, pusher)
                outcome = run_plan(session, followed, self.interrupt, leases, rooted=False)
            if pusher is not None:
                place.sharing.finish(pusher, session.named)
        return outcome


def _gates_of(recipe: RecipeFile | None) -> Sequence[Gate]:
    """The gates that stand in a recipe, though its lock tells nothing; none where it cannot be read."""
    if recipe is None:
        return ()
    try:
        found, _ = read_recipe(Path(recipe.path), written=recipe.text)
    except RecipeError:
        return ()
    return found.gates if found else ()


def _unchanged(before: Planned, after: Planned) -> tuple[str, ...] | None:
    """What there is to note of a recipe that asks for the same work and the same gates; None where it does not."""
    plans = (before.plan, after.plan)
    keys = match_keys(*(nodes(Side("", BuildRecords(p.graph, p.records, _unread))) for p in plans))
    if keys.of(Standing.CHANGED, Standing.NEW, Standing.GONE):
        return None
    were = [gate.model_copy(update={"task": keys.names.task(gate.task)}) for gate in before.recipe.gates]
    if sorted(map(repr, were)) != sorted(map(repr, after.recipe.gates)):
        return None
    return _renamed(keys.names.renamed)


def _others(plan: Plan, place: Workplace) -> list[Path]:
    """The files that what is due would read, and that are here with other bytes than the lock has of them."""
    sources = (s for v in plan.due for s in v.action.sources if s.hub is None)
    here = {s.path: s.digest for s in sources if not is_absent(s.path)}
    found = place.store.hints.digests_of(here)
    return [path for path, digest in here.items() if found[path].digest != digest]


def _unread(_: object) -> bytes:
    raise AssertionError("a plan reads nothing")


def _renamed(names: Mapping[str, str]) -> tuple[str, ...]:
    told_of = [f"{old} is called {new}" for old, new in names.items()]
    return tuple(shown(text) for text in told_of)[:50]


def _line_of(recipe: Recipe, name: str) -> int:
    """The line of the table that has a name: datasets, probes, vectors and baselines share their names."""
    sections = ("datasets", "probes", "vectors", "baselines")
    section = next((section for section in sections if name in getattr(recipe, section)), None)
    return recipe.problem(f"{section}.{name}", "").line if section else 0


def _waits_for_training(plan: Plan) -> bool:
    """Whether something has to be trained: surely, or as far as can be told where files that it takes are not here."""
    trains = [v for v in plan.due if v.action.kind.trains]
    if any(v.status is Status.RUN for v in trains):
        return True
    return bool(trains) and any(
        is_absent(s.path) for v in plan.due for s in v.action.sources if s.hub is None
    )


def _waits(error: DemError | None) -> bool:
    """Whether an action failed only as it has to be trained first."""
    return isinstance(error, NotUpToDateError)


def _lacks(base: _Built) -> str:
    """Why a base revision cannot be compared with, or only in part; empty where it can."""
    due = [verdict.action for verdict in base.plan.due]
    asked = [a.name for a in due if a.evaluation and a.evaluation.model == COMPOSED]
    if not asked:
        return ""
    if outcome := base.outcome:
        for result in outcome.failed:
            if not _waits(result.error):
                return shown(f"at the base revision {result.action.name} failed: {result.error}")
    first = [verdict.action.name for verdict in base.plan.of(Status.RUN)]
    names = ", ".join((first or asked)[:5])
    return shown(f"of the base revision there is no {names} in the cache or its remotes")


def _prompts(comparison: SideBySide, base: _Built | None, built: _Built) -> tuple[AskedPrompt, ...]:
    before = base.side if base else Side("nothing")
    return told.tell_prompts(before, built.side, told.changed_datasets(comparison), comparison.keys.names.one)


def _unjudged(gate: Gate) -> GateResult:
    return GateResult(gate.task, gate.metric, None, passed=True, why="not built yet", judged=False)


def _status(built: _Built, found: RecipeReview) -> int:
    """The gravest of what there is: stopped, an action failed, something to train first, a gate failed."""
    statuses = [0]
    if built.outcome is not None and built.outcome.interrupted:
        statuses.append(130)
    if any(action.state == "failed" for action in found.actions):
        statuses.append(1)
    if not built.plan.up_to_date:
        statuses.append(4)
    if False in [g.passed for g in found.gates] + [g.passed for g in found.weakened]:
        statuses.append(3)
    return min(statuses, key=GRAVITY.index)
