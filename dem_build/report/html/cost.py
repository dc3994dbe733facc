"""What everything cost when it ran, and DEM against mixing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.report.cost import DEM, Part, by_device, on_devices
from dem_build.report.html.blocks import (
    NONE,
    Axis,
    Block,
    Cell,
    Fold,
    Notes,
    Section,
    Span,
    Strip,
    Strips,
    Table,
)
from dem_build.report.mixing import times
from dem_build.report.quantities import count, duration
from dem_build.report.verdict import judge

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from dem_build.report.cost import Cost, Seconds
    from dem_build.report.material import Material
    from dem_build.report.mixing import Mixing, Way
    from dem_build.report.reckoning import Reckoning

__all__ = ["cost"]

PARTS = {
    Part.SHARED: "base and data, which mixing needs too",
    Part.MODEL: "DEM: vectors, search of ω, composing",
    Part.EVALUATION: "evaluation of the model",
    Part.REFERENCES: "evaluation of base and single vectors",
    Part.BASELINES: "baselines, made and evaluated",
    Part.ANALYSIS: "analysis",
}
BAR = ("bar", "bar supposed")


def cost(material: Material) -> Section | None:
    """Time and tokens of every action, what mixing costs instead, and what one dataset adds."""
    found = material.results.cost
    total = by_device(found.costs)
    if not total:
        return None
    winner = judge(material.results, material.gates).winner if found.mixing else None
    lead = f"{found.mixing.headline(winner)} " if found.mixing else ""
    lead += (
        f"All that is recorded here took {on_devices(total)}: each result once, with the time of the run that made it, "
        "over all interruptions."
    )
    blocks: list[Block] = [*_mixing(found.mixing, winner)] if found.mixing else []
    blocks += [Notes(found.notes)] if found.notes else []
    blocks += [_parts(found, total), *(_families(material, device) for device in total)]
    blocks.append(Fold(f"Every action ({len(found.costs)})", [_actions(found)]))
    return Section("cost", "Cost", lead, blocks)


def _mixing(mixing: Mixing, winner: str | None) -> Iterator[Block]:
    yield _bars(mixing, winner)
    yield _breakdown(mixing)
    yield _edits(mixing)


def _ways(mixing: Mixing) -> list[tuple[str, Way]]:
    """Return DEM, each mixture that was trained, and all of them where that is something else."""
    found = [("DEM", mixing.dem), *mixing.each.items()]
    if mixing.count == 1 == len(mixing.each):
        return found
    shared = ", what they share once" if len(mixing.each) > mixing.trained else ""
    return [*found, (f"{'all ' if mixing.count > 1 else ''}{mixing.named}{shared}", mixing.all)]


def _bars(mixing: Mixing, winner: str | None) -> Strips:
    ways = _ways(mixing)
    axis = Axis(0.0, max(way.total for _, way in ways) or 1.0)
    rows = [
        Strip(name, spans=_spans(way, axis), value=duration(way.total), more=_more(mixing, name, way, winner))
        for name, way in ways
    ]
    return Strips(rows, axis, caption=f"DEM against mixing, seconds on {mixing.device}", note=_note(mixing))


def _spans(way: Way, axis: Axis) -> list[Span]:
    """Return a bar of what was measured, and one of what was projected."""
    measured = max(way.total - way.projected, 0.0)
    ends = ((BAR[0], 0.0, measured), (BAR[1], measured, way.total))
    return [Span(kind, axis.at(start), axis.at(end)) for kind, start, end in ends if end > start]


def _more(mixing: Mixing, name: str, way: Way, winner: str | None) -> str:
    """Return how a cost is known, how it compares, and whether its model won."""
    if way is mixing.dem:
        return "measured"
    known = f"{duration(way.projected)} of it projected" if way.projected else "measured"
    known = "projected" if way.projected >= way.total else known
    won = ", which won" if name == winner else ""
    return f"{known}, {times(mixing.times_dem(way))} × DEM{won}"


def _note(mixing: Mixing) -> str:
    """Return what is on both sides, and what on neither."""
    chosen = (
        "Choosing is the search of ω, and of a mixture's scale where that is tuned; of several mixtures, each that "
        "nothing else judged is charged with one pass over the rows that ω is chosen on, at the pace of that search."
        if mixing.searched
        else "ω are given: no search is counted on either side."
    )
    return f"{chosen} Test evaluations are on neither side, nor are other learning rates that somebody tried."


def _breakdown(mixing: Mixing) -> Table:
    header = ["", "tokens", "training", "choosing", "composing, mixing rows", "in all"]
    body = [[Cell(name, strong=True), *_way(way)] for name, way in _ways(mixing)]
    note = (
        f"One mixture on {mixing.length}: {mixing.told}. DEM took as much as {mixing.break_even:.2f} of them."
    )
    return Table(header, body, 5, caption="Where it goes", note=note)


def _way(way: Way) -> Iterator[Cell]:
    yield NONE if way.tokens is None else Cell(count(way.tokens))
    for seconds in (way.training, way.choosing, way.making):
        yield Cell(duration(seconds)) if seconds else NONE
    yield Cell(duration(way.total), strong=True)


def _edits(mixing: Mixing) -> Table:
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
    return Table(header, body, 4, caption="One dataset added to the others, or replaced", note=note)


def _parts(found: Reckoning, total: Seconds) -> Table:
    spent = {part: by_device(found.costs, (part,)) for part in Part}
    body = [
        _part(PARTS[part], total, seconds, strong=part in DEM) for part, seconds in spent.items() if seconds
    ]
    body.append(_part("everything", total, total, strong=True))
    return Table(["", *total], body, len(total), caption="What it was for, each result once")


def _part(words: str, devices: Collection[str], seconds: Seconds, *, strong: bool = False) -> list[Cell]:
    cells = [Cell(duration(seconds[d]), strong=strong) if d in seconds else NONE for d in devices]
    return [Cell(words, strong=strong), *cells]


def _families(material: Material, device: str) -> Strips:
    costs = material.results.cost.costs
    families: dict[str, dict[str, Cost]] = {}
    for action in material.graph:
        if action.name in costs:
            families.setdefault(action.kind.family, {})[action.name] = costs[action.name]
    spent = {family: by_device(actions).get(device, 0.0) for family, actions in families.items()}
    total = sum(spent.values())
    axis = Axis(0.0, max(spent.values(), default=0.0) or 1.0)
    rows = [
        Strip(
            family,
            spans=[Span("bar", 0.0, axis.at(s))],
            value=duration(s),
            more=f"{100 * s / total:.0f} %",
        )
        for family, s in sorted(spent.items(), key=lambda item: -item[1])
        if s
    ]
    return Strips(rows, axis, caption=f"By kind of action, seconds on {device}")


def _actions(found: Reckoning) -> Table:
    several = len({c.device for c in found.costs.values()}) > 1
    body = [
        [Cell(name, code=True), *([Cell(c.device)] if several else []), _time(c), *_tokens(c)]
        for name, c in found.costs.items()
    ]
    header = ["action", *(["device"] if several else []), "time", "tokens", "of them in the loss"]
    return Table(header, body, 3)


def _time(cost: Cost) -> Cell:
    if cost.same_as is not None:
        return Cell("", f"is {cost.same_as}")
    if cost.seconds is None:
        return NONE
    return Cell(duration(cost.seconds), "wall" if cost.wall else "")


def _tokens(cost: Cost) -> Iterator[Cell]:
    for tokens in (cost.tokens, cost.trained_tokens):
        yield Cell("" if tokens is None else f"{tokens:,.0f}")
