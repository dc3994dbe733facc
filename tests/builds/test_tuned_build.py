"""`dem build` where ω is left to it: what runs after each edit, and that an edit costs what it must."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from project import EVALUATE, Project, dataset, fresh, ran, recipe

SPLIT = {"validation": 0.2, "test": 0.1}
RECIPE = recipe(
    dataset("add", **SPLIT),
    dataset("copy", **SPLIT),
    '[compose]\ndtype = "float32"\n',
    EVALUATE,
    name="tuned",
    rate="3e-3",
    steps=6,
)
UPPER = '[datasets.upper]\npath = "data/upper.jsonl"\nvalidation = 0.2\ntest = 0.1\n\n[compose]'
AFTER = {"model", "loss:composed:add", "loss:composed:copy"}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Project:
    project = fresh(tmp_path_factory.mktemp("tuned"), tiny_base)
    project.build(RECIPE)
    return project


def cost(project: Project) -> float:
    return json.loads((project.home / "out" / "tuned" / "results.json").read_text())["tuning"][
        "forward_equivalents"
    ]


def test_the_build_finds_omega_and_says_how_sure_it_is(tuned):
    document = tuned.build(RECIPE)
    assert ran(document) == []
    assert set(document["omega"]) == {"add", "copy"}
    vectors = document["tuning"]["vectors"]
    assert all(v["low"] <= v["omega"] + 0.05 and v["omega"] - 0.05 <= v["high"] for v in vectors.values())
    text = tuned.call("build", "tiny.toml").stdout
    assert "ω add" in text
    assert "gain recovered" in text


def test_renamed_and_swapped_datasets_tune_nothing(tuned):
    head, add, copy, rest = RECIPE.replace("[compose]", "[datasets.compose]").split("[datasets.")
    swapped = f"{head}[datasets.{copy}[datasets.{add}[{rest}".replace("[datasets.add]", "[datasets.sum]")
    document = tuned.build(swapped)
    assert ran(document) == []
    assert set(document["omega"]) == {"sum", "copy"}


OUTPUTS = ("omega", "trace", "passes")
NARROW = "\n[tune]\nbounds = [0.0, 1.0]\n"
PROBE = '\n[probes.upper]\npath = "data/upper.jsonl"\nmax_loss_increase = 0.5\n'


@pytest.mark.parametrize("objective", ["gain", "worst"])
def test_a_search_finds_the_same_whatever_other_searches_are_recorded(tiny_base, tmp_path, objective):
    """The key names the result: what is found in the cache saves passes, and moves no bit of what comes out."""
    asked = f'{RECIPE}\n[tune]\nobjective = "{objective}"\n'

    def found(project: Project) -> dict[str, str]:
        project.build(asked, "--", "tune")
        shown = json.loads(project.call("show", "tiny.toml", "tune", "--json").stdout)
        assert (shown["provenance"]["earlier_passes"] > 0) == bool(histories)
        return {name: shown["outputs"][name]["digest"] for name in OUTPUTS}

    histories: list[str] = []
    alone = found(fresh(tmp_path / "alone", tiny_base))
    three = RECIPE.replace("[compose]", UPPER)
    histories = [three + NARROW, RECIPE + PROBE, RECIPE + "\n[tune]\nimportance = { add = 5.0 }\n"]
    other = fresh(tmp_path / "other", tiny_base)
    for text in histories:
        other.build(text, "--", "tune")
    assert found(other) == alone


def test_another_importance_tunes_again_from_what_is_known(tuned):
    whole = cost(tuned)
    document = tuned.build(RECIPE + "\n[tune]\nimportance = { add = 5.0 }\n")
    assert {"tune"} <= set(ran(document)) <= {"tune", *AFTER}
    assert cost(tuned) < whole


def test_a_dataset_more_trains_one_vector_tunes_composes_and_evaluates(tuned):
    document = tuned.build(RECIPE.replace("[compose]", UPPER))
    new = {"data:upper", "vector:upper", "loss:composed:upper", "loss:base:upper"}
    assert set(ran(document)) == {"tune", *AFTER, *new}


def test_without_a_mixture_its_cost_is_projected_and_marked(tuned):
    cost = tuned.build(RECIPE)["cost"]
    mixing, actions = cost["mixing"], cost["actions"]
    assert (mixing["mixtures"], mixing["each"]) == (1, {})
    assert mixing["all"]["projected"] == mixing["all"]["total"]
    assert mixing["dem"]["choosing"] == actions["tune"]["device_seconds"] > 0
    assert actions["tune"]["tokens"] > 0
    assert mixing["mixture"]["tokens"] == mixing["dem"]["tokens"]
    assert mixing["ratio_of_one"] < 1, "as many tokens at the same speed, and no search"
    assert "(projected)" in tuned.call("build", "tiny.toml").stdout


def test_freezing_the_omega_that_were_found_evaluates_nothing_again(tuned):
    omega = tuned.build(RECIPE)["omega"]
    frozen = RECIPE.replace('add.jsonl"', f'add.jsonl"\nomega = {omega["add"]}').replace(
        'copy.jsonl"', f'copy.jsonl"\nomega = {omega["copy"]}'
    )
    document = tuned.build(frozen)
    assert ran(document) == ["model"]
    assert "tune" not in {action["name"] for action in document["actions"]}


def test_an_analysis_of_a_tuned_model_climbs_from_what_the_search_measured(tuned):
    document = tuned.build(RECIPE + "\n[analysis]\nresponse = []\n")
    assert set(ran(document)) == {"analysis", "ladder", "tsne"}
    first, last = document["ladder"]["rungs"]
    assert last["retuned"]["omega"] == last["frozen"]["omega"] == pytest.approx(document["omega"])
    assert first["retuned"]["omega"][last["added"][0]] == 0
    shown = json.loads(tuned.call("show", "tiny.toml", "ladder", "--json").stdout)["provenance"]
    assert shown["earlier_passes"] > 0
