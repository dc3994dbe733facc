"""Contestants in turn: each round runs every one of them once, and ratios are taken within a round.

A machine that is busy for a minute then slows all of a round alike, and the ratio suffers less than the seconds do.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

__all__ = ["contest", "peak_rss", "spread", "table", "timed"]


def timed(command: Sequence[str], folder: Path | None = None, **environment: str) -> float:
    """Run a process, silent unless it fails; return its wall seconds."""
    begun = time.perf_counter()
    done = subprocess.run(
        command, cwd=folder, env=os.environ | environment, check=False, capture_output=True, text=True
    )
    seconds = time.perf_counter() - begun
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stdout}\n{done.stderr}")
    return seconds


def contest(
    runs: Mapping[str, Callable[[int], float]], rounds: int, uncounted: int = 1
) -> dict[str, list[float]]:
    """Run everything in turn, each round begun by another; return the measures of the counted rounds.

    Args:
        runs: Name → what runs it once, given the round's number, and returns its measure.
        rounds: Rounds that count.
        uncounted: Rounds before them, which find caches cold.
    """
    names = list(runs)
    found: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(uncounted + rounds):
        for i in range(len(names)):
            name = names[(turn + i) % len(names)]
            value = runs[name](turn)
            counts = turn >= uncounted
            print(f"  {name}: {value:.3f}{'' if counts else ' (not counted)'}", file=sys.stderr, flush=True)
            if counts:
                found[name].append(value)
    return found


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Return a median with its range."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def table(found: Mapping[str, Sequence[float]], digits: int = 2) -> str:
    """Return a Markdown table of seconds, and of each round's ratio to the first contestant."""
    first = next(iter(found.values()))
    rows = [f"| | seconds, of {len(first)} rounds | times the first |", "|---|---|---|"]
    for name, values in found.items():
        ratios = [mine / theirs for mine, theirs in zip(values, first, strict=True)]
        rows.append(f"| {name} | {spread(values, digits)} | {spread(ratios)} |")
    return "\n".join([*rows, f"\nload average now: {os.getloadavg()[0]:.1f}"])


def peak_rss() -> int:
    """Return this process's peak resident memory, bytes; not of getrusage, where a fork inherits its parent's."""
    with open("/proc/self/status", encoding="ascii") as file:  # noqa: PTH123
        return int(file.read().split("VmHWM:")[1].split()[0]) << 10
