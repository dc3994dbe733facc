"""Rules of `[train]` and of the own `train` of datasets and mixtures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dem_build.recipe.checks.tables import WRONG, Rules, datasets, is_any, mixtures, trains
from dem_build.recipe.messages import Mistake, listed
from dem_build.recipe.sections import IDLE, Train

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dem_build.recipe.schema import Dataset, Mixture, Recipe
    from dem_build.recipe.toml import Key

CHOOSING = ("load_best_model_at_end", "early_stopping_patience")
NO_CHOICE = "has no effect while `eval_steps` is 0"
LORA_KEYS = ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules")

RULES = Rules()


@RULES.each(trains)
def _one_length(_: Recipe, key: Key, train: Train) -> Iterator[Mistake]:
    # Where one of them is written the other is None.
    if train.num_train_epochs is not None and train.max_steps is not None:
        what = "`max_steps` and `num_train_epochs` are one choice, and both are given"
        yield Mistake((*key, "max_steps"), what, "remove one of them")


@RULES.each(trains)
def _whole_warmup(_: Recipe, key: Key, train: Train) -> Iterator[Mistake]:
    if train.warmup_steps > 1 and not train.warmup_steps.is_integer():
        yield Mistake((*key, "warmup_steps"), "from 1 on it is a number of steps, and must be whole")


@RULES.whole
def _lora_keys_need_lora(recipe: Recipe) -> Iterator[Mistake]:
    # A key of [train] may be meant for the one dataset that is trained so.
    if any(is_any(train.method, "lora") for _, train in trains(recipe)):
        return
    what, hint = 'has no effect without method = "lora"', 'remove it, or set method = "lora"'
    for key, train in trains(recipe):
        for name in LORA_KEYS:
            if name in train.model_fields_set:
                yield Mistake((*key, name), what, hint)


@RULES.whole
def _idle_keys(recipe: Recipe) -> Iterator[Mistake]:
    """Of [train] all who take it over must leave a key unread, of an own `train` its owner."""
    (_, shared), *owners = trains(recipe)
    mistakes = _unread(("train",), shared, shared, [own for _, own in owners] or [shared])
    # Vectors from elsewhere are stored in the type of [train].
    yield from (m for m in mistakes if m.key[-1] != "vector_dtype" or not recipe.vectors)
    for key, own in owners:
        yield from _unread(key, own, shared, [own])


def _unread(key: Key, train: Train, shared: Train, owners: list[Train]) -> Iterator[Mistake]:
    for (choice, value), idle in IDLE.items():
        given = [name for name in idle if name in train.model_fields_set]
        if given and all(is_any(_resolved(shared, own, choice), value) for own in owners):
            what, hint = f'has no effect with {choice} = "{value}"', f"remove it, or set another `{choice}`"
            yield from (Mistake((*key, name), what, hint) for name in given)


@RULES.whole
def _choosing_needs_validation(recipe: Recipe) -> Iterator[Mistake]:
    (_, shared), *owners = trains(recipe)
    # Mixtures are left out: each is asked by itself below, for what it writes itself.
    datasets_own = {str(key[1]): own for key, own in owners if key[0] == "datasets"}
    for name in CHOOSING:
        # A dataset that says itself that it takes no losses wants none.
        lost = {
            dataset: own
            for dataset, own in datasets_own.items()
            if _chooses_nothing(shared, own, name)
            and (name in own.model_fields_set or "eval_steps" not in own.model_fields_set)
        }
        heirs = [dataset for dataset, own in lost.items() if name not in own.model_fields_set]
        for dataset in lost.keys() - heirs:
            yield Mistake(("datasets", dataset, "train", name), NO_CHOICE, "set eval_steps")
        if heirs and len(heirs) < len(datasets_own):
            what = f"has no effect on {listed(heirs)}, where `eval_steps` is 0"
            hint = "set eval_steps in [train], or move it to the datasets it is for"
            yield Mistake(("train", name), what, hint)
        elif heirs or (not datasets_own and _chooses_nothing(shared, shared, name)):
            yield Mistake(("train", name), NO_CHOICE, "set eval_steps")


@RULES.whole
def _mixtures_choice_needs_validation(recipe: Recipe) -> Iterator[Mistake]:
    (_, shared), *owners = trains(recipe)
    for key, own in owners:
        for name in CHOOSING if key[0] != "datasets" else ():
            if name in own.model_fields_set and _chooses_nothing(shared, own, name):
                yield Mistake((*key, name), NO_CHOICE, "set eval_steps")


def _chooses_nothing(shared: Train, own: Train, name: str) -> bool:
    chosen, steps = _resolved(shared, own, name), _resolved(shared, own, "eval_steps")
    # This is asked of many datasets in a row: a wrong value of one must not silence what is said of the others.
    return chosen is not WRONG and steps is not WRONG and bool(chosen) and steps == 0


def _resolved(shared: Train, own: Train, name: str) -> Any:
    """One key of `shared.with_own(own)`, which copies a table: too dear for each rule and dataset."""
    return getattr(own if name in own.model_fields_set else shared, name)


@RULES.each(datasets)
def _validating_needs_rows(recipe: Recipe, key: Key, dataset: Dataset) -> Iterator[Mistake]:
    if dataset.validation == 0 and _resolved(recipe.train, dataset.train, "eval_steps"):
        what = "is 0, and `eval_steps` takes losses on it"
        yield Mistake((*key, "validation"), what, "hold out a share such as 0.05, or set eval_steps = 0")


@RULES.each(mixtures)
def _length_counts_when_packed(recipe: Recipe, key: Key, mixture: Mixture) -> Iterator[Mistake]:
    packing = _resolved(recipe.train, mixture.train, "packing")
    if "max_length" in mixture.train.model_fields_set and not packing:
        what = "has no effect without `packing`: the rows are as their datasets say"
        yield Mistake((*key, "train", "max_length"), what, "remove it, or set packing = true")
