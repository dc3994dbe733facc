"""What rules are made of: a look at a recipe's tables that a value of the wrong shape does not end.

A rule takes the typed recipe and yields what is wrong. Shapes are the models' business, and one mistake hides no other:
where a value has the wrong shape, the rules that look at it are silent (`recovery.py`), and all others speak.
"""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any

from dem_build.recipe.checks.recovery import WRONG, WrongValueError, entries, items
from dem_build.recipe.schema import Train

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from dem_build.recipe.messages import Mistake
    from dem_build.recipe.schema import Baseline, Dataset, Recipe, Source, Vector
    from dem_build.recipe.toml import Key

    Rule = Callable[[Recipe], Iterator[Mistake]]
    RuleOfOne = Callable[[Recipe, Key, Any], Iterator[Mistake]]

__all__ = [
    "baselines",
    "datasets",
    "each",
    "gates",
    "is_any",
    "mixtures",
    "names",
    "sources",
    "trains",
    "unless_wrong",
    "vectors",
    "with_rows",
]


def unless_wrong(mistakes: Iterator[Mistake]) -> Iterator[Mistake]:
    """What a rule yields before it looks at a value of the wrong shape."""
    try:
        yield from mistakes
    except WrongValueError:
        return


def each(tables: Callable[[Recipe], Iterable[tuple[Key, Any]]]) -> Callable[[RuleOfOne], Rule]:
    """Make a rule of one that judges a single table, so that a wrong value silences it about that table alone."""

    def rule_of_all(rule: RuleOfOne) -> Rule:
        @wraps(rule)
        def judged(recipe: Recipe) -> Iterator[Mistake]:
            for key, table in tables(recipe):
                yield from unless_wrong(rule(recipe, key, table))

        return judged

    return rule_of_all


def is_any(value: Any, *words: str) -> bool:
    """Whether a value is one of some; one of the wrong shape is none."""
    return value is not WRONG and value in words


def names(recipe: Recipe, *sections: str) -> list[str]:
    """The names of all tables in some sections, also of those that are no tables."""
    return [name for section in sections for name in _section(recipe, section)]


def _section(recipe: Recipe, section: str) -> dict[str, Any]:
    tables = getattr(recipe, section)
    return {} if tables is WRONG else tables


def _named(recipe: Recipe, section: str) -> list[tuple[Key, Any]]:
    return [((section, name), table) for name, table in entries(_section(recipe, section))]


def datasets(recipe: Recipe) -> list[tuple[Key, Dataset]]:
    """Each dataset with its key, such as `datasets.math`."""
    return _named(recipe, "datasets")


def sources(recipe: Recipe) -> list[tuple[Key, Source]]:
    """Each dataset and probe."""
    return _named(recipe, "datasets") + _named(recipe, "probes")


def vectors(recipe: Recipe) -> list[tuple[Key, Vector]]:
    """Each vector from elsewhere."""
    return _named(recipe, "vectors")


def baselines(recipe: Recipe, *methods: str) -> list[tuple[Key, Baseline]]:
    """Each baseline; of some methods, where they are given."""
    found: list[tuple[Key, Baseline]] = _named(recipe, "baselines")
    return [(key, table) for key, table in found if not methods or is_any(table.method, *methods)]


def mixtures(recipe: Recipe) -> list[tuple[Key, Baseline]]:
    """Each baseline that is trained on a mixture."""
    return baselines(recipe, "mixing")


def trains(recipe: Recipe) -> list[tuple[Key, Train]]:
    """`[train]`, and the own `train` of all that is trained; one that is no table sets no key."""
    found: list[tuple[Key, Train]] = [(("train",), recipe.train)]
    found += [((*key, "train"), dataset.train) for key, dataset in datasets(recipe)]
    found += [((*key, "train"), mixture.train) for key, mixture in mixtures(recipe)]
    return [(key, Train() if train is WRONG else train) for key, train in found]


def gates(recipe: Recipe) -> list[tuple[Key, Any]]:
    """Each gate."""
    return [] if recipe.gates is WRONG else [(("gates", index), gate) for index, gate in items(recipe.gates)]


def with_rows(recipe: Recipe, part: str) -> list[tuple[Key, Dataset]]:
    """The datasets that hold out rows for a part, `validation` or `test`: those that do not say 0."""
    shares = ((key, table, getattr(table, part)) for key, table in datasets(recipe))
    return [(key, table) for key, table, share in shares if share is WRONG or share != 0]
