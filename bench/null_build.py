"""Times a build with nothing to do, as whole processes in turn; `import torch` and `dvc repro` beside it.

python bench/null_build.py [--dvc PATH/TO/dvc] [--repeat N]

dem has a recipe of five datasets, built for real on a tiny base, and one of some 1,000 actions, whose results
are made up and recorded. dvc has eight stages that copy a file.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from contest import contest, table, timed

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "samples"))
from scaled import record_made_up
from tiny import make_base, make_data

HEAD = """\
[base]
model = "base"
[train]
max_steps = 1
global_batch_size = 4
[evaluate]
prompts = 0
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
        for _ in range(2):  # the second one says in the summary that nothing ran
            subprocess.run([*dem, "build", str(five)], check=True, stdout=subprocess.DEVNULL)
        actions = record_made_up(many)
        time.sleep(2.5)  # younger files than two seconds are hashed again, on purpose
        runs = {
            "`dem build`, 5 datasets": lambda _: timed([*dem, "build", str(five)]),
            '`python -c "import torch"`': lambda _: timed([sys.executable, "-c", "import torch"]),
            f"`dem plan --check`, {actions} actions": lambda _: timed([*dem, "plan", str(many), "--check"]),
        }
        if dvc := options.dvc:
            dvc_project(home / "dvc", dvc)
            runs[f"`dvc repro`, {STAGES} stages"] = lambda _: timed([dvc, "repro"], home / "dvc")
        print(table(contest(runs, options.repeat), 3))


if __name__ == "__main__":
    main()
