"""Weights written tensor by tensor, in one canonical way: the same tensors are the same bytes."""

from __future__ import annotations

import errno
import json
import os
import threading
from typing import TYPE_CHECKING

import numpy as np

from dem_build.basemodel import INDEX, SINGLE
from dem_build.checkpoint.layout import ITEM_SIZES, canonical_order, header_bytes
from dem_build.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from numpy.typing import NDArray

    from dem_build.checkpoint.layout import TensorSpec

__all__ = ["MAX_SHARD_BYTES", "Writer", "weights_writer"]

MAX_SHARD_BYTES = 5_000_000_000
NOT_SUPPORTED = frozenset({errno.EINVAL, errno.EOPNOTSUPP})  # a file system that cannot reserve
METADATA = {"format": "pt"}  # what transformers asks of a file of PyTorch weights


class Writer:
    """Safetensors files whose headers are written first and whose tensors come in any order, from any thread.

    Use it in a `with`: leaving it without an error closes the files, and is an error if a byte is missing.
    """

    def __init__(self, files: Mapping[Path, Iterable[TensorSpec]], metadata: Mapping[str, str]) -> None:
        self._files = {path: canonical_order(specs) for path, specs in files.items()}
        self._metadata = metadata
        self._places: dict[str, tuple[int, int, TensorSpec]] = {}
        self._open: list[int] = []
        self._missing = 0
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        for path, specs in self._files.items():
            self._create(path, specs)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._open:
            os.close(self._open.pop())
        if kind is None and self._missing:
            raise ValueError(f"{self._missing} bytes of the tensors were not written")

    def write(self, name: str, start: int, stored: NDArray[np.generic]) -> None:
        """Write stored elements of a tensor, from the `start`-th on; each element once."""
        file, offset, spec = self._places[name]
        view = stored.view(np.uint8).data
        offset += start * ITEM_SIZES[spec.dtype]
        with self._lock:
            self._missing -= len(view)
        while view:
            count = os.pwrite(file, view, offset)
            view, offset = view[count:], offset + count

    def _create(self, path: Path, specs: list[TensorSpec]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        header = header_bytes(specs, self._metadata)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        self._open.append(file)
        offset = len(header)
        for spec in specs:
            self._places[spec.name] = (file, offset, spec)
            offset += spec.nbytes
        self._missing += offset - len(header)
        _allocate(file, offset, path)
        os.pwrite(file, header, 0)


def weights_writer(
    folder: Path, specs: Iterable[TensorSpec], max_shard_bytes: int = MAX_SHARD_BYTES
) -> Writer:
    """Return a writer of a folder of weights, which must not exist.

    The folder will hold `model.safetensors`, or above `max_shard_bytes` shards and their index, named as
    transformers names them. A shard exceeds `max_shard_bytes` only to hold a single tensor.
    """
    shards: list[list[TensorSpec]] = [[]]
    filled = 0
    for spec in canonical_order(specs):
        if shards[-1] and filled + spec.nbytes > max_shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(spec)
        filled += spec.nbytes
    folder.mkdir(parents=True)
    if len(shards) == 1:
        return Writer({folder / SINGLE: shards[0]}, METADATA)
    names = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    _write_index(folder / INDEX, dict(zip(names, shards, strict=True)))
    return Writer({folder / name: held for name, held in zip(names, shards, strict=True)}, METADATA)


def _write_index(path: Path, shards: Mapping[str, list[TensorSpec]]) -> None:
    document = {
        "metadata": {"total_size": sum(spec.nbytes for held in shards.values() for spec in held)},
        "weight_map": {spec.name: file for file, held in shards.items() for spec in held},
    }
    path.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _allocate(file: int, size: int, path: Path) -> None:
    """Reserve the file's blocks, so that a full disk is told before hours of work and not after."""
    try:
        os.ftruncate(file, size)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file, 0, size)
    except OSError as error:
        if error.errno not in NOT_SUPPORTED:
            what, hint = f"cannot hold {size} bytes: {error.strerror}", "free some space, and build again"
            raise CheckpointError(what, where=str(path), hint=hint) from error
