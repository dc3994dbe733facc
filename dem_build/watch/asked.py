"""What a call asked of remotes, as its witness has it: asked again by the next call.

A repeated call loads this and what asks a remote, and nothing else of the store.
"""

from __future__ import annotations

from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING

from dem_build.errors import RemoteError
from dem_build.store.remote.address import open_bucket

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from dem_build.store.remote.bucket import Bucket

ASKED_AT_ONCE = 32
GET = "get"
LIST = "list"
_ASKS: dict[str, Callable[[Bucket, str], object]] = {
    GET: lambda bucket, name: bucket.get(name),
    LIST: lambda bucket, prefix: sorted(bucket.list(prefix)),
}


def question(url: str, endpoint: str | None, how: str, name: str) -> bytes:
    """A question to a remote, for a witness.

    Args:
        url: The remote, as `open_bucket` takes it.
        endpoint: Likewise.
        how: `GET` or `LIST`.
        name: Of what, or how the names begin.
    """
    return "\n".join((url, endpoint or "", how, name)).encode()


def spelled(answer: object) -> bytes:
    """An answer, which is bytes, none or an ordered list, as a witness tells it from others."""
    return repr(answer).encode()


def answers(questions: Collection[bytes]) -> Iterator[tuple[bytes, bytes | None]]:
    """Ask what `question` wrote again, all at once; who has heard enough closes the iterator: nothing more is asked.

    Yields:
        A question and its answer, `spelled`, as they come; None where there is none soon.
    """
    parts = {each: each.decode().split("\n", 3) for each in questions}
    places = {(url, endpoint) for url, endpoint, _, _ in parts.values()}
    buckets = {(url, at): open_bucket(url, at or None, hurried=True) for url, at in places}
    todo, found = iter(parts.items()), SimpleQueue[tuple[bytes, bytes | None]]()
    going = True

    def ask() -> None:
        for each, (url, at, how, name) in todo:
            if not going:
                return
            answer = None
            try:
                with suppress(RemoteError):  # the long way says what is wrong
                    answer = spelled(_ASKS[how](buckets[url, at], name))
            finally:
                found.put((each, answer))

    for _ in range(min(ASKED_AT_ONCE, len(questions))):
        Thread(target=ask).start()
    try:
        for _ in questions:
            yield found.get()
    finally:
        going = False
