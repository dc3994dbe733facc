"""What actions run on: sets of GPUs where there are any, else shares of the CPU."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dem_build.errors import UsageError
from dem_build.hardware import MAPPED, gpus

if TYPE_CHECKING:
    from dem_build.machine import Machine

__all__ = ["Slot", "slots"]

MEMORY = {
    # Large pages: a training asks for its activations anew in each step, and a fifth of a CPU's time went into handing
    # out small ones. What fills a large page goes back to the system when it is freed, and leaves no gap between
    # gradients and states that stay. A C library that does not know the words passes them over.
    "GLIBC_TUNABLES": f"glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold={MAPPED}",
    # Code made for each shape that was met, half a megabyte each, of which oneDNN and PyTorch's layer over it keep
    # 1,024, each by itself: bounding one of the two frees half. A pass of one shape makes some twenty.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",
    "LRU_CACHE_CAPACITY": "64",
}
"""How a worker's libraries treat memory, unless the user says otherwise."""


@dataclass(frozen=True)
class Slot:
    """A place for one action at a time: the GPUs it sees (none: the CPU) and the CPU threads it may use."""

    gpus: tuple[str, ...]
    threads: int

    def environment(self) -> dict[str, str]:
        """The variables that keep a worker to its slot."""
        count = str(self.threads)
        return {
            "CUDA_VISIBLE_DEVICES": ",".join(self.gpus),
            "OMP_NUM_THREADS": count,
            "MKL_NUM_THREADS": count,
            "RAYON_NUM_THREADS": count,  # of tokenizers
            # Threads that wait sleep. Where they spin, and another process takes a core, each of the many short
            # parallel loops of a training waits out a time slice: measured on two busy cores, ten times slower.
            "OMP_WAIT_POLICY": "PASSIVE",
            **{name: os.environ.get(name, value) for name, value in MEMORY.items()},
        }


def slots(machine: Machine) -> list[Slot]:
    """Return this machine's slots.

    Args:
        machine: How many GPUs an action uses, and how many run at once.

    Raises:
        UsageError: The machine has fewer GPUs than one action is to use.
    """
    sets = _gpu_sets(gpus(), machine.gpus_per_action)
    count = machine.jobs or max(1, len(sets))
    count = min(count, len(sets)) if sets else count
    threads = max(1, _cpus() // count)
    return [Slot(sets[i] if sets else (), threads) for i in range(count)]


def _cpus() -> int:
    """How many CPUs this process may use."""
    # Not every system that has workers has affinities.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _gpu_sets(gpus: list[str], size: int) -> list[tuple[str, ...]]:
    if gpus and size > 1:
        hint = "training over several GPUs is not in this version of dem; several vectors train side by side"
        raise UsageError(f"gpus_per_action = {size} is not possible yet", hint=hint)
    return [tuple(gpus[i : i + size]) for i in range(0, len(gpus), size)]
