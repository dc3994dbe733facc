"""Each table that has something made takes a `salt`, and it reaches what that table has made and nothing else."""

from __future__ import annotations

from fnmatch import fnmatch
from typing import TYPE_CHECKING

import pytest

from dem_build.graph import Graph, build_graph
from dem_build.lock.lock import Lock, LockedBase, LockedTask
from dem_build.recipe import load_recipe

if TYPE_CHECKING:
    from pathlib import Path

RECIPE = """\
[base]
model = "base"

[datasets.math]
path = "math.jsonl"

[datasets.chat]
path = "chat.jsonl"
train = { seed = 1 }

[probes.safe]
path = "safe.jsonl"

[vectors.code]
checkpoint = "tuned"

[analysis]

[baselines.mix]
method = "mixing"
alpha = "tune"

[baselines.best]
method = "single"

[baselines.mean]
method = "interpolation"

[evaluate]
tasks = ["arc_easy"]
models = ["composed", "base", "vectors", "mix", "best", "mean"]
"""

MADE = {
    "base": ["base"],
    "datasets.math": ["data:math"],
    "probes.safe": ["data:safe"],
    "train": ["vector:math", "vector:chat", "vector:mix"],
    "datasets.chat.train": ["vector:chat"],
    "vectors.code": ["vector:code"],
    "tune": ["tune"],
    "compose": ["model", "model:math", "model:chat", "model:code"],
    "analysis": ["analysis", "tsne", "response", "ladder"],
    "evaluate": ["loss:*", "eval:*", "sample:*"],
    "baselines.mix": ["data:mix", "tune:mix", "model:mix"],
    "baselines.mix.train": ["vector:mix"],
    "baselines.best": ["tune:best", "model:best"],
    "baselines.mean": ["model:mean"],
}


@pytest.fixture
def graph(tmp_path: Path):
    """The graph of the recipe with a `salt` in some of its tables."""
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)

    def make(*tables: str) -> Graph:
        recipe = load_recipe(path, [f'{table}.salt="again"' for table in tables])
        data = dict.fromkeys(("math", "chat", "safe"), ())
        task = LockedTask("0.4.13", local=False, files=())
        return build_graph(recipe, Lock(LockedBase("directory", ()), data, {"arc_easy": task}, {"code": ()}))

    return make


def salted(graph: Graph) -> set[str]:
    return {action.name for action in graph if action.salt is not None}


@pytest.mark.parametrize(("table", "made"), MADE.items(), ids=MADE)
def test_a_salt_reaches_what_its_table_has_made(graph, table, made):
    wanted = {name for name in graph().actions if any(fnmatch(name, pattern) for pattern in made)}
    assert wanted
    assert salted(graph(table)) == wanted


def test_every_action_is_some_tables_to_disown(graph):
    assert salted(graph(*MADE, "datasets.chat")) == set(graph().actions)
    assert salted(graph()) == set()
