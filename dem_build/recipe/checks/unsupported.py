"""What the recipe language has and this version of dem has not. A line here goes when its feature comes.

`docs/recipe.md` lists these too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dem_build.recipe.problems import Mistake

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dem_build.recipe.checks.tables import Raw
    from dem_build.recipe.locate import Key

__all__ = ["LATER", "Later", "not_yet"]


@dataclass(frozen=True)
class Later:
    """A use of the language that is not built yet.

    Attributes:
        key: Where it is written; `*` stands for every name, or every item of a list.
        feature: What it is called in a message.
        until: What to do for now.
        uses: Which values use it, of those that the language has.
    """

    key: str
    feature: str
    until: str = "remove it for now"
    uses: Callable[[Any], bool] = lambda _: True


def _is(*values: Any) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value in values


_TRAIN = (Later("train.method", 'method = "lora"', 'use method = "full" for now', _is("lora")),)

LATER: tuple[Later, ...] = (
    *_TRAIN,
    *(
        Later(f"{section}.*.{item.key}", item.feature, item.until, item.uses)
        for section in ("datasets", "baselines")
        for item in _TRAIN
    ),
)


def not_yet(data: Raw) -> list[Mistake]:
    """Return every use of what this version has not.

    Args:
        data: The recipe's tables, lists given as tuples.
    """
    return [
        Mistake(key, f"{later.feature} is not in this version of dem yet", later.until)
        for later in LATER
        for key, value in _at(data, tuple(later.key.split(".")))
        if later.uses(value)
    ]


def _at(table: Any, pattern: tuple[str, ...], key: Key = ()) -> Iterator[tuple[Key, Any]]:
    """Yield what a pattern leads to."""
    if not pattern:
        yield key, table
    elif isinstance(table, dict) and pattern[0] == "*":
        for name, value in table.items():
            yield from _at(value, pattern[1:], (*key, name))
    elif isinstance(table, dict) and pattern[0] in table:
        yield from _at(table[pattern[0]], pattern[1:], (*key, pattern[0]))
