"""Leases: one process at a time runs an action. They save work and never guard correctness.

A lease is a file that names its holder (`holders`) and is touched every ten seconds. Should two processes hold one
lease after all, both work in folders of their own and the first to publish wins.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Self

from dem_build.errors import LeaseHeldError
from dem_build.store import files
from dem_build.store.holders import HEARTBEAT_SECONDS, Heartbeat, Holder, is_alive, parse_holder

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from dem_build.digest import Digest
    from dem_build.store.layout import Layout

__all__ = ["Lease", "Leases"]

_VERSION = "dem-lease"
_ATTEMPTS = 8


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
                what = f"{holder} is at work on this action"
                raise LeaseHeldError(what, where=key, hint="wait for it, or stop it")
            if not path.exists():
                return False
            if path.is_dir():
                self._layout.set_aside(path, "lease")
            temporary.rename(path)
            return True

    def holder(self, key: Digest) -> Holder | None:
        """Return who holds the lease of `key`; None where nobody does who is alive."""
        path = self._layout.leases / key
        holder = _read(path)
        return holder if holder is not None and is_alive(holder, path, self._layout) else None


def _read(path: Path) -> Holder | None:
    """Return the holder that a lease names; None where there is no lease or it names nobody."""
    try:
        return parse_holder(files.read_bytes(path), _VERSION)
    except OSError:
        return None
