"""Failpoints without a seam: counts each call that changes the disk, and does something at the n-th.

The interpreter itself says when a file is opened, renamed, linked, removed … (`sys.addaudithook`), before it is done;
only `fsync` it does not tell, so that is wrapped. So every step of publishing, leasing, checkpointing and collecting
is a point, those that are written tomorrow as well, and what users run holds nothing of it.

    install([home], Plan(at=17, journal=path))     in a process that is about to die at its 17th point
    environment([home], Plan(...))                 the variables by which `site/` installs it in `dem` and its workers

The journal has a line for each point, before it, and for each flush and each new name, after it; `power.py` reads
from it what a power cut takes. A name that replaced another is not in it: the cut leaves one or the other.
What libraries write below Python (safetensors, sqlite) is no point; kills at random times meet it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import signal
import sys
import threading
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

VARIABLE = "DEM_TORTURE_FAILPOINTS"
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Event → how many of its arguments are paths, and where the descriptors of the folders they are relative to begin.
EVENTS = {
    "open": (1, 9),
    "os.rename": (2, 2),
    "os.link": (2, 2),
    "os.symlink": (2, 9),
    "os.mkdir": (1, 2),
    "os.remove": (1, 1),
    "os.rmdir": (1, 1),
    "os.chmod": (1, 2),  # as os.mkdir: the mode stands between
    "os.truncate": (1, 9),
}


@dataclass(frozen=True)
class Plan:
    """What is done, and where.

    Attributes:
        at: At which point, counted from 1; 0 never.
        journal: Where each point is written down; "" for nowhere.
        fault: `kill` (this process), `family` (its parent and children too), `parent` (that alone), `full` (the call
            and all that need room after it fail with ENOSPC), `stop` (SIGSTOP).
        process: In which process it is done, by a word of its command line; "" in any.
        named: Which points `at` counts: those whose event and paths, a blank between, match this pattern.
    """

    at: int = 0
    journal: str = ""
    fault: str = "kill"
    process: str = ""
    named: str = ""


def environment(roots: Sequence[Path], plan: Plan) -> dict[str, str]:
    """Return the variables that install the plan in every Python process that gets them."""
    site = os.path.join(os.path.dirname(os.path.abspath(__file__)), "site")  # noqa: PTH100, PTH118, PTH120
    path = os.pathsep.join(p for p in (site, os.environ.get("PYTHONPATH", "")) if p)
    return {"PYTHONPATH": path, VARIABLE: json.dumps({"roots": [str(r) for r in roots], **asdict(plan)})}


def install_from_environment(command: Sequence[str] = sys.orig_argv) -> None:
    """Install what `environment` asked for; a process whose command line is not meant only writes its journal."""
    asked = json.loads(os.environ.get(VARIABLE, "null"))
    if asked is None:
        return
    roots = asked.pop("roots")
    plan = Plan(**asked)
    if not any(plan.process in word for word in command):
        plan = replace(plan, at=0)
    install(roots, plan)


def install(roots: Sequence[str | Path], plan: Plan) -> Failpoints:
    """Count this process's points below `roots`, from now until it ends."""
    points = Failpoints([os.path.join(os.path.abspath(r), "") for r in roots], plan)  # noqa: PTH100, PTH118
    points.wrap()
    sys.addaudithook(points.hear)
    return points


class Failpoints:
    """The points of one process."""

    def __init__(self, roots: Sequence[str], plan: Plan) -> None:
        self.count = 0
        self._named = 0
        self._roots = tuple(roots)
        self._plan = plan
        self._here = threading.local()  # looking up a path must not be heard itself
        self._full = False
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._journal = os.open(plan.journal, flags, 0o600) if plan.journal else -1

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Take an event of the interpreter; a point where it changes the disk below our roots."""
        if event not in EVENTS or getattr(self._here, "busy", False):
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & WRITES):
            return
        count, folders = EVENTS[event]
        self._here.busy = True
        try:
            paths = [_path(arguments, i, folders + i) for i in range(count)]
            if any(p.startswith(self._roots) for p in paths):
                self._point(event, paths)
        finally:
            self._here.busy = False

    def wrap(self) -> None:
        """Wrap the calls whose success the journal must know; fsync is a point as well."""
        os.fsync = self._flushing(os.fsync)
        for name in ("rename", "replace", "link", "mkdir"):
            setattr(os, name, self._naming(name, getattr(os, name)))

    def _flushing(self, real: Callable[[int], None]) -> Callable[[int], None]:
        def fsync(descriptor: int) -> None:
            path = _name(descriptor)
            ours = os.path.join(path, "").startswith(self._roots)  # noqa: PTH118
            if ours:
                self._here.busy = True
                try:
                    self._point("fsync", [path])
                finally:
                    self._here.busy = False
            real(descriptor)
            if ours:
                stat = os.fstat(descriptor)
                self._write("done", "fsync", (path, stat.st_ino, stat.st_size, stat.st_mtime_ns))

        return fsync

    def _naming(self, name: str, real: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Any, **keywords: Any) -> None:
            paths = [os.path.abspath(a) for a in arguments if not isinstance(a, int)]  # noqa: PTH100
            replaced = os.path.lexists(paths[-1])
            real(*arguments, **keywords)
            if not replaced and paths[-1].startswith(self._roots):
                self._write("done", "rename" if name == "replace" else name, tuple(paths))

        return call

    def _point(self, event: str, paths: list[str]) -> None:
        self.count += 1
        named = re.search(self._plan.named, " ".join((event, *paths))) is not None
        self._named += named
        self._write("point", event, tuple(paths))
        if self._full and event in ("open", "fsync", "os.mkdir"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), paths[0])
        if named and self._named == self._plan.at:
            self._strike(paths)

    def _strike(self, paths: list[str]) -> None:
        fault = self._plan.fault
        if fault == "full":
            self._full = True
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), paths[0])
        if fault in ("family", "parent"):
            _kill_others(children=fault == "family")
        if fault != "parent":
            os.kill(os.getpid(), signal.SIGSTOP if fault == "stop" else signal.SIGKILL)

    def _write(self, what: str, name: str, told: tuple[Any, ...]) -> None:
        if self._journal >= 0:
            line = json.dumps([what, self.count, name, *told, threading.get_native_id()])
            os.write(self._journal, line.encode() + b"\n")


def _kill_others(*, children: bool) -> None:
    victims = [os.getppid()]
    if children:
        with contextlib.suppress(OSError), open(f"/proc/self/task/{os.getpid()}/children") as file:  # noqa: PTH123
            victims += [int(word) for word in file.read().split()]
    for victim in victims:
        with contextlib.suppress(OSError):
            os.kill(victim, signal.SIGKILL)


def _path(arguments: tuple[Any, ...], index: int, folder: int) -> str:
    """Return the absolute path of an argument, which may be a descriptor, or relative to that of a folder."""
    path = arguments[index]
    if isinstance(path, int):
        return _name(path)
    within = arguments[folder] if folder < len(arguments) else -1
    base = _name(within) if isinstance(within, int) and within >= 0 else os.getcwd()  # noqa: PTH109
    return os.path.normpath(os.path.join(base, os.fsdecode(path)))  # noqa: PTH118


def _name(descriptor: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115
    except OSError:
        return ""
