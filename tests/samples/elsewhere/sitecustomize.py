"""Makes Linux look like macOS to `dem`, from a process' start on: for a `PYTHONPATH` of this folder and the one above.

What Linux alone has is taken from Python's modules, for all libraries; processes are spawned where nobody says how.
`dem` itself is told another platform's name, finds neither /proc nor /sys, and is refused what it asks of a device.
What libraries were compiled for, and what they read themselves, stays.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import multiprocessing
import os
import resource
import select
import signal
import socket
import sys
import time
import types

from linux_alone import LINUX_ALONE

PASSED = {"contextlib", "genericpath", "os", "pathlib", "posixpath", "shutil"}
"""Modules that open a file for whoever called them."""


def is_asked_by_dem() -> bool:
    frame = sys._getframe(2)
    while frame.f_back and frame.f_globals["__name__"].partition(".")[0] in PASSED | {__name__}:
        frame = frame.f_back
    return frame.f_globals["__name__"].startswith("dem_build")


def refuse(path: object) -> None:
    if isinstance(path, str | bytes | os.PathLike):
        name = os.fsdecode(path)
        if f"{name}/".startswith(("/proc/", "/sys/")) and is_asked_by_dem():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)


def refuse_opening(event: str, arguments: tuple[object, ...]) -> None:
    if event in {"open", "os.listdir", "os.scandir"}:
        refuse(arguments[0])
    if event == "fcntl.ioctl":
        raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))


class Darwin(types.ModuleType):
    """`sys`, and what it calls the platform when `dem` asks."""

    def __getattribute__(self, name: str) -> object:
        return "darwin" if name == "platform" and is_asked_by_dem() else getattr(sys, name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(sys, name, value)


for module in (fcntl, mmap, os, resource, select, signal, socket, time):
    for taken in LINUX_ALONE:
        if hasattr(module, taken):
            delattr(module, taken)
for asking in ("stat", "lstat", "readlink"):  # of which no hook is told

    def ask(path: object, *more: object, real: object = getattr(os, asking), **options: object) -> object:
        refuse(path)
        return real(path, *more, **options)  # type: ignore[operator]

    setattr(os, asking, ask)
multiprocessing.set_start_method("spawn")
sys.addaudithook(refuse_opening)
sys.modules["sys"] = Darwin("sys")
