"""Response curves of a real model: each loss against the model that `compose` would make, and its slope."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tune_samples import DIGEST, base, dataset, model, probe, skill, vector
from weight_samples import make_context

from dem_build.actions.response import run as response
from dem_build.actions.tune.candidates import Candidates
from dem_build.actions.tune.judges import judged_nll, judges
from dem_build.actions.tune.omega import write_omega
from dem_build.data.arrays import trained_prompts
from dem_build.step import Inputs

VALUES = [0.0, 0.5, 0.55, 1.0]


def respond(folder, groups, omega=None, **params):
    context = make_context(folder, threads=1)
    paths = {f"base/{part}": base() / part for part in ("weights", "config")}
    if omega is not None:
        write_omega(folder / "omega", omega)
        paths["omega"] = folder / "omega"
    inputs = Inputs(paths, {"base/weights": DIGEST}, groups=tuple(groups))
    response.run(inputs, {"omegas": VALUES, "max_samples": 64, "dtype": "float32"} | params, context)
    return json.loads((context.out / "curves").read_text())


def direct(omegas: dict[str, float], name: str, rounded_to: torch.dtype | None = None) -> float:
    """The mean loss of a skill's validation rows, all of them in one batch."""
    resident = Candidates(model(), base() / "weights", DIGEST, {n: skill(n).delta for n in omegas})
    resident.become(
        np.repeat(np.array([[w] for w in omegas.values()]), len(resident.layers), axis=1), rounded_to
    )
    [judge] = judges({name: dataset(name)}, {name: "data/validation"}, trained_prompts([]), 64)
    with torch.no_grad():
        nll = judged_nll(resident.model, judge, [i for block in judge.blocks for i in block]).double().sum()
    return float(nll) / judge.tokens.sum()


def of(document: dict, name: str, value: float) -> dict:
    row = document["vectors"].index(dataset(name).digests["delta"])
    return next(p for p in document["points"] if p["vector"] == row and p["omega"] == value)


def judge_of(document: dict, name: str) -> int:
    digest = dataset(name).digests["data/validation"]
    return next(j for j, judge in enumerate(document["judges"]) if judge["rows"] == digest)


GIVEN = [dataset("up", omega=0.5), dataset("down", omega=0.7)]


def test_a_point_is_the_loss_of_the_model_with_that_omega(tmp_path):
    found = respond(tmp_path, GIVEN)
    j = judge_of(found, "down")
    assert found["model"]["losses"][j] == pytest.approx(direct({"up": 0.5, "down": 0.7}, "down"), rel=1e-5)
    alone = direct({"down": 0.7}, "down")
    assert of(found, "up", 0.0)["losses"][j] == pytest.approx(alone, rel=1e-5)
    assert of(found, "up", 1.0)["losses"][j] == pytest.approx(
        direct({"up": 1.0, "down": 0.7}, "down"), rel=1e-5
    )


def test_models_are_rounded_as_they_are_published(tmp_path):
    found = respond(tmp_path, GIVEN, omegas=[0.0], dtype="bfloat16")
    exact, published = (direct({"up": 0.5, "down": 0.7}, "down", to) for to in (None, torch.bfloat16))
    loss = found["model"]["losses"][judge_of(found, "down")]
    assert abs(loss - published) < 1e-5 * published < abs(exact - published)


def test_a_point_at_the_models_own_omega_changes_nothing(tmp_path):
    found = respond(tmp_path, GIVEN)
    point = of(found, "up", 0.5)
    assert point["losses"] == found["model"]["losses"]
    assert point["change_stderr"] == [0.0, 0.0]
    assert min(of(found, "up", 0.0)["change_stderr"]) > 0


def test_slopes_are_those_of_the_curves(tmp_path):
    found = respond(tmp_path, GIVEN)
    row = found["vectors"].index(dataset("up").digests["delta"])
    change = np.subtract(of(found, "up", 0.55)["losses"], found["model"]["losses"]) / 0.05
    np.testing.assert_allclose(np.array(found["slopes"])[:, row], change, rtol=0.2, atol=0.05)


def test_tuned_omega_are_the_model_that_is_looked_around(tmp_path):
    tuned = {g.digests["delta"]: w for g, w in zip(GIVEN, (0.5, 0.7), strict=True)}
    groups = [dataset("up"), dataset("down")]
    found = respond(tmp_path / "tuned", groups, tuned)
    assert found == respond(tmp_path / "given", GIVEN)


def test_omega_of_each_layer_keep_their_ratios(tmp_path):
    layers = {"embeddings": 0.2, "0": 0.4, "1": 0.6, "final": 0.8}
    up = {GIVEN[0].digests["delta"]: layers}
    found = respond(tmp_path / "layers", [dataset("up")], up)
    assert found["omega"] == [0.5]
    assert of(found, "up", 0.5)["losses"] == found["model"]["losses"]
    doubled = respond(
        tmp_path / "double", [dataset("up")], {next(iter(up)): {k: 2 * v for k, v in layers.items()}}
    )
    assert of(found, "up", 1.0)["losses"] == pytest.approx(doubled["model"]["losses"], rel=1e-6)


def test_slopes_are_those_of_the_curves_where_layers_have_omega_of_their_own(tmp_path):
    up = GIVEN[0].digests["delta"]
    layers = {"embeddings": 0.0, "0": 1.4, "1": 0.2, "final": 0.4}
    found = respond(tmp_path, [dataset("up")], {up: layers}, omegas=[0.0, 0.499, 0.501])
    low, high = (of(found, "up", value)["losses"][0] for value in (0.499, 0.501))
    assert found["slopes"][0][0] == pytest.approx((high - low) / 0.002, rel=0.02)


def test_order_of_datasets_reaches_no_byte(tmp_path):
    groups = [*GIVEN, probe(None)]
    respond(tmp_path / "one", groups)
    respond(tmp_path / "other", groups[::-1])
    files = [tmp_path / name / "out" / "curves" for name in ("one", "other")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_vector_from_elsewhere_is_looked_at_too(tmp_path):
    found = respond(tmp_path, [GIVEN[0], vector("code", skill("leap").delta, 0.3)])
    assert len(found["vectors"]) == 2
    assert len(found["points"]) == 2 * len(VALUES)


def test_where_nothing_judges_that_is_said_and_there_are_no_curves(tmp_path):
    assert respond(tmp_path, [vector("code", skill("leap").delta, 0.3)])["judges"] == []
    said = (tmp_path / "work" / "events.jsonl").read_text()
    assert "no dataset has validation rows to judge by" in said


def test_rows_that_a_vector_was_trained_on_do_not_judge(tmp_path):
    known = dataset("up", omega=0.5)
    known.paths["data/validation"] = known.paths["data/train"]
    found = respond(tmp_path, [known, GIVEN[1]])
    assert [judge["rows"] for judge in found["judges"]] == [GIVEN[1].digests["data/validation"]]
