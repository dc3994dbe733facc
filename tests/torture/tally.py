"""What a chapter of the torture reports: for one kind of fault, how often it was tried and what came of it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["Chapter", "Scale", "Tally"]


@dataclass
class Tally:
    """One line of `docs/reliability.md`.

    Attributes:
        fault: What was done, in a few words.
        tried: How often.
        detected: How often `dem` noticed, and said so; None where there is nothing to notice.
        recovered: How often the next build gave the right bytes, or the right error.
        lost: How often something was lost, wrong, or done twice. Not 0: a bug.
        losses: What was lost, one line each, with what repeats it (a seed, a failpoint, a file).
    """

    fault: str
    tried: int = 0
    detected: int | None = None
    recovered: int = 0
    lost: int = 0
    losses: list[str] = field(default_factory=list)

    def lose(self, what: str) -> None:
        """Count a loss, and keep what repeats it."""
        self.lost += 1
        self.losses.append(what)


@dataclass(frozen=True)
class Scale:
    """How much is tried.

    Attributes:
        short: A sample of each fault, seconds a chapter, as part of the tests; else all of it, minutes a chapter.
        seed: Of all that is drawn.
    """

    short: bool
    seed: int = 0

    def pick(self, short: int, full: int) -> int:
        """Return how often to try."""
        return short if self.short else full


Chapter: TypeAlias = "Callable[[Scale, Path], Iterator[Tally]]"
"""A chapter's `run`: it works in the empty folder it is given, and yields a tally for each kind of fault."""


def clock() -> float:
    """Return seconds; for the report's durations only."""
    return time.monotonic()
