"""Running out of memory, told as a failure that a user can mend.

A GPU's allocator, the CPU's and Python's each raise something else, and PyTorch's for the CPU is known by its words.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch

from dem_build.hardware import room
from dem_build.model.environment import peak_memory
from dem_build.model.load import device, is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dem_build.errors import ActionError

__all__ = ["memory_told", "numbers"]


def numbers() -> str:
    """Return how much memory was in use, and how much there is."""
    used = f"{_size(peak_memory(device()))} in use at most"
    if torch.cuda.is_available():
        return f"{used}, and the GPU has {_size(torch.cuda.mem_get_info()[1])}"
    space = room([])
    return used if space is None else f"{used}, and {space.place} has {_size(space.total)}"


@contextlib.contextmanager
def memory_told(error: type[ActionError], what: str, hint: str) -> Iterator[None]:
    """Raise `error` in place of any sort of running out of memory.

    Args:
        error: The class of error.
        what: What was done, as in "out of memory while computing a loss".
        hint: What to change.

    Raises:
        ActionError: Memory ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as cause:
        if not is_out_of_memory(cause):
            raise
        raise error(f"out of memory {what}: {numbers()}", hint=hint) from cause


def _size(octets: int) -> str:
    return f"{octets / 1e9:,.1f} GB"
