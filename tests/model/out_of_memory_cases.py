"""Memory that runs out, by a limit of the process: a failure with numbers and what to change, and no traceback."""

from __future__ import annotations

import resource
from contextlib import contextmanager
from pathlib import Path

import pytest
from finetune_samples import PLAIN, context_of, events, inputs_of, prepare, train, write_rows
from tiny import make_base
from weight_samples import DIGEST

from dem_build.actions.loss import run as loss
from dem_build.actions.response import run as response
from dem_build.errors import EvaluationError, TrainingError
from dem_build.step import Group, Inputs

MB = 1 << 20
NUMBERS = r"[0-9.]+ GB in use at most, and this machine has [0-9.]+ GB"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """With a vocabulary that makes the logits of a row 100 MB, and rows of up to 249 tokens."""
    folder = tmp_path_factory.mktemp("wide")
    prepared = prepare(folder / "base", make_base(folder / "model", vocab=100_000, layers=1))
    write_rows(prepared / "train", count=8, longest=250)
    return prepared


@contextmanager
def only(more):
    """Let this process have `more` bytes of address space beyond what it has."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_a_training_without_room_for_one_row_says_what_to_change(base, tmp_path):
    context = context_of(tmp_path, micro_batch=4)
    with (
        only(250 * MB),
        pytest.raises(
            TrainingError, match=f"one row of [0-9]+ tokens does not fit in memory: {NUMBERS}"
        ) as caught,
    ):
        train(base, tmp_path, context, **PLAIN)
    assert "gradient_checkpointing = true" in caught.value.hint
    said = [e["message"] for e in events(tmp_path) if e["event"] == "warning"]
    assert said == [f"out of memory with a micro-batch of {n}; going on with {n // 2}" for n in (4, 2)]


@pytest.mark.parametrize("room", [10 * MB, 100 * MB], ids=["for-no-model", "for-no-batch"])
def test_an_evaluation_that_runs_out_of_memory_says_what_to_change(base, tmp_path, room):
    given = inputs_of(base).paths
    inputs = Inputs(
        {
            "model/weights": given["base/weights"],
            "model/config": given["base/config"],
            "data/rows": base / "train",
        },
        {"model/weights": "w" * 64, "model/config": "c" * 64},
    )
    with (
        only(room),
        pytest.raises(EvaluationError, match=f"out of memory while computing a loss: {NUMBERS}") as caught,
    ):
        loss.run(inputs, {"dtype": "float32"}, context_of(tmp_path, eval_batch_size=8))
    assert "eval_batch_size" in caught.value.hint


@pytest.mark.parametrize(
    ("room", "what"),
    [(10 * MB, "while loading the base in float32"), (100 * MB, "while judging a candidate")],
    ids=["for-no-model", "for-no-batch"],
)
def test_a_search_that_runs_out_of_memory_says_what_to_change(base, tmp_path, room, what):
    given = inputs_of(base)
    paths = {name: given.paths[name] for name in ("base/weights", "base/config")}
    probe = Group("chat", {}, {"data/rows": base / "train"}, {"data/rows": "d" * 64})
    with only(room), pytest.raises(EvaluationError, match=f"out of memory {what}: {NUMBERS}"):
        response.run(
            Inputs(paths, {"base/weights": DIGEST}, groups=(probe,)),
            {"omegas": [0.0], "max_samples": 8, "dtype": "float32"},
            context_of(tmp_path, eval_batch_size=8, micro_batch=8),
        )
