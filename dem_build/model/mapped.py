"""Tensors of files as torch has them: mapped, not read, in the format in which they are stored."""

from __future__ import annotations

import math
import mmap
import warnings
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch

from dem_build.checkpoint.blocks import BLOCK, run_of
from dem_build.checkpoint.delta import Delta
from dem_build.checkpoint.factors import LORA_A, LORA_B, FactoredDelta, LowRank, elements
from dem_build.checkpoint.header import read_header

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from pathlib import Path

    from dem_build.checkpoint.header import TensorInfo
    from dem_build.checkpoint.reader import Checkpoint

CPU = torch.device("cpu")
PIECE = 1 << 18  # elements that are looked at at a time
DTYPES: Mapping[str, torch.dtype] = MappingProxyType(
    {
        "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "F8_E4M3": torch.float8_e4m3fn,
        "F8_E5M2": torch.float8_e5m2, "I16": torch.int16, "U16": torch.uint16, "F16": torch.float16,
        "BF16": torch.bfloat16, "I32": torch.int32, "U32": torch.uint32, "F32": torch.float32, "I64": torch.int64,
        "U64": torch.uint64, "F64": torch.float64,
    }
)  # fmt: skip
"""A header's code → the type of torch."""


class MappedTensors(dict[str, torch.Tensor]):
    """Tensors of files, by name: read as they are looked at, and let go of by `release`."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], files: Iterable[mmap.mmap]) -> None:
        super().__init__(tensors)
        self._files = tuple(files)

    def release(self) -> None:
        """Give back the memory of what was looked at: looked at again, it is read again."""
        # A page that was touched counts as this process' until then, and of several vectors of a large model all of
        # them would. Nothing is lost of a file that is only read, and mostly the system still has it.
        for file in self._files:
            file.madvise(mmap.MADV_DONTNEED)


def mapped(
    files: Collection[Path], names: Collection[str] | None = None, place: torch.device = CPU
) -> MappedTensors:
    """The tensors of some files, which must not be written to.

    Args:
        files: safetensors files.
        names: Which; None for all.
        place: Where they shall be: on the CPU they are mapped, elsewhere copied.
    """
    found: dict[str, torch.Tensor] = {}
    held = []
    for path in sorted(files):
        with path.open("rb") as file:
            held.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        for tensor in read_header(path).tensors:
            if names is None or tensor.name in names:
                found[tensor.name] = _view(held[-1], tensor).to(place)
    return MappedTensors(found, held)


def _view(held: mmap.mmap, tensor: TensorInfo) -> torch.Tensor:
    if not tensor.size:
        return torch.empty(tensor.shape, dtype=DTYPES[tensor.dtype])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it cannot be written to, which is so wanted
        flat = torch.frombuffer(held, dtype=DTYPES[tensor.dtype], count=tensor.size, offset=tensor.offset)
    return flat.view(tensor.shape)


class MappedVector:
    """A vector's tensors, which give float32 whatever they are stored in.

    Args:
        delta: Its headers, checked against the base: as `open_delta` returns them.
        names: Which tensors; None for all.
        place: As of `mapped`.
    """

    def __init__(
        self, delta: Checkpoint, names: Collection[str] | None = None, place: torch.device = CPU
    ) -> None:
        files = {tensor.path for tensor in delta.tensors.values()}
        held = {name for name in delta.tensors if names is None or name in names}
        self._shapes = {name: delta.tensors[name].shape for name in held}
        self._scales: dict[str, torch.Tensor] = {}
        self._factors: dict[str, LowRank[torch.Tensor]] | None = None
        if isinstance(delta, FactoredDelta):
            self._held = halves = mapped(files, None, place)
            self._factors = {
                n: LowRank(halves[n + LORA_B], halves[n + LORA_A], scale) for n, scale in delta.scales.items()
            }
            return
        beside = delta.scales if isinstance(delta, Delta) else {}
        scales = {name: beside[name].name for name in held if name in beside}
        self._held = tensors = mapped(files, held | set(scales.values()), place)
        self._tensors = {name: tensors[name] for name in held}
        self._scales = {name: tensors[scale] for name, scale in scales.items()}

    def release(self) -> None:
        """Give back the memory of what was looked at, see `MappedTensors`."""
        self._held.release()

    def part(self, name: str, start: int, stop: int, device: torch.device = CPU) -> torch.Tensor:
        """Some elements of a tensor as float32, in one dimension, on a device; none beyond its end."""
        if self._factors is not None:
            size = min(stop, math.prod(self._shapes[name])) - start
            return _multiplied(self._factors.get(name), start, size, device)
        tensor = self._tensors[name]
        values = tensor.view(-1)[start:stop].to(device, torch.float32)
        if name not in self._scales:
            return values
        run = run_of(tuple(tensor.shape), start, values.numel())
        scales = self._scales[name].view(-1)[run.first : run.first + run.scales].to(device, torch.float32)
        if run.is_whole(values.numel()):
            return (values.view(-1, run.width) * scales[:, None]).view(-1)
        spread = _spread(scales.view(run.rows, run.blocks), run.width).reshape(-1)
        return values * spread[run.skipped : run.skipped + values.numel()]

    def rows(self, name: str, rows: torch.Tensor) -> torch.Tensor:
        """Some rows of a matrix as float32, [len(rows), width]."""
        if self._factors is not None:
            found, width = self._factors.get(name), self._shapes[name][-1]
            taken = found and LowRank(found.b[rows], found.a, found.scale)
            return _multiplied(taken, 0, len(rows) * width, rows.device).view(len(rows), width)
        values = self._tensors[name][rows].float()
        if name not in self._scales:
            return values
        return values * _spread(self._scales[name][rows].float(), values.shape[1])

    def is_zero(self, name: str) -> bool:
        """Whether a tensor is zero everywhere."""
        if self._factors is not None:
            found = self._factors.get(name)
            return found is None or not _any(found.b) or not _any(found.a)
        # So is a block of int8 where its integers are: the largest of any other is 127.
        return not _any(self._tensors[name])


def _multiplied(
    of: LowRank[torch.Tensor] | None, start: int, size: int, device: torch.device
) -> torch.Tensor:
    """Elements of a product, flat; of None, zeros."""
    if of is None or not size:
        return torch.zeros(size, device=device)
    return torch.cat(list(elements(of, start, size))).to(device)


def _any(tensor: torch.Tensor) -> bool:
    flat = tensor.view(-1)
    return any(bool(flat[start : start + PIECE].any()) for start in range(0, flat.numel(), PIECE))


def _spread(scales: torch.Tensor, width: int) -> torch.Tensor:
    """The scale of each element of some rows, [rows, width], from those of their blocks, [rows, blocks]."""
    return scales.repeat_interleave(BLOCK, dim=1)[:, :width]
