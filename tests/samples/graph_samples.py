"""What the tests of graphs share: what the keys of actions hash, with nothing made."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from dem_build.digest import Output, of_bytes
from dem_build.plan import preimage_of

if TYPE_CHECKING:
    from dem_build.graph import Graph


def documents(graph: Graph, **other: str) -> dict[str, str]:
    """Name of an action → what its key hashes, where an output's digest is made of its name.

    Args:
        graph: The graph.
        other: What stands for an action's name (`data_math`), as if it had made something else.
    """

    def digest(action: str, output: str) -> str:
        known = other.get(action.replace(":", "_"), action)
        return of_bytes(f"{known.replace('sums', 'math')}/{output}".encode())

    known = {a.name: {output: Output(digest(a.name, output), 1) for output in a.kind.outputs} for a in graph}
    return {a.name: json.dumps(preimage_of(a, known), sort_keys=True) for a in graph}


def changed(one: Graph, other: Graph) -> set[str]:
    """Actions of both graphs whose documents differ."""
    before, after = documents(one), documents(other)
    return {name for name in before if name in after and before[name] != after[name]}
