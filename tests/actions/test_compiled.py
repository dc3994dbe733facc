"""Trainings with compiled layers: the same training, one piece of code for all layers, and what compiling fails of."""

from __future__ import annotations

import os

import pytest
import torch
from finetune_samples import base, context_of, dropout_base, events, rows, run, train

from dem_build.actions.finetune import compiled
from dem_build.errors import TrainingError

# torch hides this one by a filter of its own, which errors of tests come before.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")

__all__ = ["base", "dropout_base", "rows", "run"]  # fixtures, used by their names


@pytest.fixture(autouse=True)
def _anew(monkeypatch, tmp_path):
    monkeypatch.setenv("DEM_HINTS", str(tmp_path / "host"))
    monkeypatch.setenv(compiled.KEPT, "")  # put back afterwards
    monkeypatch.delenv(compiled.KEPT)
    yield
    torch.compiler.reset()


def files_of(folder):
    return {path.name: path.read_bytes() for path in [folder, *folder.rglob("*")] if path.is_file()}


@pytest.mark.parametrize("again", [False, True], ids=["kept", "computed again"])
def test_layers_are_compiled_once_for_all_and_train_what_is_trained_without(
    base, tmp_path, monkeypatch, *, again
):
    """By a backend that changes nothing: what a layer does is what it did, in whatever order it is asked."""
    graphs = []

    def unchanged(graph, _):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(compiled, "BACKEND", unchanged)
    _, plain = train(base, tmp_path / "plain", max_steps=3)
    context = context_of(tmp_path / "compiled", gradient_checkpointing=again)
    _, delta = train(base, tmp_path / "compiled", context, torch_compile=True, max_steps=3)
    assert files_of(delta) == files_of(plain)
    assert len(graphs) == 1, "each layer or length was compiled for itself"
    kept = os.environ[compiled.KEPT]
    assert kept.startswith(str(tmp_path / "host" / "compiled"))


def test_calls_that_run_uncompiled_are_told_of_once_and_kept_with_the_result(run, tmp_path, monkeypatch):
    """By torch's own word: a layer that is trained and one that is asked are two sorts, and one may be compiled."""
    monkeypatch.setattr(compiled, "BACKEND", "eager")
    monkeypatch.setattr(compiled, "MOST_SORTS", 1)
    provenance, _ = run(tmp_path / "work", torch_compile=True, max_steps=4, eval_steps=2)
    told = [e["message"] for e in events(tmp_path / "work") if e["event"] == "warning"]
    assert len(told) == 1
    assert told == provenance["warnings"]
    assert "torch.compile has made 1 pieces of code for one function" in told[0]
    assert "last reason:" in told[0]
    assert "torch_compile = false in [train]" in told[0]


def test_what_compiling_fails_of_is_told_with_a_way_out(base, tmp_path, monkeypatch):
    def broken(*_):
        raise OSError("no C++ compiler is here")

    monkeypatch.setattr(compiled, "BACKEND", broken)
    with pytest.raises(TrainingError, match=r"torch\.compile failed: .*no C\+\+ compiler is here") as caught:
        train(base, tmp_path / "broken", torch_compile=True)
    assert "set torch_compile = false in [train]" in caught.value.hint


def test_a_model_whose_layers_are_not_known_is_refused():
    with pytest.raises(TrainingError, match="Linear has no layers that can be compiled"):
        compiled.compile_layers(torch.nn.Linear(2, 2))
