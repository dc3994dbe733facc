"""What is known of a dataset with parts before any of it is downloaded: bytes, sub-datasets, and rows at most."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from dem_build.data.sources import part_of
from dem_build.lock import hub

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dem_build.action import Action, SourceFile


def parts_of(action: Action) -> tuple[int | None, int | None, int | None]:
    """Bytes to download, most training rows, and sub-datasets of an action that prepares a dataset with parts.

    Rows are those that the hub's cards tell, or fewer where `max_samples` says so; None where neither tells of all of
    them. Sub-datasets that a column tells apart are known by nobody before rows are read: then they are None, too.
    """
    rules = action.params.get("parts")
    if not rules:
        return None, None, None
    missing = [s for s in action.sources if s.hub is not None and hub.here(s) is None]
    groups: dict[tuple[str, str], list[SourceFile]] = defaultdict(list)
    for source in action.sources:
        if (found := part_of(source)) is not None:
            groups[found].append(source)
    by_column = any("by" in rule for rule in rules.values())
    rows = {at: _rows(files, rules[at[0]]) for at, files in groups.items()}
    known = [count for count in rows.values() if count is not None]
    total = sum(known) if len(known) == len(rows) else None
    if total is not None and action.params.get("max_samples") is not None:
        total = min(total, action.params["max_samples"])
    return sum(s.size or 0 for s in missing), total, None if by_column else len(groups)


def _rows(files: Iterable[SourceFile], rule: dict[str, object]) -> int | None:
    """Most training rows of a sub-dataset, or of the file that holds several."""
    told = [source.rows for source in files]
    count = None if None in told else sum(n for n in told if n is not None)
    most = rule.get("max_samples") if "by" not in rule else None
    if not isinstance(most, int):
        return count
    return most if count is None else min(most, count)
