"""How the vectors were trained, and what everything cost when it ran."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.report.html.blocks import (
    Axis,
    Block,
    Cell,
    Fold,
    Lines,
    Panel,
    Section,
    Series,
    Span,
    Strip,
    Strips,
    Table,
)
from dem_build.report.quantities import count, decimals, duration
from dem_build.report.recorded import noted, quantity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dem_build.digest import JSON
    from dem_build.graph import Graph
    from dem_build.report.material import Material
    from dem_build.report.results import Metrics
    from dem_build.store import Record

__all__ = ["added_by", "cost", "curves", "device_seconds"]

LEGEND = (("faint", "training loss of each step"), ("strong", "validation loss"))
PREFIX = "data:"
Point = tuple[float, float]


def curves(material: Material) -> Section | None:
    """The training and validation loss of everything that was trained."""
    found = {
        name: panel
        for name, record in material.records.items()
        if (panel := _panel(name.partition(":")[2] or name, record)) is not None
    }
    if not found:
        return None
    validated = any(len(panel.series) > 1 for panel in found.values())
    legend = LEGEND if validated else LEGEND[:1]
    lead = "Loss in nats per token by optimizer step. Each chart has an axis of its own."
    return Section("curves", "Training", lead, [Lines(list(found.values()), legend)])


def _panel(name: str, record: Record) -> Panel | None:
    trained = _points(noted(record, "curve"))
    if not trained:
        return None
    validated = _points(noted(record, "validation", "curve"))
    axis = Axis.over([y for _, y in (*trained, *validated)], pad=0.06)
    steps = max(x for x, _ in (*trained, *validated))
    series = [Series("faint", _placed(trained, steps, axis))]
    if validated:
        series.append(Series("strong", _placed(validated, steps, axis), dots=len(validated) <= 40))
    last = f"validation {decimals(validated[-1][1])}" if validated else f"loss {decimals(trained[-1][1])}"
    return Panel(name, last, series, decimals(axis.high), decimals(axis.low), "step 1", f"{steps:g}")


def _points(curve: JSON) -> list[Point]:
    """Return (step, loss) of a recorded curve, whose entries may say more."""
    entries = curve if isinstance(curve, list) else []
    numbers = [(quantity(e[0]), quantity(e[1])) for e in entries if isinstance(e, list) and len(e) > 1]
    return [(x, y) for x, y in numbers if x is not None and y is not None]


def _placed(points: Sequence[Point], steps: float, axis: Axis) -> list[Point]:
    along = Axis(1.0, steps) if steps > 1 else Axis(0.0, 1.0)
    return [(along.at(x), round(100 - axis.at(y), 2)) for x, y in points]


def device_seconds(costs: Metrics) -> float:
    """Return the time on the device over all interruptions; where it was not counted apart, the wall time."""
    return costs.get("device_seconds", costs.get("seconds", 0.0))


def added_by(graph: Graph, dataset: str) -> list[str]:
    """Return the actions that follow from a dataset, itself included: what runs when it is added to the others."""
    found: set[str] = set()
    for action in graph:
        if action.name == PREFIX + dataset or found.intersection(action.upstream):
            found.add(action.name)
    return [action.name for action in graph if action.name in found]


def cost(material: Material) -> Section | None:
    """Time and tokens of every action, and what one dataset adds."""
    costs = material.results.costs
    if not costs:
        return None
    total = sum(map(device_seconds, costs.values()))
    tokens = sum(c.get("tokens", 0.0) for c in costs.values())
    trained = f", in which {count(tokens)} tokens were trained on" if tokens else ""
    lead = (
        f"All of this took {duration(total)}{trained}. Times are those of the run that made each result, and stay "
        "true when it comes from the cache: device-seconds where these were counted, else wall time."
    )
    blocks: list[Block] = [_families(material, total)]
    datasets = [name for name in material.results.datasets if PREFIX + name in costs]
    if len(datasets) > 1:
        blocks.append(_datasets(material, datasets, total))
    blocks.append(Fold(f"Every action ({len(costs)})", [_actions(material)]))
    return Section("cost", "Cost", lead, blocks)


def _families(material: Material, total: float) -> Strips:
    spent: dict[str, float] = {}
    for action in material.graph:
        if action.name in material.results.costs:
            seconds = device_seconds(material.results.costs[action.name])
            spent[action.family] = spent.get(action.family, 0.0) + seconds
    axis = Axis(0.0, max(spent.values(), default=0.0) or 1.0)
    rows = [
        Strip(
            family,
            spans=[Span("bar", 0.0, axis.at(s))],
            value=duration(s),
            more=f"{100 * s / total:.0f} %" if total else "",
        )
        for family, s in sorted(spent.items(), key=lambda item: -item[1])
    ]
    return Strips(rows, axis, caption="By kind of action, seconds")


def _datasets(material: Material, datasets: Sequence[str], total: float) -> Table:
    costs = material.results.costs
    compared = _of_baselines(material.graph)
    body = []
    for name in datasets:
        follows = [n for n in added_by(material.graph, name) if n in costs and n not in compared]
        own = [n for n in (PREFIX + name, f"vector:{name}") if n in follows]
        mine, rest = (sum(device_seconds(costs[n]) for n in some) for some in (own, set(follows) - set(own)))
        tokens = costs.get(f"vector:{name}", {}).get("tokens")
        share = f"{100 * (mine + rest) / total:.0f} %" if total else ""
        body.append(
            [
                Cell(name, strong=True),
                Cell("" if tokens is None else count(tokens)),
                Cell(duration(mine)),
                Cell(duration(rest)),
                Cell(duration(mine + rest), share),
            ]
        )
    header = ["dataset", "tokens", "its data and vector", "what follows", "in all, of the build"]
    note = "What follows: tuning, composing, and the evaluations that the dataset takes part in. All else is cached."
    note += " Baselines, which are made again too, are not counted." if compared else ""
    return Table(header, body, 4, caption="What it cost to add one dataset to the others", note=note)


def _of_baselines(graph: Graph) -> set[str]:
    """Return the actions that make and judge baselines."""
    return {
        action.name
        for action in graph
        if (action.evaluation.model if action.evaluation else action.name.partition(":")[2])
        in graph.baselines
    }


def _actions(material: Material) -> Table:
    body = [
        [
            Cell(name, code=True),
            Cell(duration(device_seconds(c))),
            *(_tokens(c, n) for n in ("tokens", "trained_tokens")),
        ]
        for name, c in material.results.costs.items()
    ]
    return Table(["action", "time", "tokens", "of them in the loss"], body, 3)


def _tokens(costs: Metrics, name: str) -> Cell:
    return Cell(f"{costs[name]:,.0f}" if name in costs else "")
