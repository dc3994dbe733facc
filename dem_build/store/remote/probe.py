"""Whether a bucket does what it says, found out by doing it; and the file at its root that says what was found.

Some stores take a conditional write, answer that it worked and overwrite what was there. Records are created by such a
write where it was seen to hold (`conditional`); elsewhere each writer leaves a candidate of its own (`candidates`).
"""

from __future__ import annotations

import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

from dem_build.digest import canonical
from dem_build.errors import RemoteError
from dem_build.json_text import parse_json
from dem_build.store.files import nonce

if TYPE_CHECKING:
    from dem_build.store.remote.bucket import Bucket

MARKER = "dem-remote.json"
VERSION = 1
_WRITERS = 8
_RACES = 4

Creation = Literal["conditional", "candidates"]


class Marker(NamedTuple):
    """What the file at the root of a remote says.

    Attributes:
        create: How records are created there.
        probed: When that was found out and how, for people.
    """

    create: Creation
    probed: str


class ProbeResult(NamedTuple):
    """What a bucket was seen to do.

    Attributes:
        create: How records can be created there.
        seen: A line for each thing that was tried.
    """

    create: Creation
    seen: tuple[str, ...]


def read_marker(bucket: Bucket) -> Marker | None:
    """What a remote's own file says; None where there is none.

    Raises:
        RemoteError: It cannot be read, or a newer dem wrote it.
    """
    data = bucket.get(MARKER)
    if data is None:
        return None
    try:
        document: Any = parse_json(data)
        version, create, probed = document["dem-remote"], document["create"], document["probed"]
    except (ValueError, KeyError, TypeError) as error:
        what = "the file that says how this remote is used is damaged"
        raise RemoteError(
            what, where=f"{bucket.url}/{MARKER}", hint="`dem cache remote init` after it is deleted"
        ) from error
    if version != VERSION or create not in {"conditional", "candidates"}:
        what = f"a remote of version {version!r}, where records are created by {create!r}"
        raise RemoteError(what, where=f"{bucket.url}/{MARKER}", hint="a newer dem can use it")
    return Marker(cast("Creation", create), str(probed))


def initialise(bucket: Bucket) -> tuple[Marker, ProbeResult | None]:
    """Probe a bucket and write down what was found, unless that was done before; what is written, and the probe.

    Raises:
        RemoteError: It cannot be written, or does not do what every remote must.
    """
    if (there := read_marker(bucket)) is not None:
        return there, None
    found = probe(bucket)
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    document = {"create": found.create, "dem-remote": VERSION, "probed": f"{day}: {found.seen[1]}"}
    # Refused or not: what is there afterwards holds. The reply to a write that worked may have been lost.
    bucket.create(MARKER, canonical(document) + b"\n")
    marker = read_marker(bucket)
    if marker is None:
        raise RemoteError("what was written is not there", where=f"{bucket.url}/{MARKER}")
    return marker, found


def probe(bucket: Bucket, namespace: str | None = None) -> ProbeResult:
    """Try what a remote must do, under a name of its own that is deleted afterwards.

    Args:
        bucket: What is tried.
        namespace: Where this writer may write; at the root without it.

    Raises:
        RemoteError: It does not keep bytes, sizes, ranges, lists or deletions.
    """
    # A namespace begins with a letter or digit, so this is none.
    folder = f"{namespace}/.probe-{nonce()}" if namespace else f".probe-{nonce()}"
    if not bucket.writable:
        raise RemoteError("is read only: there is nothing to probe", where=bucket.url)
    names: list[str] = []
    try:
        return ProbeResult(*_tried(bucket, folder, names))
    finally:
        with suppress(RemoteError):
            bucket.delete(names)


def _tried(bucket: Bucket, folder: str, names: list[str]) -> tuple[Creation, tuple[str, ...]]:
    first, second, put = (f"{folder}/{name}" for name in ("created", "absent", "put"))
    names += [first, put]
    data, other = nonce().encode() * 4096, nonce().encode() * 4096
    kept = _creates(bucket, first, data, other)
    races = _raced(bucket, folder, names) if kept and bucket.conditional else None
    create: Creation = "conditional" if races is not None and all(races) else "candidates"
    held = bucket.get(first) or b""
    with tempfile.TemporaryDirectory() as local:
        file = Path(local) / "put"
        file.write_bytes(other)
        bucket.put(put, file)
    _must(bucket, "a file that was put is read as it was", bucket.get(put) == other)
    _must(bucket, "HEAD says the size of what is there", bucket.size(put) == len(other))
    _must(bucket, "of nothing there is nothing", not bucket.size(second) and bucket.get(second) is None)
    _must(bucket, "a range is the range", b"".join(bucket.read(put, 1000)) == other[1000:])
    listed = {item.name: item.size for item in bucket.list(f"{folder}/")}
    _must(bucket, "a list has what is there", listed.keys() >= {*names} and listed[put] == len(other))
    bucket.delete(names)
    _must(bucket, "what is deleted is gone", bucket.get(put) is None and not [*bucket.list(f"{folder}/")])
    names.clear()
    if races is None:
        said = (
            "a second creation of a name was refused"
            if kept
            else "a second creation of a name replaced the first"
        )
        said = said if bucket.conditional else "creations are not said to be atomic"
    else:
        said = (
            f"{sum(races)} of {len(races)} races of {_WRITERS} creations had one winner, whose bytes stayed"
        )
    return create, (
        f"{len(held)} bytes were written and read",
        f"{said}: {create}",
        "sizes, ranges, lists and deletions are right",
    )


def _creates(bucket: Bucket, name: str, data: bytes, other: bytes) -> bool:
    """Whether a name that was created keeps its bytes, and a second creation is refused."""
    # Refused or not: where the reply to a write that worked was lost, the next try is refused, and the bytes are ours.
    bucket.create(name, data)
    _must(bucket, "what was created is read as it was", bucket.get(name) == data)
    return not bucket.create(name, other) and bucket.get(name) == data


def _raced(bucket: Bucket, folder: str, names: list[str]) -> list[bool]:
    """For each of a few races, whether one writer at most was told that it won, and its bytes are there."""
    results = []
    with ThreadPoolExecutor(_WRITERS) as pool:
        for race in range(_RACES):
            name = f"{folder}/race-{race}"
            names.append(name)
            together = threading.Barrier(_WRITERS)

            def write(data: bytes, name: str = name, together: threading.Barrier = together) -> bytes | None:
                together.wait(60)
                return data if bucket.create(name, data) else None

            each = [nonce().encode() for _ in range(_WRITERS)]
            told = [data for data in pool.map(write, each) if data is not None]
            held = bucket.get(name)
            # Nobody was told where the winner's reply was lost; then any of them may be there.
            results.append(held in (told or each) and len(told) < 2)
    return results


def _must(bucket: Bucket, what: str, right: bool) -> None:
    if not right:
        hint = "this store cannot be a remote"
        raise RemoteError(f"the probe found that this does not hold: {what}", where=bucket.url, hint=hint)
