"""A vector's tensors as torch has them, some elements at a time and in float32, however the vector is stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from safetensors import safe_open

from dem_build.checkpoint.factors import LORA_A, LORA_B, FactoredDelta, LowRank, elements

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path

    from dem_build.checkpoint.reader import Checkpoint

__all__ = ["CPU", "MappedVector", "mapped"]

CPU = torch.device("cpu")
PIECE = 1 << 18  # elements: what is at work stays in a core's cache


class MappedVector:
    """The tensors of a vector; those of one of low rank are multiplied as they are asked for.

    Args:
        delta: As `open_delta` returns it.
        names: Those that are asked for; None is all.
        place: Where they are kept in their stored type: on the CPU they are mapped, and not read.
    """

    def __init__(
        self, delta: Checkpoint, names: Collection[str] | None = None, place: torch.device = CPU
    ) -> None:
        files = {tensor.path for tensor in delta.tensors.values()}
        self._tensors = delta.tensors
        self._place = place
        self._factors: dict[str, LowRank[torch.Tensor]] | None = None
        if isinstance(delta, FactoredDelta):
            stored = mapped(files, None, place)
            self._factors = {
                n: LowRank(stored[n + LORA_B], stored[n + LORA_A], s) for n, s in delta.scales.items()
            }
        else:
            self._stored = mapped(files, names, place)

    def part(self, name: str, start: int, stop: int, device: torch.device = CPU) -> torch.Tensor:
        """Some elements of a tensor, in one dimension, on a device; none beyond its end."""
        size = min(stop, self._tensors[name].size) - start
        if self._factors is None:
            return self._stored[name].view(-1)[start:stop].to(device, torch.float32)
        if (found := self._factors.get(name)) is None or not size:
            return torch.zeros(size, device=device)
        return torch.cat(list(elements(found, start, size))).to(device)

    def rows(self, name: str, rows: torch.Tensor) -> torch.Tensor:
        """Some rows of a matrix, [len(rows), columns]."""
        shape = (len(rows), self._tensors[name].shape[-1])
        if self._factors is None:
            return self._stored[name].view(self._tensors[name].shape)[rows].float()
        if (found := self._factors.get(name)) is None or not len(rows):
            return torch.zeros(shape, device=self._place)
        taken = LowRank(found.b[rows], found.a, found.scale)
        return torch.cat(list(elements(taken, 0, shape[0] * shape[1]))).view(shape)

    def is_zero(self, name: str) -> bool:
        """Whether a tensor is zero everywhere."""
        if self._factors is None:
            return _is_zero(self._stored[name])
        found = self._factors.get(name)
        return found is None or _is_zero(found.b) or _is_zero(found.a)


def mapped(
    files: Iterable[Path], names: Collection[str] | None = None, place: torch.device = CPU
) -> dict[str, torch.Tensor]:
    """Tensors of files in their stored type and shape; on the CPU they are mapped, not read.

    Args:
        files: Of safetensors.
        names: Those that are wanted; None is all.
        place: Where to.
    """
    found: dict[str, torch.Tensor] = {}
    for path in sorted(files):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  # not a dict
                if names is None or name in names:
                    found[name] = file.get_tensor(name).to(place)
    return found


def _is_zero(tensor: torch.Tensor) -> bool:
    flat = tensor.reshape(-1)
    return not any(bool(flat[start : start + PIECE].any()) for start in range(0, flat.numel(), PIECE))
