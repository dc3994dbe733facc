"""How the cost of a command grows with its recipe: 10, 100, 300 and 1,000 datasets, ten actions each, all made up.

python bench/scale.py [--datasets N …] [--repeat N] [--only WORD …] [--keep FOLDER]

Nothing is trained and no model is there: every action of a recipe is recorded with results of its shape, so that what
is measured is `dem` alone. A dataset has a preparation, a vector and the losses of eight models. Seconds are of CPU,
of whole processes, the least of some; the last column says how the cost of one action grew from the second size to the
last: 1 is linear growth.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from contest import timed
from safetensors.numpy import save

from dem_build.cli.session import Call, open_session
from dem_build.engine.outcome import Outcome
from dem_build.plan import decide
from dem_build.store import Record

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "samples"))
from tiny import make_base, make_data

if TYPE_CHECKING:
    from collections.abc import Callable

    from dem_build.action import Action

SIZES = (10, 100, 300, 1000)
BASELINES = 6
"""Models that are evaluated beside the composed one and the base."""
HEAD = """\
[base]
model = "base"
[train]
max_steps = 1
global_batch_size = 4
[compose]
dtype = "float32"
[evaluate]
prompts = 0
models = ["composed", "base", {names}]
"""
DATASET = '[datasets.d{0}]\npath = "data/d{0}.jsonl"\ntest = 0.3\nomega = {1}\n'
BASELINE = '[baselines.b{0}]\nmethod = "interpolation"\nomega = {{ {1} }}\n'
FOLDERS = ("weights", "tokenizer")
"""Outputs that are folders."""
ROWS = 12
"""Of a test split."""


def project(folder: Path, datasets: int) -> Path:
    """Write a recipe with its base and data; return the recipe."""
    make_base(folder / "base")
    rows = (make_data(folder / "data", 20) / "add.jsonl").read_text().splitlines()
    for i in range(datasets):
        (folder / "data" / f"d{i}.jsonl").write_text("".join(f"{r[:-2]} {i}{r[-2:]}\n" for r in rows))
    text = HEAD.format(names=", ".join(f'"b{b}"' for b in range(BASELINES)))
    text += "".join(DATASET.format(i, 1 / datasets) for i in range(datasets))
    for b in range(BASELINES):  # each with other ω, which sum to 1
        shares = np.arange(1, datasets + 1) ** (b / BASELINES)
        shares /= shares.sum()
        text += BASELINE.format(b, ", ".join(f"d{i} = {share:.12g}" for i, share in enumerate(shares)))
    recipe = folder / "recipe.toml"
    recipe.write_text(text)
    return recipe


def made_up(action: Action, output: str, rng: np.random.Generator) -> bytes:
    """The bytes of an output that is read by what shows results; of all others any bytes."""
    if output == "rows":
        tokens = np.full(ROWS, 7, np.int32)
        return save({"nll": rng.uniform(5, 20, ROWS).astype(np.float32), "tokens": tokens})
    if output in ("train", "validation", "test", "sample"):
        prompts = rng.integers(0, 256, (ROWS, 16), np.uint8)  # no two datasets share one
        ids = np.ones(7 * ROWS, np.int32)
        return save({"input_ids": ids, "labels": ids, "offsets": np.arange(ROWS + 1) * 7, "prompts": prompts})
    if output == "metrics":
        loss = {"loss": float(rng.uniform(1, 3)), "loss_stderr": 0.1, "tokens": 7 * ROWS, "rows": ROWS}
        return json.dumps(loss).encode()
    return f"{action.name} {output}".encode() if output != "generation_config" else b"{}"


def pretend(recipe: Path) -> int:
    """Record made-up results for every action of a recipe; return how many actions there are."""
    session = open_session(str(recipe), Call())
    session.store.make()
    store, known = session.store, {}
    rng = np.random.default_rng(0)
    for action in session.plan.graph:
        verdict = decide(action, known, store.records, session.plan.history)
        assert verdict.key is not None
        folder = store.work.new(verdict.key) / "out"
        for name in action.kind.outputs:
            file = folder / name / "part" if name in FOLDERS else folder / name
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(made_up(action, name, rng))
        known[action.name] = store.objects.put_all({n: folder / n for n in action.kind.outputs}, {})
        told = {"seconds": 1.0, "device_seconds": 1.0, "host": os.uname().nodename, "device": "cpu (made up)"}
        if action.kind.name == "prepare":
            counts = {"rows": ROWS, "tokens": 7 * ROWS, "trained_tokens": 7 * ROWS, "longest": 7}
            told["splits"] = dict.fromkeys(action.kind.outputs, counts)
        made = Record(verdict.key, action.kind.name, verdict.preimage, known[action.name], told)
        store.records.publish(made)
        store.work.drop(verdict.key)
    session.save_lock()
    session.save_root(Outcome({}))
    return len(known)


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
                actions.append(pretend(project(recipe.parent, datasets)))
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
