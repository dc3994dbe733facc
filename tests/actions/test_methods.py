"""A way to compose is an entry of its own: what it may look at, and what follows from what it says of itself."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, get_args

import numpy as np
import pytest

from dem_build.actions.compose.methods import METHODS, Chunk, Method, Tensor
from dem_build.checkpoint.combine import Combination, combine, result_specs
from dem_build.checkpoint.delta import write_delta
from dem_build.checkpoint.reader import open_checkpoint
from dem_build.checkpoint.writer import weights_writer
from dem_build.recipe.schema import Compose

if TYPE_CHECKING:
    from pathlib import Path

BASE = "b" * 64
SIZE = 1001


def test_a_recipe_may_name_each_and_its_documentation_says_each_formula() -> None:
    field = Compose.model_fields["method"]
    assert get_args(field.annotation) == tuple(METHODS)
    assert field.description is not None
    assert all(method.sentence in field.description for method in METHODS.values())


def halves(tensor: Tensor) -> list[float]:
    """Half of the largest change in each vector."""
    return [np.abs(values).max() / 2 for values, _ in tensor.vectors()]


def large(chunk: Chunk) -> np.ndarray:
    """Θ + Σ ω ΔΘ, without changes below half of the largest of their tensor."""
    so_far = chunk.base
    for (vector, omega), least in zip(chunk.terms(), chunk.prepared, strict=True):
        vector[np.abs(vector) < least] = 0
        so_far = chunk.add(so_far, vector, omega)
    return so_far


@pytest.mark.parametrize("chunk", [64, SIZE])
def test_a_method_may_look_at_the_whole_of_a_tensor_first(tmp_path: Path, chunk: int) -> None:
    rng = np.random.default_rng(0)
    base, *vectors = (rng.normal(size=SIZE).astype(np.float32) for _ in range(4))
    vectors[2][-1] = 9  # what is prepared is of all elements, and those of one chunk do not tell
    files = []
    for name, values in zip(("base", "one", "two", "three"), (base, *vectors), strict=True):
        files.append(tmp_path / f"{name}.safetensors")
        write_delta(files[-1], BASE, {"w": values.shape}, iter([("w", values)]), "float32")
    omegas = [0.5, 0.0, 2.0]  # one that is no term here: the other two keep what was prepared of them
    method = Method("large", "", "", "", 1.0, combine=large, prepare=halves)
    opened = [open_checkpoint(file) for file in files]
    with ExitStack() as stack:
        for checkpoint in opened:
            stack.enter_context(checkpoint)
        writer = stack.enter_context(weights_writer(tmp_path / "out", result_specs(opened[0], "F32")))
        combine(Combination(opened[0], opened[1:], omegas, method, "F32"), writer, chunk=chunk)
    wanted = base.copy()
    for vector, omega in zip(vectors, omegas, strict=True):
        kept = np.where(np.abs(vector) < np.abs(vector).max() / 2, np.float32(0), vector)
        wanted = wanted + kept * np.float32(omega)
    with open_checkpoint(tmp_path / "out") as made:
        assert np.array_equal(made.read("w"), wanted)
