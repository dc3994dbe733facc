"""A project that was built once, copied for each trial, and `dem` called in the copies. Used by the chapters on faults.

With stand-ins for the steps that need torch, or real (`real=True`): a tiny base, trainings and losses of a second each.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from light import Bounds, Builder
from light_trials import RECIPE, lay_out
from survey import contents

if TYPE_CHECKING:
    from collections.abc import Mapping

    from failpoints import Plan

__all__ = ["BUILD", "Called", "Workshop"]

BUILD = ("build", "tiny.toml", "--json")
EVALUATED = """
[evaluate]
models = ["composed", "base"]
prompts = 0
"""
TRAINED = "learning_rate = 1e-3\nglobal_batch_size = 4\nmax_length = 64\n"


@dataclass(frozen=True)
class Called:
    """How a call of `dem` ended: its status, or minus the signal that ended it, and what it printed."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """What `--json` printed; empty where it printed none."""
        try:
            found = json.loads(self.out)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def ran(self) -> set[str]:
        """The actions that ran."""
        return {a["name"] for a in self.document.get("actions", ()) if a["status"] == "ran"}

    @property
    def calm(self) -> bool:
        """Whether it ended by itself, with a status that it may have and no traceback."""
        return self.status in (0, 1, 2, 3, 4, 130) and "Traceback" not in self.err + self.out

    @property
    def brief(self) -> str:
        """Its end, for a list of losses."""
        return f"status {self.status}: {' | '.join(self.err.splitlines()[-3:])}"


class Workshop:
    """A folder, a process that calls `dem`, and a project that is built.

    Attributes:
        start: The built project.
        keys: Action → its key.
        results: What the build measured.
        model: What it published.
    """

    def __init__(self, folder: Path, *, real: bool = False) -> None:
        self._folder = folder
        self._builder = Builder(real=real)
        folder.mkdir(parents=True)
        self.start = folder / "start"
        if real:
            _lay_out_real(self.start)
        else:
            lay_out(self.start)
            (self.start / "tiny.toml").write_text(RECIPE)
        first = self.call(self.start, *BUILD)
        assert first.status == 0, first.err
        self.keys = {a["name"]: a["key"] for a in first.document["actions"]}
        self.results = first.document["results"]
        self.model = self.published(self.start)

    def close(self) -> None:
        self._builder.close()

    def copy(self, name: str = "home") -> Path:
        """Return a fresh copy of the built project; an earlier one of this name goes."""
        home = self._folder / name
        shutil.rmtree(home, ignore_errors=True)
        return Path(shutil.copytree(self.start, home))

    def call(
        self,
        home: Path,
        *arguments: str,
        bounds: Bounds | None = None,
        variables: Mapping[str, str] | None = None,
        plan: Plan | None = None,
    ) -> Called:
        """Call `dem` in a folder."""
        status = self._builder.call(home, arguments, plan, variables, bounds)
        printed = (Path(f"{home}{suffix}").read_text(errors="replace") for suffix in (".out", ".err"))
        return Called(status, *printed)

    def published(self, home: Path) -> Mapping[str, str]:
        """Return the digest of each file of the published model."""
        return contents(home / "out" / "tiny" / "model")

    def wrong(self, home: Path, called: Called, may_run: set[str] | None = None) -> list[str]:
        """Return what is wrong with a build that should have given what the first one gave."""
        if called.status != 0:
            return [f"the build ends with {called.brief}"]
        wrong = [] if called.calm else [called.brief]
        if self.published(home) != self.model:
            wrong.append("out/ holds another model")
        if called.document.get("results") != self.results:
            wrong.append("other results")
        if may_run is not None and (more := called.ran - may_run):
            wrong.append(f"ran for nothing: {', '.join(sorted(more))}")
        return wrong


def _lay_out_real(home: Path) -> None:
    sys.path.append(str(Path(__file__).resolve().parents[1] / "samples"))
    from tiny import make_base, make_data

    make_base(home / "base", layers=1)
    make_data(home / "data", rows=24)
    text = RECIPE.replace("[train]\n", f"[train]\n{TRAINED}").replace("omega", "test = 0.2\nomega")
    (home / "tiny.toml").write_text(text + EVALUATED)
    (home / "machine.toml").write_text("checkpoint_seconds = 1\n")  # of a training of about as long
