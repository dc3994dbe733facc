"""What everything cost when it ran, and DEM against mixing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.report.cost import DEM, Part, by_device, on_devices
from dem_build.report.html.blocks import (
    NONE,
    Axis,
    Block,
    Cell,
    DataTable,
    Fold,
    Notes,
    Section,
    Segment,
    Strip,
    Strips,
)
from dem_build.report.mixing_cost import times
from dem_build.report.quantities import count, duration
from dem_build.report.verdict import judge

if TYPE_CHECKING:
    from collections.abc import Collection

    from dem_build.report.cost import BuildCost, Cost, Seconds
    from dem_build.report.inputs import ReportInputs
    from dem_build.report.mixing_cost import MixingCost, RouteCost

PARTS = {
    Part.SHARED: "base and data, which mixing needs too",
    Part.MODEL: "DEM: vectors, search of ω, composing",
    Part.EVALUATION: "evaluation of the model",
    Part.REFERENCES: "evaluation of base and single vectors",
    Part.BASELINES: "baselines, made and evaluated",
    Part.ANALYSIS: "analysis",
}


def cost(inputs: ReportInputs) -> Section | None:
    """Time and tokens of every action, what mixing costs instead, and what one dataset adds."""
    found = inputs.results.cost
    total = by_device(found.costs)
    if not total:
        return None
    winner = judge(inputs.results, inputs.gates).winner if found.mixing else None
    lead = f"{found.mixing.headline(winner)} " if found.mixing else ""
    lead += (
        f"All that is recorded here took {on_devices(total)}: each result once, with the time of the run that made it, "
        "over all interruptions."
    )
    mixing = found.mixing
    blocks: list[Block] = [_bars(mixing, winner), _breakdown(mixing), _edits(mixing)] if mixing else []
    blocks += [Notes(found.notes)] if found.notes else []
    blocks += [_parts(inputs, total), *(_families(inputs, device) for device in total)]
    blocks.append(Fold(f"Every action ({len(found.costs)})", [_actions(found)]))
    return Section("cost", "Cost", lead, blocks)


def _ways(mixing: MixingCost) -> list[tuple[str, RouteCost]]:
    """DEM, each mixture that was trained, and all of them where that is something else."""
    found = [("DEM", mixing.dem), *mixing.each.items()]
    if mixing.count == 1 == len(mixing.each):
        return found
    shared = ", what they share once" if len(mixing.each) > mixing.trained else ""
    return [*found, (f"{'all ' if mixing.count > 1 else ''}{mixing.named}{shared}", mixing.all)]


def _bars(mixing: MixingCost, winner: str | None) -> Strips:
    ways = _ways(mixing)
    axis = Axis(0.0, max(way.total for _, way in ways) or 1.0)
    rows = []
    for name, way in ways:
        measured = max(way.total - way.projected, 0.0)
        ends = (("bar", 0.0, measured), ("bar supposed", measured, way.total))
        spans = [Segment(kind, axis.at(start), axis.at(end)) for kind, start, end in ends if end > start]
        more = _more(mixing, name, way, winner)
        rows.append(Strip(name, spans=spans, value=duration(way.total), more=more))
    chosen = (
        "Choosing is the search of ω, and of a mixture's scale where that is tuned; of several mixtures, each that "
        "nothing else judged is charged with one pass over the rows that ω is chosen on, at the pace of that search."
        if mixing.searched
        else "ω are given: no search is counted on either side."
    )
    note = f"{chosen} Test evaluations are on neither side, nor are other learning rates that somebody tried."
    return Strips(rows, axis, caption=f"DEM against mixing, seconds on {mixing.device}", note=note)


def _more(mixing: MixingCost, name: str, way: RouteCost, winner: str | None) -> str:
    """How a cost is known, how it compares, and whether its model won."""
    if way is mixing.dem:
        return "measured"
    known = f"{duration(way.projected)} of it projected" if way.projected else "measured"
    known = "projected" if way.projected >= way.total else known
    won = ", which won" if name == winner else ""
    return f"{known}, {times(mixing.times_dem(way))} × DEM{won}"


def _breakdown(mixing: MixingCost) -> DataTable:
    header = ["", "tokens", "training", "choosing", "composing, mixing rows", "in all"]
    body = [
        [
            Cell(name, strong=True),
            NONE if way.tokens is None else Cell(count(way.tokens)),
            *(Cell(duration(s)) if s else NONE for s in (way.training, way.choosing, way.making)),
            Cell(duration(way.total), strong=True),
        ]
        for name, way in _ways(mixing)
    ]
    return DataTable(header, body, 5, caption="Where it goes", note=mixing.one_told)


def _edits(mixing: MixingCost) -> DataTable:
    body = [
        [
            Cell(name, strong=True),
            Cell(duration(edit.own)),
            Cell(duration(edit.rest)),
            Cell(duration(edit.total), strong=True),
            Cell(duration(edit.mixture), f"{times(edit.ratio)} × DEM"),
        ]
        for name, edit in mixing.edits.items()
    ]
    rest = "search, composing" if mixing.searched else "composing"
    header = ["dataset", "its data and vector", rest, "in all", "one new mixture"]
    projected = "" if mixing.each else " It is projected."
    note = (
        "All other vectors are cached. A mixture is trained again whole: once, with shares that are known, the least "
        f"that mixing takes.{projected}"
    )
    return DataTable(header, body, 4, caption="One dataset added to the others, or replaced", note=note)


def _parts(inputs: ReportInputs, total: Seconds) -> DataTable:
    spent = {part: by_device(inputs.results.cost.costs, (part,)) for part in Part}
    stages = inputs.results.stages.values()
    more = {Part.MODEL: [stage.name for stage in stages], Part.REFERENCES: [stage.model for stage in stages]}
    words = {part: ", ".join([text, *more.get(part, ())]) for part, text in PARTS.items()}
    body = [
        _part(words[part], total, seconds, strong=part in DEM) for part, seconds in spent.items() if seconds
    ]
    body.append(_part("everything", total, total, strong=True))
    return DataTable(["", *total], body, len(total), caption="What it was for, each result once")


def _part(words: str, devices: Collection[str], seconds: Seconds, *, strong: bool = False) -> list[Cell]:
    cells = [Cell(duration(seconds[d]), strong=strong) if d in seconds else NONE for d in devices]
    return [Cell(words, strong=strong), *cells]


def _families(inputs: ReportInputs, device: str) -> Strips:
    costs = inputs.results.cost.costs
    families: dict[str, dict[str, Cost]] = {}
    for action in inputs.graph:
        if action.name in costs:
            families.setdefault(action.kind.family, {})[action.name] = costs[action.name]
    spent = {family: by_device(actions).get(device, 0.0) for family, actions in families.items()}
    total = sum(spent.values())
    axis = Axis(0.0, max(spent.values(), default=0.0) or 1.0)
    rows = [
        Strip(
            family,
            spans=[Segment("bar", 0.0, axis.at(s))],
            value=duration(s),
            more=f"{100 * s / total:.0f} %",
        )
        for family, s in sorted(spent.items(), key=lambda item: -item[1])
        if s
    ]
    return Strips(rows, axis, caption=f"By kind of action, seconds on {device}")


def _actions(found: BuildCost) -> DataTable:
    several = len({c.device for c in found.costs.values()}) > 1
    body = []
    for name, cost in found.costs.items():
        time = NONE if cost.seconds is None else Cell(duration(cost.seconds), "wall" if cost.wall else "")
        tokens = [Cell("" if n is None else f"{n:,.0f}") for n in (cost.tokens, cost.trained_tokens)]
        body.append(
            [
                Cell(name, code=True),
                *([Cell(cost.device)] if several else []),
                time if cost.same_as is None else Cell("", f"is {cost.same_as}"),
                *tokens,
            ]
        )
    header = ["action", *(["device"] if several else []), "time", "tokens", "of them in the loss"]
    return DataTable(header, body, 3)
