"""`dem score` on a recipe that is built: what it says, and what it says once the rows were trained on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from project import Project, dataset, fresh, recipe, vector_of

if TYPE_CHECKING:
    from pathlib import Path

BEFORE = recipe(dataset("add", omega=0.5, validation=0.2), dataset("copy", omega=0.5, validation=0.2))
FAST = ("--rows", "8", "--sample", "8")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Project:
    made = fresh(tmp_path_factory.mktemp("project"), tiny_base)
    made.write(BEFORE)
    return made


def scored(project: Project, *words: str) -> dict[str, Any]:
    return json.loads(project.call("score", "tiny.toml", *words, *FAST, "--json").stdout)


def model_losses(project: Project) -> dict[str, float]:
    """The losses of the composed model on the rows that scoring looks at, as a score of other rows has them."""
    [new] = scored(project, "data/other.jsonl")["new"]
    return {name: skill["loss"] for name, skill in new["skills"].items()}


def test_rows_are_scored_then_trained_on_and_the_prediction_is_held_against_what_came(project):
    """One story, as each of its builds takes seconds."""
    lines = (project.home / "data" / "upper.jsonl").read_text().splitlines(keepends=True)
    (project.home / "data" / "other.jsonl").write_text("".join(lines[:9]))
    (project.home / "data" / "more.jsonl").write_text("".join(lines[9:]))

    refused = project.call("score", "tiny.toml", "data/more.jsonl", status=2)
    assert "the composed model is not built" in refused.stderr
    assert not (project.home / "cache").exists()
    project.build(BEFORE)

    first = scored(project, "data/more.jsonl", "data/add.jsonl")
    assert first["earlier"] == {"pairs": [], "n": 0, "spearman": None, "signs_right": 0}
    by_name = {new["name"]: new for new in first["new"]}
    assert [new["sum"] for new in first["new"]] == sorted(new["sum"] for new in first["new"])
    # A name that the recipe has is not taken, and its own rows are known to it.
    assert by_name["more"]["known_prompts"] == {}
    together = scored(project, "data/more.jsonl", "data/upper.jsonl")["new"]
    assert [new["known_prompts"] for new in together] == [
        {},
        {},
    ]  # they share prompts, and the model knows none
    assert by_name["add-2"]["prompts"] == 59
    assert by_name["add-2"]["known_prompts"] == {"add": 45}  # of which the recipe holds out more
    more = by_name["more"]
    assert set(more["skills"]) == {"add", "copy"}
    assert more["change"] < 0
    for skill in more["skills"].values():
        assert skill["rows"] == 8
        assert skill["change"] == pytest.approx(more["change"] * skill["slope"] / more["slope"], rel=1e-9)

    before = model_losses(project)
    shown = project.call("score", "tiny.toml", "data/more.jsonl", *FAST)
    assert "how earlier predictions held: unknown" in shown.stdout
    assert "score:more  started" not in shown.stderr  # it is recorded
    document = project.build(BEFORE)
    assert not [a for a in document["actions"] if a["status"] == "ran"]

    vector = vector_of(project, "add")
    project.call("add", "tiny.toml", "more", "data/more.jsonl", "--omega", "0.5")
    project.call("build", "tiny.toml")
    assert vector_of(project, "add") == vector
    after = model_losses(project)
    held = scored(project, "data/other.jsonl")["earlier"]
    assert (held["n"], held["spearman"]) == (2, None)
    pairs = {pair["skills"][0]: pair for pair in held["pairs"]}
    for name, skill in more["skills"].items():
        assert pairs[name]["predicted"] == skill["change"]
        assert pairs[name]["moved"] == 0
        assert pairs[name]["actual"] == pytest.approx(after[name] - before[name], rel=1e-6)
    assert "of 2 changes had the sign" in project.call("score", "tiny.toml", "data/other.jsonl", *FAST).stdout

    text = (project.home / "tiny.toml").read_text()
    project.build(text.replace("omega = 0.5", "omega = 0.25", 1))
    shown = project.call("score", "tiny.toml", "data/other.jsonl", *FAST).stdout
    assert (
        "ω of other vectors moved (by up to 0.25) for 2 of them, which is in what came; where they stayed,"
        in shown
    )
    moved = [pair["moved"] for pair in scored(project, "data/other.jsonl")["earlier"]["pairs"]]
    assert sorted(moved) == [0, 0, 0.25, 0.25]

    project.call("cache", "gc", "--grace", "0s")
    assert scored(project, "data/other.jsonl")["earlier"]["n"] == 4
