"""A checkpoint in the layout of another one of the same model: a fine-tune's, where its base came fused, or unfused.

It is converted group by group as it is read, from the files to the model's tensors and from these to the other files'.
"""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from dem_build.checkpoint.floats import NAMES
from dem_build.checkpoint.layout import ITEM_SIZES, TensorInfo
from dem_build.checkpoint.reader import Checkpoint
from dem_build.model.layout import Layout

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from numpy.typing import NDArray

    from dem_build.model.architecture import Architecture
    from dem_build.model.layout import Group

__all__ = ["in_layout_of"]

TYPES = {code: getattr(torch, name) for code, name in NAMES.items()}
HELD = 2  # groups: a layer's experts are two, whose tensors lie in turn in a file


def in_layout_of(names: Iterable[str], stored: Checkpoint, weights: Architecture) -> Checkpoint:
    """Return a checkpoint with the tensors that another one's names are of; itself where its names are these.

    Args:
        names: Of the other one's tensors, as `select` gave them.
        stored: The checkpoint, as `select` returned it, not yet open.
        weights: Its architecture.
    """
    wanted = list(names)
    return stored if stored.tensors.keys() == {*wanted} else _Converted(wanted, stored, weights)


class _Converted(Checkpoint):
    """Reads what it holds from files of another layout; the last few groups are kept."""

    def __init__(self, names: Iterable[str], stored: Checkpoint, weights: Architecture) -> None:
        self._stored = stored
        self._from, self._to = Layout(weights.built, stored.tensors), Layout(weights.built, names)
        self._lock = threading.Lock()
        self._values = lru_cache(HELD)(self._convert)
        described: dict[str, TensorInfo] = {}
        for group in (g for g in self._to.groups if self._from.of_own.keys() >= {*g.own}):
            described |= self._describe(group, self._to.to_files({n: weights.tensors[n] for n in group.own}))
        super().__init__({name: described[name] for name in names if name in described}, {})

    def __enter__(self) -> Self:
        self._stored.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._values.cache_clear()
        self._stored.__exit__(kind, error, trace)

    def read_into(self, tensor: TensorInfo, start: int, out: NDArray[np.generic]) -> None:
        """Fill `out` as of any checkpoint."""
        with self._lock:
            values = self._values(self._to.of_file[tensor.name])[tensor.name]
        size = ITEM_SIZES[tensor.dtype]
        held = out.view(np.uint8)
        held[:] = values[start * size : start * size + held.size]

    def _describe(self, group: Group, tensors: Mapping[str, torch.Tensor]) -> dict[str, TensorInfo]:
        files = [self._stored.tensors[name] for own in group.own for name in self._from.of_own[own].files]
        code = _common([info.dtype for info in files])
        return {
            name: TensorInfo(name, code, tuple(tensor.shape), files[0].path, 0)
            for name, tensor in tensors.items()
        }

    def _convert(self, group: Group) -> dict[str, NDArray[np.uint8]]:
        """Return the bytes of a group's tensors in the other layout."""
        code = self.tensors[group.files[0]].dtype
        files = {name: self._load(name, code) for own in group.own for name in self._from.of_own[own].files}
        own = self._from.to_model(files)
        made = self._to.to_files({name: own[name] for name in group.own})
        return {name: _bytes(tensor) for name, tensor in made.items()}

    def _load(self, name: str, code: str) -> torch.Tensor:
        info = self._stored.tensors[name]
        if info.dtype != code:
            return torch.from_numpy(self._stored.read(name))
        stored = np.empty(info.nbytes, np.uint8)
        self._stored.read_into(info, 0, stored)
        return torch.from_numpy(stored).view(TYPES[code]).reshape(info.shape)


def _common(codes: Sequence[str]) -> str:
    """Return the format of what is made of tensors in these formats: theirs, or the one that holds all values."""
    return codes[0] if len({*codes}) == 1 else "F32"


def _bytes(tensor: torch.Tensor) -> NDArray[np.uint8]:
    found: NDArray[np.uint8] = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    return found
