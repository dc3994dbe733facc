"""Fine-tuning: the vector is what the recipe's numbers say, however the machine and the user cut the work."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from dem_build.data.arrays import RowsWriter
from dem_build.errors import InterruptedBuildError, TrainingError
from dem_build.machine import Machine
from dem_build.steps import finetune
from dem_build.steps.api import Context, Inputs

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


@pytest.fixture(scope="module")
def base(tiny_base, tmp_path_factory):
    """The tiny base as the store holds it: weights and config apart. Dropout makes random states matter."""
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "weights").mkdir()
    shutil.copy(tiny_base / "model.safetensors", folder / "weights")
    config = json.loads((tiny_base / "config.json").read_text()) | {"attention_dropout": 0.1}
    (folder / "config").write_text(json.dumps(config))
    write_rows(folder / "train")
    return folder


def inputs_of(base):
    return Inputs(
        paths={"base/weights": base / "weights", "base/config": base / "config", "data/train": base / "train"},
        digests={"base/weights": BASE_DIGEST},
    )


def context_of(work, *, stopping=lambda: False, threads=1, **machine):
    (work / "out").mkdir(parents=True, exist_ok=True)
    settings = {"micro_batch": 2, "checkpoint_seconds": 1e9} | machine
    return Context(work=work, out=work / "out", machine=Machine(**settings), threads=threads, stopping=stopping)


def train(base, work, context=None, **params):
    context = context or context_of(work)
    provenance = finetune.run(inputs_of(base), PARAMS | params, context)
    return provenance, work / "out" / "delta"


def stop_after(steps, work):
    """A stop request that comes while step `steps` runs, when those before it were told of."""
    return lambda: len(progress(work)) >= steps - 1


def events(work):
    path = work / "events.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def progress(work):
    return [e for e in events(work) if e["event"] == "progress"]


@pytest.fixture(scope="module")
def straight(base, tmp_path_factory):
    """An uninterrupted training: 14 rows by 4 are 4 steps an epoch, so 8 steps."""
    return train(base, tmp_path_factory.mktemp("straight"))


def test_the_vector_has_the_bases_tensors_and_names_its_base(straight, base):
    _, delta = straight
    with safe_open(delta, "np") as vector, safe_open(base / "weights" / "model.safetensors", "np") as weights:
        assert set(vector.keys()) == set(weights.keys())
        assert vector.metadata()["base"] == BASE_DIGEST


def test_provenance_tells_what_was_trained(straight):
    provenance, _ = straight
    assert (provenance["rows"], provenance["steps"], provenance["epochs"]) == (14, 8, 2.0)
    assert [step for step, *_ in provenance["curve"]] == list(range(1, 9))
    assert provenance["curve"][-1][1] < provenance["curve"][0][1]
    assert provenance["vector"]["norm"] > 0
    json.dumps(provenance, allow_nan=False)


@pytest.mark.parametrize("steps", [3, 4, 6])
def test_a_stopped_training_resumes_to_the_same_bytes(straight, base, tmp_path, steps):
    """Inside an epoch, and at the end of one."""
    provenance, delta = straight
    with pytest.raises(InterruptedBuildError):
        train(base, tmp_path / "1", context_of(tmp_path / "1", stopping=stop_after(steps, tmp_path / "1")))
    shutil.copytree(tmp_path / "1" / "checkpoints", tmp_path / "2" / "checkpoints")
    resumed, again = train(base, tmp_path / "2")
    assert again.read_bytes() == delta.read_bytes()
    assert resumed["resumed_from"] == steps
    assert resumed["curve"] == provenance["curve"]
    assert len(progress(tmp_path / "2")) == 8 - steps
