"""What of `[train]` reaches a vector's key, and what it takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from dem_build import kinds
from dem_build.graph import Action, build_graph
from dem_build.kinds import TakenDigest
from dem_build.lock import Lock, LockedBase
from dem_build.recipe import load_recipe

RECIPE = """\
[base]
model = "base"

[train]
{train}

[datasets.math]
path = "math.jsonl"
omega = 0.5
"""


@pytest.fixture
def vector_of(tmp_path: Path):
    """The vector's action, given the text of `[train]`."""
    (tmp_path / "base").mkdir()

    def make(*lines: str) -> Action:
        path = tmp_path / "recipe.toml"
        path.write_text(RECIPE.format(train="\n".join(lines)))
        lock = Lock(LockedBase("directory", ()), {"math": ()})
        return build_graph(load_recipe(path), lock).actions["vector:math"]

    return make


def key(action: Action) -> str:
    taken = [TakenDigest(t.of, "a" * 64) for t in action.takes]
    return kinds.key_of(kinds.preimage(action.kind, action.params, taken))


def test_the_longest_sequence_counts_where_rows_are_packed(vector_of):
    """Unpacked, it reaches the vector through the rows that it leaves."""
    assert key(vector_of("max_length = 256")) == key(vector_of("max_length = 512", "packing = false"))
    packed = [key(vector_of(f"max_length = {n}", "packing = true")) for n in (256, 512)]
    assert len({*packed, key(vector_of())}) == 3
