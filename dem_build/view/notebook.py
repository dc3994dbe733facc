"""Follows a build in the output of a notebook's cell: what a terminal would show, as HTML that is drawn anew.

It needs IPython, which every kernel of a notebook has, and no widgets: one display is updated, and what it showed last
is what stays in the notebook's file.
"""

from __future__ import annotations

import contextvars
import threading
from typing import TYPE_CHECKING, Any

from dem_build.view.live import LiveListener
from dem_build.view.page import FORMAT, drained, paper, text_of

if TYPE_CHECKING:
    from dem_build.plan import Plan

SECONDS = 0.5
"""Between two drawings."""
MOST_LINES = 400
"""Lines that stay and are shown: a message to a browser holds all of them each time."""


class NotebookListener(LiveListener):
    """Follows a build in a notebook."""

    def __init__(self) -> None:
        super().__init__(paper())
        self._lines: list[str] = []
        self._left_out = 0
        self._handle: Any = None
        self._shown = ""
        self._drawing = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __exit__(self, *_: object) -> None:
        """Draw what stays."""
        super().__exit__()
        self._draw()

    def build_started(self, plan: Plan) -> None:
        """Show the plan."""
        super().build_started(plan)
        self._draw()

    def warn(self, text: str) -> None:
        """Show what may be wrong, also after the build."""
        super().warn(text)
        self._draw_unless_kept()

    def tell(self, text: str) -> None:
        """Show what goes on, likewise."""
        super().tell(text)
        self._draw_unless_kept()

    def _start(self) -> None:
        if self._thread is None:
            self._ended.clear()
            # A kernel knows by a thread's context which cell its output is of.
            keep = contextvars.copy_context()
            self._thread = threading.Thread(target=keep.run, args=(self._keep_drawing,), daemon=True)
            self._thread.start()

    def _stop(self) -> None:
        if self._thread is not None:
            self._ended.set()
            self._thread.join()
            self._thread = None
            self._draw()

    def _keep_drawing(self) -> None:
        while not self._ended.wait(SECONDS):
            self._draw(live=True)

    def _draw_unless_kept(self) -> None:
        if self._thread is None:
            self._draw()

    def _draw(self, *, live: bool = False) -> None:
        with self._drawing:
            self._settle()
            head = f"… {self._left_out} lines before\n" if self._left_out else ""
            code = head + "".join(self._lines)
            if live:
                console = paper()
                console.print(self._render())
                code += drained(console)
            if code != self._shown:
                self._shown = code
                self._show({"text/html": FORMAT.format(code=code), "text/plain": text_of(code)})

    def _settle(self) -> None:
        """Take over what was printed since, line by line; no style goes on over the end of a line."""
        self._lines += [f"{line}\n" for line in drained(self.console).split("\n")[:-1]]
        more = len(self._lines) - MOST_LINES
        if more > 0:
            del self._lines[:more]
            self._left_out += more

    def _show(self, data: dict[str, str]) -> None:
        from IPython import display  # noqa: PLC0415  a terminal's dem has none

        show: Any = display.display  # which has no types
        if self._handle is None:
            self._handle = show(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)
