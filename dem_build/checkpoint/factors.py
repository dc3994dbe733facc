"""A vector of low rank as a file: of each tensor that it changes two factors, whose product is made as it is read.

ΔΘ of a tensor of [rows, columns] is scale · B A, with B [rows, r] and A [r, columns]; of every other tensor it is zero.
One safetensors file holds `NAME.lora_A` and `NAME.lora_B` in float32. Its metadata say
`{"dem": "lora/1", "base": DIGEST, "lora": {NAME: {"scale": …, "module": …, "transposed": …}}}`, the last as JSON.

An element is b₁ a₁, to which b₂ a₂ is added, and so on, and at last it is multiplied by the scale: each product and
each sum is rounded to float32 by itself, in this order. So no thread count, chunk size, BLAS or CPU reaches a bit of
it, and numpy and torch make the same. It takes as many operations as a matrix product does.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from dem_build.checkpoint.header import DOWNLOAD_AGAIN, TensorInfo, TensorSpec
from dem_build.checkpoint.reader import Checkpoint, open_checkpoint
from dem_build.checkpoint.writer import Writer
from dem_build.errors import CheckpointError
from dem_build.json_text import parse_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from dem_build.digest import Digest

LORA_FORMAT = "lora/1"
BLOCK = 1 << 15  # elements of a product at a time: it and what is added to it stay in a core's cache
LORA_A, LORA_B = ".lora_A", ".lora_B"
Array = TypeVar("Array")


@dataclass(frozen=True)
class Place:
    """Where an adapter has a tensor's factors.

    Attributes:
        module: The model's module whose weight it is.
        transposed: Whether that module keeps its weight as [inputs, outputs], and an adapter so has B and A in turn.
    """

    module: str
    transposed: bool = False


@dataclass(frozen=True)
class LowRank(Generic[Array]):
    """Scale · B A, as arrays of numpy or tensors of torch, in float32: B is [rows, r], A is [r, columns]."""

    b: Array
    a: Array
    scale: float


def elements(of: LowRank[Any], start: int, size: int) -> Iterator[Any]:
    """Yield elements of scale · B A in the order of rows, flat and in pieces."""
    columns, stop = of.a.shape[1], start + size
    while start < stop:
        row, column = divmod(start, columns)
        rows, width = min(max(BLOCK // columns, 1), (stop - start) // columns), columns
        if column or not rows:  # a part of one row
            rows, width = 1, min(columns - column, stop - start)
        yield _product(of.b[row : row + rows], of.a[:, column : column + width], of.scale).reshape(-1)
        start += rows * width


def _product(b: Any, a: Any, scale: float) -> Any:
    total = b[:, :1] * a[:1]
    for k in range(1, len(a)):
        total += b[:, k : k + 1] * a[k : k + 1]
    total *= scale
    return total


def squared_norm(of: LowRank[NDArray[np.float32]]) -> float:
    """‖scale · B A‖² over all elements, which are not made: the sum of BᵀB ∘ AAᵀ, in float64."""
    b, a = of.b.astype(np.float64), of.a.astype(np.float64)
    return float(of.scale**2 * ((b.T @ b) * (a @ a.T)).sum())


class FactoredDelta(Checkpoint):
    """A vector of low rank, read as any other: its tensors are the base's, in float32. Use it in a `with`.

    Args:
        stored: The file as it is, checked to be of this format.
        shapes: Name → shape of each float tensor of the base; None where it is not at hand: then of what is changed.
        name: What messages call it.

    Attributes:
        places: Name of each tensor that it changes → where an adapter has its factors.
        scales: The same → its scale.

    Raises:
        CheckpointError: Half of a pair, shapes that are not the base's, or damaged metadata.
    """

    def __init__(self, stored: Checkpoint, shapes: Mapping[str, tuple[int, ...]] | None, name: str) -> None:
        self._stored = stored.tensors
        self.places, self.scales = _described(stored.metadata, name)
        path = next((t.path for t in stored.tensors.values()), None)
        if shapes is None:
            shapes = {n: self._made(n, name) for n in self.places}
        for changed in self.places:
            self._check(changed, shapes, name)
        if path is None or len(self._stored) != 2 * len(self.places):
            raise CheckpointError("holds other tensors than it describes", where=name, hint=DOWNLOAD_AGAIN)
        tensors = {n: TensorInfo(n, "F32", tuple(shape), path, 0) for n, shape in shapes.items()}
        super().__init__(tensors, stored.metadata)

    def _check(self, changed: str, shapes: Mapping[str, tuple[int, ...]], name: str) -> None:
        made, shape = self._made(changed, name), shapes.get(changed)
        a, b = self._stored[changed + LORA_A], self._stored[changed + LORA_B]
        if (
            len(a.shape) != 2
            or len(b.shape) != 2
            or a.shape[0] != b.shape[1]
            or made != shape
            or not a.shape[0]
        ):
            whose = f"the base's is {shape}" if shape else "the base has none"
            what = f"{changed} is a product of {b.shape} and {a.shape}, and {whose}"
            raise CheckpointError(what, where=name)
        if (a.dtype, b.dtype) != ("F32", "F32"):
            raise CheckpointError(f"{changed} has factors in {b.dtype} and {a.dtype}", where=name)

    def _made(self, changed: str, name: str) -> tuple[int, ...]:
        """The shape of a product."""
        a, b = self._stored.get(changed + LORA_A), self._stored.get(changed + LORA_B)
        if a is None or b is None:
            raise CheckpointError(f"lacks a factor of {changed}", where=name, hint=DOWNLOAD_AGAIN)
        return (*b.shape[:1], *a.shape[1:])

    def factors(self, name: str) -> LowRank[NDArray[np.float32]] | None:
        """The factors of a tensor; None of one that it leaves as it is."""
        if name not in self.places:
            return None
        b, a = (
            super(FactoredDelta, self).floats(t, 0, t.size).reshape(t.shape)
            for t in (self._stored[name + LORA_B], self._stored[name + LORA_A])
        )
        return LowRank(b, a, self.scales[name])

    def floats(self, tensor: TensorInfo, start: int, size: int) -> NDArray[np.float32]:
        """Elements of a tensor as float32, from the `start`-th on; threads may share it."""
        values = np.zeros(size, np.float32)
        if (found := self.factors(tensor.name)) is not None:
            at = 0
            for piece in elements(found, start, size):
                values[at : at + piece.size] = piece
                at += piece.size
        return values

    def read_into(self, tensor: TensorInfo, start: int, out: NDArray[np.generic]) -> None:
        """Fill `out` with elements in float32, or with what is stored of a factor."""
        if tensor.name in self.tensors:
            values = out.view(np.float32)
            values[:] = self.floats(tensor, start, values.size)
        else:
            super().read_into(tensor, start, out)


def open_factors(path: Path, name: str) -> FactoredDelta:
    """Open a vector of low rank without its base: its tensors are those that it changes.

    Raises:
        CheckpointError: No vector of low rank, or a damaged one.
    """
    stored = open_checkpoint(path)
    if (found := stored.metadata.get("dem")) != LORA_FORMAT:
        raise CheckpointError(f"is no vector of low rank: its format is {found!r}", where=name)
    return FactoredDelta(stored, None, name)


def write_factors(
    path: Path, base_digest: Digest, factors: Mapping[str, tuple[LowRank[NDArray[np.float32]], Place]]
) -> float:
    """Write a vector of low rank to a new file; return ‖ΔΘ‖.

    Args:
        path: The file; it must not exist.
        base_digest: Digest of the base's folder of weights.
        factors: Name of a tensor of the base → its factors, and where an adapter has them.

    Raises:
        CheckpointError: A factor that is not finite.
    """
    described, squares = {}, [0.0]
    tensors: dict[str, NDArray[np.float32]] = {}
    for name, (of, place) in factors.items():
        described[name] = {"scale": of.scale, "module": place.module, "transposed": place.transposed}
        tensors |= {name + LORA_B: of.b, name + LORA_A: of.a}
        squares.append(squared_norm(of))
    if lost := [name for name, values in tensors.items() if not np.isfinite(values).all()]:
        raise CheckpointError(f"{lost[0]} holds values that are not finite", hint="lower learning_rate")
    specs = [TensorSpec(name, "F32", values.shape) for name, values in tensors.items()]
    metadata = {"dem": LORA_FORMAT, "base": base_digest, "lora": json.dumps(described, sort_keys=True)}
    with Writer({path: specs}, metadata) as writer:
        for name, values in tensors.items():
            writer.write(name, 0, np.ascontiguousarray(values, np.float32).reshape(-1))
    return math.sqrt(math.fsum(squares))


def _described(metadata: Mapping[str, str], name: str) -> tuple[dict[str, Place], dict[str, float]]:
    """What the metadata say of each tensor: its place and its scale."""
    try:
        said = parse_json(metadata["lora"])
        places = {str(n): Place(str(one["module"]), bool(one["transposed"])) for n, one in said.items()}
        scales = {str(n): float(one["scale"]) for n, one in said.items()}
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        what = "does not say what its factors are of"
        raise CheckpointError(what, where=name, hint=DOWNLOAD_AGAIN) from error
    return places, scales
