"""What the recipe language has and this version of dem has not. A line here goes when its feature comes.

`docs/recipe.md` lists these too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dem_build.recipe.messages import Mistake

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from dem_build.recipe.toml import Key

__all__ = ["UNSUPPORTED", "Unsupported", "not_yet"]


@dataclass(frozen=True)
class Unsupported:
    """A value that is not built yet.

    Attributes:
        key: Where it is written; `*` stands for every name.
        value: The value.
        until: What to do for now.
    """

    key: str
    value: str
    until: str

    @property
    def feature(self) -> str:
        """As a recipe has it, such as `method = "lora"`."""
        return f'{self.key.rpartition(".")[2]} = "{self.value}"'


UNSUPPORTED = tuple(
    Unsupported(f"{owner}train.method", "lora", 'use method = "full" for now')
    for owner in ("", "datasets.*.", "baselines.*.", "trunk.", "heal.")
)


def not_yet(data: Mapping[str, Any]) -> list[Mistake]:
    """Every use of what this version has not.

    Args:
        data: The recipe's raw tables: a table of another shape hides none of them.
    """
    return [
        Mistake(key, f"{item.feature} is not in this version of dem yet", item.until)
        for item in UNSUPPORTED
        for key, value in _at(data, tuple(item.key.split(".")))
        if value == item.value
    ]


def _at(table: Any, pattern: tuple[str, ...], key: Key = ()) -> Iterator[tuple[Key, Any]]:
    """What a pattern leads to."""
    if not pattern:
        yield key, table
    elif isinstance(table, dict):
        for name in table if pattern[0] == "*" else table.keys() & {pattern[0]}:
            yield from _at(table[name], pattern[1:], (*key, name))
