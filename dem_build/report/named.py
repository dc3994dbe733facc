"""Today's names of what an action took: outputs have digests, and a recipe has names."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dem_build.digest import Digest
    from dem_build.graph import Action
    from dem_build.store import Record

__all__ = ["grouped"]


def grouped(action: Action, records: Mapping[str, Record], *tags: str) -> dict[str, Digest]:
    """Return group → digest of what it gave to an action under one of some tags."""
    return {
        taken.group: records[taken.edge.action].outputs[taken.edge.output].digest
        for taken in action.takes
        if taken.group is not None and taken.of in tags and taken.edge.action in records
    }
