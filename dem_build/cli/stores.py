"""`dem ls` and `dem cache`: what the store holds."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.table import Table

from dem_build.cli import view
from dem_build.cli.session import open_store
from dem_build.report.quantities import size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dem_build.cli.call import Call
    from dem_build.store import Store
    from dem_build.store.gc.usage import Usage
    from dem_build.store.verify import Damage

AGES_SAID = {
    "day": "within a day",
    "week": "within a week",
    "month": "within thirty days",
    "older": "longer ago",
}

LOG_WIDTH = 200  # where nobody looks, a name is whole, so that it can be searched for

__all__ = ["ls", "stats", "verify"]


def ls(call: Call, *, as_json: bool) -> int:
    """List the records, newest first."""
    store = open_store(call)
    names = _names(store)
    records = sorted(store.records.all(), key=lambda r: str(r.provenance.get("finished", "")), reverse=True)
    if as_json:
        rows = [
            {"key": r.key, "kind": r.kind, "action": names.get(r.key), **_brief(r.provenance)}
            for r in records
        ]
        sys.stdout.write(json.dumps(rows) + "\n")
        return 0
    table = Table("kind", "action", "key", "bytes", "seconds", "finished, UTC", box=None, pad_edge=False)
    for record in records:
        total = sum(output.size for output in record.outputs.values())
        seconds, finished = record.provenance.get("seconds", ""), str(record.provenance.get("finished", ""))
        cells = (record.kind, names.get(record.key, ""), record.key[:12], size(total), seconds, finished[:16])
        table.add_row(*(view.joined(cell) for cell in cells))
    console = view.make_console()
    if not console.is_terminal:
        console.width = max(console.width, LOG_WIDTH)
    console.print(table)
    return 0


def stats(call: Call, *, as_json: bool) -> int:
    """Show sizes by kind and by recipe."""
    store = open_store(call)
    found = store.stats()
    if as_json:
        sys.stdout.write(json.dumps(asdict(found), default=str) + "\n")
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
    view.make_console().print(view.clean(store.root), table, sep="\n")
    return 0


def verify(call: Call, *, repair: bool, as_json: bool) -> int:
    """Read everything, and set aside what is damaged where that is asked for; 1 where something was damaged."""
    damages = open_store(call).verify(repair=repair)
    if as_json:
        sys.stdout.write(json.dumps([asdict(d) for d in damages], default=str) + "\n")
    else:
        console = view.make_console()
        for damage in damages:
            console.print(view.clean(damage), soft_wrap=True)
        console.print(_verdict(damages, repair=repair), soft_wrap=True)
    return 1 if damages else 0


def _verdict(damages: Sequence[Damage], *, repair: bool) -> str:
    if not damages:
        return "everything is as its name says"
    if repair:
        return f"{len(damages)} damaged: the next build makes what it needs of it again"
    return (
        f"{len(damages)} damaged, and nothing was changed: "
        "`dem cache verify --repair` sets it aside, and the next build makes what it needs of it again"
    )


def _names(store: Store) -> dict[str, str]:
    """Map keys to what the last build of a recipe called their actions; no record knows, as a store is name-free."""
    tables = [
        root["actions"] for root in store.roots.documents() if isinstance(root, dict) and "actions" in root
    ]
    pairs = [pair for table in tables if isinstance(table, dict) for pair in table.items()]
    return {key: name for name, key in pairs if isinstance(key, str)}


def _row(table: Table, name: str, usage: Usage) -> None:
    table.add_row(view.clean(name), str(usage.count), size(usage.bytes))


def _recipe(store: Store, name: str) -> str:
    """Return the file of a recipe that built here, and that it is gone where it is."""
    root = store.roots.read(name)
    path = str(root.get("recipe", name)) if isinstance(root, dict) else name
    return path if os.path.exists(path) else f"{path} (gone)"  # noqa: PTH110  Path's raises for a name that cannot be


def _brief(provenance: dict[str, object]) -> dict[str, object]:
    return {name: provenance[name] for name in ("seconds", "finished", "host") if name in provenance}
