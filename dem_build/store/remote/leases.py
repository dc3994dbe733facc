"""Leases between machines that share a remote alone: one of them at a time runs an action. They only save work.

    <namespace>/leases/<key>/<number>     who holds it, and how often that was written

Whoever creates the next number has the lease, as a conditional write has one winner. A holder writes its own anew each
minute; one that stays byte for byte the same for five minutes, by the clock of who looks, is dead, and the next number
is free: no two clocks are compared. That a process of the same host is no more is known at once. A lease is given back
by deleting it, after the record is there. It names the objects that the action takes, which no collection takes away.
A remote that does not answer such a call within seconds is asked for none for a minute: what may be done twice is done.
"""

from __future__ import annotations

import json
import re
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dem_build.digest import DIGEST
from dem_build.errors import RemoteError
from dem_build.json_text import parse_json
from dem_build.store.gc.garbage import WRITING_SECONDS
from dem_build.store.leases import SILENT_SECONDS, Holder, has_died, parse_holder
from dem_build.store.local import DIGESTS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from dem_build.digest import Digest
    from dem_build.store.remote.bucket import Stored
    from dem_build.store.remote.namespace import Namespace

BEAT_SECONDS = 60.0
_VERSION = "dem-lease"
_NUMBER = re.compile(r"[0-9]{1,15}")
_ATTEMPTS = 5
_AT_ONCE = 1.0
"""Seconds within which an error is one of the moment, and the call is tried again."""


@dataclass(frozen=True)
class _Ours:
    """A lease that this process has; its lock is held while it is written or given back."""

    name: str
    holder: Holder
    needs: list[Digest]
    lock: threading.Lock = field(default_factory=threading.Lock)


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
        self._ours: dict[Digest, _Ours] = {}
        self._seen: dict[Digest, tuple[bytes, float]] = {}
        self._unsure: dict[Digest, bytes] = {}
        self._warned = False
        self._asked_from = 0.0
        self._ended = threading.Event()
        self._beats = 0
        self._thread = threading.Thread(
            target=self._beat, args=(beat,), name="dem-remote-leases", daemon=True
        )
        self._thread.start()

    def take(self, key: Digest, needs: Collection[Digest] = ()) -> str | None:
        """Take the lease of a key; who has it, None where it is ours now, or the remote does not tell.

        Args:
            key: Of an action.
            needs: The objects that it takes.
        """
        if key in self._ours:
            return None
        began = time.monotonic()
        try:
            try:
                return self._take(key, sorted(needs))
            except RemoteError:
                if time.monotonic() - began > _AT_ONCE:
                    raise
                return self._take(key, sorted(needs))
        except RemoteError as error:
            self._missed()
            if (told := self._last_told(key)) is not None:
                return told
            if not self._warned:
                self._warned = True
                self._warn(f"{error}; others may do the same work meanwhile")
            return None

    def _last_told(self, key: Digest) -> str | None:
        """Who has a lease while the remote does not tell: who had it, as long as that one may be silent and live."""
        # One slow answer is no reason to begin what somebody has been at for hours.
        held, since = self._seen.get(key, (b"", 0.0))
        if not held or self._namespace.remote.down is not None or time.monotonic() - since >= self._silent:
            return None
        return _told(held)

    @property
    def _asks(self) -> bool:
        """Whether leases can be there, and the remote did not fail to answer just now."""
        remote = self._namespace.remote
        if remote.down is not None or time.monotonic() < self._asked_from:
            return False
        return not remote.candidates and remote.bucket.lively

    def _missed(self) -> None:
        # Each call would wait as long: of a hundred actions, a hundred times.
        self._asked_from = time.monotonic() + BEAT_SECONDS

    def _take(self, key: Digest, needs: list[Digest]) -> str | None:
        if not self._asks:
            return self._last_told(key)
        bucket, me = self._namespace.remote.hurried, Holder.me()
        for _ in range(_ATTEMPTS):
            numbers = self._numbers(key)
            last = max(numbers, default=0)
            held = bucket.get(self._name(key, last)) if last else None
            if last and held is None:
                continue  # given back between the two looks
            if held is not None and held != self._unsure.get(key) and not self._is_silent(key, held):
                return _told(held)
            name, data = self._name(key, last + 1), self._written(me, needs)
            # Else who asks again would wait for itself: the reply to a write that worked may be lost, or come late.
            self._unsure[key] = data
            bucket.create(name, data)
            # Nor is it believed what the server says of the write.
            if bucket.get(name) == data:
                self._ours[key] = _Ours(name, me, needs)
                self._seen.pop(key, None)
                bucket.delete([self._name(key, number) for number in numbers])
                return None
        return "others take and return its lease all the time"

    def release(self, key: Digest) -> None:
        """Give a lease back, once a sign of life on its way has come; of one that is not ours nothing happens."""
        ours = self._ours.get(key)
        if ours is None:
            return
        # Numbers begin anew where a lease was given back: what came later might be written over the next holder's.
        with ours.lock:
            if self._ours.pop(key, None) is not None:
                if time.monotonic() < self._asked_from:
                    return  # it falls silent, and is taken over
                try:
                    self._namespace.remote.hurried.delete([ours.name])
                except RemoteError:
                    self._missed()

    def keys(self) -> frozenset[Digest]:
        """The keys of all leases that are there, of the living and the dead, by one listing; none where it fails."""
        prefix = f"{self._namespace.name}/leases/"
        try:
            if not self._asks:
                return frozenset()
            names = [one.name.removeprefix(prefix) for one in self._namespace.remote.hurried.list(prefix)]
        except RemoteError:
            self._missed()
            return frozenset()
        return frozenset(name.partition("/")[0] for name in names)

    def close(self) -> None:
        """Give back all of them; no more is taken, and nothing is on its way any more."""
        self._ended.set()
        for key in list(self._ours):
            self.release(key)
        self._thread.join()

    def _is_silent(self, key: Digest, held: bytes) -> bool:
        if (holder := _holder(held)) is not None and has_died(holder):
            return True
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
                for key, ours in list(self._ours.items()):
                    # A sign that fails is one that is missed, a full disk's too.
                    with ours.lock, suppress(RemoteError, OSError):
                        if self._ours.get(key) is ours and not self._ended.is_set():
                            file.write_bytes(self._written(ours.holder, ours.needs))
                            self._namespace.remote.hurried.put(ours.name, file)

    def _numbers(self, key: Digest) -> list[int]:
        prefix = self._prefix(key)
        names = [one.name.removeprefix(prefix) for one in self._namespace.remote.hurried.list(prefix)]
        return [int(name) for name in names if _NUMBER.fullmatch(name)]

    def _prefix(self, key: Digest) -> str:
        return f"{self._namespace.name}/leases/{key}/"

    def _name(self, key: Digest, number: int) -> str:
        return f"{self._prefix(key)}{number}"

    def _written(self, holder: Holder, needs: list[Digest]) -> bytes:
        more = {"who": holder.dated, "beat": self._beats, "needs": needs}
        return json.dumps(holder.document(_VERSION) | more).encode()


class Leased(NamedTuple):
    """What the leases of a namespace say to who collects there.

    Attributes:
        keys: Of actions that somebody runs, as far as is known.
        needs: The objects that these take.
        dead: Leases of which nobody gave a sign of life for long.
    """

    keys: frozenset[Digest] = frozenset()
    needs: frozenset[Digest] = frozenset()
    dead: tuple[Stored, ...] = ()

    def after(self, before: Leased) -> Leased:
        """What two looks together say: what one of them saw is kept, and dead is what the later one calls so."""
        return Leased(self.keys | before.keys, self.needs | before.needs, self.dead)


def leased(of: Namespace, now: float) -> Leased:
    """Look at the leases of a namespace. Clocks of server and host are compared: within an hour all are living.

    Raises:
        RemoteError: The remote does not answer.
    """
    bucket = of.remote.bucket
    prefix = f"{of.name}/leases/"
    listed = [(each, each.name.removeprefix(prefix).split("/")) for each in bucket.list(prefix)]
    found = [
        (e, p[0]) for e, p in listed if len(p) == 2 and DIGEST.fullmatch(p[0]) and _NUMBER.fullmatch(p[1])
    ]
    living = [(each, key) for each, key in found if now - each.modified < WRITING_SECONDS]
    # Whatever looks like a digest: anybody may have written it.
    needs = (DIGESTS.findall(bucket.get(each.name) or b"") for each, _ in living)
    return Leased(
        frozenset(key for _, key in living),
        frozenset(name.decode() for names in needs for name in names),
        tuple(each for each, _ in found if now - each.modified >= WRITING_SECONDS),
    )


def _holder(held: bytes) -> Holder | None:
    try:
        document = parse_json(held)
        known = {name: document[name] for name in (_VERSION, *(f.name for f in fields(Holder)))}
    except (ValueError, TypeError, KeyError):
        return None
    return parse_holder(json.dumps(known).encode(), _VERSION)


def _told(held: bytes) -> str:
    """Who has a lease, by what it says; anybody may have written it."""
    try:
        who = parse_json(held)["who"]
    except (ValueError, TypeError, KeyError):
        who = "somebody"
    return f"{who} is at work on this action"
