"""What a terminal would show, as HTML of a notebook."""

from __future__ import annotations

import io
import re
from html import unescape
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from collections.abc import Callable

WIDTH = 110
FORMAT = (
    '<pre class="dem" style="margin:0;padding:0;white-space:pre;overflow-x:auto;line-height:1.4;border:0;'
    "background:transparent;font-family:ui-monospace,'Cascadia Mono',Menlo,Consolas,'DejaVu Sans Mono',monospace"
    '">{code}</pre>'
)
_TAG = re.compile("<[^>]*>")


def paper() -> Console:
    """A console that remembers what is printed on it, and shows it nowhere."""
    return Console(
        file=io.StringIO(),
        record=True,
        width=WIDTH,
        force_terminal=True,
        # Else rich asks IPython to show each line by itself.
        force_jupyter=False,
        color_system="standard",
        markup=False,
        highlight=False,
        emoji=False,
        _environ={},
    )


def drained(console: Console) -> str:
    """What was printed since the last time, as HTML without anything around it; a line of it is a line of text."""
    return console.export_html(clear=True, inline_styles=True, code_format="{code}")


def text_of(code: str) -> str:
    """The text of what `drained` gave."""
    return unescape(_TAG.sub("", code))


def page_of(lines: Callable[[Console], None]) -> str:
    """What a function prints, as HTML; text of others is text there, too."""
    console = paper()
    lines(console)
    return FORMAT.format(code=drained(console))
