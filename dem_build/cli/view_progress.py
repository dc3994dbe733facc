"""How far a running action is, from its events."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dem_build.cli.view_text import joined
from dem_build.json_text import number
from dem_build.report import quantities

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dem_build.digest import JSON
    from dem_build.store import Record

__all__ = ["Progress"]

# A rate from less than this is a guess that jumps.
SETTLED_SECONDS = 2.0


@dataclass
class Progress:
    """The state of one running action.

    Attributes:
        started: When it was given to a worker, in seconds of the epoch.
        done: Units done, None before the first `progress` event.
        total: Units in all; 0 where that is unknown.
        unit: What is counted.
        figures: The other numbers of the events, the newest of each: `loss`, `validation_loss`, `tokens_per_second`,
            `memory`.
    """

    started: float = field(default_factory=time.time)
    done: float | None = None
    total: float = 0.0
    unit: str = ""
    figures: dict[str, float] = field(default_factory=dict)
    now: float = 0.0
    _first: tuple[float, float] = (0.0, 0.0)

    def update(self, event: Mapping[str, JSON]) -> None:
        """Take in a `progress` event."""
        self.now = number(event.get("time")) or time.time()
        done, total = number(event.get("done")) or 0.0, number(event.get("total")) or 0.0
        unit = joined(event.get("unit", ""))
        if self.done is None or (total, unit) != (self.total, self.unit) or done < self.done:
            # Another phase, or what a resumed action began with: neither says how fast this one is.
            self._first = (self.now, done)
        self.done, self.total, self.unit = done, total, unit
        for name, value in event.items():
            figure = number(value)
            if name not in ("time", "done", "total") and figure is not None:
                self.figures[name] = figure

    def settle(self, record: Record | None) -> None:
        """Put the figures of the whole run, as its record has them, in place of those of a moment.

        Of a training these are the rate over all its steps, the most memory that it took, and the validation loss of
        the weights that it kept. Figures that the run itself never told stay away.
        """
        if record is None:
            return
        seconds, tokens = record.amount("device_seconds"), record.amount("tokens", "seen")
        kept, lowest = (record.amount("validation", *of) for of in (("kept_step",), ("lowest", "step")))
        whole = {
            "tokens_per_second": tokens / seconds if tokens is not None and seconds else None,
            "memory": record.amount("peak_memory"),
            "validation_loss": record.amount("validation", "lowest", "loss") if kept == lowest else None,
        }
        self.figures |= {name: v for name, v in whole.items() if v is not None and name in self.figures}

    @property
    def elapsed(self) -> float:
        """Seconds since it was given to a worker."""
        return max(time.time() - self.started, 0.0)

    @property
    def share(self) -> float | None:
        """Share of 1 that is done, None while it is unknown."""
        if self.done is None or self.total <= 0:
            return None
        return min(max(self.done / self.total, 0.0), 1.0)

    def seconds_left(self, now: float | None = None) -> float | None:
        """Return the time left at the rate so far, None until that has settled."""
        since, first = self._first
        if self.done is None or self.done <= first or self.now - since < SETTLED_SECONDS:
            return None
        if self.done >= self.total > 0:
            return None
        left = (self.total - self.done) * (self.now - since) / (self.done - first)
        passed = max((self.now if now is None else now) - self.now, 0.0)
        return max(left - passed, 0.0) if self.total > 0 else None

    @property
    def counted(self) -> str:
        """The units: `16/40 steps`."""
        if self.done is None:
            return ""
        of_total = f"/{quantities.count(self.total)}" if self.total > 0 else ""
        return f"{quantities.count(self.done)}{of_total} {self.unit}".rstrip()

    @property
    def loss(self) -> str:
        """The latest loss: `loss 1.234`."""
        return f"loss {quantities.decimals(self.figures['loss'])}" if "loss" in self.figures else ""

    @property
    def validation(self) -> str:
        """The latest validation loss of a training: `val 1.234`."""
        loss = self.figures.get("validation_loss")
        return "" if loss is None else f"val {quantities.decimals(loss)}"

    @property
    def speed(self) -> str:
        """The rate: `185 tokens/s`."""
        rate = self.figures.get("tokens_per_second")
        return "" if rate is None or not math.isfinite(rate) else f"{quantities.count(rate)} tok/s"

    @property
    def memory(self) -> str:
        """The memory it takes: `3.1 GB`."""
        octets = self.figures.get("memory")
        return "" if octets is None else quantities.size(octets)
