"""Times a build with nothing to do, as whole processes in turn; `import torch` and `dvc repro` beside it.

python bench/null_build.py [--dvc PATH/TO/dvc] [--repeat N]

dem has a recipe of five datasets, built for real on a tiny base, and one of some 1,000 actions, whose results
are made up and recorded. dvc has eight stages that copy a file.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dem_build.cli.session import Call, open_session
from dem_build.execute.outcome import Outcome
from dem_build.kinds import KINDS
from dem_build.plan import Status, decide
from dem_build.store import Record

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from tiny import make_base, make_data

HEAD = """\
[base]
model = "base"
[train]
max_steps = 1
global_batch_size = 4
[evaluate]
"""
DATASET = '[datasets.d{0}]\npath = "data/d{0}.jsonl"\ntest = 0.3\nomega = 0.1\n'
STAGES = 8
MANY = 249  # datasets: each has a preparation, a training and two losses


def project(folder: Path, datasets: int) -> Path:
    """Write a recipe with its base and data."""
    make_base(folder / "base")
    rows = (make_data(folder / "data", 40) / "add.jsonl").read_text().splitlines()
    for i in range(datasets):
        (folder / "data" / f"d{i}.jsonl").write_text("".join(f"{r[:-2]} {i}{r[-2:]}\n" for r in rows))
    recipe = folder / "recipe.toml"
    recipe.write_text(HEAD + "".join(DATASET.format(i) for i in range(datasets)))
    return recipe


def pretend(recipe: Path) -> int:
    """Record made-up results for every action of a recipe; return how many there are."""
    session = open_session(str(recipe), Call())
    known = {}
    records = {}
    for action in session.plan.graph:
        verdict = decide(action, known, session.store, session.plan.history)
        assert verdict.key is not None
        outputs = {}
        for name in KINDS[action.kind].outputs:
            file = session.store.new_work(verdict.key) / "out" / name
            file.write_text('{"loss": 1.0}' if name == "metrics" else f"{action.name} {name}")
            outputs[name] = session.store.put(file)
        if verdict.status is not Status.HIT:
            made = Record(verdict.key, action.kind, verdict.preimage, outputs, {})
            session.store.publish(made)
        session.store.drop_work(verdict.key)
        records[action.name] = session.store.lookup(verdict.key)
        known[action.name] = outputs
    session.save_lock()
    session.save_root(Outcome({}))
    return len(records)


def dvc_project(folder: Path, dvc: str) -> None:
    """Make eight stages, each of which copies what the one before it made, and run them."""
    folder.mkdir()
    stages = "".join(
        f"  s{i}:\n    cmd: cp f{i} f{i + 1}\n    deps: [f{i}]\n    outs: [f{i + 1}]\n" for i in range(STAGES)
    )
    (folder / "dvc.yaml").write_text(f"stages:\n{stages}")
    (folder / "f0").write_text("rows\n" * 1000)
    for command in (["git", "init", "-q"], [dvc, "init", "-q"], [dvc, "repro", "-q"]):
        subprocess.run(command, cwd=folder, check=True)


def timed(command: list[str], folder: Path) -> float:
    """Return the wall seconds of a command."""
    begun = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


def main() -> None:
    """Print the medians and their ratios to `dem build` of five datasets."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dvc", help="the dvc to compare with")
    parser.add_argument("--repeat", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dem-bench-") as name:
        home = Path(name)
        os.environ["DEM_HINTS"] = str(home / "hints")
        dem = [str(Path(sys.executable).parent / "dem")]
        five, many = project(home / "five", 5), project(home / "many", MANY)
        subprocess.run([*dem, "build", str(five)], check=True, stdout=subprocess.DEVNULL)
        actions = pretend(many)
        time.sleep(2.5)  # younger files than two seconds are hashed again, on purpose
        runs = {
            "dem build, 5 datasets": ([*dem, "build", str(five)], home),
            "import torch": ([sys.executable, "-c", "import torch"], home),
            f"dem plan, {actions} actions": ([*dem, "plan", str(many), "--check"], home),
        }
        if options.dvc:
            dvc_project(home / "dvc", options.dvc)
            runs[f"dvc repro, {STAGES} stages"] = ([options.dvc, "repro"], home / "dvc")
        report(runs, options.repeat)


def report(runs: dict[str, tuple[list[str], Path]], repeat: int) -> None:
    """Run the commands in turn, one round uncounted, and print what they took."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeat + 1):
        for name, (command, folder) in runs.items():
            seconds[name].append(timed(command, folder))
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    first = next(iter(medians.values()))
    for name, median in medians.items():
        spread = f"{min(seconds[name][1:]):.3f} to {max(seconds[name][1:]):.3f}"
        print(f"{name:<28} {median:7.3f} s   {median / first:6.2f} x   ({spread})")


if __name__ == "__main__":
    main()
