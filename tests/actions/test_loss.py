"""Held-out loss: the numbers are those of the model, however rows are batched."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from tiny import make_base
from transformers import AutoModelForCausalLM

from dem_build.actions.loss import run as loss
from dem_build.data.arrays import RowsWriter
from dem_build.errors import EvaluationError, InterruptedBuildError
from dem_build.machine import Machine
from dem_build.step import Context, Inputs

ROWS = 13


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("loss") / "base", dtype="float32")


def write_rows(path, count=ROWS, *, counted=True):
    """Rows of random bytes and lengths; the first third of each does not count, nor does anything of row 3."""
    rng = np.random.default_rng(0)
    with RowsWriter(path.parent / "spool") as writer:
        for i in range(count):
            ids = rng.integers(3, 200, rng.integers(2, 40)).astype(np.int32)
            labels = ids.copy()
            labels[: max(1, len(ids) // 3)] = -100
            if i == 3 or not counted:
                labels[:] = -100
            writer.append(ids, labels, bytes([i] * 32))
        writer.save(path)
    return path


def inputs_of(base, rows, digest="w"):
    paths = {"model/weights": base, "model/config": base / "config.json", "data/rows": rows}
    return Inputs(paths=paths, digests={"model/weights": digest, "model/config": "c"})


def context_of(folder, batch=4, **more):
    work = folder / "work"
    work.mkdir(parents=True, exist_ok=True)
    return Context(work=work, out=work / "out", machine=Machine(eval_batch_size=batch), **more)


def evaluate(base, rows, folder, batch=4, dtype="float32"):
    context = context_of(folder, batch)
    loss.run(inputs_of(base, rows), {"dtype": dtype}, context)
    return json.loads((context.out / "metrics").read_bytes()), load_file(context.out / "rows")


@torch.inference_mode()
def independent(base, rows):
    """Summed loss and count of each row, from the logits of one row at a time in float64."""
    tensors = load_file(rows)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64)
    sums, counts = [], []
    for start, end in zip(tensors["offsets"][:-1], tensors["offsets"][1:], strict=True):
        ids = torch.from_numpy(tensors["input_ids"][start:end].astype(np.int64))
        logp = model(ids[None]).logits[0].log_softmax(-1)
        counted = [i for i in range(1, end - start) if tensors["labels"][start + i] != -100]
        sums.append(-sum(logp[i - 1, ids[i]].item() for i in counted))
        counts.append(len(counted))
    return np.array(sums), np.array(counts)


def test_losses_are_those_of_the_logits(base, tmp_path):
    rows = write_rows(tmp_path / "rows")
    metrics, per_row = evaluate(base, rows, tmp_path)
    sums, counts = independent(base, rows)
    np.testing.assert_array_equal(per_row["tokens"], counts)
    np.testing.assert_allclose(per_row["nll"], sums, rtol=1e-5)
    assert metrics["loss"] == pytest.approx(sums.sum() / counts.sum(), rel=1e-6)
    assert (metrics["tokens"], metrics["rows"]) == (counts.sum(), ROWS)


def test_the_standard_error_is_that_of_the_ratio():
    """Against the jackknife, which estimates the same from the losses with one row left out each time."""
    rng = np.random.default_rng(1)
    tokens = rng.integers(5, 50, 4000).astype(np.int32)
    nll = (tokens * rng.normal(2.0, 0.3, 4000)).astype(np.float32)
    left_out = (nll.sum(dtype=float) - nll) / (tokens.sum() - tokens)
    jackknife = math.sqrt(3999 / 4000 * ((left_out - left_out.mean()) ** 2).sum())
    told = loss.summary(nll, tokens, np.arange(4000, dtype=np.uint64), "float32")
    assert told["loss_stderr"] == pytest.approx(jackknife, rel=1e-2)


def test_one_row_has_no_standard_error():
    one = loss.summary(np.ones(1, np.float32), np.ones(1, np.int32), np.ones(1, np.uint64), "float32")
    assert set(one) == {"loss", "tokens", "rows"}


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_losses_do_not_depend_on_the_batch(base, tmp_path, batch):
    rows = write_rows(tmp_path / "rows")
    _, expected = evaluate(base, rows, tmp_path / "four", batch=4)
    _, found = evaluate(base, rows, tmp_path / "other", batch=batch)
    np.testing.assert_allclose(found["nll"], expected["nll"], rtol=1e-5)


def test_the_dtype_is_the_models(base, tmp_path):
    rows = write_rows(tmp_path / "rows")
    full, _ = evaluate(base, rows, tmp_path / "full")
    half, _ = evaluate(base, rows, tmp_path / "half", dtype="bfloat16")
    assert half["loss"] != full["loss"]
    assert half["loss"] == pytest.approx(full["loss"], rel=1e-2)


def test_the_same_evaluation_gives_the_same_bytes(base, tmp_path):
    rows = write_rows(tmp_path / "rows")
    written = []
    for name in ("once", "again"):
        evaluate(base, rows, tmp_path / name)
        out = tmp_path / name / "work" / "out"
        written.append(((out / "metrics").read_bytes(), (out / "rows").read_bytes()))
    assert written[0] == written[1]


@pytest.mark.parametrize(("asked", "taken"), [(None, "sdpa"), ("eager", "eager")])
def test_the_attention_kernel_that_was_taken_is_recorded(base, tmp_path, asked, taken):
    context = context_of(tmp_path)
    context.machine = Machine(attn_implementation=asked)
    rows = write_rows(tmp_path / "rows")
    provenance = loss.run(inputs_of(base, rows), {"dtype": "float32"}, context)
    assert provenance["attn_implementation"] == taken
    assert provenance["versions"]["torch"] == torch.__version__


def test_a_worker_loads_a_model_once(base, tmp_path):
    rows = write_rows(tmp_path / "rows")
    context = context_of(tmp_path)
    loss.run(inputs_of(base, rows), {"dtype": "float32"}, context)
    gone = tmp_path / "gone"
    again = inputs_of(base, rows)
    loss.run(Inputs({**again.paths, "model/weights": gone}, again.digests), {"dtype": "float32"}, context)
    other = make_base(tmp_path / "other", seed=1)
    before = json.loads((context.out / "metrics").read_bytes())
    loss.run(inputs_of(other, rows, digest="w2"), {"dtype": "float32"}, context)
    assert json.loads((context.out / "metrics").read_bytes())["loss"] != before["loss"]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ({"count": 0}, "there are no held-out rows"),
        ({"counted": False}, "no token of the held-out rows counts"),
    ],
)
def test_where_no_token_counts_there_is_no_loss_and_that_is_said(base, tmp_path, rows, said):
    metrics, per_row = evaluate(base, write_rows(tmp_path / "rows", **rows), tmp_path)
    assert metrics == {"tokens": 0, "rows": rows.get("count", ROWS)}
    assert per_row["tokens"].sum() == 0
    assert said in (tmp_path / "work" / "events.jsonl").read_text()


def test_a_loss_that_is_not_finite_is_refused(tmp_path):
    base = make_base(tmp_path / "base", dtype="float32")
    model = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        model.model.norm.weight.fill_(torch.inf)
    model.save_pretrained(base)
    with pytest.raises(EvaluationError, match="not finite") as caught:
        evaluate(base, write_rows(tmp_path / "rows"), tmp_path)
    assert "float32" not in caught.value.hint


@pytest.mark.parametrize(("dtype", "wider"), [("bfloat16", True), ("float16", True), ("float32", False)])
def test_a_wider_dtype_is_advised_where_there_is_one(dtype, wider):
    with pytest.raises(EvaluationError) as caught:
        loss.summary(np.array([np.nan], np.float32), np.ones(1, np.int32), np.ones(1, np.uint64), dtype)
    assert ('try `dtype = "float32"`' in caught.value.hint) is wider
    assert ("lower that" in caught.value.hint) is not wider


def test_it_stops_between_batches(base, tmp_path):
    context = context_of(tmp_path, stopping=lambda: True)
    with pytest.raises(InterruptedBuildError):
        loss.run(inputs_of(base, write_rows(tmp_path / "rows")), {"dtype": "float32"}, context)
    assert not context.out.exists()


def test_progress_ends_at_the_number_of_rows(base, tmp_path):
    evaluate(base, write_rows(tmp_path / "rows"), tmp_path)
    events = [json.loads(line) for line in (tmp_path / "work" / "events.jsonl").read_text().splitlines()]
    assert [e["done"] for e in events] == [4, 8, 12, 13]
    assert {e["total"] for e in events} == {ROWS}
