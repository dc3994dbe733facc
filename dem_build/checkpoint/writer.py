"""Weights written tensor by tensor, in one canonical way: the same tensors are the same bytes."""

from __future__ import annotations

import errno
import json
import os
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from dem_build.checkpoint.filenames import INDEX, SINGLE
from dem_build.checkpoint.growing import Flusher, Growing
from dem_build.checkpoint.layout import ITEM_SIZES, canonical_order, header_bytes
from dem_build.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from numpy.typing import NDArray

    from dem_build.checkpoint.layout import TensorSpec
    from dem_build.digest import Digest

__all__ = ["MAX_SHARD_BYTES", "Writer", "weights_writer"]

MAX_SHARD_BYTES = 5_000_000_000
NOT_SUPPORTED = frozenset({errno.EINVAL, errno.EOPNOTSUPP})  # a file system that cannot reserve
METADATA = {"format": "pt"}  # what transformers asks of a file of PyTorch weights


class Writer:
    """Safetensors files whose headers are written first and whose tensors come in any order, from any thread.

    Use it in a `with`: leaving it without an error closes the files, and is an error if a byte is missing.

    Attributes:
        digests: The SHA-256 of each file, once the block was left without an error.
    """

    def __init__(self, files: Mapping[Path, Iterable[TensorSpec]], metadata: Mapping[str, str]) -> None:
        self.digests: Mapping[Path, Digest] = {}
        self._specs = {path: canonical_order(specs) for path, specs in files.items()}
        self._metadata = metadata
        self._places: dict[str, tuple[Growing, int, TensorSpec]] = {}
        self._files: list[Growing] = []

    def __enter__(self) -> Self:
        for path, specs in self._specs.items():
            self._create(path, specs)
        self._flusher = Flusher(self._files)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        missing = sum(file.missing for file in self._files)
        try:
            self._flusher.stop()
            if kind is None and not missing:
                self.digests = {file.path: file.digest() for file in self._files}
        finally:
            while self._files:
                self._files.pop().close()
        if kind is None and missing:
            raise ValueError(f"{missing} bytes of the tensors were not written")

    def write(self, name: str, start: int, stored: NDArray[np.generic]) -> None:
        """Write stored elements of a tensor, from the `start`-th on; each element once."""
        file, offset, spec = self._places[name]
        file.write(offset + start * ITEM_SIZES[spec.dtype], stored.view(np.uint8).data)

    def _create(self, path: Path, specs: list[TensorSpec]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        header = header_bytes(specs, self._metadata)
        size = len(header) + sum(spec.nbytes for spec in specs)
        file = Growing(path, size)
        self._files.append(file)
        offset = len(header)
        for spec in specs:
            self._places[spec.name] = (file, offset, spec)
            offset += spec.nbytes
        _allocate(file.descriptor, size, path)
        file.write(0, memoryview(header))


def weights_writer(
    folder: Path,
    specs: Iterable[TensorSpec],
    max_shard_bytes: int = MAX_SHARD_BYTES,
    metadata: Mapping[str, str] = MappingProxyType({}),
) -> Writer:
    """Return a writer of a folder of weights, which must not exist; `metadata` are those beside the format.

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
        return Writer({folder / SINGLE: shards[0]}, {**METADATA, **metadata})
    names = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    _write_index(folder / INDEX, dict(zip(names, shards, strict=True)))
    files = {folder / name: held for name, held in zip(names, shards, strict=True)}
    return Writer(files, {**METADATA, **metadata})


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
