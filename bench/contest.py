"""Contestants in turn: each round runs every one of them once, and ratios are taken within a round.

A machine that is busy for a minute then slows all of a round alike, and the ratio suffers less than the seconds do. CPU
seconds suffer least: they are what a contestant's processes cost, however long they waited for a core.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["Memory", "contest", "family", "memory", "peak_rss", "spread", "table", "timed"]


def timed(command: Sequence[str], folder: Path | None = None) -> tuple[float, float]:
    """Run a process, silent unless it fails; return its wall seconds, and the CPU seconds of it and its children."""
    before, begun = _cpu(), time.perf_counter()
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    seconds, cpu = time.perf_counter() - begun, _cpu() - before
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stdout}\n{done.stderr}")
    return seconds, cpu


def _cpu() -> float:
    """Return the CPU seconds of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def contest(
    runs: Mapping[str, Callable[[int], tuple[float, float]]], rounds: int, uncounted: int = 1
) -> dict[str, list[tuple[float, float]]]:
    """Run everything in turn, each round begun by another; return wall and CPU seconds of the counted rounds.

    Args:
        runs: Name → what runs it once, given the round's number, and returns its wall and CPU seconds.
        rounds: Rounds that count.
        uncounted: Rounds before them, which find caches cold.
    """
    names = list(runs)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for turn in range(uncounted + rounds):
        for i in range(len(names)):
            name = names[(turn + i) % len(names)]
            wall, cpu = runs[name](turn)
            said = "" if turn >= uncounted else " (not counted)"
            print(f"  {name}: {wall:.3f} s, {cpu:.3f} s of CPU{said}", file=sys.stderr, flush=True)
            if turn >= uncounted:
                found[name].append((wall, cpu))
    return found


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Return a median with its range."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def table(found: Mapping[str, Sequence[tuple[float, float]]], digits: int = 2) -> str:
    """Return a Markdown table of wall and CPU seconds, each with its round's ratio to the first contestant."""
    first = next(iter(found.values()))
    rows = [
        f"| {len(first)} rounds | seconds | times the first | CPU seconds | times the first |",
        "|---|---|---|---|---|",
    ]
    for name, costs in found.items():
        cells = [name]
        for mine, theirs in zip(zip(*costs, strict=True), zip(*first, strict=True), strict=True):
            ratios = [a / b for a, b in zip(mine, theirs, strict=True)]
            cells += [spread(mine, digits), spread(ratios)]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join([*rows, f"\nload average now: {os.getloadavg()[0]:.1f}"])


def peak_rss() -> int:
    """Return this process's peak resident memory, bytes; not of getrusage, where a fork inherits its parent's."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) << 10


class Memory:
    """Samples the memory of a process and of those that it started, until it ends.

    Attributes:
        peak: Bytes of the largest sample without what is mapped from files.
        resident: Bytes of the largest sample with it.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.peak = self.resident = 0
        self._process = process
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()

    def join(self) -> None:
        """Wait for the end."""
        self._thread.join()

    def _sample(self) -> None:
        while self._process.poll() is None:
            found = [memory(pid) for pid in family(self._process.pid)]
            self.peak = max(self.peak, sum(own for own, _ in found))
            self.resident = max(self.resident, sum(all_ for _, all_ in found))
            time.sleep(0.02)


def family(pid: int) -> list[int]:
    """Return a process and those that it, or one of them, started."""
    children: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children += map(int, task.read_text().split())
        except OSError:  # the thread has ended
            continue
    return [pid, *(process for child in children for process in family(child))]


def memory(pid: int) -> tuple[int, int]:
    """Return a process's memory without and with mapped files, bytes; 0 of one that has ended.

    What it shares with others, as copies of a process do, is counted in parts that sum to it.
    """
    try:
        status = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return 0, 0
    lines = (line.split() for line in status.splitlines() if line.startswith("Pss"))
    found = {line[0]: int(line[1]) << 10 for line in lines}
    return found.get("Pss_Anon:", 0) + found.get("Pss_Shmem:", 0), found.get("Pss:", 0)
