"""The step `choose`: of some models the best on validation rows, how sure its lead is, and what counts as a judge."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from safetensors.numpy import save_file

from dem_build.action import MODEL_PARTS
from dem_build.actions.choose import run as step
from dem_build.actions.choose.spec import CANDIDATES
from dem_build.data.arrays import RowsWriter
from dem_build.errors import EvaluationError
from dem_build.machine import Machine
from dem_build.stats import Z95
from dem_build.step import Context, Group, Inputs

BASE = [3.0, 3.2, 2.8, 3.0]


class Bench:
    """Models that are folders of text, and judges of a row a number."""

    def __init__(self, folder):
        self.folder = folder
        self.groups, self.entries = [], []

    def judge(self, name, losses, *, single=2.0, tokens=None, prompts=None, **said):
        """Rows on which base and models have some losses per token; a probe is one with a `limit`."""
        tokens = tokens or [1] * len(BASE)
        probe = "limit" in said
        paths = {"data/rows" if probe else "data/validation": self._rows(name, prompts or range(len(tokens)))}
        for model, per_token in {"base": BASE, **losses}.items():
            path = paths[f"loss/{model}"] = self.folder / f"{name}-{model}"
            nll = np.array(per_token, np.float32) * np.array(tokens, np.float32)
            save_file({"nll": nll, "tokens": np.array(tokens, np.int32)}, path)
        if not probe:
            paths["delta"] = self.folder / f"{name}-delta"
            base = float(np.average(BASE, weights=tokens))
            entry = {
                "rows": f"{name} data/validation",
                "vector": f"{name} delta",
                "base": base,
                "single": single,
            }
            self.entries.append(entry | {"chosen": base, "gain": 0.0})
        self.groups.append(
            Group(name, said or {"importance": 1.0}, paths, {tag: f"{name} {tag}" for tag in paths})
        )

    def train(self, prompts):
        path = self._rows(f"train-{len(self.groups)}", prompts)
        self.groups.append(
            Group(f"{len(self.groups)}/train", {}, {"data/train": path}, {"data/train": "train"})
        )

    def choose(self, objective="gain"):
        paths = {}
        for model in CANDIDATES:
            for part in MODEL_PARTS:
                path = paths[f"{model}/{part}"] = self.folder / f"{model}-{part}"
                if part == "tokenizer":
                    path.mkdir(exist_ok=True)
                    (path / "tokenizer.json").write_text(model)
                else:
                    path.write_text(f"{part} of {model}")
        paths["trace"] = self.folder / "trace"
        paths["trace"].write_text(json.dumps({"judges": self.entries}))
        for name in ("work", "out"):
            (self.folder / name).mkdir()
        context = Context(work=self.folder / "work", out=self.folder / "out", machine=Machine())
        return step.run(Inputs(paths, groups=tuple(self.groups)), {"objective": objective}, context)

    def _rows(self, name, prompts):
        path = self.folder / f"{name}-rows"
        with RowsWriter(self.folder / "spool") as writer:
            for prompt in prompts:
                row = np.arange(3, dtype=np.int32)
                writer.append(row, row, bytes([prompt]) * 32)
            writer.save(path)
        return path


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def flat(**losses):
    return {name: [losses[name]] * len(BASE) for name in CANDIDATES}


def test_the_model_of_the_highest_mean_gain_is_kept_whole(bench):
    bench.judge("math", flat(sum=2.6, layers=2.5, match=2.4))
    bench.judge("chat", flat(sum=2.5, layers=2.6, match=2.1))
    found = bench.choose()
    assert found["chosen"] == "match"
    assert [(bench.folder / "out" / part).read_text() for part in MODEL_PARTS if part != "tokenizer"] == [
        f"{part} of match" for part in MODEL_PARTS if part != "tokenizer"
    ]
    assert (bench.folder / "out" / "tokenizer" / "tokenizer.json").read_text() == "match"
    scores = {one["name"]: -one["score"] for one in found["candidates"]}
    # The base's loss is 3 and each vector's own 2, so that a gain is what the loss falls by.
    assert scores == pytest.approx({"sum": 0.45, "layers": 0.45, "match": 0.75}, abs=1e-6)


def test_a_lead_is_paired_by_rows(bench):
    """Both find the same rows hard: what tells them apart is the difference, and by how much that varies."""
    losses = flat(sum=0, layers=0, match=0)
    losses["sum"] = [2.0, 2.8, 1.9, 2.4]
    losses["layers"] = [9.0] * 4
    losses["match"] = [1.9, 2.6, 1.8, 2.2]
    tokens = [1, 2, 3, 4]
    bench.judge("math", losses, tokens=tokens, single=2.5)
    found = {one["name"]: one for one in bench.choose()["candidates"]}
    base = np.average(BASE, weights=tokens)
    apart = np.array(losses["sum"]) - np.array(losses["match"])
    lead = np.average(apart, weights=tokens)
    residuals = (apart - lead) * tokens
    error = math.sqrt(4 / 3 * (residuals**2).sum()) / sum(tokens)
    scale = base - 2.5
    assert found["sum"]["lead"] == pytest.approx(lead / scale, abs=1e-6)
    assert found["sum"]["low"] == pytest.approx((lead - Z95 * error) / scale, abs=1e-6)
    assert found["sum"]["high"] == pytest.approx((lead + Z95 * error) / scale, abs=1e-6)
    assert found["match"]["lead"] == found["match"]["low"] == found["match"]["high"] == 0


def test_two_answers_to_one_question_are_one_unit_of_a_lead(bench):
    losses = flat(sum=0, layers=9.0, match=0)
    losses["sum"], losses["match"] = [2.0, 2.8, 1.9, 2.4], [1.9, 2.6, 1.8, 2.2]
    bench.judge("math", losses, prompts=[7, 7, 1, 2], single=2.0)
    found = {one["name"]: one for one in bench.choose()["candidates"]}
    apart = np.array([0.1 + 0.2, 0.1, 0.2])
    residuals = apart - apart.sum() / 4 * np.array([2, 1, 1])
    error = math.sqrt(3 / 2 * (residuals**2).sum()) / 4
    assert found["sum"]["high"] == pytest.approx(apart.sum() / 4 + Z95 * error, abs=1e-6)


def test_of_equal_models_the_plainer_is_kept(bench):
    bench.judge("math", flat(sum=2.5, layers=2.5, match=2.5))
    assert bench.choose()["chosen"] == "sum"


def test_gains_count_by_the_importance_of_their_dataset(bench):
    bench.judge("math", flat(sum=2.2, layers=3, match=2.9), importance=4.0)
    bench.judge("chat", flat(sum=2.9, layers=3, match=2.0), importance=1.0)
    bench.judge("code", flat(sum=2.9, layers=2.0, match=2.9), importance=0.0)
    assert bench.choose()["chosen"] == "sum"


@pytest.mark.parametrize(("objective", "chosen"), [("gain", "match"), ("mean", "sum"), ("worst", "layers")])
def test_it_is_chosen_by_what_is_sought(bench, objective, chosen):
    # Of chat the own vector gains a tenth of what that of math does, so that a gain of it is ten times as dear in loss.
    bench.judge("math", flat(sum=2.0, layers=2.4, match=2.7), single=2.0)
    bench.judge("chat", flat(sum=3.0, layers=2.95, match=2.9), single=2.9)
    assert bench.choose(objective)["chosen"] == chosen


def test_what_passes_the_limit_of_a_probe_is_not_kept(bench):
    bench.judge("math", flat(sum=2.5, layers=2.4, match=2.1))
    bench.judge("talk", flat(sum=3.0, layers=3.05, match=3.2), limit=0.1)
    found = bench.choose()
    assert found["chosen"] == "layers"
    assert [one["keeps_limits"] for one in found["candidates"]] == [True, True, False]


def test_rows_that_a_vector_was_trained_on_judge_nothing(bench):
    losses = flat(sum=2.5, layers=2.9, match=2.6)
    losses["match"][0] = 0.1
    bench.judge("math", losses, prompts=[7, 1, 2, 3])
    bench.train([9, 7])
    found = bench.choose()
    assert found["chosen"] == "sum"
    assert [(judge["used"], judge["left_out"]) for judge in found["judges"]] == [(3, 1)]


def test_without_a_row_that_judges_nothing_is_chosen(bench):
    bench.judge("math", flat(sum=2.5, layers=2.9, match=2.6))
    bench.train(range(4))
    with pytest.raises(EvaluationError, match="no validation row is left"):
        bench.choose()
