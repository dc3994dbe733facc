"""Weights in safetensors files: opened with every check that needs no tensor, read piece by piece."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from dem_build.checkpoint.filenames import INDEX, SINGLE, shards_of
from dem_build.checkpoint.floats import FLOATS, widen, widen_planes
from dem_build.checkpoint.header import DOWNLOAD_AGAIN, ITEM_SIZES, TensorInfo, read_header
from dem_build.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from numpy.typing import NDArray

    from dem_build.checkpoint.header import TensorSpec


class Checkpoint:
    """The tensors of some safetensors files. Use it in a `with`: it holds the files open.

    Attributes:
        tensors: Name → tensor, in the order in which they lie in the files.
        metadata: The metadata of the first file.
    """

    def __init__(self, tensors: Mapping[str, TensorInfo], metadata: Mapping[str, str]) -> None:
        self.tensors = tensors
        self.metadata = metadata
        self._files: dict[Path, int] = {}

    def __enter__(self) -> Self:
        for path in dict.fromkeys(t.path for t in self.tensors.values()):
            self._files[path] = os.open(path, os.O_RDONLY)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._files:
            os.close(self._files.popitem()[1])

    def read_into(self, tensor: TensorInfo, start: int, out: NDArray[np.generic]) -> None:
        """Fill `out` with stored elements, from the `start`-th on. Any number of threads may call this.

        Raises:
            CheckpointError: The file ends too early: it was cut off after it was opened.
        """
        view = out.view(np.uint8).data
        offset = tensor.offset + start * ITEM_SIZES[tensor.dtype]
        # With the place in each call: a file has one position of its own, which threads would move for each other. A
        # read may also give less than was asked for.
        while view:
            count = os.preadv(self._files[tensor.path], [view], offset)
            if not count:
                raise CheckpointError(f"ends inside {tensor.name}", where=str(tensor.path))
            view, offset = view[count:], offset + count

    def read(self, name: str) -> NDArray[np.float32]:
        """A float tensor's values as float32, in its shape.

        Raises:
            CheckpointError: No tensor of this name, or one that holds no floats.
        """
        tensor = self.tensors.get(name)
        if tensor is None or not self.has_floats(tensor):
            raise CheckpointError(f"there are no float weights named {name}")
        return self.floats(tensor, 0, tensor.size).reshape(tensor.shape)

    def has_floats(self, tensor: TensorSpec) -> bool:
        """Whether a tensor's values can be read as float32."""
        return tensor.dtype in FLOATS

    def floats(self, tensor: TensorInfo, start: int, size: int) -> NDArray[np.float32]:
        """The values of `size` elements of a float tensor as float32, from the `start`-th on; threads may share it.

        Raises:
            CheckpointError: As of `read_into`.
        """
        stored = np.empty(size, FLOATS[tensor.dtype])
        self.read_into(tensor, start, stored)
        if tensor.dtype == "F32":  # nothing to convert, and so no second buffer
            return stored.view(np.float32)
        values = np.empty(size, np.float32)
        widen(stored, tensor.dtype, values)
        return values

    def planes_into(
        self, tensor: TensorInfo, start: int, size: int, stored: NDArray[np.generic], out: NDArray[np.float32]
    ) -> None:
        """The values of `size` elements as two planes (see floats.py), from the `start`-th on; threads may share it.

        Args:
            tensor: Theirs.
            start: The first of them.
            size: How many they are.
            stored: Room for them as they are stored, contiguous, as long as `out`.
            out: Of even length; what is one element too long for them gets a zero.

        Raises:
            CheckpointError: As of `read_into`.
        """
        stored[size:] = 0  # left over bits could be a NaN, and reach the norms
        self.read_into(tensor, start, stored[:size])
        widen_planes(stored, tensor.dtype, out)


def open_checkpoint(source: Path | Iterable[Path]) -> Checkpoint:
    """Read the headers of a file, of a folder of weights, or of several files; enter the checkpoint to read more.

    Args:
        source: A safetensors file, a folder with `model.safetensors` (which then counts alone) or shards and their
            index, or the files.

    Raises:
        CheckpointError: A damaged file, one tensor in two files, or an index that disagrees with its shards.
    """
    if isinstance(source, os.PathLike):
        if not source.is_dir():
            return _join([source])
        # As transformers loads a folder: an index beside a whole file is a leftover.
        if (source / SINGLE).exists() or not (source / INDEX).exists():
            return _join([source / SINGLE])
        shards = shards_of(source / INDEX)
        checkpoint = _join([source / name for name in sorted(set(shards.values()))])
        check_index(checkpoint, shards, source / INDEX)
        return checkpoint
    return _join(source)


def check_index(checkpoint: Checkpoint, shards: Mapping[str, str], index: Path) -> None:
    """Check that an index tells of each tensor the file in which it lies, and of nothing else.

    Raises:
        CheckpointError: It does not; the message names a tensor.
    """
    held = {name: tensor.path.name for name, tensor in checkpoint.tensors.items()}
    for name in sorted(held.keys() | shards.keys()):
        if name not in shards:
            what = f"does not name {name}, which {held[name]} holds"
            raise CheckpointError(what, where=str(index), hint=DOWNLOAD_AGAIN)
        if held.get(name) != shards[name]:
            found = f"is in {held[name]}" if name in held else "is in no shard"
            what = f"{name} should be in {shards[name]} and {found}"
            raise CheckpointError(what, where=str(index), hint=DOWNLOAD_AGAIN)


def _join(paths: Iterable[Path]) -> Checkpoint:
    tensors: dict[str, TensorInfo] = {}
    metadata: dict[str, str] = {}
    for path in paths:
        header = read_header(path)
        metadata = metadata or dict(header.metadata)
        for tensor in header.tensors:
            if tensor.name in tensors:
                twice = f"{tensor.name} is also in {tensors[tensor.name].path.name}"
                raise CheckpointError(twice, where=str(path), hint="remove the stale file")
            tensors[tensor.name] = tensor
    return Checkpoint(tensors, metadata)
