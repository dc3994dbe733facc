"""The ways to compose that mergekit 0.1.5 has too, held against it by value, in float32.

PATH/TO/mergekit's/python bench/methods.py

Run it where mergekit and dem are both installed. It calls what mergekit calls for each tensor: `ties` and `slerp` as
they are, `dare` with the masks that dem draws. mergekit scales what DARE keeps so that Σ |ΔΘ| stays, dem as the paper
does, by 1 / density: mergekit is asked not to scale, and the density is in its weights.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import torch
from mergekit.merge_methods import registry
from mergekit.merge_methods.base import TensorGroup
from mergekit.merge_methods.slerp import slerp

from dem_build.actions.compose.methods import METHODS
from dem_build.actions.compose.methods.dare import kept, philox_key
from dem_build.checkpoint.combine import Combination, combine, result_specs
from dem_build.checkpoint.delta import write_delta
from dem_build.checkpoint.reader import open_checkpoint
from dem_build.checkpoint.writer import weights_writer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float32]

SHAPES = {"model.embed.weight": (513, 96), "model.layers.0.q.weight": (96, 96), "model.norm.weight": (96,)}
OMEGAS = [0.7, 0.4, 1.1]
BOUND = 1e-6  # of the largest value: what float32 sums in another order differ by


def ours(
    method: str, base: dict[str, Values], deltas: list[dict[str, Values]], **params: Any
) -> dict[str, Values]:
    """Compose as dem does."""
    with tempfile.TemporaryDirectory(prefix="bench-methods-") as folder, ExitStack() as stack:
        files = [Path(folder) / f"{i}.safetensors" for i in range(len(deltas) + 1)]
        for file, tensors in zip(files, [base, *deltas], strict=True):
            write_delta(file, "b" * 64, SHAPES, iter(tensors.items()), "float32")
        theta, *opened = [stack.enter_context(open_checkpoint(file)) for file in files]
        omegas, named = OMEGAS[: len(deltas)], [f"{i}" for i, _ in enumerate(deltas)]
        what = Combination(theta, opened, omegas, METHODS[method], "F32", params=params, digests=named)
        with weights_writer(Path(folder) / "out", result_specs(theta, "F32")) as writer:
            combine(what, writer)
        with open_checkpoint(Path(folder) / "out") as made:
            return {name: made.read(name) for name in SHAPES}


def grouped(method: str, base: Values, tuned: list[Values], scale: float, **params: Any) -> torch.Tensor:
    """Merge one tensor as mergekit does."""
    group = TensorGroup.from_tensors([torch.from_numpy(v) for v in (base, *tuned)], base_index=0)
    of_each = range(1, len(tuned) + 1)
    weights = {i: omega * scale for i, omega in zip(of_each, OMEGAS, strict=False)}
    given = {
        "int8_mask": False,
        "lambda": 1.0,
        "weight": weights,
        "density": dict.fromkeys(of_each, params.pop("density")),
    }
    return registry.get(method).merge_group(group, **given | params)


def theirs(name: str, method: str, base: Values, tuned: list[Values]) -> torch.Tensor:
    """What mergekit makes of a tensor."""
    if method == "ties":
        return grouped(
            "ties", base, tuned, 1.0, density=0.3, normalize=True, rescale=False, **{"lambda": 0.8}
        )
    if method == "slerp":
        t = torch.tensor([OMEGAS[1] / (OMEGAS[0] + OMEGAS[1])])
        return slerp(t, *(torch.from_numpy(v)[None] for v in tuned[:2]))[0]
    keys = (philox_key(7, f"{i}", name) for i, _ in enumerate(tuned))
    masks = (kept(key, slice(0, base.size), 0.3) for key in keys)
    drawn = [torch.from_numpy(mask.astype(np.float32)).reshape(base.shape) for mask in masks]
    with mock.patch("torch.bernoulli", side_effect=drawn):
        return grouped("dare_linear", base, tuned, 1 / 0.3, density=0.3, normalize=False, rescale=False)


def main() -> None:
    """Compose by each method in both, compare, print."""
    rng = np.random.default_rng(0)
    worst = 0.0
    for spread in (0.03, 3.0):  # fine-tunes of one base, and models far apart, which slerp takes along an arc
        base = {n: rng.normal(size=s).astype(np.float32) for n, s in SHAPES.items()}
        tuned = [
            {n: v + spread * rng.normal(size=v.shape).astype(np.float32) for n, v in base.items()}
            for _ in OMEGAS
        ]
        deltas = [{n: v - base[n] for n, v in model.items()} for model in tuned]
        for method, count in (("ties", 3), ("dare", 3), ("slerp", 2)):
            made = ours(method, base, deltas[:count], density=0.3, scale=0.8, seed=7)
            for name, found in made.items():
                wanted = theirs(name, method, base[name], [m[name] for m in tuned[:count]]).numpy()
                error = float(np.abs(found - wanted).max() / np.abs(wanted).max())
                worst = max(worst, error)
                print(
                    f"{method:6} spread {spread:<5} {name:26} largest difference {error:.1e} of the largest value"
                )
    if worst > BOUND:
        sys.exit(f"they differ by {worst:.1e}, more than {BOUND:.0e}")


if __name__ == "__main__":
    main()
