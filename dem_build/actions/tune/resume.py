"""What an action that takes passes keeps through an interruption: the passes, and the seconds they took."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dem_build.actions.checkpoints import keep, newest_complete
from dem_build.actions.tune.passes import read_passes, write_passes
from dem_build.json_text import parse_json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dem_build.actions.tune.passes import Pass
    from dem_build.step import Context

__all__ = ["CHANGING", "MEASURING", "Kept"]

CHANGING, MEASURING = "changing", "measuring"
ELAPSED = "elapsed"
TIMES = "times.json"
SUFFIX = ".safetensors"
KEEP_SECONDS = 20.0  # between two checkpoints: passes cost much and hold little


class Kept:
    """The checkpoint of an action that takes passes; an interrupted run's is read where there is one.

    Attributes:
        context: The action's.
    """

    def __init__(self, context: Context) -> None:
        """Begin to count the action's seconds."""
        self.context = context
        self._begun = self._written = time.monotonic()
        self._folder = context.work / "checkpoints"
        found = newest_complete(self._folder)
        self._times = {} if found is None else _times(found)
        self._earlier = self._times.pop(ELAPSED, 0.0)
        self._passes = {} if found is None else {p.stem: read_passes(p) for p in found.glob(f"*{SUFFIX}")}
        self._written_count = self._count

    def passes(self, name: str) -> list[Pass]:
        """Return the passes that are kept under a name; what is added to the list is kept with them."""
        return self._passes.setdefault(name, [])

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Count the seconds of a block."""
        started = time.monotonic()
        try:
            yield
        finally:
            self._times[what] = self.seconds(what) + time.monotonic() - started

    def seconds(self, what: str) -> float:
        """Return the seconds of all blocks of a name, those until an interrupted run's last checkpoint among them."""
        return self._times.get(what, 0.0)

    @property
    def elapsed(self) -> float:
        """Seconds that the action has taken, those until an interrupted run's last checkpoint among them."""
        return self._earlier + time.monotonic() - self._begun

    def keep_at_times(self) -> None:
        """Write a checkpoint where the last one is some time ago."""
        if time.monotonic() - self._written > KEEP_SECONDS:
            self.keep()

    def keep(self) -> None:
        """Write a checkpoint, unless the last one has all passes: that would be written over."""
        if self._count == self._written_count:
            return
        checkpoint = self._folder / f"checkpoint-{self._count}"
        checkpoint.mkdir(parents=True, exist_ok=True)
        for name, passes in self._passes.items():
            if passes:
                write_passes(checkpoint / f"{name}{SUFFIX}", passes)
        times = self._times | {ELAPSED: self.elapsed}
        (checkpoint / TIMES).write_text(json.dumps(times), encoding="utf-8")
        keep(checkpoint)
        self._written_count, self._written = self._count, time.monotonic()

    @property
    def _count(self) -> int:
        return sum(map(len, self._passes.values()))


def _times(checkpoint: Path) -> dict[str, float]:
    """Return the seconds until a checkpoint; one of an earlier dem says less of them, or nothing."""
    if not (checkpoint / TIMES).exists():
        return {}
    told = parse_json((checkpoint / TIMES).read_text(encoding="utf-8"))
    return {str(name): float(seconds) for name, seconds in told.items()}
