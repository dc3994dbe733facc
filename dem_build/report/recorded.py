"""What is recorded of a build: the documents that its actions made, and today's names of what they took.

What an action made is of its digest, and of the shape that its step gave it, else the build is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from dem_build.errors import StoreError
from dem_build.json_text import MALFORMED, parse_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dem_build.action import Action
    from dem_build.digest import JSON, Digest, Output
    from dem_build.graph import Graph
    from dem_build.store import Record

__all__ = ["Recorded"]

Found = TypeVar("Found")


@dataclass(frozen=True)
class Recorded:
    """What is recorded of a build.

    Attributes:
        graph: The recipe's graph.
        records: Name of an action → its record, for those that have one.
        read: Returns the bytes of an output that is one file.
    """

    graph: Graph
    records: Mapping[str, Record]
    read: Callable[[Output], bytes]

    def of(self, name: str, take: Callable[[Action], Found], what: str, again: str) -> Found | None:
        """Return what an action found; None where the graph has no such action, or it has not run yet.

        Args:
            name: The action.
            take: Takes apart what the action made; whatever of `MALFORMED` it raises tells of another shape.
            what: What it made, for people: `the recorded WHAT cannot be read`.
            again: What `--rebuild` does, for people.

        Raises:
            StoreError: What the action made is not what it should be.
        """
        if name not in self.graph.actions or name not in self.records:
            return None
        try:
            return take(self.graph.actions[name])
        except MALFORMED as error:
            hint = f"`--rebuild {name}` {again}"
            raise StoreError(f"the recorded {what} cannot be read", where=name, hint=hint) from error

    def document(self, action: Action, output: str) -> JSON:
        """Return the JSON that an action made."""
        return parse_json(self.read(self.records[action.name].outputs[output]))

    def grouped(self, action: Action, *tags: str) -> dict[str, Digest]:
        """Return group → digest of what it gave to an action under one of some tags."""
        return {
            taken.group: self.records[taken.at.action].outputs[taken.at.output].digest
            for taken in action.takes
            if taken.group is not None and taken.of in tags and taken.at.action in self.records
        }
