"""A ladder of real vectors: its order, its rungs against single candidates, and what it costs."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tune_samples import DIGEST, base, dataset, model, run_tune, skill, trained, vector, write_rows
from weight_samples import make_context, store_vector

from dem_build.actions.checkpoints import newest_complete
from dem_build.actions.ladder import run as ladder
from dem_build.actions.tune.candidates import Candidates
from dem_build.actions.tune.judges import judged_nll, judges
from dem_build.actions.tune.pass_log import read_passes
from dem_build.data.arrays import trained_prompts
from dem_build.digest import of_bytes
from dem_build.errors import InterruptedBuildError
from dem_build.step import Group, Inputs

NAMES = ("up", "down", "leap")
PARAMS = {
    "objective": "gain",
    "max_samples": 64,
    "bounds": [0.0, 1.5],
    "test_samples": 64,
    "dtype": "float32",
}


@cache
def rows_of(name: str) -> Group:
    """The test rows of a skill, with its vector."""
    rows = write_rows(Path(mkdtemp(prefix="dem-ladder-")) / "test", name, seed=3, count=16)
    delta = dataset(name)
    return Group(
        f"{name}/test",
        {},
        {"delta": delta.paths["delta"], "data/test": rows},
        {"delta": delta.digests["delta"], "data/test": of_bytes(rows.read_bytes())},
    )


@cache
def tuned() -> Path:
    """The search for the whole model."""
    return run_tune(Path(mkdtemp(prefix="dem-ladder-tune-")) / "tune", [dataset(n) for n in NAMES]).out


def climb(folder: Path, groups=None, *, searched=True, context=None, **params) -> SimpleNamespace:
    context = context or make_context(folder, threads=1)
    paths = {f"base/{part}": base() / part for part in ("weights", "config")}
    if searched:
        paths |= {name: tuned() / name for name in ("omega", "passes")}
    groups = groups or [dataset(n) for n in NAMES] + [rows_of(n) for n in NAMES]
    told = ladder.run(Inputs(paths, {"base/weights": DIGEST}, groups=tuple(groups)), PARAMS | params, context)
    return SimpleNamespace(told=told, out=context.out, **json.loads((context.out / "rungs").read_text()))


@pytest.fixture(scope="module")
def climbed(tmp_path_factory) -> SimpleNamespace:
    return climb(tmp_path_factory.mktemp("ladder") / "one")


def direct(vectors: list[str], omega: list[float], name: str) -> float:
    """The mean loss of a skill's test rows in one batch."""
    paths = {dataset(n).digests["delta"]: dataset(n).paths["delta"] for n in NAMES}
    resident = Candidates(model(), base() / "weights", DIGEST, {d: paths[d] for d in vectors})
    resident.become(np.repeat(np.array(omega)[:, None], len(resident.layers), axis=1))
    [judge] = judges({name: rows_of(name)}, {name: "data/test"}, trained_prompts([]), 64)
    with torch.no_grad():
        nll = judged_nll(resident.model, judge, [i for block in judge.blocks for i in block]).double().sum()
    return float(nll) / judge.tokens.sum()


def test_each_rung_adds_a_vector_and_the_last_is_the_model(climbed):
    omega = json.loads((tuned() / "omega").read_text())["omega"]
    whole = [omega[v] for v in climbed.vectors]
    assert sorted(rung["added"] for rung in climbed.rungs) == [0, 1, 2]
    assert climbed.rungs[-1]["frozen"]["omega"] == climbed.rungs[-1]["retuned"]["omega"] == whole
    for count, rung in enumerate(climbed.rungs, 1):
        added = [r["added"] for r in climbed.rungs[:count]]
        assert rung["frozen"]["omega"] == [w if v in added else 0.0 for v, w in enumerate(whole)]
        assert all(w == 0 for v, w in enumerate(rung["retuned"]["omega"]) if v not in added)


def test_a_rung_is_judged_on_test_rows(climbed):
    rung = climbed.rungs[1]["retuned"]
    rows = rows_of("down").digests["data/test"]
    j = next(j for j, test in enumerate(climbed.tests) if test["rows"] == rows)
    assert rung["losses"][j] == pytest.approx(direct(climbed.vectors, rung["omega"], "down"), rel=1e-5)
    gain = (climbed.base["losses"][j] - rung["losses"][j]) / (climbed.base["losses"][j] - climbed.singles[j])
    assert rung["gains"][j] == pytest.approx(gain)
    assert rung["mean_gain"] == pytest.approx(np.mean(rung["gains"]))


def test_the_best_vector_alone_comes_first(climbed):
    trace = json.loads((tuned() / "trace").read_text())
    alone = {
        p["omega"].index(1.0): p["score"] for p in trace["passes"] if sorted(p["omega"]) == [0.0, 0.0, 1.0]
    }
    assert [rung["added"] for rung in climbed.rungs] == sorted(alone, key=alone.__getitem__)


def test_omega_that_are_searched_anew_serve_the_rung_better(climbed):
    first = climbed.rungs[0]
    assert first["retuned"]["mean_gain"] > first["frozen"]["mean_gain"]


def test_a_rung_takes_few_passes_of_its_own(climbed):
    assert climbed.told["earlier_passes"] > 0
    assert climbed.told["forward_equivalents"] <= 2 * 13


def test_the_tokens_that_it_read_are_counted_and_its_record_can_be_written(climbed):
    assert json.loads(json.dumps(climbed.told))["tokens"]["seen"] > sum(t["tokens"] for t in climbed.tests)


def test_order_of_datasets_reaches_no_byte(climbed, tmp_path):
    groups = [rows_of(n) for n in NAMES] + [dataset(n) for n in NAMES]
    assert (climb(tmp_path / "two", groups).out / "rungs").read_bytes() == (
        climbed.out / "rungs"
    ).read_bytes()


def test_given_omega_are_kept_and_nothing_is_searched(tmp_path):
    groups = [dataset(n, omega=0.4) for n in NAMES[:2]] + [
        vector("code", dataset("leap").paths["delta"], 0.2)
    ]
    found = climb(tmp_path / "given", [*groups, rows_of("up")], searched=False)
    assert [rung["retuned"] for rung in found.rungs] == [None] * 3
    assert sorted(found.rungs[-1]["frozen"]["omega"]) == [0.2, 0.4, 0.4]
    assert len(found.tests) == 1


def test_an_interrupted_ladder_goes_on_and_ends_in_the_same_bytes(climbed, tmp_path):
    asked = 0

    def stopping() -> bool:
        nonlocal asked
        asked += 1
        return asked > 40

    first = make_context(tmp_path / "first", 1, stopping)
    with pytest.raises(InterruptedBuildError):
        climb(tmp_path, context=first)
    second = make_context(tmp_path / "second", 1)
    shutil.copytree(first.work / "checkpoints", second.work / "checkpoints")
    found = climb(tmp_path, context=second)
    assert (found.out / "rungs").read_bytes() == (climbed.out / "rungs").read_bytes()


def test_a_ladder_that_was_stopped_on_its_test_rows_keeps_what_these_said(climbed, tmp_path):
    asked = []
    climb(tmp_path / "whole", context=make_context(tmp_path / "counted", 1, lambda: bool(asked.append(1))))
    left = iter([False] * (len(asked) - 2))
    first = make_context(tmp_path / "first", 1, lambda: next(left, True))
    with pytest.raises(InterruptedBuildError):
        climb(tmp_path, context=first)
    kept = read_passes(newest_complete(first.work / "checkpoints") / "tests.safetensors")
    assert len(kept) > len(climbed.rungs)
    second = make_context(tmp_path / "second", 1)
    shutil.copytree(first.work / "checkpoints", second.work / "checkpoints")
    found = climb(tmp_path, context=second)
    assert (found.out / "rungs").read_bytes() == (climbed.out / "rungs").read_bytes()
    assert found.told["test_forward_equivalents"] == pytest.approx(climbed.told["test_forward_equivalents"])


def test_one_test_row_has_no_standard_error_and_its_gain_is_measured_by_what_the_vector_changes(tmp_path):
    """Its own vector, far too long, does harm: the gain that it reaches alone is no measure."""
    far = {n: 30 * t for n, t in trained(skill("up").train).items()}
    long = vector("long", store_vector(tmp_path / "delta", far, "float32"), 0.02)
    paths = {"delta": long.paths["delta"], "data/test": rows_of("up").paths["data/test"]}
    digests = {tag: of_bytes(path.read_bytes()) for tag, path in paths.items()}
    groups = [dataset("down", omega=0.4), long, Group("long/test", {}, paths, digests)]
    found = climb(tmp_path / "one", groups, searched=False, test_samples=1)
    [base], [single] = found.base["losses"], found.singles
    assert single > base
    last = found.rungs[-1]["frozen"]
    assert last["gains"] == pytest.approx([(base - last["losses"][0]) / (single - base)])


@pytest.mark.parametrize(
    ("groups", "rows"),
    [([dataset("up", omega=0.5)], "test"), ([vector("up", dataset("up").paths["delta"], 0.5)], "validation")],
    ids=["test", "validation"],
)
def test_without_rows_that_is_said_and_there_is_no_ladder(tmp_path, groups, rows):
    context = make_context(tmp_path, threads=1)
    tested = [rows_of("up")] if rows == "validation" else []
    assert climb(tmp_path, [*groups, *tested], searched=False, context=context).rungs == []
    assert f"no dataset has {rows} rows" in (context.work / "events.jsonl").read_text()
