"""Every metric of both sides, with the change between them, how sure that is, and what it rests on.

What is paired is said of each figure (`Basis`). A metric of a task is paired where it is the mean of what its
documents have, which is checked against the recorded value: lm-eval also has metrics that are no such mean (F1 over all
documents, perplexity of all their text, correlations). Of these, the two values are compared as if they were
independent, and not at all where the test data changed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import PurePath
from typing import TYPE_CHECKING

from dem_build.compare.observed import RowReader, scores
from dem_build.compare.paired import ALPHA, Effect, Pairs, effect_of, holm, pair, unpaired
from dem_build.errors import StoreError
from dem_build.json_text import finite
from dem_build.report.comparison import (
    COUNTS,
    LOSS,
    LOSS_TASK,
    STDERR,
    Measurement,
    Trend,
    lower_is_better,
    measure_of,
    model_names,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dem_build.compare.keys import Names
    from dem_build.compare.observed import ScoredDocuments
    from dem_build.compare.sides import Node, Side
    from dem_build.digest import JSON

OF_DATA = frozenset({"dataset_revision", "limit"})
"""Parameters of a task that say which documents are asked; all others say how."""
OF_CODE = frozenset({"", ".yaml", ".yml", ".py"})
"""Files of a task that say how it is asked; all others are data."""
AGREES = 1e-6
"""How far the mean of documents may be from what is recorded, as a share: lm-eval sums in another order."""


class Basis(StrEnum):
    """What a change rests on."""

    SAME = "the same evaluation"
    ROWS = "rows"
    DOCUMENTS = "documents"
    VALUES = "two values"
    NOTHING = "nothing in common"


@dataclass(frozen=True)
class RowCounts:
    """How many rows or documents a change rests on.

    Attributes:
        common: Those of both sides.
        only_before: Those of the first side alone.
        only_after: Those of the second side alone.
        asked_otherwise: Those of both sides that are asked with another prompt: a template or examples changed.
    """

    common: int
    only_before: int = 0
    only_after: int = 0
    asked_otherwise: int = 0


@dataclass(frozen=True)
class MetricChange:
    """One metric of one task and model, on both sides.

    Attributes:
        model: The model's name on the second side, else on the first.
        lower_is_better: Whether less of the metric is better.
        before: What the first side recorded, of all its rows; None where there is nothing.
        after: The same of the second side.
        basis: What the change rests on.
        rows: How many rows that is; None where none were paired.
        common_before: The first side's value on the rows of both.
        common_after: The second side's.
        change: The change; None where there is none to tell.
        corrected: `change.p` after Holm's correction over the whole table; None where it is unknown or nothing is
            tested: a model that is the same on both sides has no change to find.
        trend: What the change is worth, by `corrected`.
        note: What is to be known of it; empty where nothing is.
        data_changed: Whether the test data are other ones; None where nobody knows.
        same_model: Whether one model was asked in one way, on other data: there is no change to find.
    """

    model: str
    task: str
    metric: str
    lower_is_better: bool
    before: Measurement | None = None
    after: Measurement | None = None
    basis: Basis = Basis.NOTHING
    rows: RowCounts | None = None
    common_before: float | None = None
    common_after: float | None = None
    change: Effect | None = None
    corrected: float | None = None
    trend: Trend = Trend.UNKNOWN
    note: str = ""
    data_changed: bool | None = None
    same_model: bool = False

    def document(self) -> dict[str, JSON]:
        """The same as JSON."""
        change = self.change
        return {
            "model": self.model,
            "task": self.task,
            "metric": self.metric,
            "lower_is_better": self.lower_is_better,
            "before": _measured(self.before),
            "after": _measured(self.after),
            "basis": self.basis.value,
            "rows": vars(self.rows) if self.rows else None,
            "common": {"before": finite(self.common_before), "after": finite(self.common_after)},
            "delta": finite(change.delta) if change else None,
            "stderr": finite(change.stderr) if change else None,
            "p": change.p if change else None,
            "p_holm": self.corrected,
            "method": change.method.value if change and change.method else None,
            "trend": self.trend.value,
            "data_changed": self.data_changed,
            "same_model": self.same_model,
            "note": self.note,
        }


def compare_metrics(
    sides: tuple[Side, Side], nodes: tuple[Mapping[str, Node], Mapping[str, Node]], names: Names
) -> tuple[MetricChange, ...]:
    """Every metric that either side recorded: losses first, then tasks, as the second side has them."""
    finder = _Finder(sides, nodes, names)
    found = [finder.change(*place) for place in finder.places()]
    chances = holm([one.change.p if one.change else None for one in found])
    return tuple(_judged(one, chance) for one, chance in zip(found, chances, strict=True))


def _judged(one: MetricChange, corrected: float | None) -> MetricChange:
    if corrected is None or one.change is None:
        return one
    if corrected >= ALPHA:
        return replace(one, corrected=corrected, trend=Trend.NOISE)
    better = (one.change.delta < 0) == one.lower_is_better
    return replace(one, corrected=corrected, trend=Trend.BETTER if better else Trend.WORSE)


@dataclass(frozen=True)
class _Paired:
    """What was paired of one metric, or why nothing was."""

    basis: Basis
    pairs: Pairs | None = None
    asked_otherwise: int = 0
    why: str = ""


class _Finder:
    """Looks up what both sides measured, and pairs what is recorded row by row; everything is read once."""

    def __init__(
        self, sides: tuple[Side, Side], nodes: tuple[Mapping[str, Node], Mapping[str, Node]], names: Names
    ) -> None:
        self._sides = sides
        self._readers = RowReader(sides[0]), RowReader(sides[1])
        self._documents: tuple[dict[str, ScoredDocuments], dict[str, ScoredDocuments]] = {}, {}
        # By what the second side calls a model and a task.
        self._called = {
            (names.one(model), names.task(task)): (model, task)
            for model, tasks in sides[0].results.table.items()
            for task in tasks
        }
        self._before = {
            (names.one(e.model), names.task(e.task)): node
            for node in nodes[0].values()
            if (e := node.action.evaluation)
        }
        self._after = {(e.model, e.task): node for node in nodes[1].values() if (e := node.action.evaluation)}

    def places(self) -> list[tuple[str, str, str]]:
        """Model, task and metric, each once."""
        before, after = (side.results for side in self._sides)
        found = [(m, t, n) for m in model_names(after) for t in after.table[m] for n in after.table[m][t]]
        found += [(*now, n) for now, (m, t) in self._called.items() for n in before.table[m][t]]
        told = [place for place in found if not place[2].endswith(STDERR) and place[2] not in COUNTS]
        return sorted(dict.fromkeys(told), key=lambda place: not place[1].startswith(LOSS_TASK))

    def change(self, model: str, task: str, metric: str) -> MetricChange:
        """The change of one metric, not yet judged."""
        before, after = (side.results for side in self._sides)
        was = self._called.get((model, task))
        old = measure_of(before, *was, metric) if was else None
        new = measure_of(after, model, task, metric)
        lower = lower_is_better(
            before if new is None and was else after, was[1] if new is None and was else task, metric
        )
        bare = MetricChange(model, task, metric, lower, old, new)
        if old is None or new is None or not math.isfinite(new.value - old.value):
            return replace(bare, note=_one_sided(old, new))
        one, other = self._before.get((model, task)), self._after.get((model, task))
        if one is None or other is None:
            note = "of published results nothing is known row by row, nor whether the test data are the same"
            return _of_values(bare, old, new, note)
        if one.identity == other.identity:
            same = Effect(new.value - old.value, 0.0 if new.value == old.value else None)
            bare = replace(bare, common_before=old.value, common_after=new.value, data_changed=False)
            return replace(bare, basis=Basis.SAME, change=same, trend=Trend.NOISE)
        bare = replace(bare, data_changed=_data(one) != _data(other))
        found = self._paired(one, other, bare)
        if found.pairs is not None:
            return _of_pairs(bare, found, _same_model(one, other))
        if bare.data_changed:
            why = f"{found.why}, and as the test data or the task's files changed, the values are not comparable"
            return replace(bare, note=why)
        return _of_values(bare, old, new, f"{found.why}: the errors are taken as independent")

    def _paired(self, one: Node, other: Node, bare: MetricChange) -> _Paired:
        try:
            if bare.task.startswith(LOSS_TASK) and bare.metric == LOSS:
                pairs = pair(self._readers[0].rows(one), self._readers[1].rows(other))
                return _Paired(Basis.ROWS, pairs)
            return self._paired_documents(one, other, bare)
        except StoreError as error:
            return _Paired(Basis.NOTHING, why=f"what was recorded row by row is not to be had ({error.what})")

    def _paired_documents(self, one: Node, other: Node, bare: MetricChange) -> _Paired:
        found = self._read(0, one), self._read(1, other)
        by_place, hashed = not bare.data_changed, all(side.hashed for side in found)
        measured = bare.before, bare.after
        sides = []
        prompts = []
        for documents, measure in zip(found, measured, strict=True):
            metric, asked = documents.of_metric(bare.metric)
            told = scores(asked, metric, by_place=by_place, hashed=hashed)
            mean = math.fsum(o.value for o in told) / len(told) if told else math.nan
            if (
                not told
                or measure is None
                or not math.isclose(mean, measure.value, rel_tol=AGREES, abs_tol=AGREES**2)
            ):
                return _Paired(
                    Basis.NOTHING, why="not the mean of what its documents have, so these are not paired"
                )
            sides.append(told)
            prompts.append({o.row: document.prompt for o, document in zip(told, asked, strict=True)})
        otherwise = sum(prompts[0][row] != prompts[1][row] for row in prompts[0].keys() & prompts[1].keys())
        return _Paired(Basis.DOCUMENTS, pair(*sides), otherwise)

    def _read(self, side: int, node: Node) -> ScoredDocuments:
        known = self._documents[side]
        if node.action.name not in known:
            known[node.action.name] = self._readers[side].documents(node)
        return known[node.action.name]


def _one_sided(old: Measurement | None, new: Measurement | None) -> str:
    if old is None and new is None:
        return "not a number on either side"
    if old is not None and new is not None:
        return "not a finite number on both sides"
    return "measured on the second side alone" if old is None else "measured on the first side alone"


def _data(node: Node) -> JSON:
    """What says on what an evaluation is made, whatever the model is and however it is asked."""
    sources = [[entry["tag"], entry["sha256"]] for entry in node.preimage["sources"]]
    params = node.preimage["params"]
    return [node.taken("data/"), sources, params.get("task"), params.get("dataset_revision")]


def _same_model(one: Node, other: Node) -> bool:
    """Whether one model is asked in one way: then there is no change to find, whatever the rows are."""
    return bool(_asked(one) == _asked(other))


def _asked(node: Node) -> JSON:
    params = {n: v for n, v in node.preimage["params"].items() if n not in OF_DATA}
    code = [e["sha256"] for e in node.preimage["sources"] if PurePath(e["tag"]).suffix in OF_CODE]
    return [node.taken("model/"), params, code, node.preimage["version"]]


def _of_values(bare: MetricChange, old: Measurement, new: Measurement, note: str) -> MetricChange:
    change = unpaired(new.value - old.value, old.stderr, new.stderr)
    bare = replace(bare, common_before=old.value, common_after=new.value)
    return replace(bare, basis=Basis.VALUES, change=change, note=note)


def _of_pairs(bare: MetricChange, found: _Paired, same_model: bool) -> MetricChange:
    pairs = found.pairs
    assert pairs is not None
    rows = RowCounts(pairs.common, pairs.only_before, pairs.only_after, found.asked_otherwise)
    change = effect_of(pairs)
    word = found.basis.value
    if change is None or pairs.means is None:
        return replace(bare, rows=rows, note=f"no {word} in common")
    notes = []
    if rows.only_before or rows.only_after:
        notes.append(
            f"the test data changed: only the {rows.common} {word} of both count "
            f"({rows.only_before} of the first side alone, {rows.only_after} of the second)"
        )
    if rows.asked_otherwise:
        notes.append(f"{rows.asked_otherwise} of them are asked with another prompt")
    trend = Trend.UNKNOWN
    if same_model:
        change, trend = replace(change, p=None, method=None), Trend.NOISE
        notes.append("the model is the same one, so there is no change to find")
    elif change.p is None:
        few = f"{len(pairs.units)} {'independent ' if len(pairs.units) < pairs.common else ''}{word}"
        notes.append(f"of {few} it cannot be told how sure it is")
    return replace(
        bare,
        basis=found.basis,
        rows=rows,
        common_before=pairs.means[0],
        common_after=pairs.means[1],
        change=change,
        trend=trend,
        note="; ".join(notes),
        same_model=same_model,
    )


def _measured(measure: Measurement | None) -> JSON:
    if measure is None:
        return None
    return {"value": finite(measure.value), "stderr": measure.stderr}
