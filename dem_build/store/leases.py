"""Leases: one process at a time runs an action. They save work and never guard correctness.

A lease is a file that names its holder and is touched every ten seconds. A holder on this host is dead when its
process is; one on another host when its file was not touched for five minutes. Should two processes hold one lease
after all, both work in folders of their own and the first to publish wins.
"""

from __future__ import annotations

import json
import os
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from dem_build.errors import LeaseHeldError
from dem_build.store import files

if TYPE_CHECKING:
    from types import TracebackType

    from dem_build.digest import Digest
    from dem_build.store.layout import Layout

__all__ = ["HEARTBEAT_SECONDS", "SILENT_SECONDS", "Holder", "Lease", "Leases"]

HEARTBEAT_SECONDS = 10.0
SILENT_SECONDS = 300.0
_ATTEMPTS = 8


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
        return f"process {self.pid} on {self.host}, since {since}"


class Lease:
    """A lease that this process holds; a thread keeps it alive until `release`."""

    def __init__(self, path: Path, holder: Holder, heartbeat: float) -> None:
        self.holder = holder
        self._path = path
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, args=(heartbeat,), name="dem-lease", daemon=True)
        self._thread.start()

    def _beat(self, seconds: float) -> None:
        while not self._stop.wait(seconds):
            with suppress(OSError):  # a heartbeat that fails is one that is missed
                os.utime(self._file)  # our own file, even if a successor's lies at its name by now

    def release(self) -> None:
        """Give the lease back. A second call does nothing."""
        if self._stop.is_set() or os.getpid() != self.holder.pid:
            return
        self._stop.set()
        self._thread.join()
        os.close(self._file)
        if _read(self._path) == self.holder:
            self._path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Leases:
    """The leases of one store.

    Args:
        layout: Where they lie.
        heartbeat: Seconds between two signs of life.
    """

    def __init__(self, layout: Layout, heartbeat: float = HEARTBEAT_SECONDS) -> None:
        self._layout = layout
        self._heartbeat = heartbeat

    def take(self, key: Digest) -> Lease:
        """Take the lease of `key`; a dead holder's is taken over.

        Raises:
            LeaseHeldError: Another process, or this one, holds it.
            StoreError: The lease cannot be written.
        """
        path, me = self._layout.leases / key, Holder.me()
        temporary = self._layout.temporary()
        with files.writing(path):
            files.write_new(temporary, json.dumps({"dem-lease": 1} | asdict(me), indent=1).encode() + b"\n")
            try:
                self._place(temporary, path, key)
            finally:
                temporary.unlink(missing_ok=True)
            return Lease(path, me, self._heartbeat)

    def _place(self, temporary: Path, path: Path, key: Digest) -> None:
        for _ in range(_ATTEMPTS):
            try:
                os.link(temporary, path)
            except FileExistsError:
                if self._replace(temporary, path, key):
                    return
            else:
                return
        raise LeaseHeldError("others take and return the lease all the time", where=key, hint="try again")

    def _replace(self, temporary: Path, path: Path, key: Digest) -> bool:
        """Put our lease in a dead holder's place; False where the lease was returned meanwhile."""
        with files.exclusively(self._layout.lock):
            holder = self.holder(key)
            if holder is not None:
                what = f"{holder} is at work on this action"
                raise LeaseHeldError(what, where=key, hint="wait for it, or stop it")
            if not path.exists():
                return False
            temporary.rename(path)
            return True

    def holder(self, key: Digest) -> Holder | None:
        """Return who holds the lease of `key`; None where nobody does who is alive."""
        path = self._layout.leases / key
        holder = _read(path)
        return holder if holder is not None and self._alive(holder, path) else None

    def _alive(self, holder: Holder, path: Path) -> bool:
        me = Holder.me()
        if (holder.boot_id, holder.pid_namespace) == (me.boot_id, me.pid_namespace) and _same_host(
            holder, me
        ):
            process = _process(holder.pid)
            return process is not None and process[1] == holder.start_time
        if holder.host == me.host and holder.boot_id != me.boot_id:
            return False  # this host was started anew
        return self._silence(path) < SILENT_SECONDS

    def _silence(self, path: Path) -> float:
        """Return for how many seconds a lease was not touched, by the clock that stamps both files."""
        temporary = self._layout.temporary()
        try:
            touched = path.stat().st_mtime
        except FileNotFoundError:
            return SILENT_SECONDS
        try:
            temporary.touch()
            now = temporary.stat().st_mtime
            temporary.unlink()
        except OSError:  # a read-only store
            now = time.time()
        return now - touched


def _same_host(holder: Holder, me: Holder) -> bool:
    """Return whether pids of the holder mean ours; a boot id says so, a name only where there is none."""
    return bool(me.boot_id) or holder.host == me.host


def _read(path: Path) -> Holder | None:
    """Return the holder that a lease names; None where there is no lease or it names nobody."""
    try:
        document = json.loads(path.read_bytes())
        del document["dem-lease"]
        holder = Holder(**document | {"pid": int(document["pid"]), "start_time": int(document["start_time"])})
        str(holder)  # a time that is none shows here
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError):
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
