"""`--set KEY=VALUE`: changes to a recipe from the command line, before it is checked."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dem_build.recipe.locate import dotted, key_parts

if TYPE_CHECKING:
    from dem_build.recipe.locate import Key

__all__ = ["Override", "OverrideError", "apply", "parse"]

_ONE_CHOICE = {"num_train_epochs": "max_steps", "max_steps": "num_train_epochs"}


class OverrideError(ValueError):
    """A `--set` that cannot be read or applied; its text says why."""


@dataclass(frozen=True)
class Override:
    """One `--set`.

    Attributes:
        text: As the user wrote it.
        key: The key that it sets.
        value: A TOML value, or the text itself where it is a bare word.
    """

    text: str
    key: Key
    value: Any


def parse(text: str) -> Override:
    """Read `KEY=VALUE`: a dotted TOML key and a TOML value; a bare word is text.

    Raises:
        OverrideError: It has no key or no `=`, or a quoted text, list or table that does not end.
    """
    try:
        parts, end = key_parts(text.strip())
    except ValueError as error:  # an escape that is none
        raise OverrideError(f"its key is no TOML: {error}") from error
    rest = text.strip()[end:].lstrip()
    if not parts or not rest.startswith("="):
        raise OverrideError("must be KEY=VALUE, such as train.learning_rate=1e-5")
    return Override(text, parts, _value(rest[1:].strip()))


def apply(data: dict[str, Any], override: Override) -> Key:
    """Set one key of a recipe, in place.

    Args:
        data: The recipe's tables, as `tomllib` reads them.
        override: What to set.

    Returns:
        The key in the recipe, with numbers for items of lists.

    Raises:
        OverrideError: The key leads through something that is no table.
    """
    *way, last = override.key
    table: Any = data
    key: Key = ()
    for part in way:
        table, key = _enter(table, key, str(part))
    if isinstance(table, list):
        index = _index(table, key, str(last))
        table[index] = override.value
        return (*key, index)
    table[last] = override.value
    # --set train.max_steps=10 in a recipe that says num_train_epochs: an override of either replaces both.
    if key[-1:] == ("train",) and (other := _ONE_CHOICE.get(str(last))):
        table.pop(other, None)
    return (*key, last)


def _enter(table: Any, key: Key, part: str) -> tuple[Any, Key]:
    if isinstance(table, list):
        index = _index(table, key, part)
        return _checked(table[index], (*key, index))
    return _checked(table.setdefault(part, {}), (*key, part))


def _checked(value: Any, key: Key) -> tuple[Any, Key]:
    if not isinstance(value, dict | list):
        raise OverrideError(f"`{dotted(key)}` is no table")
    return value, key


def _index(items: list[Any], key: Key, part: str) -> int:
    if not part.isdecimal() or int(part) >= len(items):
        raise OverrideError(f"`{dotted(key)}` is a list of {len(items)} items, numbered from 0")
    return int(part)


def _value(text: str) -> Any:
    try:
        read = tomllib.loads(f"value = {text}")
    except RecursionError as error:
        raise OverrideError("its value is nested too deeply") from error
    except ValueError as error:  # no TOML, or a number with more digits than Python reads
        if text.startswith(('"', "'", "[", "{")) or not isinstance(error, tomllib.TOMLDecodeError):
            raise OverrideError(f"its value is no TOML: {error}") from error
        return text
    return read["value"] if len(read) == 1 else text
