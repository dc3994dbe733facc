"""`--set KEY=VALUE`: changes to a recipe from the command line, before it is checked."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Any

from dem_build.recipe.toml import dotted, key_parts

if TYPE_CHECKING:
    from dem_build.recipe.toml import Key

_ONE_CHOICE = {"num_train_epochs": "max_steps", "max_steps": "num_train_epochs"}


class OverrideError(ValueError):
    """A `--set` that cannot be read or applied; its text says why."""


def override(data: dict[str, Any], text: str) -> Key:
    """Set one key of a recipe, in place; return the key, with numbers for items of lists.

    Args:
        data: The recipe's tables, as `tomllib` reads them.
        text: `KEY=VALUE`: a dotted TOML key and a TOML value; a bare word is text.

    Raises:
        OverrideError: It has no key or no `=`, or a quoted text, list or table that does not end; or the key leads
            through something that is no table.
    """
    try:
        parts, end = key_parts(text.strip())
    except ValueError as error:  # an escape that is none
        raise OverrideError(f"its key is no TOML: {error}") from error
    rest = text.strip()[end:].lstrip()
    if not parts or not rest.startswith("="):
        raise OverrideError("must be KEY=VALUE, such as train.learning_rate=1e-5")
    value = _value(rest[1:].strip())
    *way, last = parts
    table: Any = data
    key: Key = ()
    for part in way:
        if isinstance(table, list):
            index = _index(table, key, part)
            table, key = table[index], (*key, index)
        else:
            table, key = table.setdefault(part, {}), (*key, part)
        if not isinstance(table, dict | list):
            raise OverrideError(f"`{dotted(key)}` is no table")
    if isinstance(table, list):
        index = _index(table, key, last)
        table[index] = value
        return (*key, index)
    table[last] = value
    # --set train.max_steps=10 in a recipe that says num_train_epochs: an override of either replaces both.
    if key[-1:] == ("train",) and (other := _ONE_CHOICE.get(last)):
        table.pop(other, None)
    return (*key, last)


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
