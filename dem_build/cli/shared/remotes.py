"""`dem cache remote`: what a shared store is, whether it does what it says, and how much is there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from dem_build.errors import RemoteError, UsageError
from dem_build.recipe.machine_file import load_machine, remotes_of
from dem_build.report.quantities import size
from dem_build.report.text import clean
from dem_build.store.remote.address import open_bucket
from dem_build.store.remote.folder import FolderBucket
from dem_build.store.remote.probe import MARKER, initialise, read_marker
from dem_build.store.remote.probe import probe as probe_bucket
from dem_build.view.text import make_console, write_json

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dem_build.machine import Remote
    from dem_build.session.session import Call
    from dem_build.store.remote.bucket import Bucket, Stored


def init(call: Call) -> int:
    """Probe each remote that is written, and write down at its root how records are created there."""
    told = []
    for remote in _written(call):
        bucket = open_bucket(remote.url, remote.endpoint)
        if isinstance(bucket, FolderBucket):
            Path(bucket.url).mkdir(parents=True, exist_ok=True)
        marker, found = initialise(bucket)
        told.append(marker._asdict() | {"url": remote.url, "new": found is not None})
        if not call.as_json:
            how = "is a remote now" if found else "was a remote already"
            _say(f"{remote.url} {how}", *(found.seen if found else ()), f"records: {marker.create}")
    if call.as_json:
        write_json(told)
    return 0


def probe(call: Call) -> int:
    """Try what each remote must do, in the namespace that is written; 1 where it is not what its root says."""
    told, status = [], 0
    for remote in _written(call):
        bucket = open_bucket(remote.url, remote.endpoint)
        marker, found = read_marker(bucket), probe_bucket(bucket, remote.write)
        # A store that was found out is used all the same by whoever reads its root.
        wrong = marker is not None and marker.create == "conditional" and found.create != "conditional"
        status = 1 if wrong else status
        told.append(found._asdict() | {"url": remote.url, "recorded": marker.create if marker else None})
        if not call.as_json:
            _say(remote.url, *found.seen)
            if wrong:
                mend = f"delete {MARKER}, then `dem cache remote init`"
                _say(f"  but {MARKER} says that creations are conditional: {mend}")
    if call.as_json:
        write_json(told)
    return status


def show(call: Call) -> int:
    """Say of each remote where it is, who reads and writes what, what was probed, and how much is there."""
    told = []
    for remote in _all(call):
        bucket = open_bucket(remote.url, remote.endpoint)
        marker = read_marker(bucket)
        counts = census(bucket.list("")) if bucket.listed else None
        told.append(
            {"url": remote.url, "read": remote.asked, "write": remote.write, "endpoint": remote.endpoint}
            | {"marker": marker._asdict() if marker else None, "namespaces": counts}
        )
        if not call.as_json:
            _shown(remote, bucket, counts)
            _say(f"  {marker.probed}" if marker else f"  no {MARKER}: `dem cache remote init` writes it")
    if call.as_json:
        write_json(told)
    return 0


def census(items: Iterable[Stored]) -> dict[str, dict[str, int]]:
    """For each namespace how many records, candidates and objects are in a listing, and bytes of all of it."""
    found: dict[str, dict[str, int]] = {}
    for name, many, _ in items:
        namespace, _, rest = name.partition("/")
        folder = rest.partition("/")[0]
        if folder not in _FOLDERS:
            continue  # the file at the root, a probe that was killed, and what is not dem's
        counts = found.setdefault(namespace, {"records": 0, "candidates": 0, "objects": 0, "bytes": 0})
        counts[_FOLDERS[folder]] += 1
        counts["bytes"] += many
    return dict(sorted(found.items()))


_FOLDERS = {"actions": "records", "candidates": "candidates", "cas": "objects"}


def _shown(remote: Remote, bucket: Bucket, counts: dict[str, dict[str, int]] | None) -> None:
    at = f" at {remote.endpoint}" if remote.endpoint else ""
    _say(f"{bucket.url}{at}", f"read: {', '.join(remote.asked)}", f"write: {remote.write or 'nothing'}")
    if counts is None:
        _say("  this kind of remote does not say what it has")
        return
    table = Table("namespace", "records", "candidates", "objects", "size", box=None, header_style="dim")
    for column in table.columns[1:]:
        column.justify = "right"
    for namespace, each in counts.items():
        amounts = (each["records"], each["candidates"], each["objects"])
        table.add_row(clean(namespace), *map(str, amounts), size(each["bytes"]))
    if counts:
        make_console().print(table)


def _say(head: str, *lines: str) -> None:
    console = make_console()
    for line in (head, *(f"  {line}" for line in lines)):
        console.print(clean(line), soft_wrap=True)


def _all(call: Call) -> tuple[Remote, ...]:
    machine, machine_path = load_machine(call.machine, Path.cwd() / "recipe.toml")
    remotes = remotes_of(machine, machine_path)
    if not remotes:
        hint = "`[[remotes]]` in machine.toml, or DEM_REMOTE with DEM_REMOTE_READ and DEM_REMOTE_WRITE"
        raise UsageError("no remote is named", hint=hint)
    return remotes


def _written(call: Call) -> list[Remote]:
    """The remotes that this machine writes to.

    Raises:
        RemoteError: It only reads.
    """
    every = _all(call)
    if not (written := [remote for remote in every if remote.write]):
        hint = "give `[[remotes]]` a `write`, or set DEM_REMOTE_WRITE"
        raise RemoteError("this machine only reads from it", where=every[0].url, hint=hint)
    return written
