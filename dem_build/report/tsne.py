"""Where the validation rows of each dataset lie to the base, with today's names."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from dem_build.errors import StoreError
from dem_build.graph import TSNE
from dem_build.json_text import MALFORMED, parse_json
from dem_build.report.named import grouped

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dem_build.graph import Graph
    from dem_build.store import Output, Record

__all__ = ["MAP", "Map", "read_tsne"]

MAP = "map"
"""The output that is read."""

Map: TypeAlias = "Mapping[str, tuple[tuple[float, float], ...]]"
"""Dataset → a place in two dimensions for each of its rows; axes and units mean nothing."""


def read_tsne(graph: Graph, records: Mapping[str, Record], read: Callable[[Output], bytes]) -> Map | None:
    """Return the map of a build's datasets; None where there was none, or not yet.

    Args:
        graph: The recipe's graph.
        records: Name of an action → its record.
        read: Returns the bytes of an output that is one file.

    Raises:
        StoreError: The record is not what it should be.
    """
    record = records.get(TSNE)
    if TSNE not in graph.actions or record is None:
        return None
    try:
        rows = parse_json(read(record.outputs[MAP]))["rows"]
        named = grouped(graph.actions[TSNE], records, "data/validation")
        return {name: tuple((float(x), float(y)) for x, y in rows[digest]) for name, digest in named.items()}
    except MALFORMED as error:
        hint = f"`--rebuild {TSNE}` draws it again"
        raise StoreError("the recorded map of the datasets cannot be read", where=TSNE, hint=hint) from error
