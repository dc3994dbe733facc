"""New rows scored at the composed model of a recipe, before a vector of them is trained."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from dem_build.action import MODEL
from dem_build.actions.score.spec import score_action
from dem_build.errors import GRAVITY, DemError, InterruptedBuildError, UsageError
from dem_build.plan import make_plan
from dem_build.recipe.edited import value_text
from dem_build.recipe.toml import dotted
from dem_build.session.build import run_plan
from dem_build.session.overlap import count_shared
from dem_build.session.predictions import prediction_of
from dem_build.session.session import open_session
from dem_build.workload import inputs_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from dem_build.data.splits import Shared
    from dem_build.digest import JSON
    from dem_build.engine.interrupt import Interrupt
    from dem_build.engine.outcome import Listener
    from dem_build.session.predictions import Foretold
    from dem_build.session.session import Call, Session
    from dem_build.store import Record


@dataclass(frozen=True)
class Scored:
    """New rows that were scored.

    Attributes:
        prompts: How many different prompts these have.
        left_out: Reason → how many rows are left out for it.
        known: Dataset → how many of their prompts it trains on, too.
    """

    name: str
    prediction: Foretold
    prompts: int
    left_out: Mapping[str, int]
    known: Mapping[str, int]


@contextmanager
def scoring(
    named: str, call: Call, tables: Mapping[str, Mapping[str, Any]], **params: int
) -> Iterator[Session]:
    """A session whose plan scores new rows; what it finds in the store stays there until it ends.

    Args:
        named: The recipe, as the user named it.
        call: The options.
        tables: Name of new rows → the keys of the table that a recipe would have of them.
        params: `max_samples` and `sample` of `score_action`.

    Raises:
        UsageError: The composed model is not built, or nothing can judge.
        DemError: As `open_session`.
    """
    with ExitStack() as within:
        session = open_session(named, call).kept(within)
        _require_built(session, named)
        graph = session.plan.graph
        actions = dict(graph.actions)
        drafted = open_session(named, replace(call, overrides=[*call.overrides, *_overrides(tables)]))
        vectors = _vectors_of(session)
        for name in tables:
            data, score = f"data:{name}", f"score:{name}"
            actions[data] = drafted.plan.graph.actions[data]
            actions[score] = score_action(
                session.recipe, graph.origin, MODEL, data, score, vectors=vectors, **params
            )
        targets = tuple(f"score:{name}" for name in tables)
        plan = make_plan(
            replace(graph, actions=actions).only(targets), session.store.records, session.plan.history
        )
        # One file that is no data stops none of the others.
        yield replace(session, plan=plan, call=replace(call, targets=targets, keep_going=True))


def _require_built(session: Session, named: str) -> None:
    verdict = session.plan.verdicts.get(MODEL)
    if verdict is None or not (session.recipe.validated or session.recipe.probes):
        hint = "give a dataset a `validation` share, or add a probe"
        raise UsageError("no skill has rows that new ones can be scored by", where=named, hint=hint)
    if verdict.record is None:
        raise UsageError(
            "the composed model is not built, and new rows are scored at it",
            where=named,
            hint="`dem build` builds it",
        )


def _vectors_of(session: Session) -> dict[str, JSON]:
    """The vectors that the composed model follows from → digest of the rows of each; empty of one from elsewhere."""
    graph, records = session.plan.graph, session.plan.records
    made = [records[name] for name in graph.only([MODEL]).actions if "delta" in records[name].outputs]
    rows = {r.outputs["delta"].digest: [i for i in inputs_of(r) if i.get("of") == "data/train"] for r in made}
    return {delta: str(taken[0]["sha256"]) if taken else "" for delta, taken in rows.items()}


def _overrides(tables: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The tables as `--set` would have them."""
    return [
        f"{dotted(('datasets', name, key))}={value_text(value)}"
        for name, table in tables.items()
        for key, value in table.items()
    ]


def run_scoring(session: Session, listener: Listener, interrupt: Interrupt) -> dict[str, Scored]:
    """Run what is due of a session's plan, and keep what is foretold; return what was scored by its name.

    Raises:
        DemError: What failed, the gravest first; the user asked to stop.
    """
    session.store.make()
    outcome = run_plan(session, listener, interrupt, rooted=False)
    records = outcome.records
    done = {n.removeprefix("score:"): r for n, r in records.items() if n.startswith("score:")}
    session.save_predictions(record.key for record in done.values())
    if outcome.interrupted:
        raise InterruptedBuildError("stopped", hint="score again to go on from here")
    if outcome.failed:
        errors = [r.error or DemError("failed", where=r.action.name) for r in outcome.failed]
        raise min(errors, key=lambda error: GRAVITY.index(error.exit_status))
    shared = count_shared(session.store, {n: r for n, r in records.items() if n.startswith("data:")})
    return {name: _scored(session, name, record, records, shared) for name, record in done.items()}


def _scored(
    session: Session, name: str, record: Record, records: Mapping[str, Record], shared: list[Shared]
) -> Scored:
    from dem_build.data.arrays import trained_prompts  # noqa: PLC0415  the planning path needs no numpy

    data = records[f"data:{name}"]
    rows = data.noted("rows")
    counts = {n: c for n, c in rows.items() if isinstance(c, int)} if isinstance(rows, dict) else {}
    # What is shared with other new rows is no knowledge of the model.
    pairs = ((s, s.other if s.name == name else s.name) for s in shared if name in (s.name, s.other))
    return Scored(
        name,
        prediction_of(record, session.store.objects.read_bytes(record.outputs["scores"])),
        len(trained_prompts([session.store.objects.open(data.outputs["train"])])),
        {reason: count for reason, count in counts.items() if count and reason not in ("read", "used")},
        {
            other: s.count
            for s, other in pairs
            if s.split == s.other_split == "train" and other in session.recipe.datasets
        },
    )
