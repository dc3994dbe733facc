"""`dem init`: a recipe to begin with, of what a user says or is asked for; or the demo's."""

from __future__ import annotations

import re
import shlex
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.text import Text

from dem_build.cli.edit.changes import Draft, relative_to, settle
from dem_build.cli.edit.seen import look
from dem_build.errors import DemError, UsageError
from dem_build.paths import expanded, may_be_hub_id
from dem_build.recipe.edited import table_text
from dem_build.recipe.schema import NAME
from dem_build.report.text import clean
from dem_build.view.text import make_console

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dem_build.cli.edit.seen import Seen
    from dem_build.session.session import Call

USUAL_BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
HEAD = """\
# What to build: a base, and a vector for each dataset, composed into one model. Paths start from this folder.
# `dem check`, `dem plan` and `dem build` take this file; `dem add` and `dem remove` edit it.

"""
TRAIN = """
# How each vector is trained; a dataset may change any of it in its own `train`. These are the defaults.
# [train]
# learning_rate = 2e-5
# num_train_epochs = 1
# global_batch_size = 32
# max_length = 1024
"""
EVALUATE = """
# What is measured: the loss on held-out rows of each dataset, and answers side by side in report.html.
[evaluate]
# tasks = ["arc_easy"]        # tasks of lm-eval, by name
"""


def init(  # noqa: PLR0913  the command's options
    place: str | None, call: Call, *, base: str | None, data: Sequence[str], demo: bool, dry_run: bool
) -> int:
    """Write a recipe that checks, of flags or of answers; or fetch and make all that the demo needs.

    Raises:
        UsageError: The file is there already, nobody can be asked, or there is no such base or data. Of the demo: a
            package cannot be fetched, or is not what the demo was made with.
        RecipeError: The recipe would have mistakes.
    """
    if demo:
        if base is not None or data or dry_run:
            raise UsageError("--demo brings its own base and data", hint="dem init --demo FOLDER")
        return _write_demo(Path(place or "dem-demo"))
    named = _file(place)
    if Path(named).exists():
        raise UsageError(
            "is there already", where=named, hint=f"name another file, or edit it: dem add {named} NAME PATH"
        )
    with _folder_of(Path(named)):
        _write(named, call, base=base, data=data, dry_run=dry_run)
    return 0


def _write_demo(folder: Path) -> int:
    from dem_build.demo.make import RECIPE, make_demo  # noqa: PLC0415  it brings what downloads along

    console = make_console()
    make_demo(folder, lambda line: console.print(Text(clean(line)), soft_wrap=True))
    build = shlex.join(["dem", "build", str(folder / RECIPE), "--trust-tasks"])
    console.print(Text(f"next {build}   (6 GB of memory, 5 minutes on two CPU cores)", "dim"), soft_wrap=True)
    return 0


@contextmanager
def _folder_of(recipe: Path) -> Iterator[None]:
    """Make a new recipe's folder, from which its paths start; it goes again where nothing is written in it."""
    made = [folder for folder in recipe.parents if not folder.exists()]
    recipe.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()


def _write(named: str, call: Call, *, base: str | None, data: Sequence[str], dry_run: bool) -> None:
    asks = base is None and sys.stdin.isatty()
    if base is None and not asks:
        raise UsageError("a base is needed", hint=f"--base {USUAL_BASE}, a model's folder or a GGUF file")
    base = base or click.prompt("Base: a hub id, a model's folder or a GGUF file", default=USUAL_BASE)
    given = [_named(each) for each in data] or ([*_asked(Path(named), call)] if asks else [])
    names = [name for name, _ in given]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"two datasets would be called {twice[0]!r}", hint="--data NAME=PATH names each")
    model = base if may_be_hub_id(base) and not expanded(base).exists() else relative_to(Path(named), base)
    seen = [(name, look(source, None, Path(named), {}, offline=call.offline)) for name, source in given]
    tables = ["\n" + table_text((each.section, name), each.table) for name, each in seen]
    text = "".join([HEAD, table_text(("base",), {"model": model}), *tables, TRAIN, EVALUATE])
    settle(Draft(named), text, dry_run=dry_run)
    _say(named, seen, dry_run=dry_run)


def _file(place: str | None) -> str:
    """The recipe's file: as it is named, or `recipe.toml` in the folder that is named."""
    path = Path(place or "recipe.toml")
    if path.suffix == ".toml":
        return str(path)
    if path.is_dir() or (place or "").endswith("/"):
        return str(path / "recipe.toml")
    raise UsageError(f"`{place}` is no recipe's file", hint=f"{place}.toml, or a folder: {place}/")


def _named(text: str) -> tuple[str, str]:
    """The name and the place of `--data NAME=PATH`; without a name, the one that the place suggests."""
    name, equals, source = text.partition("=")
    return (name, source) if equals else (_suggested(text), text)


def _suggested(source: str) -> str:
    stem = re.sub(r"\.[a-z]+$", "", re.split(r"[/:]", source.rstrip("/*"))[-1])
    return re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-") or "data"


def _asked(recipe: Path, call: Call) -> Iterator[tuple[str, str]]:
    """Ask for data until the user has no more; what is none is asked for again."""
    taken: set[str] = set()
    while source := click.prompt(
        "Data: a file, a pattern, hub:ORG/NAME, or nothing to end", default="", show_default=False
    ):
        try:
            look(source, None, recipe, {}, offline=call.offline)
        except DemError as error:
            click.echo(f"  {error}", err=True)
            continue
        name = click.prompt("  Its name", default=_suggested(source))
        if name in taken or not NAME.fullmatch(name):
            wrong = "a name is made of letters, digits, `_` and `-`"
            why = f"there is a {name} already" if name in taken else wrong
            click.echo(f"  {why}", err=True)
            continue
        taken.add(name)
        yield name, source


def _say(named: str, seen: Sequence[tuple[str, Seen]], *, dry_run: bool) -> None:
    console = make_console()
    for _, each in seen:
        for line in each.lines:
            console.print(Text(f"saw  {clean(line)}"), soft_wrap=True)
    if dry_run:
        return  # there is no such recipe
    nexts = ["plan", named] if seen else ["add", named, "NAME", "PATH"]
    console.print(Text(f"next {shlex.join(['dem', *nexts])}", "dim"), soft_wrap=True)
