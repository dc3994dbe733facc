"""Who follows a build: live lines on a terminal, lines that stay elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.view.lines import PlainListener

if TYPE_CHECKING:
    from rich.console import Console


def make_listener(console: Console) -> PlainListener:
    """What follows a build on this console: live on a terminal, plain lines elsewhere.

    Use it as a context manager, so that the terminal is left as it was.
    """
    # The stream is asked, not rich: FORCE_COLOR makes rich call a log a terminal, which live lines would spoil.
    if not console.file.isatty() or console.is_dumb_terminal:
        return PlainListener(console)
    from dem_build.view.live import LiveListener  # noqa: PLC0415  # a log needs none of it

    return LiveListener(console)
