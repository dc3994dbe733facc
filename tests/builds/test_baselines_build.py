"""`dem build` with baselines: what they are, what an edit costs them, and that results and gates know them."""

from __future__ import annotations

import json
import platform
import re
from pathlib import Path

import pytest
from project import Project, dataset, fresh, ran, recipe, vector_of

COMPARED = """\
[compose]
dtype = "float32"

[baselines.mix]
method = "mixing"
proportions = "uniform"
alpha = "tune"

[baselines.even]
method = "uniform"

[baselines.mean]
method = "interpolation"

[baselines.best]
method = "single"

[evaluate]
models = ["composed", "base", "mix", "even", "mean"]
prompts = 0

[[gates]]
task = "loss:add"
metric = "loss"
max_drop = 9.0
against = "mix"
"""
SPLIT = {"omega": 0.6, "validation": 0.2, "test": 0.1}
RECIPE = recipe(
    dataset("add", **SPLIT),
    dataset("copy", **SPLIT) + "train = { max_steps = 12 }\n",
    COMPARED,
    name="compared",
    rate="3e-3",
    steps=6,
)
UPPER = '[datasets.upper]\npath = "data/upper.jsonl"\nomega = 0.6\ntest = 0.1\n\n[compose]'


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Project:
    project = fresh(tmp_path_factory.mktemp("compared"), tiny_base)
    project.build(RECIPE)
    return project


def test_baselines_stand_beside_the_composed_model_in_results_and_gates(compared):
    document = compared.build(RECIPE)
    assert ran(document) == []
    assert set(document["results"]) == {"composed", "base", "mix", "even", "mean"}
    assert [gate["passed"] for gate in document["gates"]] == [True]
    loss = {model: tasks["loss:add"]["loss"] for model, tasks in document["results"].items()}
    assert loss["mix"] < loss["base"]
    # Eq. 2 and Eq. 3 are one model where the ω sum to 1.
    assert loss["even"] == pytest.approx(loss["mean"], rel=1e-5)


def test_the_mixture_is_trained_on_as_many_tokens_as_the_vectors_together(compared):
    document = compared.build(RECIPE)
    mixture = document["baselines"]["mix"]["mixture"]
    assert mixture["planned"] == mixture["compared"] == pytest.approx(mixture["vectors"], rel=0.05)
    assert mixture["tokens"] == pytest.approx(mixture["planned"], rel=0.02)
    assert mixture["shares"] == {"add": 0.5, "copy": 0.5}
    low, high = document["baselines"]["mix"]["intervals"]["mix"]
    assert low <= document["baselines"]["mix"]["omega"]["mix"] + 0.05
    assert document["baselines"]["mix"]["omega"]["mix"] <= high + 0.05
    text = compared.call("build", "tiny.toml").stdout
    assert "baseline mix  mixing" in text
    folder = compared.home / "out" / "compared"
    assert all("`mix`: mixing" in (folder / n).read_text() for n in ("summary.md", "model/README.md"))
    planned = json.loads(compared.call("plan", "tiny.toml", "--json").stdout)["mixtures"]
    assert planned == [
        {"baseline": "mix", "equal": True, "datasets": ["add", "copy"], "tokens": mixture["planned"]}
    ]


def test_every_record_says_how_long_it_had_which_device(compared):
    compared.build(RECIPE)
    records = [json.loads(path.read_text()) for path in (compared.home / "cache" / "actions").rglob("*.json")]
    told = [record["provenance"] for record in records]
    assert all(0 <= p["device_seconds"] <= p["seconds"] + 0.01 for p in told)
    assert {p["device"] for p in told} == {f"cpu ({platform.machine()})"}
    reading = {record["kind"] for record in records if "tokens" in record["provenance"]}
    assert reading == {"finetune", "tune", "loss"}


def test_a_cached_build_costs_nothing_and_says_what_all_of_it_cost_when_it_ran(compared):
    folder = compared.home / "out" / "compared"
    document = compared.build(RECIPE)
    assert document["spent"] == {"devices": {}, "unfinished": 0.0}
    cost = document["cost"]
    assert cost == json.loads((folder / "results.json").read_text())["cost"]
    [(device, total)] = cost["devices"].items()
    assert device.startswith(f"cpu ({platform.machine()}), ")
    assert 0 < cost["actions"]["vector:copy"]["device_seconds"] < total
    trained = ["vector:add", "vector:copy"]
    dem, mixture = cost["mixing"]["dem"], cost["mixing"]["mixture"]
    assert dem["tokens"] == sum(cost["actions"][name]["tokens"] for name in trained)
    taken = [cost["actions"][name]["device_seconds"] for name in trained]
    assert dem["training"] == pytest.approx(sum(taken), abs=0.002)
    assert (list(cost["mixing"]["each"]), cost["mixing"]["mixtures"]) == (["mix"], 1)
    assert mixture["training"] == pytest.approx(cost["actions"]["vector:mix"]["device_seconds"], abs=0.002)
    assert set(cost["mixing"]["datasets"]) == {"add", "copy"}
    assert "this build: nothing" in (folder / "summary.md").read_text()
    assert re.search(r"; the mixture mix,( which won,)? took ", (folder / "report.html").read_text())
    said = compared.call("build", "tiny.toml").stdout
    assert re.search(r"\ncost     .*: DEM [^,]+, mix [^,(]+, \d\.\d\d times as much\n", said)


def test_what_this_call_spent_is_what_it_ran(compared):
    edited = RECIPE.replace("omega = 0.6", "omega = 0.59", 1)
    document = compared.build(edited)
    [spent] = document["spent"]["devices"].values()
    took = [a["seconds"] for a in document["actions"] if a["status"] == "ran"]
    assert spent == pytest.approx(sum(took), abs=0.01)
    assert ran(document) == ["loss:composed:add", "loss:composed:copy", "model"]
    cached = document["cost"]["actions"]["vector:add"]
    assert cached == compared.build(RECIPE)["cost"]["actions"]["vector:add"]


def test_rows_of_a_mixture_can_be_looked_at(compared):
    compared.write(RECIPE)
    assert "train 0:" in compared.call("data", "tiny.toml", "mix", "-n", "1").stdout
    assert (
        "mix has no split 'test'"
        in compared.call("data", "tiny.toml", "mix", "--split", "test", status=2).stderr
    )


def test_another_omega_makes_no_baseline_again(compared):
    compared.build(RECIPE)
    document = compared.build(RECIPE.replace("omega = 0.6", "omega = 0.7"))
    assert ran(document) == ["loss:composed:add", "loss:composed:copy", "model"]


def test_another_gate_runs_nothing(compared):
    compared.build(RECIPE)
    assert ran(compared.build(RECIPE.replace("max_drop = 9.0", "max_drop = 8.0"))) == []


def test_a_dataset_more_makes_the_mixture_again_and_no_vector(compared):
    compared.build(RECIPE)
    before = {name: vector_of(compared, name) for name in ("add", "copy", "mix")}
    document = compared.build(RECIPE.replace("[compose]", UPPER))
    new = {
        "data:upper",
        "vector:upper",
        *(f"loss:{m}:upper" for m in ("base", "composed", "mix", "even", "mean")),
    }
    mixture = {"data:mix", "vector:mix", "tune:mix", "model:mix", "loss:mix:add", "loss:mix:copy"}
    others = {f"{a}" for m in ("even", "mean") for a in (f"model:{m}", f"loss:{m}:add", f"loss:{m}:copy")}
    composed = {"model", "loss:composed:add", "loss:composed:copy"}
    single = {"tune:best", "model:best"}
    assert set(ran(document)) == new | mixture | others | composed | single
    after = {name: vector_of(compared, name) for name in before}
    assert {n for n in before if before[n] != after[n]} == {"mix"}


def test_a_baseline_that_nobody_asks_about_is_said(compared):
    compared.write(RECIPE.replace('"mix", "even", "mean"]', '"mix", "mean"]'))
    for command in ("check", "plan"):
        assert "does not name it: baseline even" in compared.call(command, "tiny.toml").stdout


def test_the_best_single_vector_is_one_vector_and_its_scale(compared):
    best = compared.build(RECIPE)["baselines"]["best"]
    assert sum(omega != 0 for omega in best["omega"].values()) == 1
    assert set(best["intervals"]) == {name for name, omega in best["omega"].items() if omega}
