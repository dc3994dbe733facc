"""Trainings with compiled layers: the same training, one piece of code for all layers, and what compiling fails of."""

from __future__ import annotations

import os

import pytest
import torch
from finetune_samples import base, context_of, dropout_base, train

from dem_build.actions.finetune import compiled
from dem_build.errors import TrainingError

# torch hides this one by a filter of its own, which errors of tests come before.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")

__all__ = ["base", "dropout_base"]  # fixtures, used by their names


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
