"""Rules of `[trunk]` and `[heal]`: which datasets they are trained on, how long, and what goes with a trunk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.recipe.checks.tables import WRONG, Rules, items, names, stages, vectors
from dem_build.recipe.messages import Mistake, nearest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dem_build.recipe.schema import Heal, Recipe, Trunk, Vector
    from dem_build.recipe.toml import Key

RULES = Rules()


@RULES.each(stages)
def _they_name_datasets(recipe: Recipe, key: Key, stage: Trunk | Heal) -> Iterator[Mistake]:
    known = names(recipe, "datasets")
    if stage.datasets == ():
        yield Mistake((*key, "datasets"), "names no dataset", nearest("", known) or "add [datasets.NAME]")
    if stage.datasets is None and not known:
        yield Mistake(key, "there is no dataset to train on", "add [datasets.NAME], or remove it")
    seen: set[str] = set()
    for index, name in items(stage.datasets or ()):
        if name not in known:
            yield Mistake((*key, "datasets", index), f"there is no dataset `{name}`", nearest(name, known))
        elif name in seen:
            yield Mistake((*key, "datasets", index), f"`{name}` is named twice", "give it once")
        seen.add(name)


@RULES.each(stages)
def _they_say_how_long(_: Recipe, key: Key, stage: Trunk | Heal) -> Iterator[Mistake]:
    if stage.train is not WRONG and stage.train.length is None:
        what = "does not say how long it is trained, and [train] says how long a vector is"
        yield Mistake((*key, "train"), what, "add max_steps or num_train_epochs: train = { max_steps = 100 }")


@RULES.each(vectors)
def _vectors_from_elsewhere_have_no_trunk(recipe: Recipe, key: Key, _: Vector) -> Iterator[Mistake]:
    if recipe.trunk is not None:
        what = "was trained from the base, and with [trunk] every vector starts from the trunk"
        yield Mistake(key, what, "train it here, as [datasets.NAME], or remove [trunk]")
