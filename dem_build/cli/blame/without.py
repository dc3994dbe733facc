"""The composed model without some of its vectors, all else alike.

What a way to compose sums is summed in memory, by the code of `compose`: the model that a build would publish of the
recipe with ω = 0 there. What it fits is fitted again, as an action: it is in the cache then, and found there by another
call. Nothing is trained, and no ω is searched anew.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from dem_build.action import BASE, COMPOSED, HEAL, MODEL, TRUNK, UNHEALED
from dem_build.actions.choose.read import method_of, read_choice
from dem_build.actions.choose.spec import KIND as CHOOSE
from dem_build.actions.compose.methods import EDIT
from dem_build.actions.compose.spec import KIND as COMPOSE
from dem_build.actions.match.read import read_match
from dem_build.actions.match.spec import matched_model
from dem_build.actions.weigh.spec import KIND as WEIGH
from dem_build.engine.interrupt import Interrupt
from dem_build.errors import EvaluationError, InterruptedBuildError, UsageError
from dem_build.estimate import estimates
from dem_build.graph import Graph
from dem_build.hardware import cpus
from dem_build.plan import History, Status, make_plan
from dem_build.report.inputs import BuildRecords
from dem_build.session.build import run_plan
from dem_build.session.summed import (
    counts,
    live_model,
    method_params,
    named_omegas,
    recorded_outputs,
    terms_of,
)
from dem_build.view.follow import make_listener
from dem_build.view.plan import estimate_lines
from dem_build.view.text import make_console, say

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from dem_build.action import Action
    from dem_build.model.live import LiveModel
    from dem_build.session.session import Session
    from dem_build.session.summed import Omega

Left = frozenset[str]
"""Names of vectors that a model is without."""
SUM_TOLERANCE = 1e-6
MEMORY_HINT = "end what else takes memory"


class Without:
    """The composed model of a planned recipe, and what it is without vectors; one is loaded at a time.

    Attributes:
        name: What results call the model: `composed`, or `unhealed` where that was healed afterwards.
        origin: What they call what is left without any vector: `base` or `trunk`.
        omega: Vector → its ω or importance in it, of those that take part.
        method: How it is composed, of a choice the way of what was chosen.
        notes: What should be known of the model that is asked.

    Raises:
        UsageError: The model is not built, or its vectors cannot be left out.
        StoreError: What is recorded cannot be read.
    """

    def __init__(self, session: Session, work: Path) -> None:
        self._session, self.work = session, work
        self._known = recorded_outputs(session.plan)
        graph = session.plan.graph
        missing = [name for name in (graph.composing, MODEL) if name not in self._known]
        if missing:
            hint = f"`dem build {session.named}` builds it"
            raise UsageError(f"{missing[0]} is not built", where=session.named, hint=hint)
        self.notes: list[str] = []
        self.name, self.origin = COMPOSED, TRUNK if TRUNK in graph.stages else BASE
        if HEAL in graph.stages:
            self.name = UNHEALED
            self.notes.append(
                "the model before healing is asked: what healing makes of a vector's absence takes a training"
            )
        self._build = BuildRecords(graph, session.plan.records, session.store.objects.read_bytes)
        self._composing = self._maker(graph.actions[graph.composing])
        self._summed = self._composing.kind is COMPOSE
        self.method = method_of(session.recipe, read_choice(self._build))
        self._all: dict[str, Omega] = self._weights()
        self.omega = {name: omega for name, omega in self._all.items() if counts(omega)}
        self._refuse()
        if "tune" in session.recipe.omegas.values() and (self._summed or self.method.tuned):
            self.notes.append("ω that were searched stay as the search found them for all vectors together")
        if idle := [name for name in self._all if name not in self.omega]:
            self.notes.append(f"{', '.join(idle)}: ω is 0, so there is nothing to leave out")
        self._held: tuple[str, LiveModel] | None = None

    def _maker(self, action: Action) -> Action:
        """What makes the model of its vectors: of a choice, the model that was chosen."""
        if action.kind is not CHOOSE:
            return action
        choice = read_choice(self._build)
        assert choice is not None
        self.notes.append(f"`auto` chose {choice.chosen}: that is asked, and nothing is chosen anew")
        return self._session.plan.graph.actions[f"{MODEL}:{choice.chosen}"]

    def _weights(self) -> dict[str, Omega]:
        """ω or importance of each vector."""
        if self._summed:
            return named_omegas(self._session, self._composing, self._known)
        if self._composing.kind is WEIGH:
            found = read_match(self._build)
            assert found is not None
            kept = {name: vector.importance for name, vector in found.vectors.items()}
            # The model that was kept is what matching makes of its importances, without a search.
            composing = matched_model(self._session.recipe, self._composing.name, kept)
            self._composing = composing.starting_from(self._session.plan.graph.origin)
            return {name: kept.get(name, 0.0) for name in self._session.recipe.omegas}
        given = {name: said.get("importance") for name, said in self._composing.groups.items()}
        of_all = {name: given.get(name, 0.0) for name in self._session.recipe.omegas}
        return {name: 1.0 if value is None else float(value) for name, value in of_all.items()}

    def _refuse(self) -> None:
        total = math.fsum(omega for omega in self._all.values() if not isinstance(omega, dict))
        if self.method.total is not None:
            if abs(total - self.method.total) > SUM_TOLERANCE:
                what = f"the ω of this {self.method.name} sum to {total:g}: no vector can be left out of it alone"
                hint = f"let them sum to {self.method.total:g}, and build"
                raise UsageError(what, where=self._session.named, hint=hint)
            self.notes.append("the share of a model that is left out goes to the base")
        if not self.omega:
            raise UsageError(
                "no vector takes part in the model", where=self._session.named, hint="give one an ω"
            )

    # What no sum makes

    def prepare(self, lefts: Iterable[Left]) -> None:
        """Build what cannot be made in memory, after saying what that takes.

        Raises:
            DemError: It failed, or the user stopped it.
        """
        wanted = [left for left in lefts if left and left < self.omega.keys()]
        if self._summed or not wanted:
            return
        actions = {action.name: action for action in map(self._lacking, wanted)}
        whole = self._session.plan.graph
        upstream = whole.only({name for action in actions.values() for name in action.upstream}).actions
        plan = make_plan(Graph({**upstream, **actions}), self._session.store.records, History())
        session = replace(self._session, call=replace(self._session.call, rebuild=(), targets=()), plan=plan)
        due = plan.of(Status.RUN)
        console = make_console(stderr=True)
        if due:
            models = "1 model is" if len(due) == 1 else f"{len(due)} models are"
            say(
                console,
                f"{models} composed anew, as {self._composing.kind.name} is no sum; nothing is trained",
            )
            estimate_lines(estimates(plan, session.store, session.machine), console)
        with Interrupt() as interrupt, make_listener(console) as listener:
            outcome = run_plan(session, listener, interrupt, rooted=False)
        if outcome.interrupted:
            raise InterruptedBuildError("stopped", hint="what was composed is kept: call it again to go on")
        for result in outcome.failed:
            raise result.error or EvaluationError("failed", where=result.action.name)
        self._known |= {name: record.outputs for name, record in outcome.records.items()}

    def _lacking(self, left: Left) -> Action:
        """What composes the model without some vectors: as the recipe would ask with an importance of 0."""
        takes = tuple(taken for taken in self._composing.takes if taken.group not in left)
        groups = {name: said for name, said in self._composing.groups.items() if name not in left}
        name = f"{self._composing.name} without {' and '.join(sorted(left))}"
        return replace(self._composing, name=name, takes=takes, groups=groups)

    # Models

    def model(self, left: Left = frozenset()) -> LiveModel:
        """The model without some vectors, loaded.

        Raises:
            CheckpointError: It cannot be loaded.
            EvaluationError: Memory ran out.
        """
        if self._summed:
            live = self._loaded(self._composing, summed=True)
            method, params = method_params(self._composing)
            omegas = {name: omega for name, omega in self._all.items() if name not in left}
            terms = terms_of(omegas, self._known)
            if not terms or (left and self.method.total is not None):
                method, params = EDIT.name, {}
            live.become(method, params, terms, cpus())
            return live
        if left >= self.omega.keys():
            return self.other(self.origin)
        graph = self._session.plan.graph
        action = self._lacking(left) if left else graph.actions[graph.composing]
        return self._loaded(action, summed=False)

    def other(self, name: str) -> LiveModel:
        """The base, or the trunk; errors as of `model`."""
        graph = self._session.plan.graph
        if self._summed and name == self.origin:
            return self.model(frozenset(self.omega))
        return self._loaded(graph.actions[graph.models[name]], summed=False)

    def _loaded(self, action: Action, *, summed: bool) -> LiveModel:
        from dem_build.model.environment import memory_told, release_memory  # noqa: PLC0415  torch: only when it is needed

        if self._held is None or self._held[0] != action.name:
            self.close()
            release_memory()
            with memory_told(EvaluationError, f"while loading {action.name}", MEMORY_HINT):
                live = live_model(self._session, self._known, action, self.work, summed=summed)
            self._held = action.name, live
        return self._held[1]

    def close(self) -> None:
        """Let go of the model and its files."""
        if self._held is not None:
            self._held[1].close()
            self._held = None
