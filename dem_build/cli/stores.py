"""`dem ls` and `dem cache`: what the store holds, whether it is sound, and what of it can go."""

from __future__ import annotations

import os
import re
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.table import Table

from dem_build.errors import UsageError
from dem_build.report.quantities import size
from dem_build.report.text import clean, joined
from dem_build.session.session import open_store
from dem_build.store.gc.garbage import GRACE_SECONDS, Policy
from dem_build.view.text import make_console, write_json

if TYPE_CHECKING:
    from dem_build.session.session import Call
    from dem_build.store import Store
    from dem_build.store.gc.census import Usage
    from dem_build.store.gc.collect import Collection

AGES_SAID = {
    "day": "within a day",
    "week": "within a week",
    "month": "within thirty days",
    "older": "longer ago",
}

LOG_WIDTH = 200  # where nobody looks, a name is whole, so that it can be searched for

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_PREFIXES = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)


def ls(call: Call) -> int:
    """List the records, newest first."""
    store = open_store(call)
    names = _names(store)
    records = sorted(store.records.all(), key=lambda r: str(r.provenance.get("finished", "")), reverse=True)
    if call.as_json:
        told = ("seconds", "finished", "host")
        write_json(
            [
                {"key": r.key, "kind": r.kind, "action": names.get(r.key)}
                | {name: r.provenance[name] for name in told if name in r.provenance}
                for r in records
            ]
        )
        return 0
    table = Table("kind", "action", "key", "bytes", "seconds", "finished, UTC", box=None, pad_edge=False)
    for record in records:
        total = sum(output.size for output in record.outputs.values())
        seconds, finished = record.provenance.get("seconds", ""), str(record.provenance.get("finished", ""))
        cells = (record.kind, names.get(record.key, ""), record.key[:12], size(total), seconds, finished[:16])
        table.add_row(*(joined(cell) for cell in cells))
    console = make_console()
    if not console.is_terminal:
        console.width = max(console.width, LOG_WIDTH)
    console.print(table)
    return 0


def stats(call: Call) -> int:
    """Show sizes by kind and by recipe."""
    store = open_store(call)
    found = store.stats()
    if call.as_json:
        write_json(asdict(found), default=str)
        return 0
    table = Table("", "count", "size", box=None, header_style="dim")
    table.columns[1].justify = table.columns[2].justify = "right"
    _row(table, "objects", found.objects)
    for kind, usage in found.kinds.items():
        _row(table, f"  {kind}", usage)
    _row(table, "  of no record", found.unnamed)
    _row(table, "unfinished work", found.work)
    _row(table, "quarantine", found.quarantine)
    for name, usage in found.ages.items():
        _row(table, f"used {AGES_SAID[name]}", usage)
    for name, usage in found.recipes.items():
        _row(table, f"recipe {_recipe(store, name)}", usage)
        _row(table, "  not shared with others", found.exclusive[name])
    make_console().print(clean(store.root), table, sep="\n")
    return 0


def verify(call: Call, *, repair: bool, remote: bool = False) -> int:
    """Read everything, and set aside what is damaged where that is asked for; 1 where something was damaged.

    Of remotes, records are read, and of objects only their sizes.
    """
    if remote:
        from dem_build.cli.shared.exchange import verify_remote  # noqa: PLC0415

        return verify_remote(call, repair=repair)
    damages = open_store(call).verify(repair=repair)
    if call.as_json:
        write_json([asdict(d) for d in damages], default=str)
    else:
        console = make_console()
        for damage in damages:
            console.print(clean(damage), soft_wrap=True)
        again = "the next build makes what it needs of it again"
        changed = f"and nothing was changed: `dem cache verify --repair` sets it aside, and {again}"
        damaged = f"{len(damages)} damaged: {again}" if repair else f"{len(damages)} damaged, {changed}"
        console.print(damaged if damages else "everything is as its name says", soft_wrap=True)
    return 1 if damages else 0


def gc(  # noqa: PLR0913  the options of a command are its arguments
    call: Call,
    *,
    max_size: str | None,
    older_than: str | None,
    grace: str | None,
    vectors: bool,
    dry_run: bool,
    remote: str | None = None,
) -> int:
    """Collect, or say what would go.

    Raises:
        UsageError: A limit is no size or no span of time.
    """
    policy = Policy(
        grace=GRACE_SECONDS if grace is None else seconds("--grace", grace),
        older_than=None if older_than is None else seconds("--older-than", older_than),
        max_bytes=None if max_size is None else _bytes("--max-size", max_size),
        vectors=vectors,
    )
    if remote is not None:
        from dem_build.cli.shared.exchange import gc_remote  # noqa: PLC0415

        if max_size is not None:
            raise UsageError("a remote has no size to stop at", where="--max-size", hint="--older-than")
        return gc_remote(call, remote, policy, dry_run=dry_run)
    found = open_store(call).collect(policy, dry_run=dry_run)
    if call.as_json:
        write_json(asdict(found) | {"bytes": found.bytes, "dry_run": dry_run})
        return 0
    console = make_console()
    table = Table("", "count", "size", box=None, show_header=False)
    table.columns[1].justify = table.columns[2].justify = "right"
    for kind, usage in found.freed.items():
        _row(table, f"  {kind}", usage)
    verb = "would free" if dry_run else "freed"
    console.print(f"{verb} {size(found.bytes)}; {size(found.left)} stay")
    if found.freed:
        console.print(table)
    for line in _remarks(found, policy):
        console.print(clean(line), soft_wrap=True)
    return 0


def seconds(option: str, text: str) -> float:
    """A span of time that the user wrote, in seconds.

    Args:
        option: Where, for an error.
        text: `90s`, `10m`, `12h`, `30d`, `2w`.

    Raises:
        UsageError: It is none.
    """
    found = _SPAN.fullmatch(text.strip())
    if found is None:
        hint = "a number and s, m, h, d or w: 12h, 30d"
        raise UsageError(f"{text!r} is no span of time", where=option, hint=hint)
    return float(found[1]) * _SECONDS[found[2]]


def _bytes(option: str, text: str) -> int:
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        hint = "a number of bytes, or one with k, M, G or T (Gi for powers of 1024): 50G, 1.5T"
        raise UsageError(f"{text!r} is no size", where=option, hint=hint)
    return int(float(found[1]) * (1024 if found[3] else 1000) ** _PREFIXES[found[2].lower()])


def _remarks(found: Collection, policy: Policy) -> list[str]:
    lines = [f"gone: {recipe}" for recipe in found.gone]
    if found.vectors.count:
        lines.append(
            f"{found.vectors.count} vectors ({size(found.vectors.bytes)}) that no recipe needs stay: "
            "--vectors takes them too"
        )
    if policy.max_bytes is not None and found.left > policy.max_bytes:
        lines.append(
            f"more than {size(policy.max_bytes)} is left: the rest is needed by recipes or running builds, "
            "or was used within the grace period"
        )
    return lines


def _names(store: Store) -> dict[str, str]:
    """Map keys to what the last build of a recipe called their actions; no record knows, as a store is name-free."""
    tables = [
        root["actions"] for root in store.roots.documents() if isinstance(root, dict) and "actions" in root
    ]
    pairs = [pair for table in tables if isinstance(table, dict) for pair in table.items()]
    return {key: name for name, key in pairs if isinstance(key, str)}


def _row(table: Table, name: str, usage: Usage) -> None:
    table.add_row(clean(name), str(usage.count), size(usage.bytes))


def _recipe(store: Store, name: str) -> str:
    """The file of a recipe that built here, and that it is gone where it is."""
    root = store.roots.read(name)
    path = str(root.get("recipe", name)) if isinstance(root, dict) else name
    return path if os.path.exists(path) else f"{path} (gone)"  # noqa: PTH110  Path's raises for a name that cannot be
