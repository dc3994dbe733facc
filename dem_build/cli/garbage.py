"""`dem cache gc`: takes away what nobody needs, and says what it freed."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from rich.table import Table

from dem_build.cli import view
from dem_build.cli.session import open_store
from dem_build.errors import UsageError
from dem_build.report.quantities import size
from dem_build.store.gc.unneeded import GRACE_SECONDS, Policy

if TYPE_CHECKING:
    from dem_build.cli.call import Call
    from dem_build.store.gc.collect import Collection

__all__ = ["Limits", "collect"]

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_PREFIXES = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)


@dataclass(frozen=True)
class Limits:
    """The options of `dem cache gc`, as they were written."""

    max_size: str | None = None
    older_than: str | None = None
    grace: str | None = None
    vectors: bool = False
    dry_run: bool = False

    def policy(self) -> Policy:
        """Return what they mean.

        Raises:
            UsageError: One is no size or no span of time.
        """
        return Policy(
            grace=GRACE_SECONDS if self.grace is None else _seconds("--grace", self.grace),
            older_than=None if self.older_than is None else _seconds("--older-than", self.older_than),
            max_bytes=None if self.max_size is None else _bytes("--max-size", self.max_size),
            vectors=self.vectors,
        )


def _seconds(option: str, text: str) -> float:
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


def collect(call: Call, limits: Limits, *, as_json: bool) -> int:
    """Collect, or say what would go."""
    policy = limits.policy()
    store = open_store(call)
    found = store.collect(policy, dry_run=limits.dry_run)
    if as_json:
        document = asdict(found) | {"bytes": found.bytes, "dry_run": limits.dry_run}
        sys.stdout.write(json.dumps(document) + "\n")
        return 0
    _show(found, limits, policy)
    return 0


def _show(found: Collection, limits: Limits, policy: Policy) -> None:
    console = view.make_console()
    table = Table("", "count", "size", box=None, show_header=False)
    table.columns[1].justify = table.columns[2].justify = "right"
    for kind, usage in found.freed.items():
        table.add_row(f"  {view.clean(kind)}", str(usage.count), size(usage.bytes))
    verb = "would free" if limits.dry_run else "freed"
    console.print(f"{verb} {size(found.bytes)}; {size(found.left)} stay")
    if found.freed:
        console.print(table)
    for line in _remarks(found, policy):
        console.print(view.clean(line), soft_wrap=True)


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
