"""What this machine runs on, and how much memory that has: a GPU where there is one, else the CPU. Torch-free."""

from __future__ import annotations

import functools
import os
import platform
import re
import resource
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dem_build.errors import UsageError

MAPPED = 2 << 20
"""Bytes from which on a worker's C library makes what it is asked for a mapping of its own: a large page."""
LIBRARIES = Path("/etc/ld.so.cache")
"""What the dynamic linker knows of libraries; their paths lie in it as they are."""
_TCMALLOC = re.compile(rb"/[^\0 :]+/libtcmalloc(?:_minimal)?\.so\.4(?=\0)")
_ELF = slice(4, 20)  # of a file of ELF: word size, order of bytes, ABI, sort of file and processor
QUERY = ("nvidia-smi", "--query-gpu=memory.total,memory.free", "--format=csv,noheader,nounits")
QUERY_SECONDS = 10.0
DESCRIPTORS = 2
"""Of each file that an action takes: one that is read and one that Python's `mmap` keeps while it is mapped."""
OTHERS = 128
"""Files that a process has open beside: libraries, pipes, devices, what it writes."""


@dataclass(frozen=True)
class Room:
    """The memory that one training can have.

    Attributes:
        total: Bytes in all: what needs more can never run here.
        free: Bytes that nobody uses now; None where that is not known.
    """

    place: str
    total: int
    free: int | None
    is_gpu: bool


def room(devices: list[str] | None = None) -> Room | None:
    """The memory of the largest GPU, or of this machine where there is none; None where it cannot be told.

    Args:
        devices: The GPUs that may be used; None finds them.
    """
    visible = gpus() if devices is None else devices
    return _gpu_room(visible) if visible else _process_room()


def refuse_inputs(name: str, files: int) -> None:
    """Refuse an action that takes more files than the system lets a process have open, whatever it may ask for.

    Raises:
        UsageError: It does.
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and (needed := _descriptors(files)) > hard:
        what = f"takes {files} files, for which a process needs {needed} open ones, and {hard} are the limit here"
        raise UsageError(what, where=name, hint="raise the hard limit (`ulimit -Hn`; LimitNOFILE of systemd)")


def let_open(name: str, files: int) -> None:
    """Let this process have the files open that an action takes, all at once.

    Raises:
        UsageError: The system says that it does not.
    """
    refuse_inputs(name, files)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # No more than that: `select`, which a library may use, takes no file whose number is 1024 or more.
    if soft != resource.RLIM_INFINITY and (needed := _descriptors(files)) > soft:
        with suppress(
            ValueError, OSError
        ):  # a system that gives less than it says shows that where a file is opened
            resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _descriptors(files: int) -> int:
    return DESCRIPTORS * files + OTHERS


def gigabytes(octets: float) -> str:
    """Bytes of memory, for a message."""
    return f"{octets / 1e9:,.1f} GB"


def allocator() -> Path | None:
    """Where tcmalloc lies, which keeps large blocks for who asks next; None where none is for this Python."""
    with suppress(OSError):
        ours = _built_for(Path(sys.executable))
        # The small one first: the other brings a profiler along.
        for name in sorted(_TCMALLOC.findall(LIBRARIES.read_bytes()), key=len, reverse=True):
            with suppress(OSError):
                if _built_for(found := Path(os.fsdecode(name))) == ours and _starts_with(found):
                    return found
    return None


@functools.cache
def _starts_with(library: Path) -> bool:
    """Whether this Python starts with a library: where what it needs is not found, nothing would."""
    # A Python may bring a C++ library of its own, as conda's and Nix' do, and not the one that this was built for.
    call = [sys.executable, "-I", "-S", "-c", ""]
    environment = {**os.environ, "LD_PRELOAD": str(library)}
    try:
        done = subprocess.run(call, env=environment, capture_output=True, timeout=QUERY_SECONDS, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0 and not done.stderr  # which says what was left out


def _built_for(path: Path) -> bytes:
    """For what a program or a library was built: word size, order of bytes and processor, as ELF says it."""
    with path.open("rb") as file:
        head = file.read(_ELF.stop)[_ELF]
    return head[:2] + head[-2:]


def cpu_name() -> str:
    """What records call a CPU as a device."""
    return f"cpu ({platform.machine()})"


def cpus() -> int:
    """How many CPUs this process may use."""
    # Not every system that has workers has affinities.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> list[str]:
    """The GPUs that this process may use, found without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    devices = Path("/proc/driver/nvidia/gpus")
    return [str(i) for i in range(len(list(devices.iterdir())))] if devices.is_dir() else []


def _gpu_room(devices: list[str]) -> Room | None:
    try:
        said = subprocess.run(  # noqa: S603  fixed words, and names of devices
            [*QUERY, "-i", ",".join(devices)],
            capture_output=True,
            text=True,
            timeout=QUERY_SECONDS,
            check=True,
        ).stdout
        found = [tuple(int(number) << 20 for number in line.split(",")) for line in said.splitlines()]
        total, free = max(found)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return Room("the GPU", total, free, is_gpu=True)


def _process_room() -> Room | None:
    known = _meminfo()
    physical = known.get("MemTotal") or _sysconf()
    if physical is None:
        return None
    swap = known.get("SwapTotal", 0)
    space, _ = resource.getrlimit(resource.RLIMIT_AS)
    limits = _cgroup_limits()
    total = min([physical, *limits]) + swap
    free = (
        min([known["MemAvailable"], *limits]) + known.get("SwapFree", 0) if "MemAvailable" in known else None
    )
    if space != resource.RLIM_INFINITY:
        total, free = min(total, space), None if free is None else min(free, space)
    return Room("this machine", total, free, is_gpu=False)


def _meminfo() -> dict[str, int]:
    """Linux' counters, in bytes; empty elsewhere."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return {}
    pairs = (line.split()[:2] for line in lines)
    return {name.rstrip(":"): int(number) * 1024 for name, number in pairs}


def _sysconf() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None


def _cgroup_limits() -> list[int]:
    """The limits of this process's control groups and of those above them."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found: list[int] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = Path("/sys/fs/cgroup") / ("memory" if controllers else "")
        here = top / path.lstrip("/")
        found += [n for folder in (here, *here.parents) for n in _limits(folder)]
    return found


def _limits(folder: Path) -> list[int]:
    found = []
    for name in ("memory.max", "memory.limit_in_bytes"):
        try:
            found.append(int((folder / name).read_text(encoding="ascii")))
        except (OSError, ValueError):
            continue  # another version's name, or "max": no limit
    return found
