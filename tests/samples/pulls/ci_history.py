"""A repository with a recipe that is built, and a dozen branches that each change one thing of it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from git_samples import Repo
from project import dataset, recipe
from tiny import make_data

from dem_build.cli.app import run

if TYPE_CHECKING:
    from collections.abc import Callable

DATASETS = (dataset("add", omega=0.5, test=0.2), dataset("copy", omega=0.5, test=0.2))
PROBE = '[probes.held]\npath = "data/held.jsonl"\n'
EVALUATE = (
    '[compose]\ndtype = "bfloat16"\n\n[evaluate]\nmodels = ["composed"]\nprompts = 2\nmax_new_tokens = 3\n'
)
GATE_ADD = '[[gates]]\ntask = "loss:add"\nmetric = "loss"\nmax = 9.0\n'
GATE_COPY = '[[gates]]\ntask = "loss:copy"\nmetric = "loss"\nagainst = "base-revision"\nmax_drop = 0.01\n'


def text(*tables: str) -> str:
    return recipe(*tables, steps=2)


WORSE = (DATASETS[1], dataset("copy", omega=-0.5, test=0.2))
RECIPE = text(*DATASETS, PROBE, EVALUATE, GATE_ADD, GATE_COPY)


class History:
    """The repository, whose branch `main` is built, and `dem` called in it."""

    def __init__(self, folder: Path, base: Path) -> None:
        self.repo = Repo(folder / "repo")
        self.recipes = self.repo.root / "recipes"
        self.hints = folder / "hints"
        make_data(self.recipes / "data", rows=40)
        (self.recipes / "data/copy.jsonl").rename(self.recipes / "data/held.jsonl")
        make_data(self.recipes / "more", rows=56)
        (self.recipes / "more/copy.jsonl").rename(self.recipes / "data/copy.jsonl")
        for name in ("add", "upper"):
            (self.recipes / f"more/{name}.jsonl").unlink()
        held = self.lines("held")[:12]
        self.put("held", [line.replace("say ", "name ") for line in held])
        (self.recipes / "base").symlink_to(base)  # replaced by files below: git keeps links as links
        (self.recipes / "base").unlink()
        (self.recipes / "base").mkdir()
        for file in base.iterdir():
            (self.recipes / "base" / file.name).write_bytes(file.read_bytes())
        self.repo.put(".gitignore", "cache/\nout/\n")
        self.repo.put("recipes/tiny.toml", RECIPE)
        self.lock()
        self.repo.commit("the recipe")

    def lines(self, name: str) -> list[str]:
        return (self.recipes / f"data/{name}.jsonl").read_text().splitlines(keepends=True)

    def put(self, name: str, lines: list[str]) -> None:
        (self.recipes / f"data/{name}.jsonl").write_text("".join(lines))

    def lock(self, path: str = "recipes/tiny.toml") -> None:
        assert self.call("lock", path).status == 0

    def call(self, *arguments: str, **environment: str) -> Said:
        """Call `dem` in the repository, in this process."""
        out, err = io.StringIO(), io.StringIO()
        kept = dict(os.environ)
        os.environ.update({"DEM_HINTS": str(self.hints), "NO_COLOR": "1", "COLUMNS": "80", **environment})
        try:
            with (
                contextlib.chdir(self.repo.root),
                contextlib.redirect_stdout(out),
                contextlib.redirect_stderr(err),
            ):
                status = run(list(arguments))
        finally:
            os.environ.clear()
            os.environ.update(kept)
        assert "Traceback" not in err.getvalue(), err.getvalue()
        return Said(status, out.getvalue(), err.getvalue())

    def branch(self, name: str, change: Callable[[History], None], start: str = "main") -> None:
        """Make a branch of `main`, change something and commit it."""
        self.repo.git("checkout", "--quiet", "-B", name, start)
        change(self)
        self.repo.commit(name)

    def edit(self, old: str, new: str, *, locked: bool = True) -> None:
        """Replace a part of the recipe."""
        before = (self.recipes / "tiny.toml").read_text()
        assert old in before
        (self.recipes / "tiny.toml").write_text(before.replace(old, new))
        if locked:
            self.lock()

    def review(self, *options: str, **environment: str) -> Said:
        """Review what is checked out against `main`."""
        return self.call("ci", "--base", "main", "--json", *options, **environment)


@dataclass(frozen=True)
class Said:
    """What a call of `dem` wrote, and its status."""

    status: int
    out: str
    err: str
    document: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        found = json.loads(self.out) if self.out.lstrip().startswith("{") else {}
        object.__setattr__(self, "document", found)

    @property
    def recipe(self) -> dict[str, Any]:
        """The review of the only recipe."""
        (only,) = self.document["recipes"]
        return only

    @property
    def cell(self) -> str:
        """The same for a table in Markdown."""
        return self.line.replace("|", "\\|").replace("<", "&lt;")

    @property
    def line(self) -> str:
        """What decides it, in a line that is the same on every machine."""
        told = [self.recipe["change"]]
        told += [f"{g['how']}: {g['gate']}, {_judged(g)}" for g in self.recipe["weakened"]]
        if trouble := self.recipe["trouble"]:
            mistakes = [f"{m['file']}:{m['line']}: {m['what']}" for m in trouble["mistakes"]]
            told += mistakes or [f"{trouble['what']} ({trouble['hint']})"]
        told += [reason["text"] for reason in self.recipe["reasons"]]
        train = [a["action"] for a in self.recipe["actions"] if a["state"] == "due" and a["trains"]]
        told += [f"to train first: {', '.join(train)}"] if train else []
        told += [
            f"failed: {g['metric']} on {g['task'].removeprefix('loss:')}"
            for g in self.recipe["gates"]
            if g["passed"] is False
        ]
        told += self.recipe["notes"]
        return re.sub(r"\b[0-9a-f]{64}\b", "…", "; ".join(told))


def _judged(gate: dict[str, Any]) -> str:
    return {True: "passes as it was", False: "fails as it was", None: "not judged"}[gate["passed"]]


def reorder(history: History) -> None:
    parts = (DATASETS[1], EVALUATE, PROBE, GATE_COPY, DATASETS[0], GATE_ADD)
    (history.recipes / "tiny.toml").write_text(text(*parts))
    history.lock()


def move(history: History) -> None:
    (history.recipes / "deep").mkdir()
    for name in ("tiny.toml", "tiny.lock"):
        history.repo.git("mv", f"recipes/{name}", f"recipes/deep/{name}")
    place = history.recipes / "deep/tiny.toml"
    place.write_text(place.read_text().replace('"data/', '"../data/').replace('"base"', '"../base"'))
    history.lock("recipes/deep/tiny.toml")


def add_row(history: History, *, locked: bool = True) -> None:
    history.put("add", [*history.lines("add"), '{"prompt": "1 plus 2000 =", "completion": " 2001"}\n'])
    if locked:
        history.lock()


def change_tests(history: History) -> None:
    held = history.lines("held")
    history.put("held", [*held[:10], '{"prompt": "name a tree:", "completion": " oak"}\n'])
    history.lock()


def remove(history: History) -> None:
    history.repo.git("rm", "--quiet", "recipes/tiny.toml", "recipes/tiny.lock")


def read_outside(history: History) -> None:
    history.edit('"data/held.jsonl"', '"~/.aws/credentials"', locked=False)


CASES: dict[str, tuple[str, Callable[[History], None], tuple[str, ...]]] = {
    "comment": ("a comment", lambda h: h.edit("[base]", "# why this base\n[base]"), ()),
    "reorder": ("tables in another order", reorder, ()),
    "move": ("the recipe moved to another folder", move, ()),
    "row": ("a row more", add_row, ("--no-train",)),
    "omega": ("ω changed, and worse than a gate allows", lambda h: h.edit(*WORSE), ()),
    "dataset": (
        "a dataset more",
        lambda h: h.edit("[probes", dataset("upper", omega=0.3, test=0.2) + "\n[probes"),
        ("--no-train",),
    ),
    "loosened": ("a gate loosened", lambda h: h.edit("max = 9.0", "max = 99.0"), ()),
    "removed-gate": (
        "the same, and the gate removed",
        lambda h: (h.edit(GATE_COPY, "", locked=False), h.edit(*WORSE))[0],
        (),
    ),
    "tests": ("test data changed", change_tests, ("--no-train",)),
    "stale": ("data changed, and the lock not written", lambda h: add_row(h, locked=False), ()),
    "removed": ("the recipe removed", remove, ()),
    "mistake": ("a mistake", lambda h: h.edit("omega = 0.5", 'omega = "half"', locked=False), ()),
    "outside": ("a stranger's, that reads outside", read_outside, ("--untrusted",)),
}  # fmt: skip
"""Branch → what it changes, in words and in deed, and the options of its review."""


def main() -> None:
    """Print the rows of the table in docs/ci.md: `cd tests/samples && python -m pulls.ci_history`."""
    import tempfile

    from tiny import make_base

    with tempfile.TemporaryDirectory() as folder:
        history = History(Path(folder), make_base(Path(folder) / "base"))
        assert history.call("build", "recipes/tiny.toml").status == 0
        for name, (words, change, options) in CASES.items():
            history.branch(name, change)
            found = history.review(*options)
            row = f"| {words} | {' '.join(f'`{o}`' for o in options)} | {found.cell} | {found.status} |"
            sys.stdout.write(f"{row}\n")


if __name__ == "__main__":
    main()
