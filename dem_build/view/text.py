"""What all views share: consoles, marks, errors, JSON, and text from files made safe for a terminal."""

from __future__ import annotations

import io
import json
import sys
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.text import Text

from dem_build.errors import RecipeError
from dem_build.report.text import clean

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.table import Table

    from dem_build.errors import DemError

# The word of a verdict or a result → its mark and its style.
MARKS = {"hit": "•", "ran": "✓", "failed": "✗", "skipped": "-", "run": "▸", "pending": "◦", "waits": "…"}
STYLES = {
    "hit": "dim",
    "ran": "green",
    "failed": "bold red",
    "skipped": "dim",
    "run": "bold cyan",
    "pending": "cyan",
    "waits": "yellow",
}


def make_console(*, stderr: bool = False) -> Console:
    """A console that shows text as it is, on a terminal of any encoding."""
    stream = sys.stderr if stderr else sys.stdout
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")  # a Latin-1 terminal shows `?` for `✓`, and the build goes on
    # Of a notebook rich would ask IPython to show each line by itself.
    return Console(stderr=stderr, force_jupyter=False, markup=False, highlight=False, emoji=False)


def plain_console(file: TextIO) -> Console:
    """A console that writes lines to a file, as to a log, whatever the environment says of colours."""
    plain: dict[str, Any] = {"force_jupyter": False, "force_terminal": False, "no_color": True}
    return Console(file=file, markup=False, highlight=False, emoji=False, **plain)


class Spoken:
    """The voice of a call on a terminal: lines on stderr."""

    def warn(self, text: str) -> None:
        """Print what may be wrong."""
        say_warning(text, make_console(stderr=True))

    def tell(self, text: str) -> None:
        """Print what goes on."""
        say(make_console(stderr=True), (clean(text), "dim"))


def say_warning(text: str, console: Console) -> None:
    """Print what may be wrong."""
    say(console, ("warning: ", "yellow"), clean(text))


def shorten(name: str, width: int) -> str:
    """Cut a name in the middle: what it begins and ends with tells it from others."""
    if len(name) <= width:
        return name
    head = (width - 1) // 2
    tail = width - 1 - head
    return name[:head] + "…" + name[len(name) - tail :]


def say(console: Console, *parts: str | tuple[str, str] | Text) -> None:
    """Print (text, style) parts: wrapped at words on a terminal, one line elsewhere."""
    _put(console, Text.assemble(*parts))


def hang(console: Console, head: Text, body: Text) -> None:
    """Print head and body; on a terminal, the body's further lines stand below its first."""
    if not console.is_terminal:
        line = head + Text("  ") + Text("\n    ").join(body.split("\n"))
        line.rstrip()
        _put(console, line)
        return
    from rich.table import Table  # noqa: PLC0415  # a log has no tables

    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(head, body)
    console.print(grid)


def columns(first: str, *numbers: str) -> Table:
    """A table without lines: a column of names, then others that are set to the right."""
    from rich.table import Table  # noqa: PLC0415  most calls print none

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(first, no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def render_error(error: DemError, console: Console) -> None:
    """Print an error; of a recipe, all of its problems. Text of files is shown, never obeyed."""
    if not isinstance(error, RecipeError):
        where = [(f"{clean(error.where)}: ", "bold")] if error.where else []
        say(console, ("error: ", "bold red"), *where, clean(error.what))
        _hint(error.hint, console)
        return
    for problem in error.problems:
        place = f"{problem.file}:{problem.line}" if problem.line else problem.file
        key = [(clean(problem.key), "cyan"), (": ", "")] if problem.key else []
        say(console, (f"{clean(place)}: ", "bold"), ("error: ", "bold red"), *key, clean(problem.what))
        _hint(problem.hint, console)
    if len(error.problems) > 1:
        say(console, (f"{len(error.problems)} problems", "dim"))


def _hint(hint: str | None, console: Console) -> None:
    if hint:
        hang(console, Text("  hint:", "bold cyan"), Text(clean(hint)))


def write_json(document: Any, default: Callable[[Any], Any] | None = None) -> None:
    """Write the one document of `--json`."""
    sys.stdout.write(json.dumps(document, default=default) + "\n")


def _put(console: Console, line: Text) -> None:
    """Print a line; where nothing is wrapped or coloured, without rich's work for that: a third of a large plan."""
    if console.is_terminal:
        console.print(line)
        return
    try:
        console.file.write(f"{line.plain}\n")
        console.file.flush()
    except BrokenPipeError:
        console.on_broken_pipe()
