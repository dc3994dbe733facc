"""Ctrl-C and SIGTERM as a count: the first asks running actions to save their state, the second kills.

Where no action runs there is no state to save, and nobody looks at the count: a request stops the command at once.
"""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType, TracebackType
    from typing import Self


class Interrupt:
    """Counts the user's requests to stop while it is entered; in any thread but the main one there are none.

    Attributes:
        last: The signal of the last one; None where there was none.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.count = 0
        self.last: int | None = None
        self._counting = False
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # the only one that Python tells of signals
            for number in self.SIGNALS:
                self._previous[number] = signal.signal(number, self._count)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)  # type: ignore[arg-type]

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Only count inside the block; elsewhere a request raises `KeyboardInterrupt`."""
        self._counting = True
        try:
            yield
        finally:
            self._counting = False

    def _count(self, number: int, _frame: FrameType | None) -> None:
        self.count += 1
        self.last = number
        if not self._counting:
            raise KeyboardInterrupt
