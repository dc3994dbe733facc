"""`dem ls` and `dem cache`: what the store holds."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.table import Table

from dem_build.cli import view
from dem_build.cli.session import open_store

if TYPE_CHECKING:
    from dem_build.cli.session import Call

__all__ = ["ls", "stats", "verify"]


def ls(call: Call, *, as_json: bool) -> int:
    """List the records, newest first."""
    records = sorted(
        open_store(call).records(), key=lambda r: str(r.provenance.get("finished", "")), reverse=True
    )
    if as_json:
        rows = [{"key": r.key, "kind": r.kind, **_brief(r.provenance)} for r in records]
        sys.stdout.write(json.dumps(rows) + "\n")
        return 0
    table = Table("kind", "key", "bytes", "seconds", "finished", box=None)
    for record in records:
        size = sum(output.size for output in record.outputs.values())
        seconds, finished = record.provenance.get("seconds", ""), record.provenance.get("finished", "")
        table.add_row(record.kind, record.key[:12], readable(size), str(seconds), str(finished))
    view.make_console().print(table)
    return 0


def stats(call: Call, *, as_json: bool) -> int:
    """Show sizes by kind and by recipe."""
    store = open_store(call)
    found = store.stats()
    if as_json:
        sys.stdout.write(json.dumps(asdict(found), default=str) + "\n")
        return 0
    console = view.make_console()
    console.print(f"{store.root}")
    for name, value in asdict(found).items():
        if isinstance(value, dict):
            for key, entry in value.items():
                console.print(f"  {name} {key}: {_measure(entry)}")
        else:
            console.print(f"{name}: {readable(value) if 'bytes' in name else value}")
    return 0


def verify(call: Call, *, as_json: bool) -> int:
    """Read everything; 1 where something is damaged."""
    store = open_store(call)
    damages = store.verify()
    if as_json:
        sys.stdout.write(json.dumps([asdict(d) for d in damages], default=str) + "\n")
    else:
        console = view.make_console()
        for damage in damages:
            console.print(str(damage))
        console.print(f"{len(damages)} damaged" if damages else "everything is as its name says")
    return 1 if damages else 0


def readable(size: float) -> str:
    """Return a number of bytes as a person reads it: `1.2 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _measure(entry: object) -> str:
    if isinstance(entry, dict):
        return ", ".join(f"{k} {readable(v) if 'bytes' in k else v}" for k, v in entry.items())
    return str(entry)


def _brief(provenance: dict[str, object]) -> dict[str, object]:
    return {name: provenance[name] for name in ("seconds", "finished", "host") if name in provenance}
