"""Leases between machines that share a remote alone: one of them at a time runs an action. They only save work.

    <namespace>/leases/<key>/<number>     who holds it, and how often that was written

Whoever creates the next number has the lease, as a conditional write has one winner. A holder writes its own anew each
minute; one that stays byte for byte the same for five minutes, by the clock of who looks, is dead, and the next number
is free: no two clocks are compared. A lease is given back by deleting it, after the record is there.
"""

from __future__ import annotations

import json
import re
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from dem_build.errors import RemoteError
from dem_build.json_text import parse_json
from dem_build.store.leases import SILENT_SECONDS, Holder

if TYPE_CHECKING:
    from collections.abc import Callable

    from dem_build.digest import Digest
    from dem_build.store.remote.namespace import Namespace

__all__ = ["BEAT_SECONDS", "RemoteLeases"]

BEAT_SECONDS = 60.0
_VERSION = "dem-lease"
_NUMBER = re.compile(r"[0-9]{1,15}")
_ATTEMPTS = 5


class RemoteLeases:
    """The leases that this process has in a namespace.

    Args:
        namespace: Where; a remote that is asked by others too, and where creations hold.
        warn: Told once why a lease could not be asked for: the work is done without.
        beat: Seconds between two signs of life.
        silent: Seconds without one after which a holder is dead.
    """

    def __init__(
        self,
        namespace: Namespace,
        warn: Callable[[str], None],
        beat: float = BEAT_SECONDS,
        silent: float = SILENT_SECONDS,
    ) -> None:
        self._namespace = namespace
        self._warn = warn
        self._silent = silent
        self._ours: dict[Digest, tuple[str, Holder]] = {}
        self._seen: dict[Digest, tuple[bytes, float]] = {}
        self._warned = False
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._beats = 0
        threading.Thread(target=self._beat, args=(beat,), name="dem-remote-leases", daemon=True).start()

    def take(self, key: Digest) -> str | None:
        """Take the lease of a key; who has it, None where it is ours now, or the remote does not tell."""
        if key in self._ours:
            return None
        try:
            return self._take(key)
        except RemoteError as error:
            if not self._warned:
                self._warned = True
                self._warn(f"{error}; others may do the same work meanwhile")
            return None

    def _take(self, key: Digest) -> str | None:
        remote = self._namespace.remote
        if remote.down is not None or remote.candidates or not remote.bucket.lively:
            return None  # it holds none
        bucket, me = remote.bucket, Holder.me()
        for _ in range(_ATTEMPTS):
            numbers = self._numbers(key)
            last = max(numbers, default=0)
            held = bucket.get(self._name(key, last)) if last else None
            if last and held is None:
                continue  # given back between the two looks
            if held is not None and not self._is_silent(key, held):
                return _told(held)
            name, data = self._name(key, last + 1), self._written(me)
            bucket.create(name, data)
            # What the server says of the write is not believed: the reply to one that worked may have been lost.
            if bucket.get(name) == data:
                with self._lock:
                    self._ours[key] = (name, me)
                self._seen.pop(key, None)
                bucket.delete([self._name(key, number) for number in numbers])
                return None
        return "others take and return its lease all the time"

    def release(self, key: Digest) -> None:
        """Give a lease back; of one that is not ours nothing happens."""
        with self._lock:
            name, _ = self._ours.pop(key, (None, None))
        if name is not None:
            with suppress(RemoteError):  # it falls silent, and is taken over
                self._namespace.remote.bucket.delete([name])

    def close(self) -> None:
        """Give back all of them; no more is taken."""
        self._ended.set()
        for key in list(self._ours):
            self.release(key)

    def _is_silent(self, key: Digest, held: bytes) -> bool:
        before, since = self._seen.get(key, (b"", 0.0))
        if before != held:
            self._seen[key] = (held, time.monotonic())
            return False
        return time.monotonic() - since >= self._silent

    def _beat(self, seconds: float) -> None:
        with tempfile.TemporaryDirectory(prefix="dem-leases-") as folder:
            file = Path(folder) / "lease"
            while not self._ended.wait(seconds):
                self._beats += 1
                for key, (name, holder) in list(self._ours.items()):
                    # A sign that fails is one that is missed, a full disk's too. One of a lease that was given back
                    # meanwhile brings it back: it goes again.
                    with suppress(RemoteError, OSError):
                        file.write_bytes(self._written(holder))
                        self._namespace.remote.bucket.put(name, file)
                        if key not in self._ours:
                            self._namespace.remote.bucket.delete([name])

    def _numbers(self, key: Digest) -> list[int]:
        prefix = self._prefix(key)
        names = [one.name.removeprefix(prefix) for one in self._namespace.remote.bucket.list(prefix)]
        return [int(name) for name in names if _NUMBER.fullmatch(name)]

    def _prefix(self, key: Digest) -> str:
        return f"{self._namespace.name}/leases/{key}/"

    def _name(self, key: Digest, number: int) -> str:
        return f"{self._prefix(key)}{number}"

    def _written(self, holder: Holder) -> bytes:
        return json.dumps({**holder.document(_VERSION), "who": holder.dated, "beat": self._beats}).encode()


def _told(held: bytes) -> str:
    """Who has a lease, by what it says; anybody may have written it."""
    try:
        who = parse_json(held)["who"]
    except (ValueError, TypeError, KeyError):
        who = "somebody"
    return f"{who} is at work on this action"
