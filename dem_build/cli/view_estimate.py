"""What trainings that are due will take, a line each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.cli.view_text import joined, say
from dem_build.report import quantities

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console

    from dem_build.errors import DemError
    from dem_build.estimate import Estimate

__all__ = ["estimate_lines", "memory_lines"]


def estimate_lines(estimates: Sequence[Estimate], console: Console) -> None:
    """Print a line for each training of which something is known, and one for all of them together."""
    told = [(e.name, parts) for e in estimates if (parts := [*_memory(e), *_time(e), *_disk(e)])]
    for name, parts in told:
        say(console, (f"{joined(name)}: about {', '.join(parts)}", "dim"))
    if len(told) > 1:
        say(console, (f"all trainings: about {', '.join(_total(estimates))}", "dim"))
    elif estimates and not told:
        say(console, ("what the trainings take is not known before base and data are there", "dim"))


def memory_lines(errors: Sequence[DemError], warnings: Sequence[str], console: Console) -> None:
    """Print what cannot fit into memory, and what is not expected to."""
    for error in errors:
        say(console, ("error: ", "red"), joined(error.located), (f" ({joined(error.hint or '')})", "dim"))
    for warning in warnings:
        say(console, ("warning: ", "yellow"), joined(warning))


def _memory(estimate: Estimate) -> Iterator[str]:
    if estimate.memory is not None:
        yield f"{quantities.size(estimate.memory)} of memory"


def _time(estimate: Estimate) -> Iterator[str]:
    if estimate.tokens is not None:
        read = f"{quantities.count(estimate.tokens)} tokens"
        took = "an unknown time" if estimate.seconds is None else quantities.duration(estimate.seconds)
        yield f"{took} for {read}"


def _disk(estimate: Estimate) -> Iterator[str]:
    if estimate.disk is not None and estimate.scratch is not None:
        scratch = quantities.size(estimate.scratch)
        yield f"{quantities.size(estimate.disk)} of disk (and {scratch} while it trains)"


def _total(estimates: Sequence[Estimate]) -> Iterator[str]:
    """Yield the sums of what is known of all; memory is that of the largest."""
    memory = [e.memory for e in estimates if e.memory is not None]
    if memory:
        yield f"{quantities.size(max(memory))} of memory at most"
    seconds = [e.seconds for e in estimates if e.seconds is not None]
    yield quantities.duration(sum(seconds)) if len(seconds) == len(estimates) else "an unknown time"
    disk = [e.disk for e in estimates if e.disk is not None]
    if len(disk) == len(estimates):
        yield f"{quantities.size(sum(disk))} of disk"
