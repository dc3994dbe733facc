"""How the cost of a command grows with its recipe: of 62 to 1,000 datasets, ten actions each, all made up.

python bench/scale.py [--datasets N …] [--repeat N] [--only COMMAND …] [--keep FOLDER] [--count] [--workers N …]

Nothing is trained and no model is there: every action of a recipe is recorded with results of its shape, so that what
is measured is `dem` alone. A dataset has a preparation, a vector and the losses of eight models. Seconds are of CPU, of
user and system, of whole processes, the least of some; with `--count` it is told instead how often functions are
called and files are opened, which no other load of the machine changes (`scale_count.py`). Costs are taken as
a + b n^p of n actions: the last column is p, and 1 is linear growth.

With `--workers`, how much so many `dem work` on one cache take to run all of a recipe, whose steps are made up
(`scale_work.py`): from nothing, each number of workers on a cache of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from contest import family, memory, timed

from dem_build.session.session import Call, open_session

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "samples"))
from scaled import record_made_up, scaled_project

if TYPE_CHECKING:
    from collections.abc import Callable

SIZES = (62, 125, 250, 500, 1000)


def commands(recipe: Path) -> dict[str, Command]:
    """Name → a command, and how it is found when it is measured."""
    cache = ["--cache", f"{recipe.parent}/cache"]
    gone = ["--cache", f"{recipe.parent}/gone"]
    plan, build = ["plan", str(recipe)], ["build", str(recipe)]
    due = [*plan, *cache, "--set", "train.learning_rate=1e-4"]
    return {
        "check": Command(["check", str(recipe)]),
        "plan": Command([*plan, *cache]),
        "plan, from the disk": Command([*plan, *cache], cold=True),
        "plan, as the last one": Command([*plan, *cache], anew=False),
        "plan, nothing recorded": Command([*plan, "--cache", f"{recipe.parent}/empty"]),
        "plan, all trainings due": Command(due),
        "plan, all trainings due, from the disk": Command(due, cold=True),
        "build, nothing due": Command([*build, *cache]),
        "build, nothing due, from the disk": Command([*build, *cache], cold=True),
        "build, as the last one": Command([*build, *cache], anew=False),
        "why": Command(["why", str(recipe), "model", *cache]),
        "ls": Command(["ls", *cache]),
        "cache stats": Command(["cache", "stats", *cache]),
        "cache gc, nothing to take": Command(["cache", "gc", *cache]),
        "cache gc, all of it": Command(["cache", "gc", "--grace", "0s", "--vectors", *gone], copied=True),
        "cache verify": Command(["cache", "verify", *cache]),
    }


@dataclass(frozen=True)
class Command:
    """A call of `dem`.

    Attributes:
        words: Its arguments.
        anew: Whether it finds no witness of the last one.
        cold: Whether the system has no bytes of the cache and the data in memory; it keeps what `stat` tells.
        copied: Whether it has a copy of the cache to itself, without the roots that keep what is in it.
    """

    words: list[str]
    anew: bool = True
    cold: bool = False
    copied: bool = False

    def run(self, recipe: Path) -> float:
        """The CPU seconds of a call, of user and system."""
        self._prepare(recipe)
        return timed([str(Path(sys.executable).parent / "dem"), *self.words])[1]

    def count(self, recipe: Path) -> dict[str, int]:
        """What a call does, as `scale_count.py` tells it."""
        self._prepare(recipe)
        call = [sys.executable, str(Path(__file__).with_name("scale_count.py")), *self.words]
        told: dict[str, int] = json.loads(subprocess.run(call, check=True, capture_output=True).stdout)
        return told

    def _prepare(self, recipe: Path) -> None:
        home = recipe.parent
        if self.anew:  # what the last call looked at counts for nothing
            for witness in Path(os.environ["DEM_HINTS"]).glob("witnesses-*/*"):
                witness.unlink()
        if self.copied:
            shutil.rmtree(home / "gone", ignore_errors=True)
            shutil.copytree(home / "cache", home / "gone", ignore=shutil.ignore_patterns("roots"))
        if self.cold:
            for path in (home / "cache").rglob("*"), (home / "data").iterdir():
                for file in path:
                    if file.is_file():
                        _drop(file)


def _drop(file: Path) -> None:
    """Have the system drop the bytes of a file that it has in memory."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


HEAD = """\
| datasets | actions | workers | CPU s | CPU ms an action and worker | looks for a record, an action and worker | \
files opened, an action and worker | `stat` | listings | changes | changes of an action | lost races | steps that \
ran twice | lost | last end s | memory MB |
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
    """Print a row for each command: its cost at each size, and how it grows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--datasets", type=int, nargs="+", default=SIZES)
    parser.add_argument("--repeat", type=int, default=1, help="the least of so many calls and one counts")
    parser.add_argument("--only", nargs="+", help="commands, by their whole names")
    parser.add_argument("--keep", type=Path, help="where the projects are made, and found again")
    parser.add_argument(
        "--count", action="store_true", help="count what commands do, in place of their seconds"
    )
    parser.add_argument("--workers", type=int, nargs="+", help="measure so many workers, and no command")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dem-bench-") as name:
        home = options.keep or Path(name)
        # As an installed `dem` is: its modules are compiled once, and not by each process.
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ |= {"DEM_HINTS": str(home / "hints"), "PYTHONPYCACHEPREFIX": str(home / "compiled")}
        if options.workers:
            measure_work(home, options.datasets, options.workers)
            return
        costs: dict[str, list[dict[str, float]]] = {}
        actions = [make(home / str(datasets), datasets) for datasets in options.datasets]
        for datasets in options.datasets:
            recipe = home / str(datasets) / "recipe.toml"
            for command, call in commands(recipe).items():
                if options.only and command not in options.only:
                    continue
                if options.count:
                    found: dict[str, float] = {**call.count(recipe)}
                else:
                    found = {"CPU s": min(call.run(recipe) for _ in range(1 + options.repeat))}
                print(f"  {datasets} datasets, {command}: {found}", file=sys.stderr, flush=True)
                costs.setdefault(command, []).append(found)
    if len(actions) > 1:  # what one size costs is told above
        print(table(actions, costs, growth if options.count else exponent))


def make(home: Path, datasets: int) -> int:
    """Make a project whose results are all recorded, where there is none; return how many actions it has."""
    recipe = home / "recipe.toml"
    if recipe.exists():
        return len(open_session(str(recipe), Call()).plan.graph.actions)
    made = record_made_up(scaled_project(home, datasets))
    timed(
        [str(Path(sys.executable).parent / "dem"), "build", str(recipe), "--cache", f"{home}/cache"]
    )  # publishes
    time.sleep(2.5)  # younger files than two seconds are hashed again, on purpose
    return made


def table(
    sizes: list[int],
    costs: dict[str, list[dict[str, float]]],
    grows: Callable[[list[int], list[float]], float],
) -> str:
    """A Markdown table of costs by command and size, what one action more costs, and how that grows."""
    heads = [f"{n:,}" for n in sizes]
    lines = [
        f"| actions | | {' | '.join(heads)} | one more, of the last | exponent |",
        f"|---|---|{'---:|' * (len(sizes) + 2)}",
    ]
    for command, found in costs.items():
        for what in dict.fromkeys(name for one in found for name in one):
            values = [one.get(what, 0) for one in found]
            more = (values[-1] - values[-2]) / (sizes[-1] - sizes[-2])
            digits = [f"{v:.2f}" if what == "CPU s" else f"{v:,.0f}" for v in values]
            told = f"{1e6 * more:.0f} µs" if what == "CPU s" else f"{more:.2f}"
            lines.append(
                f"| `dem {command}` | {what} | {' | '.join(digits)} | {told} | {grows(sizes, values):.2f} |"
            )
    return "\n".join(lines)


def growth(sizes: list[int], values: list[float]) -> float:
    """The p of a cost of a + b n^p, from exact counts: of what the sizes more cost, which knows no a."""
    steps = [b - a for a, b in pairwise(values)]
    if min(steps) <= 0:
        return 0.0
    middles = [(a + b) / 2 for a, b in pairwise(sizes)]
    each = [step / (b - a) for step, (a, b) in zip(steps, pairwise(sizes), strict=True)]
    return 1 + float(np.polyfit(np.log(middles), np.log(each), 1)[0])


def exponent(sizes: list[int], values: list[float]) -> float:
    """The p of a cost of a + b n^p, from measured ones: the least squares of relative errors, a and b not below 0."""
    n, cost = np.asarray(sizes, float), np.asarray(values)

    def error(p: float) -> float:
        terms = np.stack([np.ones_like(n), (n / n[-1]) ** p], axis=1) / cost[:, None]
        found = np.linalg.lstsq(terms, np.ones_like(n), rcond=None)[0]
        if min(found) < 0:
            return float("inf")
        return float(np.sum((terms @ found - 1) ** 2))

    return float(min(np.arange(0.3, 2.5, 0.01), key=error))


if __name__ == "__main__":
    main()
