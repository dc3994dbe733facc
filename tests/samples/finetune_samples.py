"""What the tests of trainings share: a base as the store holds it, rows, and a training run as a worker runs it."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dem_build.actions.finetune import run as finetune
from dem_build.data.arrays import RowsWriter, TokenRows
from dem_build.machine import Machine
from dem_build.model.batches import RowOrder
from dem_build.model.load import load_model
from dem_build.step import Context, Inputs

PARAMS = {
    "method": "full",
    "optim": "adamw_torch_fused",
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_epsilon": 1e-8,
    "learning_rate": 1e-3,
    "num_train_epochs": 2,
    "global_batch_size": 4,
    "bf16": True,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.1,
    "weight_decay": 0.01,
    "max_grad_norm": 1.0,
    "vector_dtype": "float32",
    "seed": 42,
}


BASE_DIGEST = "b" * 64


def write_rows(path, count=14, seed=0, longest=24):
    """Rows of random bytes; the first half of each does not count."""
    rng = np.random.default_rng(seed)
    with RowsWriter(path.parent / f"{path.name}.spool") as writer:
        for i in range(count):
            ids = rng.integers(3, 200, rng.integers(4, longest)).astype(np.int32)
            labels = ids.copy()
            labels[: len(ids) // 2] = -100
            writer.append(ids, labels, i.to_bytes(16, "big"))
        writer.save(path)
    return path


def prepare(folder, model, **config):
    """Write a base as the store holds it, weights and config apart, and the rows to train on."""
    (folder / "weights").mkdir(parents=True)
    for file in model.glob("model*"):
        shutil.copy(file, folder / "weights")
    known = json.loads((model / "config.json").read_text())
    (folder / "config").write_text(json.dumps(known | config))
    write_rows(folder / "train")
    return folder


@pytest.fixture(scope="module")
def base(tiny_base, tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("base") / "base", tiny_base)


@pytest.fixture(scope="module")
def dropout_base(tiny_base, tmp_path_factory):
    """With dropout, states of random generators reach the result."""
    return prepare(tmp_path_factory.mktemp("dropout") / "base", tiny_base, attention_dropout=0.1)


def inputs_of(base):
    return Inputs(
        paths={
            "base/weights": base / "weights",
            "base/config": base / "config",
            "data/train": base / "train",
        },
        digests={"base/weights": BASE_DIGEST},
    )


def context_of(work, *, stopping=lambda: False, threads=1, **machine):
    (work / "out").mkdir(parents=True, exist_ok=True)
    settings = {"micro_batch": 2, "checkpoint_seconds": 1e9} | machine
    return Context(
        work=work, out=work / "out", machine=Machine(**settings), threads=threads, stopping=stopping
    )


def train(base, work, context=None, **params):
    context = context or context_of(work)
    provenance = finetune.run(inputs_of(base), PARAMS | params, context)
    return provenance, work / "out" / "delta"


def train_with_checkpoints(base, work):
    """With one after each step."""
    train(base, work, context_of(work, checkpoint_seconds=0))


def stop_after(steps, work):
    """A stop request that comes while step `steps` runs, when those before it were told of."""
    return lambda: len(progress(work)) >= steps - 1


def events(work):
    path = work / "events.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def progress(work):
    return [e for e in events(work) if e["event"] == "progress" and "loss" in e]


def by_hand(base, steps_of_rows, learning_rate):
    """Train in a plain loop, row by row, and return the weights."""
    model = load_model(
        base / "weights", base / "config", dtype=torch.float32, device=torch.device("cpu")
    ).train()
    rows = TokenRows.open(base / "train")
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0)
    for step in steps_of_rows:
        optimizer.zero_grad()
        total, count = 0.0, 0
        for i in step:
            ids, labels = (torch.from_numpy(a).long() for a in rows[i])
            scores = model(ids[None]).logits[0, :-1].log_softmax(-1)
            counted = labels[1:] != -100
            total = total - scores[counted, labels[1:][counted]].sum()
            count += int(counted.sum())
        (total / count).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.state_dict()


PLAIN = {"bf16": False, "weight_decay": 0.0, "lr_scheduler_type": "constant", "warmup_steps": 0}


def assert_trained_plainly(base, delta):
    """Assert that a vector is what the parameters `PLAIN` give in a loop by hand."""
    order = RowOrder(TokenRows.open(base / "train").lengths, 4, 42)
    expected = by_hand(base, [order.rows(step) for step in range(8)], 1e-3)
    before = load_file(base / "weights" / "model.safetensors")
    for name, difference in load_file(delta).items():
        wanted = expected[name] - before[name].float()
        assert (difference - wanted).norm() < 2e-3 * wanted.norm(), name


def out_of_memory_at(*steps):
    """Ask for more memory than there is, when the training asks whether to stop after the given steps."""
    asked = iter(range(1, 100))
    return lambda: next(asked) in steps and bool(torch.empty(1 << 60, dtype=torch.uint8))


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("validation") / "rows", count=5, seed=9)


@pytest.fixture
def run(dropout_base, rows):
    """Train with validation rows, in a work folder."""

    def go(work, context=None, given=None, **params):
        paths = {f"base/{p}": dropout_base / p for p in ("weights", "config")}
        paths |= {"data/train": dropout_base / "train", "data/validation": given or rows}
        inputs = Inputs(paths=paths, digests={"base/weights": BASE_DIGEST})
        provenance = finetune.run(inputs, PARAMS | params, context or context_of(work))
        return provenance, work / "out" / "delta"

    return go
