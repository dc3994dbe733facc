"""Baselines: how long their mixtures are trained, what they were made of, and which nobody asks about."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.cli.view_text import joined, say
from dem_build.report import quantities

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console

    from dem_build.estimate import Budget
    from dem_build.report.baselines import RecordedBaseline

__all__ = ["baseline_lines", "budget_lines", "unevaluated_line"]


def baseline_lines(baselines: Mapping[str, RecordedBaseline], console: Console) -> None:
    """Print a line for each baseline: what it is, its tokens and its ω; then what its search has to say."""
    if baselines:
        console.print()
    for name, contender in baselines.items():
        parts = [contender.method, *contender.sentences()]
        say(console, f"baseline {joined(name)}  ", (joined("; ".join(parts)), "dim"))
        for sentence in contender.told:
            say(console, ("note: ", "yellow"), joined(f"baseline {name}: {sentence}"))


def budget_lines(budgets: Sequence[Budget], console: Console) -> None:
    """Print how long each mixture is trained."""
    for budget in budgets:
        tokens = "" if budget.tokens is None else f"{quantities.count(budget.tokens)} tokens"
        if budget.equal:
            text = f"as many tokens as the vectors of {', '.join(map(joined, budget.datasets))} together"
            text += f": {tokens}" if tokens else ""
        else:
            text = (
                f"{tokens}, as its own `train` says" if tokens else "as many tokens as its own `train` says"
            )
        say(console, (f"baseline {joined(budget.baseline)} is trained on {text}", "dim"))


def unevaluated_line(names: Sequence[str], console: Console) -> None:
    """Say which baselines are made and not measured."""
    if names:
        listed = ", ".join(map(joined, names))
        what = f"made and not measured, as `models` in [evaluate] does not name it: baseline {listed}"
        say(console, ("note: ", "yellow"), what)
