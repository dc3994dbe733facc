"""What actions run on: sets of GPUs where there are any, else shares of the CPU. One action runs on each at a time."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dem_build.errors import UsageError
from dem_build.hardware import MAPPED, allocator, cpus, gpus

if TYPE_CHECKING:
    from dem_build.machine import Machine

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

# Where threads that wait spin, and another process takes a core, each of the many short parallel loops of a training
# waits out a time slice: measured on two busy cores, ten times slower.
SLEEPING = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Threads that wait sleep."""

_NEVER = str(1 << 62)  # bytes: tcmalloc prints a line about each larger block


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
            **SLEEPING,
            **{name: os.environ.get(name, value) for name, value in MEMORY.items()},
        }

    def allocation(self) -> dict[str, str]:
        """The variables that give a worker of this machine an allocator that suits trainings on a CPU, where one is.

        What a user preloads stays, and so does a `LD_PRELOAD` that is empty.
        """
        # glibc maps each tensor of a few megabytes anew, and a fifth of a CPU's time goes into pages of zeros for them.
        # What an allocator gives out has no part in what is computed.
        if self.gpus or "LD_PRELOAD" in os.environ or (found := allocator()) is None:
            return {}
        return {"LD_PRELOAD": str(found), "TCMALLOC_LARGE_ALLOC_REPORT_THRESHOLD": _NEVER}


def slots(machine: Machine) -> list[Slot]:
    """Return this machine's slots.

    Args:
        machine: How many GPUs an action uses, and how many run at once.

    Raises:
        UsageError: The machine has fewer GPUs than one action is to use, or has some and is to use processes.
    """
    # Where jobs run what trains, an action of this machine uses one at most.
    sets = _gpu_sets(gpus(), machine) if machine.engine == "local" else [(name,) for name in gpus()]
    count = machine.jobs or max(1, len(sets))
    count = min(count, len(sets)) if sets else count
    threads = max(1, cpus() // count)
    return [Slot(sets[i] if sets else (), threads) for i in range(count)]


def known_slots(machine: Machine) -> list[Slot]:
    """This machine's slots; none where a build says what is wrong with them."""
    with suppress(UsageError):
        return slots(machine)
    return []


def _gpu_sets(gpus: list[str], machine: Machine) -> list[tuple[str, ...]]:
    """Whole sets of GPUs: of those that are left over, no action has any use."""
    size = machine.gpus_per_action
    if gpus and machine.processes_per_action > 1:
        what = f"processes_per_action = {machine.processes_per_action} is for a machine without GPUs, and here are some"
        raise UsageError(what, hint="say gpus_per_action: a training has a process for each GPU")
    if 0 < len(gpus) < size:
        hint = "lower gpus_per_action in the machine file, or build where there are as many"
        raise UsageError(f"gpus_per_action = {size}, and this machine has {len(gpus)}", hint=hint)
    return [tuple(gpus[i : i + size]) for i in range(0, len(gpus) - size + 1, size)]
