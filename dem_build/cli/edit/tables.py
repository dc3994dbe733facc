"""`dem add` and `dem remove`: a table more or less in a recipe."""

from __future__ import annotations

import shlex
import tomllib
from typing import TYPE_CHECKING, Any

from rich.text import Text

from dem_build.cli.edit.changes import opened, recipe_here, settle
from dem_build.cli.edit.seen import look
from dem_build.errors import DemError, UsageError
from dem_build.paths import absolute
from dem_build.recipe.edited import with_table, without_table
from dem_build.recipe.messages import nearest
from dem_build.recipe.overrides import OverrideError, override
from dem_build.recipe.schema import NAME
from dem_build.report.quantities import size
from dem_build.report.text import clean
from dem_build.session.session import last_root, open_workplace
from dem_build.view.text import make_console

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from dem_build.cli.edit.changes import Draft
    from dem_build.digest import JSON
    from dem_build.session.session import Call

SECTIONS = ("datasets", "vectors", "probes", "baselines")
ADD = "dem add RECIPE NAME PATH|hub:ID"
REMOVE = "dem remove RECIPE NAME"


def add(words: Sequence[str], call: Call, *, kind: str | None, omega: str | None, dry_run: bool) -> int:
    """Add a dataset, a probe or a vector from elsewhere to a recipe, and say what it is.

    Raises:
        UsageError: The name is none or is taken, or there is nothing of that kind at that place.
        RecipeError: The recipe would have mistakes.
    """
    named, rest = recipe_here(words, ADD)
    if len(rest) != 2:
        raise UsageError("a name and a place are needed", hint=ADD)
    name, source = rest
    if not NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no name", hint="a name is made of letters, digits, `_` and `-`")
    draft = opened(named)
    if (taken := section_of(draft, name)) is not None:
        hint = f"edit the table, or take it out first: {shlex.join(['dem', 'remove', named, name])}"
        raise UsageError(f"there is a `{taken}.{name}` already", where=named, hint=hint)
    overrides = [*call.overrides, *([f"omega={omega}"] if omega is not None else [])]
    seen = look(source, kind, draft.path, keys_of(overrides), offline=call.offline)
    settle(draft, with_table(draft.text, seen.section, name, seen.table), dry_run=dry_run)
    console = make_console()
    for line in seen.lines:
        console.print(Text(f"saw  {clean(line)}"), soft_wrap=True)
    looks = ["data", named, name] if seen.section != "vectors" else ["plan", named]
    if not dry_run:  # the recipe has no such table
        console.print(Text(f"next {shlex.join(['dem', *looks])}", "dim"), soft_wrap=True)
    return 0


def keys_of(overrides: Sequence[str]) -> dict[str, Any]:
    """The keys of a new table that `--set KEY=VALUE` gives.

    Raises:
        UsageError: One of them cannot be read.
    """
    table: dict[str, Any] = {}
    for text in overrides:
        try:
            override(table, text)
        except OverrideError as error:
            raise UsageError(str(error), where=f"--set {text}") from error
    return table


def remove(words: Sequence[str], call: Call, *, dry_run: bool) -> int:
    """Take a dataset, a vector, a probe or a baseline out of a recipe, and say what stays in the cache.

    Raises:
        UsageError: The recipe has nothing of that name.
        RecipeError: The recipe would have mistakes: something else in it names what is to go.
    """
    named, rest = recipe_here(words, REMOVE)
    if len(rest) != 1:
        seen = f", not {', '.join(f'`{word}`' for word in rest)}" if rest else ""
        raise UsageError(f"one name is needed{seen}", hint=REMOVE)
    draft, [name] = opened(named), rest
    section = section_of(draft, name)
    if section is None:
        hint = nearest(name, names_of(draft)) or "it has no dataset, vector, probe or baseline"
        raise UsageError(f"there is no `{name}`", where=named, hint=hint)
    settle(draft, without_table(draft.text, section, name), dry_run=dry_run)
    console = make_console()
    if kept := kept_of(draft.path, name, call):
        line = f"kept {kept}; the same table would find it again, and `dem cache gc --vectors` deletes it"
        console.print(Text(line), soft_wrap=True)
    return 0


def section_of(draft: Draft, name: str) -> str | None:
    """The section that has a table of a name."""
    return next((section for section, names in _tables(draft).items() if name in names), None)


def names_of(draft: Draft) -> list[str]:
    """Every name of a table that can be taken out."""
    return [name for names in _tables(draft).values() for name in names]


def _tables(draft: Draft) -> dict[str, dict[str, JSON]]:
    data = tomllib.loads(draft.text)
    return {section: data[section] for section in SECTIONS if isinstance(data.get(section), dict)}


def kept_of(recipe: Path, name: str, call: Call) -> str:
    """What the cache holds of a table's actions, by the recipe's last build; empty where that is nothing."""
    try:
        store = open_workplace(call, recipe, make=False).store
        actions = last_root(store, absolute(recipe))["actions"]
        named = {
            action: actions[action] for action in (f"data:{name}", f"vector:{name}") if action in actions
        }
        records = {action: store.records.peek(key) for action, key in named.items()}
    except (DemError, OSError):  # no cache, or one that others may read
        return ""
    sizes = {a: sum(o.size for o in record.outputs.values()) for a, record in records.items() if record}
    return " and ".join(f"{action} ({size(octets)})" for action, octets in sizes.items())
