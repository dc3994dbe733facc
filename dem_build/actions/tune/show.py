"""ω, and what tuning found: intervals, layers, notes, the search's trace, who hurts whom."""

from __future__ import annotations

import math
from itertools import accumulate
from statistics import median
from typing import TYPE_CHECKING

from dem_build.actions.choose.read import method_of, read_choice
from dem_build.actions.match.read import read_match
from dem_build.actions.response.read import read_response
from dem_build.actions.tune.read import OBJECTIVES, layers_of, read_tuning, shown_score
from dem_build.report.html.blocks import (
    NONE,
    Axis,
    Block,
    Cell,
    DataTable,
    Lines,
    Mark,
    Notes,
    Panel,
    Section,
    Segment,
    Series,
    Strip,
    Strips,
    level,
)
from dem_build.report.quantities import between, decimals, signed
from dem_build.report.text import joined

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from dem_build.actions.tune.read import Tuned, Tuning
    from dem_build.report.inputs import ReportInputs
    from dem_build.report.text import Line

# Times as far from the best as the median candidate, which one that is far worse than all others does not move: what
# lies beyond is drawn at the edge.
FARTHEST = 4
UNKNOWN = "no interval: one prompt"
LEAST = 0.05  # of the best: less is noise, and not drawn over the whole height


def omega(inputs: ReportInputs) -> Section | None:
    """ω of every vector, with intervals where it was tuned; a matched model has its importances elsewhere."""
    results = inputs.results
    tuning, matched = results.get(read_tuning), results.get(read_match)
    if not results.omega or (matched is not None and tuning is None):
        return None
    method = method_of(inputs.recipe, results.get(read_choice))
    tuned = dict(tuning.vectors) if tuning else {}
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
        "given": "given in the recipe"
        if method.default == "tune"
        else "given, or 1 where the recipe says none",
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
    lead = f"What ω is: {method.omega}."
    return Section("omega", "Weights ω", lead, blocks)


def _strip(name: str, value: float, tuned: Tuned | None, axis: Axis) -> Strip:
    if tuned is None or tuned.given:
        return Strip(
            name, [Mark("given", axis.at(value), f"ω {value:.4g}")], value=f"{value:.3f}", more="given"
        )
    marks = [
        *(Mark("layer", axis.at(w), f"layer {layer}: {w:.3f}") for layer, w in tuned.layers.items()),
        Mark("found", axis.at(value), f"ω {value:.4f}"),
    ]
    if tuned.low is None or tuned.high is None:
        return Strip(name, marks, value=f"{value:.3f}", more=UNKNOWN)
    between = f"{tuned.low:.3f} to {tuned.high:.3f}"
    return Strip(
        name,
        marks,
        [Segment("interval", axis.at(tuned.low), axis.at(tuned.high), between)],
        f"{value:.3f}",
        between,
    )


def _layers(tuned: dict[str, Tuned]) -> DataTable:
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
    return DataTable(["vector", *names], body, len(names), heat=True, caption="ω of every layer")


def search(inputs: ReportInputs) -> Section | None:
    """What the search found on the rows it used, and how it went."""
    tuning = inputs.results.get(read_tuning)
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
    blocks.append(_judges(tuning, inputs.origin))
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


def _judges(tuning: Tuning, origin: str) -> DataTable:
    header = ["on", "rows", origin, "own vector", "chosen ω", "gain recovered"]
    body = [
        [
            Cell(name, strong=True),
            Cell(f"{one.rows}"),
            Cell(decimals(one.base)),
            Cell("" if one.single is None else decimals(one.single)),
            Cell(decimals(one.chosen)),
            NONE if one.gain is None else Cell(f"{one.gain:.2f}", level=level(one.gain, 1.0)),
        ]
        for name, one in tuning.judges.items()
    ]
    weak = ", ".join(name for name, one in tuning.judges.items() if one.floored)
    note = f"Alone, the vector of {weak} gains next to nothing: the gain there says little." if weak else ""
    caption = "Validation loss, on the rows that ω was chosen on"
    return DataTable(header, body, 5, heat=True, caption=caption, note=note)


def _trace(tuning: Tuning) -> Panel:
    def shown(scores: Iterable[float]) -> list[float]:
        return [shown_score(tuning.objective, score) for score in scores]

    # One candidate that is far worse than most would leave a flat line of all others: the axis ends before it.
    best, equal = min(tuning.scores), tuning.uniform
    lead = 0.0 if equal is None else equal - best
    worst = best + max(FARTHEST * (median(tuning.scores) - best), 2 * lead, LEAST * abs(best))
    axis = Axis.over(shown(min(score, worst) for score in tuning.scores), pad=0.0)
    top, bottom = decimals(axis.high), decimals(axis.low)
    if any(score > worst for score in tuning.scores):
        top, bottom = (f"{top} or more", bottom) if tuning.objective == "mean" else (top, f"{bottom} or less")
    # A candidate that breaks the limit of a probe is drawn, and is never the best.
    candidates = zip(tuning.scores, tuning.allowed, strict=True)
    so_far = shown(accumulate((score if allowed else math.inf for score, allowed in candidates), min))
    along = Axis(0.0, float(len(tuning.scores) - 1))

    def placed(scores: Sequence[float]) -> list[tuple[float, float]]:
        return [(along.at(i), axis.down(score)) for i, score in enumerate(scores) if math.isfinite(score)]

    reference = None
    if equal is not None:
        [uniform] = shown([equal])
        reference = (axis.down(uniform), f"equal ω {decimals(uniform)}")
    return Panel(
        _objective(tuning),
        f"best {decimals(so_far[-1])}",
        [Series("faint", placed(shown(tuning.scores)), dots=True), Series("strong", placed(so_far))],
        top=top,
        bottom=bottom,
        left="candidate 1",
        right=f"{len(tuning.scores)}",
        reference=reference,
    )


def slopes(inputs: ReportInputs) -> Section | None:
    """Who hurts whom: the derivative of each judge's loss to each ω, at the model where that was looked around."""
    tuning, response = inputs.results.get(read_tuning), inputs.results.get(read_response)
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
    table = DataTable(["loss on", *(f"more {n}" for n in names)], body, len(names), heat=True)
    return Section("slopes", "Who hurts whom", lead, [table])


def lines(tuning: Tuning) -> Iterator[Line]:
    """Each ω that was found, with its 95 % interval, and what the search has to say."""
    yield ()
    width = max((len(joined(name)) for name in tuning.vectors), default=0)
    for name, vector in tuning.vectors.items():
        interval = "given" if vector.given else UNKNOWN
        if vector.low is not None and vector.high is not None:
            interval = between(vector.low, vector.high)
        if vector.layers:  # the interval is of another number
            interval = f"mean of its layers; one ω for all of them: {interval}"
        gain = tuning.judges[name].gain if name in tuning.judges else None
        recovered = "" if gain is None else f"  gain recovered {gain:.2f}"
        yield (
            f"ω {joined(name):<{width}}  ",
            (f"{vector.omega:.3f}", "bold"),
            (f"  {interval}{recovered}", "dim"),
        )
    layers = " of one ω a vector, then of one a layer" if tuning.layered else ""
    counted = f"{joined(tuning.search)} search, {tuning.passes} candidates{layers}"
    yield ((f"{counted}; gain and intervals (95 %) on validation rows", "dim"),)
    for sentence in tuning.told:
        yield ("note: ", "yellow"), joined(sentence)


SECTIONS = (omega, search, slopes)
