"""A study of made-up results: a plan, data frames and figures, and errors as commands say them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from scaled import record_made_up, scaled_project

import dem_build
from dem_build.cli.app import run
from dem_build.errors import RecipeError, UsageError
from dem_build.session.session import Call, open_session


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe of two datasets, of which all is recorded."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEM_HINTS", str(folder / "hints"))
        patch.chdir(folder)
        record_made_up(scaled_project(folder, 2, baselines=1))
    return folder


@pytest.fixture(autouse=True)
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEM_HINTS", str(home / "hints"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.chdir(home)


@pytest.fixture
def study() -> dem_build.Study:
    return dem_build.load("recipe.toml")


def changed(**more: object) -> dem_build.Study:
    return dem_build.load("recipe.toml", set={"datasets.d0.omega": 0.25}, **more)


def test_a_plan_is_what_the_command_says(study, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # as a notebook's kernel does
    plan = changed().plan()
    assert run(["plan", "recipe.toml", "--set", "datasets.d0.omega=0.25", "--json"]) == 0
    assert plan.document() == json.loads(capsys.readouterr().out)
    monkeypatch.delenv("FORCE_COLOR")
    assert run(["plan", "recipe.toml", "--set", "datasets.d0.omega=0.25"]) == 0
    assert str(plan) == capsys.readouterr().out.rstrip("\n")
    assert [a.action for a in plan.due if a.state == "run"] == ["model"]
    assert study.plan().up_to_date


def test_a_plan_is_a_frame_of_what_is_due():
    frame = changed().plan().frame().set_index("action")
    assert list(frame.columns) == ["state", "why", "tokens", "seconds", "bytes", "memory"]
    assert frame.loc["data:d0", "state"] == "hit"
    assert frame.loc["model", "why"] == "never built"
    # All evaluations of a model have 12 rows of 7 tokens; what is recorded takes nothing.
    assert frame.loc["loss:composed:d0", "tokens"] == 84
    assert frame.loc["loss:base:d0"].isna()[["tokens", "seconds", "bytes"]].all()


def test_frames_hold_what_the_results_document_does(study):
    results, document = study.results, study.results.document()
    losses = results.losses.set_index(["model", "dataset"])
    assert len(losses) == 6
    for (model, name), row in losses.iterrows():
        told = document["results"][model][f"loss:{name}"]
        assert (row.loss, row.stderr, row.rows, row.tokens) == (told["loss"], told["loss_stderr"], 12, 84)
    assert dict(zip(results.omega.vector, results.omega.omega, strict=True)) == document["omega"]
    assert results.verdict == document["verdict"]["headline"]
    costs = results.costs.set_index("action")
    assert costs.loc["vector:d0", ["part", "seconds"]].tolist() == ["model", 1.0]
    assert results.scores.columns.tolist()[:3] == ["model", "task", "metric"]
    for empty in (results.scores, results.gains, results.omega_by_layer, results.curves, results.gates):
        assert empty.empty


def test_results_of_what_is_not_all_recorded_say_so():
    results = changed().results
    assert results.missing == ("model", "loss:composed:d0", "loss:composed:d1")
    assert "3 actions are not recorded" in repr(results)
    assert set(results.losses.model) == {"base", "b0"}


def test_figures_are_those_of_the_report(study):
    figures = study.figures
    page = study.report().read_text(encoding="utf-8")
    assert [name for name in figures if f'<section id="{name}">' in page] == list(figures)
    assert repr(figures.loss) == "Figure('loss': Test loss)"
    drawn = figures["loss"].html
    assert drawn.count("<section") == 1
    # The picture is the report's, and its style stays with it.
    assert drawn[drawn.index("<figure") : drawn.index("</figure>")] in page
    assert ":root" not in drawn
    assert "&amp; {" not in drawn
    assert list(figures) == [name for name in dir(figures) if name in figures] or set(figures) <= set(
        dir(figures)
    )
    with pytest.raises(AttributeError, match="there is no figure 'nothing'"):
        _ = figures.nothing


def test_a_figure_is_saved_as_a_page(study, tmp_path):
    file = study.figures.loss.save(tmp_path / "loss.html")
    assert file.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_why_is_what_the_command_says(capsys):
    why = changed().why("model")
    assert run(["why", "recipe.toml", "model", "--set", "datasets.d0.omega=0.25"]) == 0
    assert str(why) == capsys.readouterr().out.rstrip("\n")
    assert (why.action, why.state) == ("model", "run")


def test_patterns_mean_what_they_match_wherever_actions_are_named(study, capsys):
    everything, part = study.plan().document(), study.plan(["loss:composed:*", "data:d1"]).document()
    losses = {a["name"] for a in everything["actions"] if a["name"].startswith("loss:composed:")}
    assert len(losses) > 1
    assert {a["name"] for a in part["actions"]} > losses
    assert len(part["actions"]) < len(everything["actions"])
    assert run(["plan", "recipe.toml", "--rebuild", "data:*", "--json", "--", "*:d0", "*:d1"]) == 0
    actions = json.loads(capsys.readouterr().out)["actions"]
    assert [a["name"] for a in actions if a["status"] == "run"] == ["data:d0", "data:d1"]
    assert run(["show", "recipe.toml", "vec*0"]) == 0
    assert capsys.readouterr().out.startswith('action = "vector:d0"')
    assert study.why("vec*:d0").action == "vector:d0"
    with pytest.raises(UsageError, match=r"'vector:d\*' matches 2 actions"):
        study.vector("d*")


def test_who_names_all_actions_asks_for_all_of_the_recipe():
    session = open_session("recipe.toml", Call(targets=("*",)))
    assert session.whole
    assert not open_session("recipe.toml", Call(targets=("vector:*",))).whole


@pytest.mark.parametrize(
    ("wrong", "arguments"),
    [
        (lambda: dem_build.load("nothing.toml"), ["plan", "nothing.toml"]),
        (
            lambda: dem_build.load("recipe.toml", set={"train.learning_rat": 1}),
            ["plan", "recipe.toml", "--set", "train.learning_rat=1"],
        ),
        (lambda: dem_build.load("recipe.toml").why("modl"), ["why", "recipe.toml", "modl"]),
        (lambda: dem_build.load("recipe.toml").why("loss:*"), ["why", "recipe.toml", "loss:*"]),
        (lambda: dem_build.load("recipe.toml").plan(["los:*"]), ["plan", "recipe.toml", "--", "los:*"]),
        (
            lambda: dem_build.load("recipe.toml").build(["modl"], progress=False),
            ["build", "recipe.toml", "--", "modl"],
        ),
        (
            lambda: dem_build.load("recipe.toml", require_remote=True).plan(),
            ["plan", "recipe.toml", "--require-remote"],
        ),
    ],
)
def test_an_error_is_raised_and_says_what_the_command_says(capsys, wrong, arguments):
    with pytest.raises(UsageError) as caught:
        wrong()
    assert capsys.readouterr() == ("", "")
    assert run(arguments) == caught.value.exit_status
    told = capsys.readouterr().err
    problems = getattr(caught.value, "problems", [caught.value])
    assert problems
    assert all(problem.what in told and (problem.hint or "") in told for problem in problems)


def test_settings_are_values_of_python_or_texts_of_the_command_line():
    given = {"name": "new", "train.packing": np.True_, "datasets.d0": {"path": Path("data/d0.jsonl")}}
    given |= {
        "train.max_steps": np.int64(3),
        "datasets.d1.system": 'it\'s "new"\n',
        "analysis.response": (0.5, 1),
    }
    new = dem_build.load("recipe.toml", set=given)
    assert new.name == "new"
    assert {a.action for a in new.plan().due if a.state == "run"} == {"data:d0", "data:d1"}
    assert dem_build.load("recipe.toml", set=["name=other"]).name == "other"
    with pytest.raises(UsageError, match="TOML has no None"):
        dem_build.load("recipe.toml", set={"name": None})
    with pytest.raises(UsageError, match="set is the text"):
        dem_build.load("recipe.toml", set="name=other")


def test_a_recipe_that_was_edited_counts_as_it_is_now(home):
    edited = home / "edited.toml"
    edited.write_text((home / "recipe.toml").read_text())
    other = dem_build.load("edited.toml")
    assert other.plan().up_to_date
    edited.write_text(edited.read_text().replace("max_steps = 1", "max_steps = 2"))
    assert [a.action for a in other.plan().due if a.state == "run"] == ["vector:d0", "vector:d1"]
    edited.write_text("nonsense")
    with pytest.raises(RecipeError):
        other.plan()


def test_what_libraries_are_told_lasts_no_longer_than_a_call(monkeypatch):
    offline = dem_build.load("recipe.toml", offline=True)
    assert offline.plan().up_to_date
    assert "HF_HUB_OFFLINE" not in os.environ
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    offline.results  # noqa: B018
    assert os.environ["HF_HUB_OFFLINE"] == "0"


def test_what_makes_no_vector_or_model_is_refused(study):
    for take, name, what in (
        (study.vector, "data:d0", "makes no vector"),
        (study.model, "vector:d0", "makes no model"),
        (study.vector, "d7", "vector:d7"),
        (study.model, "base", ""),
    ):
        if what:
            with pytest.raises(UsageError, match=what):
                take(name)
    with pytest.raises(UsageError, match="base is in no folder of its own"):
        _ = study.model("base").path


@pytest.mark.parametrize(
    "left",
    ["model.safetensors", "model-00001-of-00002.safetensors", "chat_template.jinja", "adapter_config.json"],
)
def test_a_model_is_saved_into_no_folder_of_another_one(study, tmp_path, left):
    """transformers takes one file before an index of shards, and a template that lies there: of whatever model."""
    model = study.model()
    saved = model.save(tmp_path / "mine")
    assert model.save(saved) == saved  # once more
    (saved / "notes.txt").write_text("mine")
    model.save(saved)
    (saved / left).write_text("of another")
    with pytest.raises(UsageError, match="of another model"):
        model.save(saved)
    assert (saved / left).read_text() == "of another"
