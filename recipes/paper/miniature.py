"""The paper's experiment in miniature, table by table: its recipes and commands, a small base, a hub of small data.

    .venv/bin/python recipes/paper/miniature.py             # each benchmark by a task or a group
    .venv/bin/python recipes/paper/miniature.py --whole     # all of their tasks

What is printed are the commands of README.md and what they say. Only `HF_ENDPOINT` and the `--set`s of the first lines
differ from what a machine with GPUs runs: another base, short trainings and, without `--whole`, fewer tasks. The hub
is that of the tests (`tests/samples/paper_hub.py`), on loopback, with a few rows of each dataset.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from html.parser import HTMLParser
from pathlib import Path

PAPER = Path(__file__).resolve().parent
sys.path.insert(0, str(PAPER.parents[1] / "tests" / "samples"))

from hub_server import serving  # noqa: E402
from paper_hub import LIMITS, fill, miniature_base, write_instructdial  # noqa: E402

RECIPES = ("3b.toml", "7b.toml", "13b.toml")
TASKS = (
    '[{name = "mmlu_anatomy", num_fewshot = 5}, "bbh_cot_fewshot_navigate", {name = "drop", num_fewshot = 3}, '
    '"mathqa", "helm_classification", "helm_dialogue"]'
)
SLURM = 'engine = "slurm"\ngradient_checkpointing = true\n'
"""The machine file of what the plan says: a GPU a training, which is not here."""
BUILD = "dem build 3b.toml --trust-tasks"
CHANGED = "dem plan 3b.toml --set datasets.p3.parts.0.max_samples=5"
TABLES = (
    ("Every model on every benchmark", "tasks", [1]),
    ("One vector added at a time: gain recovered on test rows", "ladder", [0]),
    ("Cosines of the vectors", "cosines", [0]),
    ("Distance of the first vector's model to the base by layer", "distances", [0]),
    ("Cost of DEM and of data mixing; and of one dataset that is added or replaced", "cost", [0, 1]),
)
"""What each shows, the section of `report.html` that it is in, and which of the section's tables it is."""


class Tables(HTMLParser):
    """The tables of a report: section → its tables, each a list of rows of cells."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: dict[str, list[list[list[str]]]] = {}
        self._section: str | None = None
        self._cell = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin a section, a table, a row or a cell."""
        if tag == "section":
            self._section = dict(attrs).get("id")
        elif self._section is not None and tag == "table":
            self.found.setdefault(self._section, []).append([])
        elif self._section is not None and tag == "tr":
            self.found[self._section][-1].append([])
        elif self._section is not None and tag in ("td", "th"):
            self.found[self._section][-1][-1].append("")
            self._cell = True

    def handle_endtag(self, tag: str) -> None:
        """End a section or a cell."""
        if tag == "section":
            self._section = None
        elif tag in ("td", "th"):
            self._cell = False

    def handle_data(self, data: str) -> None:
        """Add to a cell."""
        if self._section is not None and self._cell:
            self.found[self._section][-1][-1][-1] += data.replace("\n", " ")


def markdown(table: list[list[str]]) -> str:
    """A table as Markdown."""
    head, *rows = [[cell.strip().replace("|", "\\|") for cell in row] for row in table]
    lines = ["| " + " | ".join(row) + " |" for row in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


def said(command: str, home: Path, environment: dict[str, str], sets: dict[str, str]) -> str:
    """Run `dem` or a script in a folder; return what it prints."""
    program, *arguments = shlex.split(command)
    call = [sys.executable, *(("-m", "dem_build") if program == "dem" else (program,)), *arguments]
    call += [word for key, value in sets.items() for word in ("--set", f"{key}={value}")]
    done = subprocess.run(call, cwd=home, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{command}: ended with {done.returncode}")
    return done.stdout.rstrip()


def tables(home: Path, environment: dict[str, str], *, whole: bool) -> None:
    """Print every table in a folder that has the recipes."""
    sets = LIMITS if whole else LIMITS | {"evaluate.tasks": TASKS}
    (home / "slurm.toml").write_text(SLURM)
    for recipe in RECIPES:
        said(f"dem lock {recipe}", home, environment, {})
    planned = {**environment, "DEM_MACHINE": str(home / "slurm.toml")}
    print("What the recipes need, at their own sizes:\n")
    print(said(f"needs.py {' '.join(RECIPES)}", home, planned, {}), flush=True)
    print(f"\nThe miniature, `{BUILD}` with\n")
    for key, value in sets.items():
        print(f"    --set {shlex.quote(f'{key}={value}')}")
    told = said(BUILD, home, environment, sets).splitlines()
    drawn = Tables((home / "out" / "paper-3b" / "report.html").read_text(encoding="utf-8")).found
    for title, section, which in TABLES:
        print(f"\n{title}:")
        for number in which:
            print(f"\n{markdown(drawn[section][number])}")
    print("\nω of each dataset, with its interval:\n")
    print("\n".join(f"    {line}" for line in told if line.startswith("ω ")))
    print(f"\nA data source is changed, by `{CHANGED}`, evaluations aside:\n")
    lines = (line.split(maxsplit=2) for line in said(CHANGED, home, environment, sets).splitlines())
    due = [words[:2] for words in lines if words and words[0] in ("run", "pending")]
    kept = [(status, name) for status, name in due if not name.startswith(("loss:", "eval:"))]
    print("\n".join(f"    {status:9}{name}" for status, name in kept))


def main() -> None:
    """Make a folder and a hub, and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--whole", action="store_true", help="all tasks of all benchmarks")
    parser.add_argument("--folder", type=Path, help="where it is built, and stays; else a temporary one")
    told = parser.parse_args()
    with serving() as hub, tempfile.TemporaryDirectory(prefix="miniature-") as temporary:
        home = told.folder or Path(temporary)
        shutil.copytree(PAPER, home, dirs_exist_ok=True)
        if not (home / "instructdial").exists():
            write_instructdial(home / "instructdial")
        fill(hub, PAPER / RECIPES[0], miniature_base(Path(temporary) / "base"))
        environment = {
            **os.environ,
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(home / "hf"),
            "NO_COLOR": "1",
        }
        environment |= {"DEM_HINTS": str(home / "hints"), "DEM_CACHE": str(home / "cache"), "COLUMNS": "120"}
        for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "DEM_MACHINE"):
            environment.pop(name, None)
        tables(home, environment, whole=told.whole)


if __name__ == "__main__":
    main()
