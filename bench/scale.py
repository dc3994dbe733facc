"""How the cost of a command grows with its recipe: 10, 100, 300 and 1,000 datasets, ten actions each, all made up.

python bench/scale.py [--datasets N …] [--repeat N] [--only WORD …] [--keep FOLDER] [--workers N …]

Nothing is trained and no model is there: every action of a recipe is recorded with results of its shape, so that what
is measured is `dem` alone. A dataset has a preparation, a vector and the losses of eight models. Seconds are of CPU,
of whole processes, the least of some; the last column says how the cost of one action grew from the second size to the
last: 1 is linear growth.

With `--workers`, how much so many `dem work` on one cache take to run all of a recipe, whose steps are made up
(`scale_work.py`): from nothing, each number of workers on a cache of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from contest import family, memory, timed

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


HEAD = """\
| datasets | actions | workers | CPU s | CPU ms an action and worker | looks for a record, an action and worker | files \
opened, an action and worker | `stat` | listings | changes | for an action alone, changes | lost races | steps that ran \
twice | lost | last end s | memory MB |
|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|"""


def work_together(recipe: Path, workers: int) -> dict[str, float]:
    """Run a recipe with so many `dem work`; what it took."""
    home = recipe.parent / f"work-{workers}"
    home.mkdir()
    script = str(Path(__file__).with_name("scale_work.py"))
    call = [
        sys.executable,
        script,
        str(home),
        str(workers),
        "work",
        str(recipe),
        "--cache",
        str(home / "cache"),
    ]
    with (home / "told").open("ab") as told, (home / "errors").open("ab") as errors:
        process = subprocess.Popen([*call, "--json"], stdout=told, stderr=errors)
        resident = 0
        while process.poll() is None:
            resident = max(resident, sum(memory(pid)[1] for pid in family(process.pid)))
            time.sleep(5)
    if process.returncode:
        sys.exit(f"a worker failed:\n{(home / 'errors').read_text()[-2000:]}")
    events = [json.loads(line) for line in (home / "told").read_text().splitlines()]
    ran = Counter((home / "ran").read_text().split())
    counts = Counter[str]()
    for file in home.glob("*.json"):
        counts.update(json.loads(file.read_text()))
    [actions] = {e["actions"] for e in events if e["event"] == "began"}
    ended = [e["time"] for e in events if e["event"] == "end"]
    return {
        "actions": actions,
        "cpu": float((home / "cpu").read_text()),
        "twice": sum(ran.values()) - len(ran),
        "lost": actions - len(ran),
        "after": max(ended) - max(e["time"] for e in events if e.get("status") == "ran"),
        "memory": resident / 1e6,
        **counts,
    }


def measure_work(home: Path, sizes: list[int], numbers: list[int]) -> None:
    """Print a row for each number of workers on each size of recipe."""
    print(HEAD, flush=True)
    for datasets in sizes:
        recipe = home / f"work-{datasets}" / "recipe.toml"
        scaled_project(recipe.parent, datasets)
        open_session(str(recipe), Call()).save_lock()
        for workers in numbers:
            one = work_together(recipe, workers)
            each, pair = one["actions"], one["actions"] * workers
            cells = [
                f"{datasets:,}",
                f"{each:,.0f}",
                f"{workers}",
                f"{one['cpu']:.1f}",
                f"{1e3 * one['cpu'] / pair:.2f}",
                f"{one['records'] / pair:.2f}",
                *(f"{one[name] / pair:.1f}" for name in ("opens", "stats", "listings", "changes")),
                f"{one['changes'] / each:.1f}",
                f"{one['races']:.0f}",
                f"{one['twice']:.0f}",
                f"{one['lost']:.0f}",
                f"{one['after']:.1f}",
                f"{one['memory']:.0f}",
            ]
            print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Print a row for each command: its cost at each size, and how it grew."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--datasets", type=int, nargs="+", default=SIZES)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--only", nargs="+", help="words of the commands that run")
    parser.add_argument("--keep", type=Path, help="where the projects are made, and found again")
    parser.add_argument("--workers", type=int, nargs="+", help="measure so many workers, and no command")
    options = parser.parse_args()
    costs: dict[str, list[float]] = {}
    actions: list[int] = []
    with tempfile.TemporaryDirectory(prefix="dem-bench-") as name:
        home = options.keep or Path(name)
        os.environ["DEM_HINTS"] = str(home / "hints")
        if options.workers:
            measure_work(home, options.datasets, options.workers)
            return
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
