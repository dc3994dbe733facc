"""What actions that are due will take: a line each for those that hold a model, a line a family for the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.actions import KINDS
from dem_build.cli.view_text import joined, say
from dem_build.report import quantities

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console

    from dem_build.errors import DemError
    from dem_build.estimate import Estimate

__all__ = ["estimate_lines", "memory_lines"]

UNKNOWN = "an unknown time"
BEFORE = frozenset(kind.family for kind in KINDS.values() if kind.before_training)
"""Families of what makes base and data, from whose records the others are estimated."""


def estimate_lines(estimates: Sequence[Estimate], console: Console) -> None:
    """Print what is known of actions that are due, and of all of them together."""
    lines = [*_own_lines(estimates), *_family_lines(estimates)]
    for line in lines:
        say(console, (line, "dim"))
    if len(estimates) > 1 and lines:
        say(console, (f"all that is due: about {', '.join(_total(estimates))}", "dim"))
    elif estimates and not lines:
        lacking = any(estimate.kind in BEFORE for estimate in estimates)
        reason = " before base and data are there" if lacking else ": nothing like it ran here yet"
        say(console, (f"what this takes is not known{reason}", "dim"))


def memory_lines(errors: Sequence[DemError], warnings: Sequence[str], console: Console) -> None:
    """Print what cannot fit into memory, and what is not expected to."""
    for error in errors:
        say(console, ("error: ", "red"), joined(error.located), (f" ({joined(error.hint or '')})", "dim"))
    for warning in warnings:
        say(console, ("warning: ", "yellow"), joined(warning))


def _own_lines(estimates: Sequence[Estimate]) -> Iterator[str]:
    for estimate in estimates:
        if _has_line(estimate) and (parts := [*_memory(estimate), *_time(estimate), *_disk(estimate)]):
            yield f"{joined(estimate.name)}: about {', '.join(parts)}"


def _family_lines(estimates: Sequence[Estimate]) -> Iterator[str]:
    """Yield a line for each family of which some action's time is known: there may be hundreds of evaluations."""
    others = [e for e in estimates if not _has_line(e)]
    for kind in dict.fromkeys(e.kind for e in others):
        members = [e for e in others if e.kind == kind]
        if any(e.seconds is not None for e in members):
            yield f"{kind} ({len(members)}): about {_times(members)}"


def _has_line(estimate: Estimate) -> bool:
    return estimate.writes_model or estimate.memory is not None


def _memory(estimate: Estimate) -> Iterator[str]:
    if estimate.memory is not None:
        yield f"{quantities.size(estimate.memory)} of memory"


def _time(estimate: Estimate) -> Iterator[str]:
    read = "" if estimate.tokens is None else f" for {quantities.count(estimate.tokens)} tokens"
    if estimate.seconds is not None or read:
        yield f"{_times([estimate])}{read}"


def _times(estimates: Sequence[Estimate]) -> str:
    """Return the time of actions one after another, `2m 10s`, `5m 00s to 1h 10m`, and of how many it is not known."""
    known = [e for e in estimates if e.seconds is not None]
    if not known:
        return UNKNOWN
    most = sum(e.seconds or 0.0 for e in known)
    least = sum(e.least_seconds or 0.0 for e in known)
    shown = list(dict.fromkeys(map(quantities.duration, (least, most))))
    lacking = len(estimates) - len(known)
    more = f" and {UNKNOWN} for {lacking} of {len(estimates)}" if lacking else ""
    return " to ".join(shown) + more


def _disk(estimate: Estimate) -> Iterator[str]:
    if estimate.disk is not None:
        scratch = estimate.scratch
        more = "" if scratch is None else f" (and {quantities.size(scratch)} while it trains)"
        yield f"{quantities.size(estimate.disk)} of disk{more}"


def _total(estimates: Sequence[Estimate]) -> Iterator[str]:
    """Yield the sums of what is known of all; memory is that of the largest."""
    memory = [e.memory for e in estimates if e.memory is not None]
    if memory:
        yield f"{quantities.size(max(memory))} of memory at most"
    yield _times(estimates)
    disk = [e.disk for e in estimates if e.writes_model]
    if disk and None not in disk:
        yield f"{quantities.size(sum(filter(None, disk)))} of disk for models and vectors"
