"""A build on rows of which several answer one prompt: what is recorded of them, and what has keys of its own by it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from project import EVALUATE, Project, dataset, fresh, ran, recipe

from dem_build.actions.loss.read import read_rows
from dem_build.store import Record
from dem_build.store.records import parse_record

SPLIT = {"validation": 0.3, "test": 0.3}
RECIPE = recipe(dataset("add", **SPLIT), dataset("twice", **SPLIT), EVALUATE, name="units")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Project:
    project = fresh(tmp_path_factory.mktemp("units"), tiny_base)
    rows = [
        json.dumps({"prompt": f"Say {i // 2} in words:", "completion": f" {i} of many"}) for i in range(60)
    ]
    (project.home / "data" / "twice.jsonl").write_text("\n".join(rows) + "\n")
    project.build(RECIPE)
    return project


def recorded(project: Project, action: str) -> Record:
    key = json.loads(project.call("show", "tiny.toml", action, "--json").stdout)["key"]
    [path] = (project.home / "cache" / "actions").rglob(f"{key}.json")
    record = parse_record(path.read_bytes(), key)
    assert record is not None
    return record


def test_a_build_on_repeated_prompts_is_a_hit_the_next_time(built):
    assert ran(built.build(RECIPE)) == []


def test_losses_are_recorded_with_the_prompts_of_their_rows_where_these_repeat(built):
    told = json.loads((built.home / "out" / "units" / "results.json").read_text())["results"]["composed"]
    assert told["loss:twice"]["prompts"] == told["loss:twice"]["rows"] / 2
    assert "prompts" not in told["loss:add"]
    prompts, marked = {}, {}
    for name in ("add", "twice"):
        record = recorded(built, f"loss:composed:{name}")
        [path] = (built.home / "cache" / "cas").rglob(record.outputs["rows"].digest)
        prompts[name] = read_rows(path.read_bytes()).prompts
        marked[name] = [i["of"] for i in record.preimage["inputs"] if i.get("unit") == "prompt"]
    assert len({*prompts["twice"]}) == told["loss:twice"]["prompts"]
    assert prompts["add"] is None
    assert marked == {"twice": ["data/rows"], "add": []}


def test_what_chooses_says_of_its_rows_that_they_share_prompts_and_what_trains_does_not(built):
    tune, vector = (recorded(built, name).preimage for name in ("tune", "vector:twice"))
    taken = [i for group in tune["groups"] for i in group["inputs"]]
    assert [i["of"] for i in taken if "unit" in i] == ["data/validation"]
    assert "unit" not in json.dumps(vector)
