"""What a model ran on: recorded with results, never part of a key."""

from __future__ import annotations

import ctypes
import platform
import resource
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dem_build.digest import of_json
from dem_build.hardware import cpu_name

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = [
    "bits_of",
    "device_name",
    "peak_memory",
    "ran_on",
    "release_memory",
    "reset_peak_memory",
    "versions",
]

CPUINFO = Path("/proc/cpuinfo")
LIBC = ctypes.CDLL(None)
PEAK, RESET = Path("/proc/self/clear_refs"), b"5"  # proc(5)


def ran_on(model: PreTrainedModel) -> dict[str, Any]:
    """Return what a model ran on: the device, the attention kernel that transformers chose, and the libraries."""
    return {
        "device": device_name(model.device),
        "attn_implementation": str(model.config._attn_implementation),  # noqa: SLF001  it has no other name
        "versions": versions(),
    }


def bits_of(model: PreTrainedModel, batch: int) -> str:
    """Return a hash of all that a loss's last bits depend on beside the model, the rows and our code.

    The order in which a kernel sums is chosen by the library's version, the processor and its instructions, the number
    of threads, the attention kernel and how many rows there are at once. Where all of these are the same, a CPU gives
    the same bits again. A GPU may not even then, since some of its kernels add as their threads come.

    Args:
        model: What is measured, on its device.
        batch: Most rows at once.
    """
    of = {
        **ran_on(model),
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "batch": batch,
    }
    return of_json(of)


def _processor() -> str:
    """Return the processor's model: libraries choose their kernels by more of it than its instructions."""
    if CPUINFO.exists():
        named = (
            line for line in CPUINFO.read_text(encoding="utf-8").splitlines() if line.startswith("model name")
        )
        return next(named, platform.processor())
    return platform.processor()


def versions() -> dict[str, str]:
    """Return the versions of what decides a training's last bits."""
    libraries = {name: version(name) for name in ("torch", "transformers", "accelerate", "numpy")}
    return {"python": platform.python_version(), **libraries}


def device_name(device: torch.device) -> str:
    """Return the GPU's name, or the CPU's architecture."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()


def release_memory() -> None:
    """Give back to the system what the C library holds and nobody uses.

    Between tensors of changing sizes glibc keeps gaps: over some hundred steps of a training on a CPU as much again as
    the training needs.
    """
    if hasattr(LIBC, "malloc_trim"):
        LIBC.malloc_trim(0)


def reset_peak_memory(device: torch.device) -> None:
    """Start counting the peak anew; on a CPU only Linux lets a process do that."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        release_memory()
        with suppress(OSError):
            PEAK.write_bytes(RESET)


def peak_memory(device: torch.device) -> int:
    """Return the most bytes in use since the last reset: of the GPU, on a CPU of the process.

    Where a process' peak cannot be reset, it is since the process started.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
