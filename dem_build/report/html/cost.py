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

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from dem_build.report.cost import Cost, Seconds
    from dem_build.report.material import Material
    from dem_build.report.mixing import Mixing, Way
    from dem_build.report.reckoning import Reckoning

__all__ = ["cost"]

PARTS = {
    Part.SHARED: "base and data, which mixing needs too",
    Part.MODEL: "vectors, search of ω, composing",
    Part.EVALUATION: "evaluation of the model",
    Part.REFERENCES: "evaluation of base and single vectors",
    Part.BASELINES: "baselines, made and evaluated",
    Part.ANALYSIS: "analysis",
}
RAN, BAR = ("measured", "projected"), ("bar", "bar supposed")
TRIED = (1, 2, 3, 5, 10, 20)


def cost(material: Material) -> Section | None:
    """Time and tokens of every action, what mixing costs instead, and what one dataset adds."""
    found = material.results.cost
    total = by_device(found.costs)
    if not total:
        return None
    lead = f"{found.mixing.headline} " if found.mixing else ""
    lead += (
        f"All that is recorded here took {on_devices(total)}. Times are those of the run that made each result, over "
        "all interruptions, and stay true when it comes from the cache; a result of several actions counts once."
    )
    blocks: list[Block] = [*_mixing(found.mixing)] if found.mixing else []
    blocks += [Notes(found.notes)] if found.notes else []
    blocks += [_parts(found, total), *(_families(material, device) for device in total)]
    blocks.append(Fold(f"Every action ({len(found.costs)})", [_actions(found)]))
    return Section("cost", "Cost", lead, blocks)


def _mixing(mixing: Mixing) -> Iterator[Block]:
    yield _bars(mixing)
    yield _breakdown(mixing)
    yield _tried(mixing)
    yield _edits(mixing)


def _bars(mixing: Mixing) -> Strips:
    axis = Axis(0.0, max(mixing.dem.total, mixing.best.total) or 1.0)
    one = f"{RAN[mixing.projected]}, {_share(mixing, 1)}"
    best = f"{RAN[mixing.supposed]}, {_share(mixing, mixing.tried)}"
    ways = {
        "DEM": (mixing.dem.total, "as it ran", False),
        "one mixture": (mixing.mixture.total, one, mixing.projected),
        f"best of {mixing.tried} mixtures": (mixing.best.total, best, mixing.supposed),
    }
    rows = [
        Strip(name, spans=[Span(BAR[supposed], 0.0, axis.at(s))], value=duration(s), more=more)
        for name, (s, more, supposed) in ways.items()
    ]
    note = (
        f"One mixture on {mixing.length}: {mixing.told}. Its shares have to be found "
        f"by training, so that m mixtures cost m times as much; m = {mixing.tried} here: as many as the recipe has, "
        "and at least one a dataset. On neither side is a search of the learning rate counted."
    )
    caption = f"DEM against mixing, seconds on {mixing.device}"
    return Strips(rows, axis, caption=caption, note=note)


def _share(mixing: Mixing, mixtures: int) -> str:
    return f"{times(mixing.ratio(mixtures))} × DEM"


def _breakdown(mixing: Mixing) -> Table:
    header = ["", "tokens", "training", "search of ω", "composing, mixing", "evaluation", "in all"]
    ways = {"DEM": mixing.dem, "one mixture": mixing.mixture, f"best of {mixing.tried}": mixing.best}
    body = [[Cell(name, strong=True), *_way(way)] for name, way in ways.items()]
    return Table(header, body, 6, caption="Where it goes")


def _way(way: Way) -> Iterator[Cell]:
    yield NONE if way.tokens is None else Cell(count(way.tokens))
    for seconds in (way.training, way.search, way.making, way.evaluating):
        yield Cell(duration(seconds)) if seconds else NONE
    yield Cell(duration(way.total), strong=True)


def _tried(mixing: Mixing) -> Table:
    numbers = sorted({*TRIED, mixing.tried, mixing.cheaper_from})
    body = [
        [
            Cell(str(m), strong=m == mixing.tried),
            Cell(duration(m * mixing.mixture.total)),
            Cell(times(mixing.ratio(m))),
            Cell(f"{mixing.saving(m):.0%}"),
        ]
        for m in numbers
    ]
    header = ["mixtures tried", "mixing", "times DEM", "DEM saves"]
    note = (
        f"Break-even at {mixing.break_even:.2f} mixtures: DEM is the cheaper from {mixing.cheaper_from} on. "
        "Below 0 %, mixing is."
    )
    return Table(header, body, 3, caption="By the number of mixtures that one would try", note=note)


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
    header = ["dataset", "its data and vector", "search, composing, evaluation", "in all", "one new mixture"]
    note = (
        "The same actions run either way; all other vectors are cached. A mixture is trained again whole: once, with "
        "the shares it has. To search these again costs a mixture for each trial. Baselines and analysis are not in it."
    )
    return Table(header, body, 4, caption="One dataset added to the others, or replaced", note=note)


def _parts(found: Reckoning, total: Seconds) -> Table:
    spent = {part: by_device(found.costs, (part,)) for part in Part}
    dem = by_device(found.costs, DEM)
    body: list[list[Cell]] = []
    for part, seconds in spent.items():
        body += [_part(PARTS[part], total, seconds)] if seconds else []
        body += [_part("what DEM cost", total, dem, strong=True)] if dem and part is DEM[-1] else []
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
            families.setdefault(action.family, {})[action.name] = costs[action.name]
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
