"""A checkpoint in the layout of another one of the same model: a fine-tune's, where its base came fused, or unfused.

It is converted group by group as it is read, from the files to the model's tensors and from these to the other files'.
"""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from dem_build.checkpoint import ITEM_SIZES, NAMES, Checkpoint, TensorInfo
from dem_build.model.layout import Layout

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from numpy.typing import NDArray

    from dem_build.model.architecture import Architecture
    from dem_build.model.layout import Group

__all__ = ["in_layout_of", "named_as"]

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


def named_as(
    names: Iterable[str],
    weights: Architecture,
    tensors: Iterable[tuple[str, NDArray[np.float32] | None]],
    theta: Checkpoint,
) -> Iterator[tuple[str, NDArray[np.float32] | None]]:
    """Yield a model's tensors under the names, and in the shapes, of some files.

    Args:
        names: The names of the files' tensors.
        weights: The model's architecture.
        tensors: Each of the model's tensors once, in float32; None where it is as in `theta`, and yielded as it is.
        theta: A checkpoint with the model's own names, open.
    """
    layout = Layout(weights.built, names)
    group_of = {own: group for group in layout.groups for own in group.own}
    waiting: dict[str, dict[str, NDArray[np.float32] | None]] = {}
    for name, values in tensors:
        group = group_of[name]
        have = waiting.setdefault(group.own[0], {})
        have[name] = values
        if len(have) < len(group.own):
            continue
        del waiting[group.own[0]]
        if all(part is None for part in have.values()):
            yield from ((file, None) for file in group.files)
            continue
        own = {n: torch.from_numpy(theta.read(n) if part is None else part) for n, part in have.items()}
        yield from ((file, t.contiguous().numpy()) for file, t in layout.to_files(group, own).items())


class _Converted(Checkpoint):
    """Reads what it holds from files of another layout; the last few groups are kept."""

    def __init__(self, names: Iterable[str], stored: Checkpoint, weights: Architecture) -> None:
        self._stored = stored
        self._from, self._to = Layout(weights.built, stored.tensors), Layout(weights.built, names)
        self._source = {own: group for group in self._from.groups for own in group.own}
        self._target = {name: group for group in self._to.groups for name in group.files}
        self._lock = threading.Lock()
        self._values = lru_cache(HELD)(self._convert)
        described: dict[str, TensorInfo] = {}
        for group in (g for g in self._to.groups if self._source.keys() >= {*g.own}):
            described |= self._describe(
                group, self._to.to_files(group, {n: weights.tensors[n] for n in group.own})
            )
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
            values = self._values(self._target[tensor.name])[tensor.name]
        size = ITEM_SIZES[tensor.dtype]
        held = out.view(np.uint8)
        held[:] = values[start * size : start * size + held.size]

    def _describe(self, group: Group, tensors: Mapping[str, torch.Tensor]) -> dict[str, TensorInfo]:
        files = [self._stored.tensors[name] for own in group.own for name in self._source[own].files]
        code = _common([info.dtype for info in files])
        return {
            name: TensorInfo(name, code, tuple(tensor.shape), files[0].path, 0)
            for name, tensor in tensors.items()
        }

    def _convert(self, group: Group) -> dict[str, NDArray[np.uint8]]:
        """Return the bytes of a group's tensors in the other layout."""
        code = self.tensors[group.files[0]].dtype
        own: dict[str, torch.Tensor] = {}
        for source in {id(found): found for found in (self._source[n] for n in group.own)}.values():
            own |= self._from.to_model(source, {name: self._load(name, code) for name in source.files})
        made = self._to.to_files(group, {name: own[name] for name in group.own})
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
