"""What a model runs on: its device, its memory and what running out of it says, the libraries.

It is recorded with results, and never part of a key.
"""

from __future__ import annotations

import contextlib
import ctypes
import platform
import resource
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dem_build.digest import of_json
from dem_build.hardware import cpu_name, gigabytes, room

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel

    from dem_build.errors import ActionError

CPUINFO = Path("/proc/cpuinfo")
LIBC = ctypes.CDLL(None)
RELEASE = "MallocExtension_ReleaseFreeMemory"  # of tcmalloc, where it is loaded
PEAK, RESET = Path("/proc/self/clear_refs"), b"5"  # proc(5)
# A GPU's allocator and Python each have an error of their own; the CPU's allocators are known by their words.
OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "std::bad_alloc", "Cannot allocate memory")


def device() -> torch.device:
    """The device that models run on: the first visible GPU, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    """The GPU's name, or the CPU's architecture."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()


def versions() -> dict[str, str]:
    """The versions of what decides a training's last bits."""
    libraries = {name: version(name) for name in ("torch", "transformers", "accelerate", "numpy")}
    return {"python": platform.python_version(), **libraries}


def ran_on(model: PreTrainedModel) -> dict[str, Any]:
    """What a model ran on: the device, the attention kernel that transformers chose, and the libraries."""
    return {
        "device": device_name(model.device),
        "attn_implementation": str(model.config._attn_implementation),  # noqa: SLF001  it has no other name
        "versions": versions(),
    }


def processor() -> list[str | None]:
    """What this machine's processor is called, and the instructions that it has."""
    return [platform.machine(), _cpuinfo("model name") or platform.processor(), _cpuinfo("flags")]


def _cpuinfo(name: str) -> str | None:
    """The first line of that name that Linux tells of processors; None where there is none."""
    lines = CPUINFO.read_text(encoding="utf-8").splitlines() if CPUINFO.exists() else []
    return next((line for line in lines if line.startswith(name)), None)


def bits_of(model: PreTrainedModel, batch: int) -> str:
    """A hash of all that a loss's last bits depend on beside the model, the rows and our code.

    The order in which a kernel sums is chosen by the library's version, the processor and its instructions, the number
    of threads, the attention kernel and how many rows there are at once. Where all of these are the same, a CPU gives
    the same bits again. A GPU may not even then, since some of its kernels add as their threads come.
    """
    # Libraries choose their kernels by more of a processor than its instructions.
    of = {
        **ran_on(model),
        "processor": _cpuinfo("model name") or platform.processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "batch": batch,
    }
    return of_json(of)


def allocator_name() -> str:
    """Who gives out this process' memory: tcmalloc, glibc, or the system in some way of its own."""
    if hasattr(LIBC, RELEASE):
        return "tcmalloc"
    return "glibc" if platform.libc_ver()[0] == "glibc" else "system"


def release_memory() -> None:
    """Give back to the system what the allocator holds and nobody uses."""
    if hasattr(LIBC, RELEASE):
        getattr(LIBC, RELEASE)()
        return
    # Between tensors of changing sizes glibc keeps gaps: over some hundred steps of a training on a CPU as much again
    # as the training needs.
    if hasattr(LIBC, "malloc_trim"):
        LIBC.malloc_trim(0)


def reset_peak_memory(device: torch.device) -> None:
    """Start counting the peak anew; on a CPU only Linux lets a process do that."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        release_memory()
        with contextlib.suppress(OSError):
            PEAK.write_bytes(RESET)


def peak_memory(device: torch.device) -> int:
    """The most bytes in use since the last reset: of the GPU, on a CPU of the process.

    Where a process' peak cannot be reset, it is since the process started.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, a GPU's or the machine's."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(words in str(error) for words in OUT_OF_MEMORY)


@contextlib.contextmanager
def memory_told(error: type[ActionError], what: str, hint: str) -> Iterator[None]:
    """Raise `error`, which a user can mend, in place of any sort of running out of memory.

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
        raise error(f"out of memory {what}: {memory_numbers()}", hint=hint) from cause


def memory_numbers() -> str:
    """How much memory was in use, and how much there is."""
    used = f"{gigabytes(peak_memory(device()))} in use at most"
    if torch.cuda.is_available():
        return f"{used}, and the GPU has {gigabytes(torch.cuda.mem_get_info()[1])}"
    space = room([])
    return used if space is None else f"{used}, and {space.place} has {gigabytes(space.total)}"
