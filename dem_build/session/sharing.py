"""What a call has to do with stores that others share: which it reads, what it pushes, and what it says of them."""

from __future__ import annotations

import shlex
import time
import warnings
from collections import Counter
from typing import TYPE_CHECKING, Protocol

from dem_build.engine.outcome import Done
from dem_build.errors import UsageError
from dem_build.report.quantities import size
from dem_build.report.text import joined
from dem_build.session.relay import Relay
from dem_build.watch.watch import disavow
from dem_build.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dem_build.digest import JSON, Digest
    from dem_build.engine.outcome import Listener, Result
    from dem_build.machine import Remote
    from dem_build.store import Store
    from dem_build.store.local import CacheLayout
    from dem_build.store.remote.bucket import Bucket
    from dem_build.store.remote.leases import RemoteLeases
    from dem_build.store.remote.namespace import Namespace
    from dem_build.store.remote.push import Pusher
    from dem_build.store.remote.reader import RemoteReader

QUIET_SECONDS = 2.0
SPOKEN_SECONDS = 30.0


class Voice(Protocol):
    """Says what is not an error, of texts that a stranger may have written."""

    def warn(self, text: str) -> None:
        """Say what may be wrong."""

    def tell(self, text: str) -> None:
        """Say what goes on."""


class Warned:
    """The voice of a call that shows nothing: what may be wrong is a warning of Python's."""

    def warn(self, text: str) -> None:
        """Warn."""
        warnings.warn(text, stacklevel=2)

    def tell(self, text: str) -> None:
        """Say nothing."""


class Sharing:
    """The remotes of one call.

    Args:
        remotes: Which there are.
        voice: Who warns, and says what is fetched and pushed.
        required: One that does not answer is an error.

    Attributes:
        reads: Namespaces to look in, the first one first.
        writes: Namespaces to push to.
    """

    def __init__(self, remotes: Sequence[Remote], voice: Voice, *, required: bool = False) -> None:
        self.voice = voice
        self.required = required
        self.reads: tuple[Namespace, ...] = ()
        self.writes: tuple[Namespace, ...] = ()
        if remotes:
            from dem_build.store.remote.namespace import Connection, Namespace  # noqa: PLC0415  most have none

            opened = [
                (remote, Connection(remote.url, _opener(remote), remote.endpoint, _hurried(remote)))
                for remote in remotes
            ]
            self.reads = tuple(Namespace(at, name) for remote, at in opened for name in remote.asked)
            self.writes = tuple(Namespace(at, remote.write) for remote, at in opened if remote.write)
        elif required:
            hint = "leave out --require-remote, or write [[remotes]] into the machine file"
            raise UsageError("no remote is there that could be required", hint=hint)

    def reader(self, layout: CacheLayout) -> RemoteReader | None:
        """What reads the remotes for a store; None where there is nothing to read."""
        if not self.reads:
            return None
        from dem_build.store.remote.reader import Caller, RemoteReader  # noqa: PLC0415  as above

        return RemoteReader(layout, self.reads, Caller(self.warn, self._fetched), required=self.required)

    def warn(self, text: str) -> None:
        """Say what may be wrong."""
        self.voice.warn(text)

    def _fetched(self, done: int, total: int) -> None:
        self.voice.tell(f"fetched {size(done)} of {size(total)}")

    def pusher(self, store: Store, after: Callable[[Digest], None] = lambda _: None) -> Pusher | None:
        """What pushes to the namespaces that are written; None where there are none.

        Args:
            store: From where.
            after: Told the key of each record that is done with.
        """
        if not self.writes:
            return None
        from dem_build.store.remote.push import Pusher  # noqa: PLC0415  as above

        return Pusher(store, self.writes, self.warn, after)

    def leases(self) -> RemoteLeases | None:
        """The leases of the first namespace that is read and written; to be closed when what ran is pushed."""
        for namespace in self.writes:
            if any(namespace.where == read.where for read in self.reads):
                from dem_build.store.remote.leases import RemoteLeases  # noqa: PLC0415  as above

                return RemoteLeases(namespace, self.warn)
        return None

    def finish(self, pusher: Pusher, recipe: str, pauses: Sequence[float] = ()) -> dict[str, JSON]:
        """Wait for what is being pushed, and say what became of it.

        Args:
            pusher: What pushes.
            recipe: For whom, as the user named it.
            pauses: Seconds to wait before each further attempt at what could not be pushed.

        Returns:
            What a build's document says of it; nothing where nothing was to be pushed.

        Raises:
            RemoteError: Something could not be pushed, and a remote is required.
        """
        pusher.close()
        self._wait(pusher)
        for pause in pauses:
            if pusher.left:
                time.sleep(pause)
                pusher.again()
                self._wait(pusher)
        states = Counter(push.result.value for push in pusher.done)
        amount = sum(push.bytes for push in pusher.done)
        if sent := states["sent"]:
            self.voice.tell(f"pushed {counted(sent, 'result')}, {size(amount)}, to {self._told()}")
        if pusher.error is not None:
            if self.required:
                raise pusher.error
            again = shlex.join(["dem", "cache", "push", recipe])
            self.warn(f"{pusher.left} not pushed: {pusher.error}; `{again}` pushes what is missing")
        if not pusher.done and pusher.error is None:
            return {}
        counts = {state: states[state] for state in ("sent", "known", "differs")}
        return {"pushed": counts | {"failed": pusher.left, "bytes": amount}}

    def _wait(self, pusher: Pusher) -> None:
        begun = said = time.monotonic()
        pusher.wait(QUIET_SECONDS)
        while pusher.busy:
            if said == begun or time.monotonic() - said > SPOKEN_SECONDS:
                said = time.monotonic()
                disavow("it takes long, and says so")
                self.voice.tell(f"waits for what is pushed to {self._told()}")
            pusher.wait(QUIET_SECONDS)

    def _told(self) -> str:
        return ", ".join(joined(namespace.where) for namespace in self.writes)


def _opener(remote: Remote) -> Callable[[], Bucket]:
    def opened() -> Bucket:
        from dem_build.watch.heard import open_heard  # noqa: PLC0415  a null build asks nobody

        return open_heard(remote.url, remote.endpoint)

    return opened


def _hurried(remote: Remote) -> Callable[[], Bucket]:
    def opened() -> Bucket:
        from dem_build.store.remote.address import open_bucket  # noqa: PLC0415  as above

        disavow("it asks for leases")
        return open_bucket(remote.url, remote.endpoint, hurried=True)

    return opened


class Pushing(Relay):
    """Follows a build for another listener, and gives what ran to a pusher."""

    def __init__(self, listener: Listener, pusher: Pusher) -> None:
        super().__init__(listener)
        self._pusher = pusher

    def action_ended(self, result: Result) -> None:
        """Push what ran, and tell the other one."""
        if result.status is Done.RAN and result.record is not None:
            self._pusher.add(result.action.name, result.record)
        super().action_ended(result)
