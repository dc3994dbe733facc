"""Who a process is, and whether it still lives: the same for all that it leaves in the store while it runs.

A holder on this host is dead when its process is; one on another host when its file was not touched for five minutes.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dem_build.json_text import parse_json
from dem_build.store import files

if TYPE_CHECKING:
    from dem_build.digest import JSON
    from dem_build.store.layout import Layout

__all__ = ["HEARTBEAT_SECONDS", "SILENT_SECONDS", "Heartbeat", "Holder", "clock", "is_alive", "parse_holder"]

HEARTBEAT_SECONDS = 10.0
SILENT_SECONDS = 300.0


@dataclass(frozen=True)
class Holder:
    """Who holds a lease.

    Attributes:
        host: Its name.
        boot_id: Of the running kernel; empty where the system has none.
        pid_namespace: In which `pid` counts; empty where the system has none.
        pid: The process.
        start_time: When the process started, in the kernel's ticks since boot; 0 where the system does not say.
        nonce: Of this lease alone.
        since: When it was taken, in seconds since 1970 by the holder's clock.
    """

    host: str
    boot_id: str
    pid_namespace: str
    pid: int
    start_time: int
    nonce: str
    since: float

    @classmethod
    def me(cls) -> Holder:
        """Return this process as a new holder."""
        pid = os.getpid()
        process = _process(pid)
        return cls(
            host=os.uname().nodename,
            boot_id=_text(Path("/proc/sys/kernel/random/boot_id")),
            pid_namespace=_pid_namespace(),
            pid=pid,
            start_time=process[1] if process else 0,
            nonce=files.nonce(),
            since=time.time(),
        )

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"process {self.pid} on {self.host} (since {since})"

    def document(self, version: str) -> dict[str, JSON]:
        """Return what is written of it, with the field `version` that says what the file is."""
        return {version: 1} | asdict(self)


class Heartbeat:
    """A thread that touches an open file until it is stopped; the file stays ours whatever lies at its name by then."""

    def __init__(self, descriptor: int, seconds: float) -> None:
        self._file = descriptor
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, args=(seconds,), name="dem-heartbeat", daemon=True)
        self._thread.start()

    def _beat(self, seconds: float) -> None:
        while not self._stop.wait(seconds):
            with suppress(OSError):  # a heartbeat that fails is one that is missed
                os.utime(self._file)

    def stop(self) -> None:
        """End the thread; the file may be closed now."""
        self._stop.set()
        self._thread.join()


def is_alive(holder: Holder, path: Path, layout: Layout) -> bool:
    """Return whether a holder lives; of another host's only the time when it last touched its file is known.

    Args:
        holder: Who it is.
        path: The file that it touches.
        layout: The store that holds the file.
    """
    me = Holder.me()
    if (holder.boot_id, holder.pid_namespace) == (me.boot_id, me.pid_namespace) and _same_host(holder, me):
        process = _process(holder.pid)
        return process is not None and process[1] == holder.start_time
    if holder.host == me.host and holder.boot_id != me.boot_id:
        return False  # this host was started anew
    try:
        touched = path.stat().st_mtime
    except FileNotFoundError:
        return False
    # A time to come as well: a clock was set back since, and who lives touches its file by the clock that is now.
    return abs(clock(layout) - touched) < SILENT_SECONDS


def clock(layout: Layout) -> float:
    """Return the time, in seconds since 1970, by the clock that stamps the store's files."""
    temporary = layout.temporary()
    try:
        temporary.touch()
        now = temporary.stat().st_mtime
        temporary.unlink()
    except OSError:  # a read-only store
        return time.time()
    return now


def _same_host(holder: Holder, me: Holder) -> bool:
    """Return whether pids of the holder mean ours; a boot id says so, a name only where there is none."""
    return bool(me.boot_id) or holder.host == me.host


def parse_holder(data: bytes, version: str) -> Holder | None:
    """Return the holder that a file's bytes name; None where they name nobody.

    Args:
        data: The bytes.
        version: The field that says what the file is.
    """
    try:
        document = parse_json(data)
        del document[version]
        holder = Holder(**document | {"pid": int(document["pid"]), "start_time": int(document["start_time"])})
        str(holder)  # a time that is none shows here
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return None
    return holder


def _process(pid: int) -> tuple[str, int] | None:
    """Return a living process's state and start time (ticks since boot; 0 where the system hides it)."""
    if pid <= 0:
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass  # it lives, and belongs to somebody else
    # The name in parentheses may hold spaces; what follows the last one is fields 3, 4, … of proc(5).
    fields = _text(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    if len(fields) < 20:
        return "", 0
    return None if fields[0] in "ZX" else (fields[0], int(fields[19]))


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - its target is no path
    except OSError:
        return ""


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
