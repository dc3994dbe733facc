"""Counts how often a search for ω ends in the best of several basins of made-up losses, and what looking costs.

python bench/basins.py [--problems N] [--first SEED] [--sizes 2,3,4] [--search NAME]

Losses of `tests/samples/made_up.py` (two wells each; random waves), from fixed seeds. The best of their basins is known
from a fine grid; it is found where a search ends within 0.5 % of the gain of it. Cost is in forward-equivalents.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dem_build.search import gradient_search, search

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "samples"))
from made_up import MadeUp, Waves, Wells, begin, finest, problem_of

CLOSE = 0.005  # of the gain
FAMILIES: dict[str, type[MadeUp]] = {"wells": Wells, "waves": Waves}


@dataclass(frozen=True)
class Result:
    """What came of one problem: whether the best basin was found by one descent, and by the search; their costs."""

    descent: bool
    found: bool
    gap: float
    descent_cost: int
    cost: int
    told: int


def main() -> int:
    """Run every problem and print a row for each kind of losses and number of vectors."""
    parser = argparse.ArgumentParser(description="How often a search finds the best basin, and at what cost.")
    parser.add_argument("--problems", type=int, default=40, help="of each kind and size")
    parser.add_argument("--first", type=int, default=0, help="seed of the first problem")
    parser.add_argument("--sizes", type=lambda text: [int(n) for n in text.split(",")], default=[2, 3, 4])
    parser.add_argument("--search", default="gradient")
    options = parser.parse_args()
    print(
        "| losses | vectors | found by a descent | by the search | cost of a descent | of looks | basins told of |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|")
    everything: list[Result] = []
    for name, family in FAMILIES.items():
        for size in options.sizes:
            seeds = range(options.first, options.first + options.problems)
            results = [_run(family, size, seed, options.search) for seed in seeds]
            everything += results
            print(_row(name, str(size), results), flush=True)
    print(_row("all", "", everything))
    return 0


def _run(family: type[MadeUp], size: int, seed: int, name: str) -> Result:
    losses = family(size, seed)
    problem = problem_of(losses)
    known = begin(problem)
    best = finest(problem, losses)
    losses.cost = 0
    alone = problem.score(gradient_search(problem, known).best) - best
    descent_cost, losses.cost = losses.cost, 0
    found = search(name, problem, known)
    gap = problem.score(found.best) - best
    return Result(alone <= CLOSE, gap <= CLOSE, gap, descent_cost, losses.cost, len(found.ends))


def _row(family: str, size: str, results: list[Result]) -> str:
    shares = [np.mean([getattr(r, name) for r in results]) for name in ("descent", "found")]
    descent, whole = (np.mean([getattr(r, name) for r in results]) for name in ("descent_cost", "cost"))
    told, looks = np.mean([r.told for r in results]), whole - descent
    return f"| {family} | {size} | {shares[0]:.3f} | {shares[1]:.3f} | {descent:.1f} | {looks:.1f} | {told:.2f} |"


if __name__ == "__main__":
    sys.exit(main())
