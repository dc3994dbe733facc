"""Writes `docs/errors.md` from the cases: `python tests/errors/error_page.py > docs/errors.md`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # as a script; pytest has done so
from base_cases import BASES
from build_cases import AFTER_A_BUILD, BROKEN_DATA, BUILDS
from call_cases import CALLS
from diff_cases import DIFFS
from edit_cases import EDITS
from review_cases import REVIEWS
from store_cases import STORES
from vector_cases import STRANGERS, VECTORS

__all__ = ["page"]

RECIPES = Path(__file__).parents[1] / "recipes"
HEAD = """\
<!-- Written by `python tests/errors/error_page.py`. Change the cases in tests/errors/, not this page. -->

# What goes wrong, and what dem says

Each row is a test: something is broken, `dem` is called, and what it prints and its exit status are compared with
what stands here. A message says what is wrong, where, and, after `hint:`, how to mend it.

| status | meaning |
|---|---|
| 0 | all is well |
| 1 | an action failed, or the cache or the disk did |
| 2 | the call, the recipe, the machine file, the lock or what they name is wrong: nothing has run |
| 3 | a gate failed: everything is built |
| 4 | something is due, under `--check` or `--locked` |
| 130 | stopped by Ctrl-C: state is saved, the next build goes on from it |

In the messages, `…` stands for what differs from run to run.
"""
TABLE = "\n| what happened | status | message |\n|---|---|---|\n"


def page() -> str:
    """Return the text of `docs/errors.md`."""
    calls = [
        (c.what, c.status, c.says, c.call)
        for c in (*CALLS, *EDITS, *DIFFS, *REVIEWS, *BASES, *VECTORS, *STORES)
    ]
    data = [(c.what, 1, c.says, "build recipe.toml") for c in (*BROKEN_DATA, *STRANGERS)]
    builds = [(c.what, c.status, c.says, c.call) for c in (*BUILDS, *AFTER_A_BUILD)]
    builds.append(("Ctrl-C while the plan is made", 130, "error: stopped", "build recipe.toml"))
    recipes = [
        (f.name.replace("-", " "), 2, _recipe(f), "check recipe.toml") for f in sorted(RECIPES.iterdir())
    ]
    count = len(calls) + len(data) + len(builds) + len(recipes)
    return (
        f"{HEAD}\n{count} cases.\n"
        f"\n## Found before anything runs\n{TABLE}{_rows(calls)}"
        f"\n## Data and vectors\n\nWhat follows the name of the action that failed.\n{TABLE}{_rows(data)}"
        f"\n## Builds and the cache\n{TABLE}{_rows(builds)}"
        "\n## Mistakes in a recipe\n\nThe hint stands in parentheses. What the recipe names is there.\n"
        f"{TABLE}{_rows(recipes)}"
    )


def _recipe(folder: Path) -> str:
    return (folder / "expected.txt").read_text(encoding="utf-8").strip()


def _rows(cases: list[tuple[str, int, str, str]]) -> str:
    rows = [f"| {_cell(w)}<br>`dem {call}` | {status} | {_said(says)} |\n" for w, status, says, call in cases]
    return "".join(rows)


def _said(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "<br>".join(_code(line) for line in lines) or "(the plan)"


def _code(line: str) -> str:
    """Return a line as code in a table's cell, whatever backticks and bars are in it."""
    fence = "``" if "`" in line else "`"
    pad = " " if "`" in line else ""
    return f"{fence}{pad}{_cell(line)}{pad}{fence}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(page())
