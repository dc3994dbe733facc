"""Two models' weights, tensor by tensor: which are the same to the last bit, and how far apart the others are."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from dem_build.checkpoint.floats import FLOATS
from dem_build.checkpoint.header import ITEM_SIZES
from dem_build.checkpoint.layers import layer_of, layers_of
from dem_build.checkpoint.reader import open_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from dem_build.checkpoint.header import TensorInfo
    from dem_build.checkpoint.reader import Checkpoint
    from dem_build.digest import JSON

PIECE = 1 << 20
"""Elements that are read at a time."""


@dataclass(frozen=True)
class LayerChange:
    """A layer's float tensors that both models have, in one shape.

    Attributes:
        layer: `embeddings`, a number, or `final`.
        changed: How many of them differ.
        distance: The Frobenius norm of the second model's minus the first's, over all of them.
        norm: The norm of the first model's.
    """

    layer: str
    tensors: int
    changed: int
    distance: float
    norm: float


@dataclass(frozen=True)
class WeightsChange:
    """The weights of two models.

    Attributes:
        layers: Layer by layer, in the model's order.
        only_before: Tensors of the first model alone.
        only_after: Tensors of the second alone.
        reshaped: Tensors of both that have another shape, or are no floats and differ.
    """

    layers: tuple[LayerChange, ...]
    only_before: tuple[str, ...] = ()
    only_after: tuple[str, ...] = ()
    reshaped: tuple[str, ...] = ()

    @property
    def same(self) -> bool:
        """Whether all weights are the same."""
        apart = self.only_before or self.only_after or self.reshaped
        return not apart and not any(layer.changed for layer in self.layers)

    @property
    def distance(self) -> float:
        """The norm of the difference, over all layers."""
        return math.hypot(*(layer.distance for layer in self.layers))

    @property
    def norm(self) -> float:
        """The norm of the first model's weights, over all layers."""
        return math.hypot(*(layer.norm for layer in self.layers))

    def document(self) -> dict[str, JSON]:
        """The same as JSON; a norm that is no finite number is null."""
        layers = [
            {n: v if not isinstance(v, float) or math.isfinite(v) else None for n, v in asdict(one).items()}
            for one in self.layers
        ]
        apart = {name: list(getattr(self, name)) for name in ("only_before", "only_after", "reshaped")}
        return {"same": self.same, "layers": layers, **apart}


@dataclass(frozen=True)
class _Tensor:
    differs: bool
    distance: float
    norm: float


def compare_weights(before: Path | Iterable[Path], after: Path | Iterable[Path]) -> WeightsChange:
    """Compare two models' weights, a piece at a time.

    Raises:
        CheckpointError: A file is damaged or missing.
    """
    with open_checkpoint(before) as old, open_checkpoint(after) as new:
        both = [name for name in new.tensors if name in old.tensors]
        alike = [n for n in both if _comparable(old.tensors[n], new.tensors[n])]
        told = {name: _compared(old, new, name) for name in alike}
        layers = tuple(
            _layer(layer, [t for name, t in told.items() if layer_of(name) == layer])
            for layer in layers_of(alike)
        )
        others = [n for n in both if n not in told and not _same_bytes(old, new, n)]
        only = [tuple(sorted(a.tensors.keys() - b.tensors.keys())) for a, b in ((old, new), (new, old))]
        return WeightsChange(layers, only[0], only[1], tuple(sorted(others)))


def _comparable(old: TensorInfo, new: TensorInfo) -> bool:
    return old.shape == new.shape and old.dtype in FLOATS and new.dtype in FLOATS


def _layer(layer: str, tensors: list[_Tensor]) -> LayerChange:
    return LayerChange(
        layer,
        len(tensors),
        sum(t.differs for t in tensors),
        math.hypot(*(t.distance for t in tensors)),
        math.hypot(*(t.norm for t in tensors)),
    )


def _pieces(size: int) -> Iterator[tuple[int, int]]:
    for start in range(0, size, PIECE):
        yield start, min(PIECE, size - start)


def _compared(old: Checkpoint, new: Checkpoint, name: str) -> _Tensor:
    one, other = old.tensors[name], new.tensors[name]
    apart = square = 0.0
    for start, size in _pieces(one.size):
        was = old.floats(one, start, size).astype(np.float64)
        difference = new.floats(other, start, size).astype(np.float64) - was
        apart += float(difference @ difference)
        square += float(was @ was)
    return _Tensor(apart != 0.0, math.sqrt(apart), math.sqrt(square))


def _same_bytes(old: Checkpoint, new: Checkpoint, name: str) -> bool:
    one, other = old.tensors[name], new.tensors[name]
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    item = np.dtype(f"V{ITEM_SIZES[one.dtype]}")
    for start, size in _pieces(one.size):
        pieces = np.empty((2, size), item)
        old.read_into(one, start, pieces[0])
        new.read_into(other, start, pieces[1])
        if pieces[0].tobytes() != pieces[1].tobytes():
            return False
    return True
