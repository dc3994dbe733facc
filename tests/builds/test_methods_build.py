"""`dem build` by each way to compose that sums or fits: what an edit of it costs, and what the card says of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from project import Project, dataset, fresh, ran, recipe

SPLIT = {"validation": 0.1, "test": 0.1}
DATASETS = ("add", "copy")


def composed_by(method: str, *names: str, **keys: object) -> str:
    told = "".join(f"{key} = {value}\n" for key, value in keys.items())
    tables = [dataset(name, **SPLIT) for name in names or DATASETS]
    return recipe(*tables, f'[compose]\nmethod = "{method}"\n{told}')


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Project:
    project = fresh(tmp_path_factory.mktemp("methods"), tiny_base)
    made = ran(project.build(composed_by("regmean")))
    assert {name for name in made if ":" not in name or name.startswith("gram")} == {
        *("base", "gram:add", "gram:copy", "model")
    }
    assert "RegMean (arXiv 2212.09849)" in card(project)
    return project


def card(project: Project) -> str:
    return (project.home / "out" / "tiny" / "model" / "README.md").read_text()


@pytest.mark.parametrize(
    ("method", "keys", "said"),
    [
        ("ties", {"density": 0.5, "scale": 0.7}, "TIES (arXiv 2306.01708)"),
        ("dare", {"density": 0.5, "seed": 7}, "DARE (arXiv 2311.03099)"),
        ("slerp", {}, "spherical interpolation of two models"),
    ],
)
def test_another_way_composes_once_and_trains_nothing(
    built: Project, method: str, keys: dict[str, float], said: str
) -> None:
    assert ran(built.build(composed_by(method, **keys))) == ["model"]
    assert said in card(built)


def test_a_dataset_added_trains_one_vector_and_takes_its_gram_matrices(built: Project) -> None:
    built.write(composed_by("regmean", rows=4))
    found = json.loads(built.call("plan", "tiny.toml", "--json").stdout)["estimates"]
    told = {e["name"]: (bool(e["tokens"]), bool(e["memory"]), bool(e["disk"])) for e in found}
    gram, model = (True, True, True), (False, True, True)
    assert told == {"gram:add": gram, "gram:copy": gram, "model": model}
    built.write(composed_by("regmean", *DATASETS, "upper"))
    actions = json.loads(built.call("plan", "tiny.toml", "--json").stdout)["actions"]
    due = {action["name"] for action in actions if action["status"] != "hit"}
    assert due == {"data:upper", "gram:upper", "model", "vector:upper"}
