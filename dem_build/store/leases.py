"""Leases: one process at a time runs an action. They save work and never guard correctness.

A lease is a file that names its holder and is touched every ten seconds. A holder on this host is dead when its process
is; one on another host when its file was not touched for five minutes. Should two processes hold one lease after all,
both work in folders of their own and the first to publish wins.

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
from dem_build.json_text import parse_json
from dem_build.store import files

if TYPE_CHECKING:
    from types import TracebackType

    from dem_build.digest import JSON, Digest
    from dem_build.store.local import CacheLayout

HEARTBEAT_SECONDS = 10.0
SILENT_SECONDS = 300.0
_VERSION = "dem-lease"
_ATTEMPTS = 8


@dataclass(frozen=True)
class Holder:
    """Who holds a lease.

    Attributes:
        boot_id: Of the running kernel; empty where the system has none.
        pid_namespace: In which `pid` counts; empty where the system has none.
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
        """This process as a new holder."""
        pid = os.getpid()
        try:
            namespace = os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - its target is no path
        except OSError:
            namespace = ""
        return cls(
            host=os.uname().nodename,
            boot_id=_text(Path("/proc/sys/kernel/random/boot_id")),
            pid_namespace=namespace,
            pid=pid,
            start_time=_start_time(pid) or 0,
            nonce=files.nonce(),
            since=time.time(),
        )

    def __str__(self) -> str:
        today = time.localtime(self.since)[:3] == time.localtime()[:3]
        return self.dated if not today else self._told("%H:%M:%S")

    @property
    def dated(self) -> str:
        """Who it is, for whoever reads that on another day."""
        return self._told("%Y-%m-%d %H:%M:%S")

    def _told(self, form: str) -> str:
        return f"process {self.pid} on {self.host} (since {time.strftime(form, time.localtime(self.since))})"

    def document(self, version: str) -> dict[str, JSON]:
        """What is written of it, with the field `version` that says what the file is."""
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


def is_alive(holder: Holder, path: Path, layout: CacheLayout) -> bool:
    """Whether a holder lives; of another host's only the time when it last touched its file is known."""
    me = Holder.me()
    # Whether its pid means ours: a boot id says so, a name only where there is none.
    same_host = bool(me.boot_id) or holder.host == me.host
    if same_host and (holder.boot_id, holder.pid_namespace) == (me.boot_id, me.pid_namespace):
        began = _start_time(holder.pid)
        if began != 0 or holder.start_time != 0:
            return began == holder.start_time
        # Nobody says when processes start, as on macOS: by now the pid may be another's, who touches no file of ours.
    elif holder.host == me.host and holder.boot_id != me.boot_id:
        return False  # this host was started anew
    try:
        touched = path.stat().st_mtime
    except FileNotFoundError:
        return False
    # A time to come as well: a clock was set back since, and who lives touches its file by the clock that is now.
    return abs(clock(layout) - touched) < SILENT_SECONDS


def has_died(holder: Holder) -> bool:
    """Whether a holder was a process of this host and pid namespace that is no more; of all others nothing is known."""
    me = Holder.me()
    here = bool(me.boot_id) and (holder.boot_id, holder.pid_namespace) == (me.boot_id, me.pid_namespace)
    return here and _start_time(holder.pid) != holder.start_time


def clock(layout: CacheLayout) -> float:
    """The time, in seconds since 1970, by the clock that stamps the store's files."""
    temporary = layout.temporary()
    try:
        temporary.touch()
        now = temporary.stat().st_mtime
        temporary.unlink()
    except OSError:  # a read-only store
        return time.time()
    return now


def parse_holder(data: bytes, version: str) -> Holder | None:
    """The holder that a file's bytes name; None where they name nobody.

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


def _start_time(pid: int) -> int | None:
    """When a living process started, in the kernel's ticks since boot; 0 where the system hides it."""
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
        return 0
    return None if fields[0] in "ZX" else int(fields[19])  # a zombie lives no more


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


class Lease:
    """A lease that this process holds; a thread keeps it alive until `release`.

    Args:
        path: Where it lies.
        holder: This process.
        file: The open file, our own even if a successor's lies at its name by now.
        heartbeat: Seconds between two signs of life.
    """

    def __init__(self, path: Path, holder: Holder, file: int, heartbeat: float) -> None:
        self.holder = holder
        self._path = path
        self._file = file
        self._heartbeat: Heartbeat | None = Heartbeat(file, heartbeat)

    def release(self) -> None:
        """Give the lease back. A second call does nothing."""
        if self._heartbeat is None or os.getpid() != self.holder.pid:
            return
        self._heartbeat.stop()
        self._heartbeat = None
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

    def __init__(self, layout: CacheLayout, heartbeat: float = HEARTBEAT_SECONDS) -> None:
        self._layout = layout
        self._heartbeat = heartbeat

    def take(self, key: Digest) -> Lease:
        """Take the lease of `key`; a dead holder's is taken over.

        Raises:
            LeaseHeldError: Another process, or this one, holds it.
            StoreError: The lease cannot be written.
        """
        if (holder := self.holder(key)) is not None:  # before a file is written for nothing
            raise _held(holder, key)
        path, me = self._layout.leases / key, Holder.me()
        temporary = files.beside(path)
        with files.writing(path):
            files.write_new(temporary, json.dumps(me.document(_VERSION), indent=1).encode() + b"\n")
            # Opened before it has its name: there, another process may take it for a dead one's at once.
            file = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
            try:
                self._place(temporary, path, key)
            except BaseException:
                os.close(file)
                raise
            finally:
                temporary.unlink(missing_ok=True)
            return Lease(path, me, file, self._heartbeat)

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
                raise _held(holder, key)
            if not path.exists():
                return False
            if path.is_dir():  # which `rename` does not replace
                self._layout.set_aside(path, "lease")
            temporary.rename(path)
            return True

    def holder(self, key: Digest) -> Holder | None:
        """Who holds the lease of `key`; None where nobody does who is alive."""
        path = self._layout.leases / key
        holder = _read(path)
        return holder if holder is not None and is_alive(holder, path, self._layout) else None

    def keys(self) -> frozenset[Digest]:
        """The keys of all leases that are there, of the living and the dead: one look, however many there are."""
        try:
            return frozenset(path.name for path in self._layout.leases.iterdir())
        except OSError:
            return frozenset()


def _held(holder: Holder, key: Digest) -> LeaseHeldError:
    return LeaseHeldError(f"{holder} is at work on this action", where=key, hint="wait for it, or stop it")


def _read(path: Path) -> Holder | None:
    """The holder that a lease names; None where there is no lease or it names nobody."""
    try:
        return parse_holder(files.read_bytes(path), _VERSION)
    except OSError:
        return None
