"""What a command does for one more dataset does not depend on how many there are: counted in calls, not in seconds."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
from growth import assert_linear, calls_of
from scaled import record_made_up, scaled_project

from dem_build import action as action_module
from dem_build import digest
from dem_build.action import Action
from dem_build.cli.app import run
from dem_build.store import files
from dem_build.store.local import CacheLayout

if TYPE_CHECKING:
    from pathlib import Path

SIZES = (6, 18, 42)
BASELINES = 1


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> dict[int, tuple[Path, int]]:
    """Datasets → a recipe of so many that is built, with made-up results, and the number of its actions."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEM_HINTS", str(tmp_path_factory.mktemp("hints")))
        for size in SIZES:
            recipe = scaled_project(tmp_path_factory.mktemp(f"of-{size}"), size, BASELINES)
            found[size] = recipe, record_made_up(recipe)
            assert run(["build", str(recipe)]) == 0
    return found


COMMANDS = {
    "plan, nothing recorded": ("plan", "recipe.toml", "--cache", "empty"),
    "plan, all trainings due": ("plan", "recipe.toml", "--set", "train.learning_rate=1e-4"),
    "build, nothing due": ("build", "recipe.toml"),
    "report": ("report", "recipe.toml"),
    "why": ("why", "recipe.toml", "model"),
    "ls": ("ls",),
    "stats": ("cache", "stats"),
    "gc": ("cache", "gc"),
    "verify": ("cache", "verify"),
}


@pytest.mark.parametrize("words", COMMANDS.values(), ids=list(COMMANDS))
def test_a_command_makes_as_many_calls_for_a_dataset_among_many_as_among_few(
    recipes: dict[int, tuple[Path, int]], words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def calls(size: int) -> int:
        recipe, _ = recipes[size]
        monkeypatch.chdir(recipe.parent)
        statuses: list[int] = []
        found = calls_of(lambda: statuses.append(run(words)))
        assert statuses == [0]
        return found

    calls(SIZES[0])  # what is imported at the first time
    assert_linear(calls, SIZES)


def test_a_plan_opens_each_record_once_and_makes_one_key_of_it(
    recipes: dict[int, tuple[Path, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: Counter[str] = Counter()

    def counting(where: object, name: str) -> None:
        before = getattr(where, name)

        def count(*arguments: object, **named: object) -> object:
            counted[name] += 1
            return before(*arguments, **named)

        monkeypatch.setattr(where, name, count)

    counting(files, "read_bytes")
    counting(digest, "of_json")
    counting(CacheLayout, "object")
    counting(CacheLayout, "action")
    counting(Action, "salted")
    counting(action_module, "replace")
    for datasets, (recipe, actions) in recipes.items():
        counted.clear()
        assert run(["plan", str(recipe)]) == 0
        # A record each, and beside them the root, the lock and the store's format; a key each, its record's, and what
        # tells a dataset from others.
        assert actions <= counted["read_bytes"] <= actions + 10
        assert 2 * actions <= counted["of_json"] <= 2 * actions + datasets + 10
        # Files are looked at by the text of their path; of actions only those that may start from a trunk are copied.
        assert counted["object"] + counted["action"] <= 10
        assert counted["salted"] > actions // 2
        assert counted["replace"] <= datasets + 10
        counted.clear()
        assert run(["plan", str(recipe), "--set", "train.learning_rate=1e-4"]) == 0
        # Estimates look at all records: at none twice. A training has none, which is asked twice, and one of before.
        assert counted["read_bytes"] <= actions + 3 * datasets + 10
