"""Ctrl-C and SIGTERM as a count: the first asks running actions to save their state, the second kills.

Where no action runs there is no state to save, and nobody looks at the count: a request stops the command at once.
"""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType, TracebackType
    from typing import Self

__all__ = ["Interrupt"]


class Interrupt:
    """Counts the user's requests to stop while it is entered."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.count = 0
        self._counting = False
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Self:
        for number in self.SIGNALS:
            self._previous[number] = signal.signal(number, self._count)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number in self.SIGNALS:
            signal.signal(number, self._previous[number])  # type: ignore[arg-type]

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Only count inside the block; elsewhere a request raises `KeyboardInterrupt`."""
        self._counting = True
        try:
            yield
        finally:
            self._counting = False

    def _count(self, _number: int, _frame: FrameType | None) -> None:
        self.count += 1
        if not self._counting:
            raise KeyboardInterrupt
