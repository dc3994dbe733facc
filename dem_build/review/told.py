"""A comparison of two revisions → what a review says of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dem_build.actions.sample.read import read_samples
from dem_build.compare import Basis, Standing
from dem_build.engine.outcome import Done
from dem_build.json_text import finite
from dem_build.report.comparison import COMPOSED
from dem_build.report.gates import Reference
from dem_build.review.document import (
    AskedPrompt,
    GateVerdict,
    KeyChange,
    Metric,
    Omega,
    ToldDue,
    ToldReason,
    shown,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from dem_build.compare import MetricChange, Side, SideBySide
    from dem_build.engine.outcome import Outcome
    from dem_build.estimate.estimates import Estimate
    from dem_build.graph import Graph
    from dem_build.report.gates import GateResult

MOST = 1000
PROMPTS = 3
NAME = 1000


def tell_metrics(comparison: SideBySide) -> tuple[Metric, ...]:
    """Every metric of the composed model."""
    return tuple(_metric(one) for one in comparison.metrics if one.model == COMPOSED)[:MOST]


def _metric(one: MetricChange) -> Metric:
    rows, change = one.rows, one.change
    same = one.basis is Basis.SAME
    return Metric(
        on=shown(one.task, NAME),
        metric=shown(one.metric, NAME),
        before=finite(one.before.value) if one.before else None,
        after=finite(one.after.value) if one.after else None,
        delta=finite(change.delta) if change else None,
        stderr=finite(change.stderr) if change and not same else None,
        p=finite(one.corrected),
        common=rows.common if rows else None,
        only_before=rows.only_before if rows else None,
        only_after=rows.only_after if rows else None,
        test=shown(one.basis.value if same else _test(one), NAME),
        worth=one.trend,
    )


def _test(one: MetricChange) -> str:
    """How a change was judged, or why it was not."""
    if one.rows is None or one.change is None:
        return one.change.method.value if one.change and one.change.method else one.note
    told = [one.change.method.value] if one.change.method else []
    # How many rows there are says the rest of the note.
    told += [f"{one.rows.asked_otherwise} asked with another prompt"] if one.rows.asked_otherwise else []
    return ", ".join(told)


def references(
    comparison: SideBySide, before: Side, renamed: Callable[[str], str]
) -> dict[tuple[str, str], Reference | None]:
    """What gates against the base revision compare with; None of what that revision does not measure."""
    asked = {renamed(e.task) for a in before.build.graph if (e := a.evaluation) and e.model == COMPOSED}
    found: dict[tuple[str, str], Reference | None] = {}
    for one in comparison.metrics:
        if one.model != COMPOSED:
            continue
        place = (one.task, one.metric)
        if one.task not in asked:
            found[place] = None
        elif one.common_before is not None and one.common_after is not None:
            stderr = one.change.stderr if one.change else None
            found[place] = Reference(one.common_before, one.common_after, stderr)
    return found


def tell_gates(gates: Iterable[GateResult], line_of: Callable[[int], int]) -> tuple[GateVerdict, ...]:
    """The head's gates."""
    return tuple(
        GateVerdict(
            metric=shown(gate.metric, NAME),
            task=shown(gate.task, NAME),
            line=line_of(index),
            value=finite(gate.value),
            passed=gate.passed if gate.judged else None,
            why=shown(gate.why),
        )
        for index, gate in enumerate(gates)
    )


def tell_omega(comparison: SideBySide) -> tuple[Omega, ...]:
    """Every ω."""
    return tuple(
        Omega(vector=shown(one.vector, NAME), before=finite(one.before), after=finite(one.after))
        for one in comparison.omega
    )


def tell_reasons(comparison: SideBySide) -> tuple[ToldReason, ...]:
    """What was changed, and what follows of it."""
    return tuple(
        ToldReason(
            text=shown("; ".join(cause.text for cause in reason.causes)),
            changed=_names(reason.changed),
            follow=_names(reason.follow),
        )
        for reason in comparison.reasons
    )


def _names(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(shown(name, NAME) for name in names)[:500]


def tell_keys(comparison: SideBySide) -> tuple[KeyChange, ...]:
    """Every action that is other work than it was."""
    told = (Standing.NEW, Standing.GONE, Standing.CHANGED, Standing.RENAMED)
    return tuple(
        KeyChange(
            action=shown(f"{one.was} → {one.name}" if one.was else one.name, NAME),
            before=one.before,
            after=one.after,
            what=one.standing,
        )
        for one in comparison.keys.of(*told)
    )[:2000]


def tell_actions(
    outcome: Outcome | None, due: Mapping[str, Estimate], graph: Graph, line_of: Callable[[str], int]
) -> tuple[ToldDue, ...]:
    """What ran, failed, or has to run yet.

    Args:
        outcome: Of the build of the head; None where nothing was built.
        due: Action that is not recorded → what it is expected to take.
        graph: The head's actions.
        line_of: The line of the table that something is called after, by its name.
    """
    results = outcome.results if outcome else {}
    shown_of = {Done.RAN: "ran", Done.FAILED: "failed"}
    told = [(name, r) for name, r in results.items() if r.status in shown_of and name not in due]
    found = []
    for name, result in told:
        ran = result.status is Done.RAN
        device = result.record.noted("device") if ran and result.record else None
        found.append(
            _action(name, graph, line_of).model_copy(
                update={
                    "state": shown_of[result.status],
                    "seconds": finite(result.seconds) if ran else None,
                    "device": shown(device, NAME) if isinstance(device, str) else "",
                    "error": "" if ran else shown(str(result.error)),
                }
            )
        )
    for name, estimate in due.items():
        expected = {"seconds": finite(estimate.seconds), "disk": estimate.disk}
        found.append(_action(name, graph, line_of).model_copy(update=expected))
    return tuple(found)[:MOST]


def _action(name: str, graph: Graph, line_of: Callable[[str], int]) -> ToldDue:
    prefix, _, rest = name.partition(":")
    line = line_of(rest) if prefix in ("data", "vector", "model") and rest else 0
    return ToldDue(action=shown(name, NAME), trains=graph.actions[name].kind.trains, line=line, state="due")


@dataclass(frozen=True)
class _Answers:
    """What the composed model of a side answered: (dataset, what was asked) → its answer, and the data's own."""

    found: Mapping[tuple[str, str], tuple[str, str | None]]

    @classmethod
    def of(cls, side: Side, renamed: Callable[[str], str]) -> _Answers:
        exchanges = side.results.get(read_samples) or ()
        return cls(
            {
                (renamed(e.dataset), e.asked): (e.answers[COMPOSED].text, e.reference)
                for e in exchanges
                if COMPOSED in e.answers
            }
        )


def tell_prompts(
    before: Side, after: Side, datasets: set[str], renamed: Callable[[str], str]
) -> tuple[AskedPrompt, ...]:
    """At most three prompts of each dataset that changed, and what both models answered.

    Args:
        before: The base revision.
        after: The head.
        datasets: Those that changed. Prompts of no dataset are told where any did.
        renamed: What a dataset of the base revision is called at the head.
    """
    old, new = _Answers.of(before, renamed).found, _Answers.of(after, lambda name: name).found
    count: dict[str, int] = {}
    found = []
    for dataset, asked in dict.fromkeys((*new, *old)):
        if not datasets or (dataset and dataset not in datasets) or count.get(dataset, 0) == PROMPTS:
            continue
        count[dataset] = count.get(dataset, 0) + 1
        was, now = old.get((dataset, asked)), new.get((dataset, asked))
        reference = (now or was or ("", None))[1]
        found.append(
            AskedPrompt(
                dataset=shown(dataset, NAME),
                asked=shown(asked),
                before=None if was is None else shown(was[0]),
                after=None if now is None else shown(now[0]),
                reference=None if reference is None else shown(reference),
            )
        )
    return tuple(found)[:300]


def changed_datasets(comparison: SideBySide) -> set[str]:
    """The datasets whose rows, vector or ω are others than they were."""
    keys = comparison.keys.of(Standing.CHANGED, Standing.NEW)
    found = {c.name.partition(":")[2] for c in keys if c.name.startswith(("data:", "vector:"))}
    return found | {one.vector for one in comparison.omega if one.before != one.after}
