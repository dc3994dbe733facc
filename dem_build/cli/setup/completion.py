"""`dem completion`: what a shell offers after the tab key, as far as a recipe and its lock tell; nothing else is read.

click has the scripts of the shells. What can stand in a place is said here, by functions that never fail: who types a
command is not told of a recipe's mistakes.
"""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Union, get_args, get_origin

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    add_completion_class,
    get_completion_class,
    split_arg_string,
)
from pydantic import BaseModel

from dem_build.action import BASE, COMPOSED, HEAL, UNHEALED
from dem_build.errors import DemError, UsageError
from dem_build.recipe import read_recipe
from dem_build.recipe.schema import Dataset, Recipe, Vector

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dem_build.session.session import Call

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_DEM_COMPLETE"
SECTIONS = ("datasets", "vectors", "probes", "baselines")
MOST_FILES = 300
"""TOML files that are looked at to find recipes."""
_BASE = re.compile(r"^[ \t]*(?:\[[ \t]*base[ \t]*\]|base[ \t]*[.=])", re.MULTILINE)


class ForBash(BashComplete):
    """click's completion, for words with `:` or `=`: bash ends a word there, and takes what follows for another."""

    name: ClassVar[str] = "bash"
    source_template: ClassVar[str] = """\
%(complete_func)s() {
    local type value
    COMPREPLY=()
    while IFS=, read -r type value; do
        case $type in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain)
                COMPREPLY+=("$value")
                case $value in *[=./]) compopt -o nospace ;; esac
                ;;
        esac
    done < <(
        COMP_WORDS="${COMP_LINE:0:COMP_POINT}" DEM_BREAKS="$COMP_WORDBREAKS" %(complete_var)s=bash_complete "$1" \\
            2> /dev/null
    )
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the cursor, and what of one stands there."""
        line = os.environ["COMP_WORDS"]
        words = split_arg_string(line)
        incomplete = "" if line[-1:].isspace() else words.pop()
        ends = [incomplete.rfind(mark) for mark in ":=" if mark in os.environ.get("DEM_BREAKS", ":=")]
        self._known = max(ends, default=-1) + 1
        return words[1:], incomplete

    def format_completion(self, item: CompletionItem) -> str:
        """An answer as the script reads it, without what bash takes for words before."""
        return f"{item.type},{item.value[self._known :] if item.type == 'plain' else item.value}"


def add_bash() -> None:
    """Take `ForBash` for click's."""
    add_completion_class(ForBash)


def completion(shell: str, call: Call) -> int:  # noqa: ARG001  every command has a call
    """Print the script that teaches a shell what can follow `dem`.

    Raises:
        UsageError: There is none for that shell.
    """
    from dem_build.cli.app import app  # noqa: PLC0415  it asks this module for what stands in its places

    add_bash()
    found = get_completion_class(shell)
    if found is None:
        raise UsageError(f"there is no completion for {shell!r}", hint=f"one of {', '.join(SHELLS)}")
    click.echo(found(app, {}, "dem", VARIABLE).source())
    return 0


def recipes(context: click.Context, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001  as the others
    """Recipes in the folder that is typed so far, and up to two levels below it."""
    folder = Path(incomplete).parent if not incomplete.endswith("/") else Path(incomplete)
    found = [str(path) for path in _toml_files(folder) if _is_recipe(path)]
    shown = [text for text in found if text.startswith(os.path.normpath(incomplete) if incomplete else "")]
    return [CompletionItem(text) for text in shown] or [CompletionItem(incomplete, type="file")]


def recipes_or_actions(context: click.Context, incomplete: str) -> list[CompletionItem]:
    """Recipes; behind `--` the actions of those that are named."""
    return actions(context, incomplete) if "--" in _typed(context) else recipes(context, incomplete)


def actions(context: click.Context, incomplete: str) -> list[CompletionItem]:
    """The actions of a call's recipes: as their locks have them, else those that every such recipe has."""
    return _beginning((name for named in _recipes_of(context) for name in _actions(named)), incomplete)


def names(context: click.Context, incomplete: str) -> list[CompletionItem]:
    """The datasets, probes and mixtures of a call's recipe."""
    return _beginning((name for recipe in _read_recipes(context) for name in recipe.prepared), incomplete)


def models(context: click.Context, incomplete: str) -> list[CompletionItem]:
    """The models of a call's recipe that can be talked to."""
    found = [BASE, COMPOSED]
    for recipe in _read_recipes(context):
        found += [*recipe.omegas, *recipe.stages, *recipe.baselines]
    return _beginning((UNHEALED if name == HEAL else name for name in found), incomplete)


def measured(context: click.Context, incomplete: str) -> list[CompletionItem]:
    """What a call's recipe has items of: tasks, and datasets and probes with test rows."""
    found: list[str] = []
    for recipe in _read_recipes(context):
        tasks = recipe.evaluate.tasks if recipe.evaluate else ()
        found += [*(task.name for task in tasks), *recipe.tested, *recipe.probes]
    return _beginning(found, incomplete)


def words(context: click.Context, incomplete: str) -> list[CompletionItem]:
    """What `dem add`, `score` and `remove` take: a recipe, and a name of one that is there; else a file."""
    typed, named = _typed(context), _recipes_of(context)
    if context.info_name in ("add", "score"):
        return recipes(context, incomplete) if not typed else [CompletionItem(incomplete, type="file")]
    held = [name for recipe in named or recipes_here() for name in _tables(recipe)]
    found = _beginning(held, incomplete)
    others = [] if named else recipes(context, incomplete)
    return [*found, *(item for item in others if item.type == "plain")]


def keys(context: click.Context, incomplete: str) -> list[CompletionItem]:
    """Keys of the recipe language, `train.learning_rate=`; behind `=` the values, where there are a few."""
    recipe = next(iter(_read_recipes(context)), None)
    return _beginning(_keys_of(Recipe, recipe, incomplete), incomplete)


def table_keys(context: click.Context, incomplete: str) -> list[CompletionItem]:
    """Keys of a table that is added."""
    model = Vector if {"checkpoint", "adapter"} & {*_typed(context)} else Dataset
    return _beginning(_keys_of(model, None, incomplete), incomplete)


def _keys_of(
    model: type[BaseModel], table: BaseModel | None, incomplete: str, before: str = ""
) -> Iterator[str]:
    """Each key of a table below `before`; the names of tables are those of a recipe that is there."""
    for name, field in model.model_fields.items():
        key, value = f"{before}{name}", getattr(table, name, None)
        inner = next(_models_in(field.annotation), None)
        if get_origin(field.annotation) is dict and inner is not None:
            for each, entry in (value or {}).items():
                yield from _keys_of(inner, entry, incomplete, f"{key}.{each}.")
        elif get_origin(field.annotation) is tuple:
            yield f"{key}="
        elif inner is not None:
            yield from _keys_of(inner, value, incomplete, f"{key}.")
        elif incomplete.startswith(f"{key}="):
            yield from (f"{key}={choice}" for choice in _choices_in(field.annotation))
        else:
            yield f"{key}="


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)


def _choices_in(annotation: Any) -> Iterator[str]:
    if get_origin(annotation) is Literal:
        yield from map(str, get_args(annotation))
    elif annotation is bool:
        yield from ("true", "false")
    elif get_origin(annotation) in {Annotated, Union, UnionType}:
        for part in get_args(annotation):
            yield from _choices_in(part)


def _beginning(found: Iterable[str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(text) for text in dict.fromkeys(found) if text.startswith(incomplete)]


def _typed(context: click.Context) -> tuple[str, ...]:
    from dem_build.cli.app import TYPED  # noqa: PLC0415  as in completion

    typed: tuple[str, ...] = context.meta.get(TYPED, ())
    return typed


def _recipes_of(context: click.Context) -> list[str]:
    return [word for word in _typed(context) if word.endswith(".toml")]


def _read_recipes(context: click.Context) -> list[Recipe]:
    return [recipe for recipe in map(_read, _recipes_of(context)) if recipe is not None]


def recipes_here() -> list[str]:
    """The recipes in this folder."""
    return [str(path) for path in sorted(Path().glob("*.toml")) if _is_recipe(path)]


def _toml_files(folder: Path) -> list[Path]:
    found: list[Path] = []
    for pattern in ("*.toml", "*/*.toml", "*/*/*.toml"):
        below = ((path, path.relative_to(folder).parts) for path in folder.glob(pattern))
        found += sorted(path for path, parts in below if not any(part.startswith(".") for part in parts))
        if len(found) > MOST_FILES:
            break
    return found[:MOST_FILES]


def _is_recipe(path: Path) -> bool:
    try:
        return _BASE.search(path.read_text(encoding="utf-8-sig")) is not None
    except (OSError, ValueError):
        return False


def _tables(named: str) -> list[str]:
    try:
        data = tomllib.loads(Path(named).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return []
    return [name for section in SECTIONS if isinstance(table := data.get(section), dict) for name in table]


def _read(named: str) -> Recipe | None:
    try:
        return read_recipe(Path(named))[0]
    except DemError:
        return None


def _actions(named: str) -> list[str]:
    from dem_build.graph import build_graph  # noqa: PLC0415  most completions are of something else
    from dem_build.lock import lock  # noqa: PLC0415  as above
    from dem_build.lock.absent import Absent  # noqa: PLC0415  as above
    from dem_build.store import Hints  # noqa: PLC0415  as above

    if (recipe := _read(named)) is None:
        return []
    try:
        locked = lock.read(lock.lock_path(recipe.path))
        # Nothing is read but the lock.
        located = lock.locate(recipe, Absent(locked, recipe.folder, alone=True))
        return list(build_graph(recipe, lock.resolve(located, Hints(), locked)).actions)
    except DemError:
        vectors = [f"vector:{name}" for name in (*recipe.datasets, *recipe.vectors)]
        return ["base", *(f"data:{name}" for name in recipe.sources), *vectors, "model"]
