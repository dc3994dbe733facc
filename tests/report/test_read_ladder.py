"""What is read of a ladder."""

from __future__ import annotations

import json

import pytest

from dem_build.action import Action, Edge, Input
from dem_build.actions import KINDS
from dem_build.actions.ladder.read import Ladder, read_ladder
from dem_build.digest import Output
from dem_build.graph import Graph
from dem_build.report.inputs import BuildRecords
from dem_build.store import Record

LADDER = "ladder"
NAMES = ("math", "chat")


def record(**outputs: str) -> Record:
    return Record("key", "kind", {}, {name: Output(digest, 1) for name, digest in outputs.items()}, {})


def model(*gains: float, scales: tuple[float, ...] = (1.0, 1.0)) -> dict:
    losses = [3.0 - gain * scale for gain, scale in zip(gains, scales, strict=True)]
    return {
        "omega": [0.5, 0.5],
        "losses": losses,
        "stderr": [0.1, 0.1],
        "gains": list(gains),
        "mean_gain": 9.0,
    }


def ladder(singles: list[float], rungs: list[dict], scales: tuple[float, ...] = (1.0, 1.0)) -> Ladder:
    takes = [Input("delta", Edge(f"vector:{n}", "delta"), group=n) for n in NAMES]
    takes += [Input("delta", Edge(f"vector:{n}", "delta"), group=f"{n}/test") for n in NAMES]
    takes += [Input("data/test", Edge(f"data:{n}", "test"), group=f"{n}/test") for n in NAMES]
    groups = {taken.group: {} for taken in takes}
    graph = Graph({LADDER: Action(LADDER, KINDS["ladder"], {}, tuple(takes), groups=groups)})
    document = {
        "vectors": [f"delta-{n}" for n in NAMES],
        "tests": [{"rows": f"rows-{n}", "vector": i, "used": 9} for i, n in enumerate(NAMES)],
        "base": model(0.0, 0.0, scales=scales),
        "singles": singles,
        "rungs": rungs,
    }
    records = {f"vector:{n}": record(delta=f"delta-{n}") for n in NAMES}
    records |= {f"data:{n}": record(test=f"rows-{n}") for n in NAMES}
    records[LADDER] = record(rungs="rungs")
    return read_ladder(BuildRecords(graph, records, lambda _: json.dumps(document).encode()))


def test_a_mean_is_of_all_datasets():
    rungs = [{"added": i, "frozen": model(0.5, 0.25 * i), "retuned": None} for i in range(2)]
    found = ladder([2.0, 2.0], rungs)
    assert found.floored == ()
    assert [rung.frozen.mean_gain for rung in found.rungs] == [0.25, 0.375]
    assert found.base.mean_gain == 0


@pytest.mark.parametrize("single", [2.999, 3.5])
def test_no_mean_has_a_dataset_whose_own_vector_gains_next_to_nothing(single):
    """Its gain is of 0.02, which is more than its own vector gains."""
    scales = (1.0, 0.02)
    rungs = [{"added": i, "frozen": model(0.5, -30.0, scales=scales), "retuned": None} for i in range(2)]
    found = ladder([2.0, single], rungs, scales)
    assert found.floored == ("chat",)
    assert [rung.frozen.mean_gain for rung in found.rungs] == [0.5, 0.5]
    assert found.rungs[0].frozen.gains == {"math": 0.5, "chat": -30.0}


def test_where_all_vectors_gain_next_to_nothing_the_mean_is_of_all():
    rungs = [{"added": i, "frozen": model(0.5, -0.5), "retuned": model(0.25, -0.5)} for i in range(2)]
    found = ladder([3.5, 3.0], rungs)
    assert found.floored == NAMES
    assert found.rungs[1].frozen.mean_gain == 0
    assert found.rungs[1].retuned.mean_gain == -0.125
