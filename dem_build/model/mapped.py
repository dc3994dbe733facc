"""Tensors of files as torch has them: mapped, not read, in the format in which they are stored."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open

from dem_build.checkpoint.blocks import BLOCK, run_of
from dem_build.checkpoint.delta import Delta
from dem_build.checkpoint.factors import LORA_A, LORA_B, FactoredDelta, LowRank, elements

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from dem_build.checkpoint.reader import Checkpoint

__all__ = ["MappedVector", "mapped"]

CPU = torch.device("cpu")
PIECE = 1 << 18  # elements that are looked at at a time


def mapped(
    files: Collection[Path], names: Collection[str] | None = None, place: torch.device = CPU
) -> dict[str, torch.Tensor]:
    """The tensors of some files.

    Args:
        files: safetensors files.
        names: Which; None for all.
        place: Where they shall be: on the CPU they are mapped, elsewhere copied.
    """
    found: dict[str, torch.Tensor] = {}
    for path in sorted(files):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  # not a dict
                if names is None or name in names:
                    found[name] = file.get_tensor(name).to(place)
    return found


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
            halves = mapped(files, None, place)
            self._factors = {
                n: LowRank(halves[n + LORA_B], halves[n + LORA_A], scale) for n, scale in delta.scales.items()
            }
            return
        beside = delta.scales if isinstance(delta, Delta) else {}
        scales = {name: beside[name].name for name in held if name in beside}
        tensors = mapped(files, held | set(scales.values()), place)
        self._tensors = {name: tensors[name] for name in held}
        self._scales = {name: tensors[scale] for name, scale in scales.items()}

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
