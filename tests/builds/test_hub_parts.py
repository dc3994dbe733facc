"""Datasets of many configurations of a hub dataset: locked by pattern, planned before a download, and prepared."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hub_server import HubServer, serving
from project import Project, fresh, of_hub, recipe

from dem_build.errors import UsageError
from dem_build.lock.hub_splits import HubData, named_files, part_files, told_rows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROMPTS = """\
[datasets.prompts]
columns = { prompt = "inputs", completion = "targets" }
validation = 0
test = 0
omega = 0.5

[[datasets.prompts.parts]]
hub = "org/prompts"
config = ["sum_*", "copy"]
max_samples = 4

[[datasets.prompts.parts]]
path = "data/add.jsonl"
columns = { prompt = "prompt", completion = "completion" }
max_samples = 3
"""
RECIPE = recipe(PROMPTS, '[datasets.copy]\npath = "data/copy.jsonl"\nomega = 0.5\n', steps=2)


def rows(task: str, count: int) -> bytes:
    made = [{"inputs": f"{task} {i} of", "targets": f" {i}", "weight": 1.0} for i in range(count)]
    return "".join(json.dumps(row) + "\n" for row in made).encode()


def card(**configs: dict[str, int]) -> bytes:
    lines = ["---", "dataset_info:"]
    for config, splits in configs.items():
        lines += [f"- config_name: {config}", "  splits:"]
        lines += [f"  - name: {split}\n    num_examples: {count}" for split, count in splits.items()]
    lines.append("configs:")
    for config, splits in configs.items():
        lines += [f"- config_name: {config}", "  data_files:"]
        lines += [f"  - split: {split}\n    path: {config}/{split}*" for split in splits]
    return "\n".join([*lines, "---", ""]).encode()


FILES = {
    "README.md": card(sum_one={"train": 12}, sum_two={"train": 3}, sum_held={"test": 9}, copy={"train": 6}),
    "sum_one/train-0.jsonl": rows("one", 6),
    "sum_one/train-1.jsonl": rows("uno", 6),
    "sum_two/train.jsonl": rows("two", 3),
    "sum_held/test.jsonl": rows("held", 9),
    "copy/train.jsonl": rows("copy", 6),
}


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    with serving() as server:
        server.commit("datasets", "org/prompts", FILES)
        yield server


@pytest.fixture
def project(tmp_path: Path, hub: HubServer, tiny_base: Path) -> Project:
    hub.commit("datasets", "org/prompts", FILES)
    return of_hub(fresh(tmp_path, tiny_base), hub, RECIPE)


def keys(project: Project) -> dict[str, str]:
    document = json.loads(project.call("plan", "tiny.toml", "--json").stdout)
    return {a["name"]: a["key"] for a in document["actions"] if a["name"].startswith("data:")}


def refused(project: Project, text: str) -> str:
    project.write(text)
    return " ".join(project.call("lock", "tiny.toml", status=2).stderr.split())


def test_a_pattern_is_locked_planned_and_prepared(project: Project, hub: HubServer) -> None:
    plan = project.call("plan", "tiny.toml").stdout
    # 4 of 12, 3 of 3 and 4 of 6; of the local file 3. Small files were read for their digests: none is left to fetch.
    assert "data:prompts: 4 sub-datasets, at most 14 rows to train on" in plan
    project.call("lock", "tiny.toml")
    document = json.loads((project.home / "tiny.lock").read_text())["datasets"]["prompts"]
    [pin] = document["parts"]
    assert sorted({f["tag"] for f in pin["files"]}) == ["copy:jsonl", "sum_one:jsonl", "sum_two:jsonl"]
    assert pin["configs"] == ["sum_*", "copy"]
    assert {f["path"]: f["rows"] for f in pin["files"]}["sum_two/train.jsonl"] == 3
    assert [f["tag"] for f in document["files"]] == ["1/:jsonl"]
    project.call("build", "tiny.toml", "--", "data:prompts")
    shown = json.loads(project.call("show", "tiny.toml", "data:prompts", "--json").stdout)["provenance"]
    assert shown["splits"]["train"]["rows"] == 14
    assert sorted(part["rows"] for part in shown["parts"].values()) == [3, 11]
    asked = len(hub.asked)
    assert keys(project)
    assert len(hub.asked) == asked


def test_names_and_order_of_parts_are_in_no_key_and_a_rule_is(project: Project, hub: HubServer) -> None:
    project.call("build", "tiny.toml", "--", "base")
    before = keys(project)
    head, first, second = PROMPTS.split("[[datasets.prompts.parts]]")
    mark = "\n[[datasets.prompts.parts]]"
    project.write(RECIPE.replace(PROMPTS, f"{head}{mark}{second}{mark}{first}"))
    assert keys(project) == before
    renamed = {path.replace("sum_two", "sum_zwei"): data for path, data in FILES.items()}
    renamed["README.md"] = FILES["README.md"].replace(b"sum_two", b"sum_zwei")
    hub.commit("datasets", "org/prompts", renamed)
    project.write(RECIPE)
    project.call("lock", "tiny.toml", "--upgrade")
    assert keys(project) == before
    hub.commit("datasets", "org/prompts", FILES | {
        "README.md": card(sum_one={"train": 12}, sum_two={"train": 3}, sum_three={"train": 1}, copy={"train": 6}),
        "sum_three/train.jsonl": rows("three", 1),
    })  # fmt: skip
    project.call("lock", "tiny.toml", "--upgrade")
    after = keys(project)
    assert after["data:prompts"] != before["data:prompts"]
    assert after["data:copy"] == before["data:copy"]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('["sum_*", "copy"]', '["sun_*"]', "no config that matches 'sun_*' hint: its configs are sum_one, sum_two"),
        ('["sum_*", "copy"]', '"cop"', "no config 'cop' hint: did you mean copy?"),
        ('["sum_*", "copy"]', '"sum_held"', "has no split 'train' hint: the splits are test"),
        ('["sum_*", "copy"]', '"sum_h*"', "no config that matches 'sum_h*' and has a split 'train'"),
        ('config = ["sum_*", "copy"]', 'files = "sun_*"', "no file that matches 'sun_*' hint: it holds README.md"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_parts_is_told_at_its_key(project: Project, old: str, new: str, told: str) -> None:
    assert old in RECIPE
    assert told in refused(project, RECIPE.replace(old, new, 1))


def test_files_are_named_by_patterns_too(project: Project) -> None:
    project.write(
        RECIPE.replace(
            'config = ["sum_*", "copy"]', 'files = ["sum_*/train*", "**/*-1.jsonl"]\nmax_files = 2'
        )
    )
    project.call("lock", "tiny.toml")
    [pin] = json.loads((project.home / "tiny.lock").read_text())["datasets"]["prompts"]["parts"]
    assert [f["tag"] for f in pin["files"]] == ["sum_one/train-0.jsonl:jsonl", "sum_one/train-1.jsonl:jsonl"]


def test_a_configuration_in_two_parts_is_refused(project: Project) -> None:
    more = '[[datasets.prompts.parts]]\nhub = "org/prompts"\nconfig = "copy"\n'
    said = refused(project, RECIPE.replace(PROMPTS, f"{PROMPTS}\n{more}"))
    assert "datasets.prompts.parts[2].hub: org/prompts/copy/train.jsonl is in parts[0] as well" in said


def test_files_are_the_first_by_name_and_cards_without_numbers_tell_none() -> None:
    data = HubData("org/one", ["b/train-2.jsonl", "b/train-1.jsonl"], {"configs": [
        {"config_name": "b", "data_files": "b/*"}]})  # fmt: skip
    assert part_files(data, (), "train") == {"b": ["b/train-1.jsonl", "b/train-2.jsonl"]}
    assert (
        told_rows({"dataset_info": {"splits": [{"name": "train", "num_examples": 7}]}}, "default", "train")
        == 7
    )
    many = HubData("org/one", ["one.jsonl"], {"configs": [
        {"config_name": n, "data_files": "*"} for n in ("sum", "sum_score", "copy")]})  # fmt: skip
    assert [*part_files(many, ("*", "!*_score", "!copy"), "train")] == ["sum"]
    with pytest.raises(UsageError, match=r"no config that sum, !\* leave over"):
        part_files(many, ("sum", "!*"), "train")
    # What takes nothing away is a slip, and rows would be trained on that nobody wants.
    with pytest.raises(UsageError, match="no config that matches 'copi'"):
        part_files(many, ("*", "!copi"), "train")
    with pytest.raises(UsageError, match="'!copy' stands first, and takes nothing away"):
        part_files(many, ("!copy", "*"), "train")
    with pytest.raises(UsageError, match=r"means b/note\.txt; dem reads \.jsonl"):
        named_files(HubData("org/one", ["b/note.txt"]), "b/*")
    assert told_rows({"dataset_info": [{"config_name": "b", "splits": "many"}]}, "b", "train") is None
    assert told_rows({}, "b", "train") is None
