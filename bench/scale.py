"""How the cost of a command grows with its recipe: 10, 100, 300 and 1,000 datasets, ten actions each, all made up.

python bench/scale.py [--datasets N …] [--repeat N] [--only WORD …] [--keep FOLDER]

Nothing is trained and no model is there: every action of a recipe is recorded with results of its shape, so that what
is measured is `dem` alone. A dataset has a preparation, a vector and the losses of eight models. Seconds are of CPU,
of whole processes, the least of some; the last column says how the cost of one action grew from the second size to the
last: 1 is linear growth.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from contest import timed

from dem_build.session.session import Call, open_session

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "samples"))
from scaled import record_made_up, scaled_project

if TYPE_CHECKING:
    from collections.abc import Callable

SIZES = (10, 100, 300, 1000)


def commands(recipe: Path) -> dict[str, Callable[[], tuple[float, float]]]:
    """Name → what runs it once, after what it takes to find it so, and returns its wall and CPU seconds."""
    dem = [str(Path(sys.executable).parent / "dem")]
    cache = ["--cache", str(recipe.parent / "cache")]
    witnesses = Path(os.environ["DEM_HINTS"])

    def run(*arguments: str, anew: bool) -> tuple[float, float]:
        if anew:  # what the last call looked at counts for nothing
            for witness in witnesses.glob("witnesses-*/*"):
                witness.unlink()
        return timed([*dem, *arguments])

    plan, build = ("plan", str(recipe), *cache), ("build", str(recipe), *cache)
    return {
        "check": partial(run, "check", str(recipe), anew=True),
        "plan": partial(run, *plan, anew=True),
        "plan, as the last one": partial(run, *plan, anew=False),
        "plan, all of it due": partial(
            run, "plan", str(recipe), "--cache", f"{recipe.parent}/empty", anew=True
        ),
        "plan, all trainings due": partial(run, *plan, "--set", "train.learning_rate=1e-4", anew=True),
        "build, nothing due": partial(run, *build, anew=True),
        "build, as the last one": partial(run, *build, anew=False),
        "why": partial(run, "why", str(recipe), "model", *cache, anew=True),
        "ls": partial(run, "ls", *cache, anew=True),
        "cache stats": partial(run, "cache", "stats", *cache, anew=True),
        "cache gc --dry-run": partial(run, "cache", "gc", "--dry-run", *cache, anew=True),
        "cache gc": partial(run, "cache", "gc", *cache, anew=True),
        "cache verify": partial(run, "cache", "verify", *cache, anew=True),
    }


def main() -> None:
    """Print a row for each command: its cost at each size, and how it grew."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--datasets", type=int, nargs="+", default=SIZES)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--only", nargs="+", help="words of the commands that run")
    parser.add_argument("--keep", type=Path, help="where the projects are made, and found again")
    options = parser.parse_args()
    costs: dict[str, list[float]] = {}
    actions: list[int] = []
    with tempfile.TemporaryDirectory(prefix="dem-bench-") as name:
        home = options.keep or Path(name)
        os.environ["DEM_HINTS"] = str(home / "hints")
        for datasets in options.datasets:
            recipe = home / str(datasets) / "recipe.toml"
            if not recipe.exists():
                begun = time.process_time()
                actions.append(record_made_up(scaled_project(recipe.parent, datasets)))
                print(
                    f"made up {actions[-1]} actions: {time.process_time() - begun:.1f} s of CPU",
                    file=sys.stderr,
                )
                time.sleep(2.5)  # younger files than two seconds are hashed again, on purpose
            else:
                actions.append(len(open_session(str(recipe), Call()).plan.graph.actions))
            for command, run in commands(recipe).items():
                if not options.only or any(word in command for word in options.only):
                    found = min(run()[1] for _ in range(1 + options.repeat))
                    print(f"  {datasets} datasets, {command}: {found:.2f} s", file=sys.stderr, flush=True)
                    costs.setdefault(command, []).append(found)
    print(table(options.datasets, actions, costs))


def table(sizes: list[int], actions: list[int], costs: dict[str, list[float]]) -> str:
    """A Markdown table of CPU seconds by command and size, and the growth of what an action costs."""
    heads = [f"{n:,} datasets, {a:,} actions" for n, a in zip(sizes, actions, strict=True)]
    lines = [
        f"| CPU seconds | {' | '.join(heads)} | growth |",
        f"|---|{'---:|' * (len(sizes) + 1)}",
    ]
    for command, found in costs.items():
        from_, to = min(1, len(sizes) - 1), len(sizes) - 1
        growth = (found[to] / found[from_]) / (actions[to] / actions[from_])
        lines.append(f"| `dem {command}` | {' | '.join(f'{cost:.2f}' for cost in found)} | {growth:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
