"""Counts what each search for ω costs until it has the best objective: gradient, coordinate, grid and random.

python bench/tune.py [--recipe RECIPE] [--rows N] [--searches NAME,...] [--threads N]

Five vectors: those of a recipe whose ω are tuned and whose vectors are recorded, or of five small text skills that a
tiny model is trained on here. Each begins with the same passes (the base, each vector alone, equal ω, the softmax
of LM-Cocktail), counted in all of them. The best objective is that of all searches and of a fine coordinate search from
the best of them. Cost is in forward-equivalents: one is the loss of all validation rows, a backward pass counts two.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from dem_build.actions.tune.candidates import resident
from dem_build.actions.tune.judges import validation_judges
from dem_build.actions.tune.landscape import Landscape, Space
from dem_build.actions.tune.pass_log import CHANGING, MEASURING, PassLog
from dem_build.actions.tune.passes import Passes
from dem_build.machine import Machine
from dem_build.search import Found, Sample, SearchProblem, search
from dem_build.search.searches import coordinate_search
from dem_build.session.session import Call, open_session
from dem_build.step import Context, Group, Inputs

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "samples"))
from tiny import make_base

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dem_build.actions.tune.pass_log import Pass

CLOSE = 0.005  # of the best objective
RANDOM = 150
RECIPE = """\
name = "skills"

[base]
model = "base"

[train]
learning_rate = 3e-3
max_steps = 120
global_batch_size = 16
max_length = 64
vector_dtype = "float32"
"""
WORDS = ["oak", "pine", "elm", "birch", "maple", "cedar", "willow", "aspen", "hazel", "rowan"]
SKILLS: dict[str, Callable[[list[str]], str]] = {
    "upper": lambda words: " ".join(words).upper(),
    "reverse": lambda words: " ".join(reversed(words)),
    "first": lambda words: words[0],
    "sorted": lambda words: " ".join(sorted(words)),
    "letters": lambda words: " ".join(str(len(word)) for word in words),
}


@dataclass(frozen=True)
class Result:
    """What one search came to, and after how many forward-equivalents it was as good as the best."""

    name: str
    score: float
    cost: float
    reached: float | None
    seconds: float
    changing: float


def main() -> int:
    """Run every search and print the table."""
    options = _options()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory(prefix="dem-bench-tune-") as folder:
        recipe = options.recipe or _skills(Path(folder))
        inputs, params = _tune_inputs(recipe, Path(folder))
        params |= {"max_samples": options.rows}
        found = {name: _run(RUNS[name], inputs, params, folder) for name in options.searches}
        best = _finest(found)
        print(f"best objective {-best:.4f}; within {CLOSE:.1%} of it counts as reached\n")
        print(_table([_result(name, run, best) for name, run in found.items()]))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What each search for ω costs.")
    parser.add_argument("--recipe", type=Path, help="a recipe with tuned ω whose vectors are recorded")
    parser.add_argument("--rows", type=int, default=48, help="validation rows a dataset")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--searches",
        type=lambda text: text.split(","),
        default=list(RUNS),
        help="which of " + ", ".join(RUNS) + "; a pass of a large model takes long, and a grid has hundreds",
    )
    options = parser.parse_args()
    if unknown := set(options.searches) - set(RUNS):
        parser.error(f"no such search: {', '.join(sorted(unknown))}")
    return options


def _skills(home: Path) -> Path:
    """Make and train the five skills; return the recipe."""
    make_base(home / "base", layers=4, dtype="float32")
    draw = random.Random(0)
    text = RECIPE
    for name, answer in SKILLS.items():
        rows = [draw.sample(WORDS, 4) for _ in range(500)]
        lines = [f'{{"prompt": "{name} {" ".join(row)}:", "completion": " {answer(row)}"}}\n' for row in rows]
        (home / f"{name}.jsonl").write_text("".join(lines))
        text += f'\n[datasets.{name}]\npath = "{name}.jsonl"\nvalidation = 0.15\n'
    recipe = home / "skills.toml"
    recipe.write_text(text)
    vectors = [f"vector:{name}" for name in SKILLS]
    subprocess.run([sys.executable, "-m", "dem_build", "build", str(recipe), "--", *vectors], check=True)
    return recipe


def _tune_inputs(recipe: Path, folder: Path) -> tuple[Inputs, dict[str, object]]:
    """Return what the recipe's action `tune` takes, from the store."""
    session = open_session(str(recipe), Call(targets=("tune",)))
    action = session.plan.graph.actions["tune"]
    place = Path(folder) / "in"
    place.mkdir()
    plain: dict[str, tuple[Path, str]] = {}
    grouped: dict[str, dict[str, tuple[Path, str]]] = {name: {} for name in action.groups}
    for i, taken in enumerate(action.takes):
        record = session.plan.verdicts[taken.at.action].record
        assert record is not None, f"{taken.at.action} is not recorded: build it first"
        output = record.outputs[taken.at.output]
        there = session.store.views.view(output, place, f"{i}-{taken.of.replace('/', '-')}"), output.digest
        (plain if taken.group is None else grouped[taken.group])[taken.of] = there
    groups = tuple(
        Group(n, action.groups[n], {t: p for t, (p, _) in g.items()}, {t: d for t, (_, d) in g.items()})
        for n, g in grouped.items()
    )
    paths, digests = {t: p for t, (p, _) in plain.items()}, {t: d for t, (_, d) in plain.items()}
    return Inputs(paths, digests, groups=groups), dict(action.params)


def _run(
    run: Callable[[SearchProblem, Sequence[Sample]], Found], inputs: Inputs, params: dict, folder: str
) -> tuple[SearchProblem, Found, Passes, list[Pass]]:
    """Search with passes of its own."""
    home = Path(tempfile.mkdtemp(dir=folder))
    context = Context(work=home, out=home / "out", machine=Machine(), threads=torch.get_num_threads())
    judged = validation_judges(inputs.groups, inputs.paths["base/config"], params["max_samples"])
    space = Space(inputs.groups)
    candidates, log = resident(inputs, space.deltas, context), PassLog(context)
    passes = Passes(candidates, judged, params["dtype"], log)
    landscape = Landscape(space, passes, params)
    known = landscape.samples(passes.earlier, landscape.starts())
    found = run(landscape.problem, known)
    # As many as the search took: the fine search after all of them takes more.
    return landscape.problem, found, passes, list(passes.taken)


def _random(problem: SearchProblem, known: Sequence[Sample]) -> Found:
    draw = np.random.default_rng(0)
    points = [problem.clip(draw.uniform(problem.lower, problem.upper)) for _ in range(RANDOM)]
    samples = [*known, *(problem.measure(point, slopes=False) for point in points)]
    return Found(problem.best(samples), tuple(samples), "passes")


RUNS: dict[str, Callable[[SearchProblem, Sequence[Sample]], Found]] = {
    **{name: partial(search, name) for name in ("gradient", "coordinate", "grid")},
    "random": _random,
}


def _finest(found: dict[str, tuple[SearchProblem, Found, Passes, list[Pass]]]) -> float:
    """Return the best score of all, after a fine coordinate search around the best of them."""
    problem, best, *_ = min(found.values(), key=lambda run: run[0].score(run[1].best))
    width = 0.05 * (problem.upper - problem.lower)
    near = replace(
        problem,
        lower=np.maximum(problem.lower, best.best.omega - width),
        upper=np.minimum(problem.upper, best.best.omega + width),
    )
    finest = coordinate_search(near, [best.best])
    return problem.score(finest.best)


def _result(name: str, run: tuple[SearchProblem, Found, Passes, list[Pass]], best: float) -> Result:
    problem, found, passes, searched = run
    cost, reached = 0.0, None
    changing, measuring = (passes.log.seconds(what) for what in (CHANGING, MEASURING))
    for taken in searched:
        cost += passes.cost_of(taken)
        sample = next((s for s in found.samples if np.array_equal(s.nll.sum(), taken.nll.sum())), None)
        if reached is None and sample is not None and problem.score(sample) <= best + CLOSE * abs(best):
            reached = cost
    return Result(
        name,
        problem.score(found.best),
        cost,
        reached,
        changing + measuring,
        changing / measuring,
    )


def _table(results: Sequence[Result]) -> str:
    rows = [
        "| search | objective | cost | cost to reach the best | seconds | changing / measuring |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for r in results:
        reached = "not reached" if r.reached is None else f"{r.reached:.1f}"
        rows.append(
            f"| {r.name} | {-r.score:.4f} | {r.cost:.1f} | {reached} | {r.seconds:.1f} | {r.changing:.1%} |"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    begun = time.monotonic()
    status = main()
    print(f"\n{time.monotonic() - begun:.0f} s", file=sys.stderr)
    sys.exit(status)
