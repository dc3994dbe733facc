"""How far two models' weights are apart: as numpy has it, whatever the files and formats are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.numpy import save_file

from dem_build.compare.weights import PIECE, compare_weights

if TYPE_CHECKING:
    from pathlib import Path

BLOCK = "model.layers.{}.mlp.up_proj.weight"


def model(folder: Path, **tensors: np.ndarray) -> Path:
    folder.mkdir()
    random = np.random.default_rng(0)
    drawn = {BLOCK.format(i): random.normal(size=(8, 4)).astype("f4") for i in range(2)}
    drawn["model.embed_tokens.weight"] = random.normal(size=(PIECE // 4 + 1, 5)).astype("f4")
    renamed = {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    save_file({n: t for n, t in (drawn | renamed).items() if t is not None}, folder / "model.safetensors")
    return folder


def test_what_is_the_same_to_the_last_bit_is_the_same(tmp_path: Path) -> None:
    found = compare_weights(model(tmp_path / "a"), model(tmp_path / "b"))
    assert found.same
    assert found.distance == 0
    assert [layer.layer for layer in found.layers] == ["embeddings", "0", "1"]


def test_distances_are_frobenius_norms_of_each_layer(tmp_path: Path) -> None:
    one = model(tmp_path / "a")
    embedding = np.random.default_rng(1).normal(size=(PIECE // 4 + 1, 5)).astype("f4")
    other = model(tmp_path / "b", model__embed_tokens__weight=embedding)
    found = compare_weights(one, other)
    first = np.random.default_rng(0)
    first.normal(size=(8, 4)), first.normal(size=(8, 4))
    was = first.normal(size=(PIECE // 4 + 1, 5)).astype("f4").astype("f8")
    layer = found.layers[0]
    assert (layer.layer, layer.tensors, layer.changed) == ("embeddings", 1, 1)
    assert layer.distance == pytest.approx(np.linalg.norm(embedding - was))
    assert layer.norm == pytest.approx(np.linalg.norm(was))
    assert [one.changed for one in found.layers[1:]] == [0, 0]
    assert compare_weights(other, one).distance == pytest.approx(found.distance)


def test_tensors_of_one_model_alone_and_of_other_shapes_are_named(tmp_path: Path) -> None:
    one = model(tmp_path / "a", old=np.ones(2, "f4"), count=np.arange(3), kept=np.arange(2))
    shape = {"model__layers__0__mlp__up_proj__weight": np.ones((4, 8), "f4")}
    other = model(tmp_path / "b", new=np.ones(2, "f4"), count=np.arange(1, 4), kept=np.arange(2), **shape)
    found = compare_weights(one, other)
    assert (found.only_before, found.only_after) == (("old",), ("new",))
    assert found.reshaped == ("count", BLOCK.format(0))
    assert not found.same
    assert not any(layer.changed for layer in found.layers)


def test_a_format_that_holds_the_same_values_changes_nothing(tmp_path: Path) -> None:
    halves = {"final": np.array([0.5, -2.0], "f2")}
    one = model(tmp_path / "a", final=halves["final"].astype("f4"))
    assert compare_weights(one, model(tmp_path / "b", **halves)).same
