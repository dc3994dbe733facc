"""`dem build` with prompts: what is answered after which edit, and where the answers are shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from project import RECIPE, Project, fresh, ran

ASKED = RECIPE.replace("max_steps = 4", "max_steps = 2").replace(
    "prompts = 0", "prompts = 2\nmax_new_tokens = 8"
)
UPPER = '[datasets.upper]\npath = "data/upper.jsonl"\nomega = 0.25\ntest = 0.2\n\n[compose]'


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Project:
    made = fresh(tmp_path_factory.mktemp("asked"), tiny_base)
    made.build(ASKED)
    return made


def test_base_and_model_answer_the_same_test_rows(project):
    document = project.build(ASKED)
    assert ran(document) == []
    found = document["samples"]
    assert [(e["dataset"], list(e["answers"])) for e in found] == [
        (name, ["base", "composed"]) for name in ("add", "add", "copy", "copy")
    ]
    rows = [json.loads(line) for line in (project.home / "data" / "add.jsonl").read_text().splitlines()]
    assert {(e["asked"], e["reference"]) for e in found[:2]} < {(r["prompt"], r["completion"]) for r in rows}
    folder = project.home / "out" / "tiny"
    assert json.loads((folder / "results.json").read_text())["samples"] == found
    assert "4 prompts, side by side" in (folder / "summary.md").read_text()
    assert '<section id="answers">' in (folder / "report.html").read_text()


def test_another_dataset_asks_nobody_what_was_asked_before_but_the_new_model(project):
    document = project.build(ASKED.replace("[compose]", UPPER))
    assert {name for name in ran(document) if name.startswith("sample:")} == {
        "sample:base:upper",
        "sample:composed:add",
        "sample:composed:copy",
        "sample:composed:upper",
    }


def test_a_renamed_dataset_and_swapped_tables_ask_nothing(project):
    head, add, copy = ASKED.partition("\n[compose]")[0].split("[datasets.")
    rest = ASKED.partition("\n[compose]")[2]
    swapped = f"{head}[datasets.{copy}\n[datasets.{add}\n[compose]{rest}"
    document = project.build(swapped.replace("[datasets.add]", "[datasets.sum]"))
    assert ran(document) == []
    assert {e["dataset"] for e in document["samples"]} == {"sum", "copy"}


def test_prompts_of_the_recipe_are_asked_instead(project):
    text = ASKED.replace("prompts = 2", 'prompts = ["What is 1 plus 1?", "say <b>oak</b>"]')
    document = project.build(text)
    assert ran(document) == ["sample:base", "sample:composed"]
    assert [(e["asked"], e["reference"]) for e in document["samples"]] == [
        ("What is 1 plus 1?", None),
        ("say <b>oak</b>", None),
    ]
    assert "say &lt;b&gt;oak&lt;/b&gt;" in (project.home / "out" / "tiny" / "report.html").read_text()


def test_a_dataset_without_test_rows_is_not_asked_about(project):
    project.write(ASKED.replace("test = 0.2", "test = 0", 1))
    document = json.loads(project.call("plan", "tiny.toml", "--json").stdout)
    asked = [a["name"] for a in document["actions"] if a["name"].startswith("sample:")]
    assert asked == ["sample:base:copy", "sample:composed:copy"]


def test_only_models_that_are_evaluated_are_asked(project):
    project.write(ASKED.replace('models = ["composed", "base"]', 'models = ["base"]'))
    document = json.loads(project.call("plan", "tiny.toml", "--json").stdout)
    asked = [a["name"] for a in document["actions"] if a["name"].startswith("sample:")]
    assert asked == ["sample:base:add", "sample:base:copy"]
