"""The `results.json` of a published model → a side. It has no keys and no rows: values are all there is to compare."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from dem_build.compare.sides import Side
from dem_build.errors import UsageError
from dem_build.json_text import MALFORMED, number, parse_json, quantity, text_at
from dem_build.report.cost import BuildCost, Cost, Part
from dem_build.report.gates import GateResult
from dem_build.report.results import Results

if TYPE_CHECKING:
    from dem_build.digest import JSON


def published_side(name: str, data: bytes) -> Side:
    """The side of a published model.

    Args:
        name: What people call it.
        data: What its `results.json` holds.

    Raises:
        UsageError: It holds no results of dem.
    """
    try:
        document = parse_json(data)
        results = Results(
            table=_table(document["results"]),
            omega={str(vector): float(value) for vector, value in document["omega"].items()},
            model_digest=document.get("model_digest"),
            cost=BuildCost(dict(map(_cost, document.get("cost", {}).get("actions", {}).items()))),
        )
        gates = tuple(map(_gate, document["gates"]))
    except MALFORMED as error:
        hint = "`dem build` or `dem report` of its recipe writes it anew"
        raise UsageError("its results.json holds no results of dem", where=name, hint=hint) from error
    return Side(name, results=results, gates=gates, keyed=False)


def _table(document: JSON) -> dict[str, dict[str, dict[str, float]]]:
    # `null` is how JSON writes a value that is no finite number.
    return {
        str(model): {
            str(task): {str(n): math.nan if v is None else _number(v) for n, v in metrics.items()}
            for task, metrics in tasks.items()
        }
        for model, tasks in document.items()
    }


def _number(value: JSON) -> float:
    found = number(value)
    if found is None:
        raise TypeError("a metric is no number")
    return found


def _cost(entry: tuple[str, JSON]) -> tuple[str, Cost]:
    name, said = entry
    seconds, same_as = quantity(said.get("device_seconds")), said.get("same_as")
    return str(name), Cost(Part(said["part"]), text_at(said, "device"), seconds, same_as=same_as)


def _gate(said: JSON) -> GateResult:
    value = quantity(said["value"])
    return GateResult(
        text_at(said, "task"), text_at(said, "metric"), value, bool(said["passed"]), text_at(said, "why")
    )
