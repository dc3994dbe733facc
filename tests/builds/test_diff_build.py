"""`dem diff` in a real repository: builds whose data, ω and datasets changed, and the models that they published."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from git_samples import Repo
from project import EVALUATE, Project, dataset, fresh, recipe

from dem_build.cli.app import run

if TYPE_CHECKING:
    from pathlib import Path

GATE = '[[gates]]\ntask = "loss:add"\nmetric = "loss"\nmax = {}\n'
FIRST = recipe(
    dataset("add", omega=0.5, validation=0, test="data/test.jsonl"),
    dataset("copy", omega=0.5, test=0.2),
    EVALUATE,
    GATE.format(100),
    steps=2,
)
SECOND = FIRST.replace('copy.jsonl"\nomega = 0.5', 'copy.jsonl"\nomega = 0.25').replace("= 100", "= 0.1")
THIRD = SECOND + dataset("upper", omega=0.1)


def rows(count: int, start: int) -> str:
    lines = [{"prompt": f"{i} and {i} make", "completion": f" {i + i}"} for i in range(start, start + count)]
    return "".join(json.dumps(line) + "\n" for line in lines)


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Project:
    """A repository of three commits: a first build; rows added, test data and ω changed; a dataset more, not built.

    Nothing but recipes and locks is in git, and at the end nothing else lies in the working tree.
    """
    project = fresh(tmp_path_factory.mktemp("history"), tiny_base)
    home, repo = project.home, Repo(project.home)
    (home / "data" / "test.jsonl").write_text(rows(20, 1000))
    repo.put(".gitignore", "base/\ndata/\ncache/\nout/\nolder/\nhints\n")
    project.build(FIRST)
    repo.commit("first")
    repo.git("tag", "first")
    with (home / "data" / "add.jsonl").open("a") as file:
        file.write(rows(3, 5000))
    (home / "data" / "test.jsonl").write_text(rows(20, 1003))
    shutil.copytree(home / "out" / "tiny", home / "older")
    project.build(SECOND, status=3)
    repo.commit("second")
    repo.git("tag", "second")
    project.write(THIRD)
    project.call("lock", "tiny.toml")
    repo.commit("third")
    repo.git("tag", "third")
    for name in ("base", "data"):
        shutil.rmtree(home / name)
    (home / "tiny.toml").unlink()
    return project


def diffed(project: Project, *arguments: str, status: int = 0) -> str:
    """What `dem diff` prints, called in this process: it runs nothing."""
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.chdir(project.home)
        for name in ("DEM_HINTS", "DEM_CACHE", "COLUMNS", "NO_COLOR"):
            patch.delenv(name, raising=False)
            if name in project.environment:
                patch.setenv(name, project.environment[name])
        assert run(["diff", *arguments]) == status
    return out.getvalue()


def compared(project: Project, *arguments: str, status: int = 0) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(diffed(project, *arguments, "--json", status=status))
    return document


def told(document: dict[str, Any]) -> dict[str, list[str]]:
    """Causes in words → the actions that differ for them."""
    return {
        " & ".join(c["text"] for c in reason["causes"]): [*reason["changed"], *reason["follow"]]
        for reason in document["reasons"]
    }


def metric(document: dict[str, Any], model: str, task: str) -> dict[str, Any]:
    (found,) = [m for m in document["metrics"] if (m["model"], m["task"]) == (model, task)]
    return found


def test_rows_more_another_omega_and_other_test_data(history: Project) -> None:
    document = compared(history, "first:tiny.toml", "second:tiny.toml", "--exit-code", status=1)
    assert told(document) == {
        "datasets.add has 3 rows more": ["data:add", "vector:add", "loss:base:add"],
        "datasets.add has 3 rows more & ω of copy: 0.5 → 0.25": [
            "model",
            "loss:composed:add",
            "loss:composed:copy",
        ],
    }
    assert [(o["vector"], o["before"], o["after"]) for o in document["omega"]] == [
        ("add", 0.5, 0.5),
        ("copy", 0.5, 0.25),
    ]
    add, copy = (metric(document, "composed", f"loss:{name}") for name in ("add", "copy"))
    assert add["rows"] == {"common": 17, "only_before": 3, "only_after": 3, "asked_otherwise": 0}
    assert add["data_changed"]
    assert not copy["data_changed"]
    assert copy["delta"] == pytest.approx(copy["after"]["value"] - copy["before"]["value"], rel=1e-4)
    assert copy["stderr"] < copy["after"]["stderr"]  # of the same rows
    base = metric(document, "base", "loss:add")
    assert (base["same_model"], base["p_holm"]) == (True, None)
    assert base["delta"] == pytest.approx(0, abs=1e-6)
    assert metric(document, "base", "loss:copy")["basis"] == "the same evaluation"
    (gate,) = document["gates"]
    assert (gate["before"]["passed"], gate["after"]["passed"]) == (True, False)
    assert document["cost"]["after"]["own"]


def test_exchanging_the_sides_negates_every_change(history: Project) -> None:
    there = compared(history, "first:tiny.toml", "second:tiny.toml")
    back = compared(history, "second:tiny.toml", "first:tiny.toml")
    for forth, reverse in zip(there["metrics"], back["metrics"], strict=True):
        assert forth["delta"] == -reverse["delta"]
        assert (forth["stderr"], forth["p_holm"]) == (reverse["stderr"], reverse["p_holm"])


def test_a_revision_against_itself_is_the_same(history: Project) -> None:
    document = compared(history, "second:tiny.toml", "second:./tiny.toml", "--exit-code")
    assert document["same"]
    assert not document["reasons"]
    assert {(m["delta"], m["basis"]) for m in document["metrics"]} == {(0.0, "the same evaluation")}


def test_a_dataset_more_that_is_not_built_is_planned(history: Project) -> None:
    document = compared(history, "second:tiny.toml", "third:tiny.toml")
    (cause,) = told(document)
    assert cause == "datasets.upper is new"
    assert document["cost"]["after"]["due"] == 7
    assert metric(document, "composed", "loss:copy")["note"] == "measured on the first side alone"


def test_published_models_are_compared_by_values_and_weights(history: Project) -> None:
    document = compared(history, "older", "out/tiny/model")
    assert metric(document, "composed", "loss:copy")["basis"] == "two values"
    assert document["weights"]["layers"]
    assert not document["weights"]["same"]
    assert document["gates"][0]["after"]["passed"] is False
    assert compared(history, "older", "older/model", "--exit-code")["same"]
    # The weights of a revision's model are in the store.
    of_recipe = compared(history, "second:tiny.toml", "out/tiny")
    assert of_recipe["weights"]["same"]
    assert of_recipe["same"]


@pytest.mark.parametrize("width", [80, 120])
def test_what_is_printed_fits_the_screen(history: Project, width: int) -> None:
    history.environment["COLUMNS"] = str(width)
    out = diffed(history, "first:tiny.toml", "second:tiny.toml")
    assert "datasets.add has 3 rows more: data:add; vector:add and loss:base:add follow" in out
    assert "only the 17 rows of both count" in out
    table = [line for line in out.splitlines() if line.startswith(("add ", "copy ", "composed "))]
    assert max(map(len, table)) <= width


def test_from_a_folder_a_path_begins_with_a_dot_or_at_the_root(history: Project) -> None:
    inner = Project(history.home / "inner")
    inner.home.mkdir(exist_ok=True)
    inner.environment = {**history.environment, "DEM_CACHE": str(history.home / "cache")}
    assert compared(inner, "first:tiny.toml", "second:../tiny.toml")["reasons"]
