"""ω, and what tuning found: intervals, layers, notes, the search's trace, who hurts whom."""

from __future__ import annotations

import math
from itertools import accumulate
from statistics import median
from typing import TYPE_CHECKING

from dem_build.actions.tune.read import OBJECTIVES, layers_of, shown_score
from dem_build.report.html.blocks import (
    NONE,
    Axis,
    Block,
    Cell,
    Lines,
    Mark,
    Notes,
    Panel,
    Section,
    Series,
    Span,
    Strip,
    Strips,
    Table,
    level,
)
from dem_build.report.quantities import decimals, signed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dem_build.actions.tune.read import Judged, Tuned, Tuning
    from dem_build.report.material import Material

__all__ = ["omega", "search", "slopes"]

FARTHEST = 4  # times as far from the best as the median candidate: what lies beyond is drawn at the edge
LEAST = 0.05  # of the best: less is noise, and not drawn over the whole height


def omega(material: Material) -> Section | None:
    """ω of every vector, with intervals where it was tuned."""
    results = material.results
    if not results.omega:
        return None
    tuned = dict(results.tuning.vectors) if results.tuning else {}
    # A bound of the search may lie far from all that was found: the axis shows what was found, 0 and 1.
    values = [0.0, 1.0, *results.omega.values()]
    values += [v for t in tuned.values() for v in (t.low, t.high, *t.layers.values()) if v is not None]
    axis = Axis.over(values)
    strips = [_strip(name, value, tuned.get(name), axis) for name, value in results.omega.items()]
    used = {mark.kind for strip in strips for mark in strip.marks} | {
        s.kind for strip in strips for s in strip.spans
    }
    words = {
        "found": "found by tuning",
        "given": "given in the recipe",
        "interval": "95 % interval",
        "layer": "ω of one layer",
    }
    legend = [(kind, text) for kind, text in words.items() if kind in used]
    layered = any(t.layers for t in tuned.values())
    note = (
        "Each layer has its own ω: the point is their mean, the interval that of one ω for all."
        if layered
        else ""
    )
    blocks: list[Block] = [Strips(strips, axis, legend, note=note, reference=axis.at(0.0))]
    if layered:
        blocks.append(_layers(tuned))
    lead = "The weight of each vector in the composed model."
    return Section("omega", "Weights ω", lead, blocks)


def _strip(name: str, value: float, tuned: Tuned | None, axis: Axis) -> Strip:
    if tuned is None or tuned.low is None or tuned.high is None:
        return Strip(
            name, [Mark("given", axis.at(value), f"ω {value:.4g}")], value=f"{value:.3f}", more="given"
        )
    marks = [
        *(Mark("layer", axis.at(w), f"layer {layer}: {w:.3f}") for layer, w in tuned.layers.items()),
        Mark("found", axis.at(value), f"ω {value:.4f}"),
    ]
    between = f"{tuned.low:.3f} to {tuned.high:.3f}"
    return Strip(
        name,
        marks,
        [Span("interval", axis.at(tuned.low), axis.at(tuned.high), between)],
        f"{value:.3f}",
        between,
    )


def _layers(tuned: dict[str, Tuned]) -> Table:
    names = layers_of(tuned)
    most = max((abs(w) for t in tuned.values() for w in t.layers.values()), default=0.0)
    body = [
        [
            Cell(name, strong=True),
            *(
                Cell(f"{t.layers[x]:.2f}", level=level(t.layers[x], most)) if x in t.layers else NONE
                for x in names
            ),
        ]
        for name, t in tuned.items()
    ]
    return Table(["vector", *names], body, len(names), heat=True, caption="ω of every layer")


def search(material: Material) -> Section | None:
    """What the search found on the rows it used, and how it went."""
    tuning = material.results.tuning
    if tuning is None:
        return None
    layers = " of one ω a vector and then some of one ω a layer" if tuning.layered else ""
    probes = " and the probes" if any(one.single is None for one in tuning.judges.values()) else ""
    lead = (
        f"{tuning.search.capitalize()} search for the best {_objective(tuning)} on validation rows: {tuning.passes} "
        f"candidates{layers}, at the cost of {tuning.cost:g} forward passes over them{probes}. "
        "No test row of a dataset was read."
    )
    blocks: list[Block] = [Notes(tuning.told)] if tuning.told else []
    blocks.append(_judges(tuning))
    if len(tuning.scores) > 1:
        by_layer = tuning.granularity == "layer"
        blocks.append(Lines([_trace(tuning)], TRACE_LEGEND, wide=True, note=SEEN if by_layer else ""))
    return Section("search", "Search for ω", lead, blocks)


TRACE_LEGEND = (("faint", "each candidate"), ("strong", "the best so far"))
SEEN = (
    "Candidates of one ω a vector, without about a quarter of the rows: these are kept to judge one ω a layer by. The "
    "table is of what was chosen in the end, on all rows."
)


def _objective(tuning: Tuning) -> str:
    return OBJECTIVES.get(tuning.objective, tuning.objective)


def _judges(tuning: Tuning) -> Table:
    header = ["on", "rows", "base", "own vector", "chosen ω", "gain recovered"]
    body = [[Cell(name, strong=True), *_judged(one)] for name, one in tuning.judges.items()]
    weak = [name for name, one in tuning.judges.items() if one.floored]
    note = (
        f"Alone, the vector of {', '.join(weak)} gains next to nothing: the gain there says little."
        if weak
        else ""
    )
    caption = "Validation loss, on the rows that ω was chosen on"
    return Table(header, body, 5, heat=True, caption=caption, note=note)


def _judged(one: Judged) -> list[Cell]:
    return [
        Cell(f"{one.rows}"),
        Cell(decimals(one.base)),
        Cell("" if one.single is None else decimals(one.single)),
        Cell(decimals(one.chosen)),
        NONE if one.gain is None else Cell(f"{one.gain:.2f}", level=level(one.gain, 1.0)),
    ]


def _trace(tuning: Tuning) -> Panel:
    worst = _worst_shown(tuning)
    scores = [shown_score(tuning.objective, score) for score in tuning.scores]
    best = [shown_score(tuning.objective, score) for score in _best_so_far(tuning)]
    axis = Axis.over([shown_score(tuning.objective, min(score, worst)) for score in tuning.scores], pad=0.0)
    top, bottom = decimals(axis.high), decimals(axis.low)
    if any(score > worst for score in tuning.scores):
        top, bottom = (f"{top} or more", bottom) if tuning.objective == "mean" else (top, f"{bottom} or less")
    reference = None
    if tuning.uniform is not None:
        equal = shown_score(tuning.objective, tuning.uniform)
        reference = (axis.down(equal), f"equal ω {decimals(equal)}")
    lines = [Series("faint", _placed(scores, axis), dots=True), Series("strong", _placed(best, axis))]
    return Panel(
        _objective(tuning),
        f"best {decimals(best[-1])}",
        lines,
        top=top,
        bottom=bottom,
        left="candidate 1",
        right=f"{len(scores)}",
        reference=reference,
    )


def _worst_shown(tuning: Tuning) -> float:
    """Return where the axis ends: one candidate that is far worse than most would leave a flat line of all others."""
    best, usual = min(tuning.scores), median(tuning.scores)
    equal = best if tuning.uniform is None else tuning.uniform
    return best + max(FARTHEST * (usual - best), 2 * (equal - best), LEAST * abs(best))


def _best_so_far(tuning: Tuning) -> list[float]:
    """Return the best score up to each candidate, of those that keep the limits of all probes."""
    kept = [
        score if allowed else math.inf for score, allowed in zip(tuning.scores, tuning.allowed, strict=True)
    ]
    return list(accumulate(kept, min))


def _placed(values: Sequence[float], axis: Axis) -> list[tuple[float, float]]:
    """Return values at even steps as points in a box of 100 × 100; one that is not finite has none."""
    along = Axis(0.0, float(len(values) - 1))
    return [(along.at(i), axis.down(v)) for i, v in enumerate(values) if math.isfinite(v)]


def slopes(material: Material) -> Section | None:
    """Who hurts whom: the derivative of each judge's loss to each ω, at the model where that was looked around."""
    tuning, response = material.results.tuning, material.results.response
    # A search takes them of the ω that it searched, where its search of one ω a vector ended.
    of_model = response.slopes if response else {}
    found = of_model or (tuning.slopes if tuning else {})
    if not found:
        return None
    names = list(dict.fromkeys(v for row in found.values() for v in row))
    most = max((abs(v) for row in found.values() for v in row.values()), default=0.0)
    body = [
        [
            Cell(judge, strong=True),
            *(Cell(signed(row[n]), level=level(-row[n], most)) if n in row else NONE for n in names),
        ]
        for judge, row in found.items()
    ]
    by_layer = tuning is not None and tuning.granularity == "layer" and not of_model
    where = "the best of one ω a vector" if by_layer else "the chosen ω"
    lead = (
        f"What a little more of a vector would do to each dataset at {where}: the derivative of its validation "
        "loss to that ω. Negative (blue) helps, positive (orange) hurts. Where ω is balanced, a column has both."
    )
    table = Table(["loss on", *(f"more {n}" for n in names)], body, len(names), heat=True)
    return Section("slopes", "Who hurts whom", lead, [table])
