"""One light build killed, looked at, built again and compared: a trial. Used by `crashes.py`.

A scene is what is there before the build that is killed: nothing, or a project whose recipe was edited since.
"""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import power
from failpoints import Plan
from light import Builder
from stand_ins import TRAINED
from survey import Survey, contents, done_twice, lost, outputs_of, survey

from dem_build.actions.checkpoints import MARKER

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

RECIPE = """\
name = "tiny"

[base]
model = "base"

[train]
max_steps = 5

[datasets.add]
path = "data/add.jsonl"
omega = 0.5

[datasets.copy]
path = "data/copy.jsonl"
omega = 0.25

[compose]
dtype = "bfloat16"
"""
REWEIGHTED = RECIPE.replace("omega = 0.5", "omega = 0.75")
EDITED = REWEIGHTED.replace("copy", "upper")
BUILD = ("build", "tiny.toml", "--json")
COLLECT = ("cache", "gc", "--vectors", "--grace", "0s")


@dataclass(frozen=True)
class Cut:
    """Where a build dies: at a point of its own, and what a power cut takes then ("": it is a kill alone)."""

    at: int
    power: str = ""


@dataclass
class Scene:
    """What is there before, and what must be there in the end.

    Attributes:
        start: The project before the build that is killed; copied for each trial.
        points: How many points the build has when nobody kills it.
        saved: The point after which its last checkpoint is there.
        models: The published models that may be seen on the way, the right one last.
        outputs: Action → digests of its outputs, in the end.
        published: Names in `out/`, in the end.
        command: What is killed.
        damaged: Whether something in `start` is not as its name says, so that what is recorded may run again.
    """

    start: Path
    points: int
    saved: int
    models: list[Mapping[str, str]]
    outputs: Mapping[str, Mapping[str, str]]
    published: Sequence[str]
    command: tuple[str, ...] = BUILD
    damaged: bool = False


class Bench:
    """A folder and a builder of its own; trials run in it one after another."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._home = folder / "home"
        self._builder = Builder()
        folder.mkdir(parents=True)

    def close(self) -> None:
        self._builder.close()

    def stage(
        self,
        name: str,
        before: Scene | None,
        text: str,
        spoil: Any = None,
        at: int = 0,
        command: tuple[str, ...] = BUILD,
    ) -> Scene:
        """Return the scene where a project is about to build `text`, or to do something else with what is built.

        Args:
            name: Of its folder.
            before: A scene whose build was done before; None for none.
            text: The recipe.
            spoil: Called with the cache, to damage it.
            at: At which point the build of `before` died; 0 where it did not.
            command: What is about to be done.
        """
        start = self._folder / name
        if before is None:
            lay_out(start)
        else:
            shutil.copytree(before.start, self._home, symlinks=True)
            assert self._call(BUILD, Plan(at=at)) == (-signal.SIGKILL if at else 0), self._said()
            shutil.move(self._home, start)
        (start / "tiny.toml").write_text(text)
        if spoil is not None:
            spoil(start / "cache")
        return self._scene(start, command, damaged=spoil is not None)

    def _scene(self, start: Path, command: tuple[str, ...], *, damaged: bool) -> Scene:
        """Do it once without a kill, to know what must come out."""
        journal = self._journal()
        journal.unlink(missing_ok=True)
        shutil.copytree(start, self._home, symlinks=True)
        assert self._call(command, Plan(journal=str(journal))) == 0, self._said()
        if command != BUILD:
            assert self._call(BUILD) == 0, self._said()
        points = [e for line in journal.read_bytes().splitlines() if (e := json.loads(line))[0] == "point"]
        scene = Scene(
            start,
            points=len(points),
            saved=max((e[1] + 1 for e in points if e[2] == "os.rename" and MARKER in e[4]), default=0),
            models=[contents(home / "out" / "tiny" / "model") for home in (start, self._home)],
            outputs=outputs_of(json.loads(self._printed(".out")), self._home / "cache"),
            published=self._published(),
            command=command,
            damaged=damaged,
        )
        shutil.rmtree(self._home)
        return scene

    def trial(self, scene: Scene, cuts: Sequence[Cut]) -> tuple[int, list[str]]:
        """Let builds die, each where it is told, then build once more.

        Returns:
            How many died (one that goes on from another may have fewer points), and what is wrong.
        """
        shutil.copytree(scene.start, self._home, symlinks=True)
        died, wrong = 0, []
        for cut in cuts:
            status, found = self._die(scene, cut)
            died += status == -signal.SIGKILL
            wrong += found
        wrong += self._recover(scene)
        shutil.rmtree(self._home)
        return died, wrong

    def _die(self, scene: Scene, cut: Cut) -> tuple[int, list[str]]:
        journal, settled = self._journal(), power.identities(self._home)
        journal.unlink(missing_ok=True)
        before = survey(self._home / "cache")
        status = self._call(scene.command, Plan(at=cut.at, journal=str(journal)))
        if status not in (0, -signal.SIGKILL):
            return status, [f"status {status}: {self._said()}"]
        if cut.power:
            power.cut(self._home, journal, settled, cut.power)
        seen = contents(self._home / "out" / "tiny" / "model")
        wrong = [] if seen in (*scene.models, {}) else ["out/ holds half a model"]
        if not scene.damaged:
            after = survey(self._home / "cache")
            wrong += after.wrong + (lost(before, after) if scene.command == BUILD else [])
        return status, wrong

    def _recover(self, scene: Scene) -> list[str]:
        if scene.command != BUILD and self._call(scene.command):
            return [f"another {' '.join(scene.command)} fails: {self._said()}"]
        before, trained = survey(self._home / "cache"), self._folder / "trained"
        trained.unlink(missing_ok=True)
        if status := self._call(BUILD, variables={TRAINED: str(trained)}):
            return [f"the next build ends with {status}: {self._said()}"]
        document = json.loads(self._printed(".out"))
        wrong = [] if scene.damaged else done_twice(document, before)
        if scene.command != BUILD and any(a["status"] != "hit" for a in document["actions"]):
            wrong.append("what the recipe needs was collected")
        wrong += _not_resumed(trained, before)
        wrong += _differences(
            scene, contents(self._home / "out" / "tiny" / "model"), outputs_of(document, self._home / "cache")
        )
        if self._published() != scene.published:
            wrong.append(f"out/ holds {self._published()}")
        if self._call(("cache", "verify")):
            wrong.append(f"dem cache verify: {self._printed('.out')}")
        if self._call(("plan", "tiny.toml", "--check")):
            wrong.append("something is due after a build")
        return wrong

    def _published(self) -> list[str]:
        out = self._home / "out"
        return sorted(str(p.relative_to(out)) for p in out.rglob("*"))

    def _call(
        self, arguments: Sequence[str], plan: Plan | None = None, variables: Mapping[str, str] | None = None
    ) -> int:
        return self._builder.call(self._home, arguments, plan, variables)

    def _journal(self) -> Path:
        return self._folder / "journal"

    def _printed(self, suffix: str) -> str:
        return Path(f"{self._home}{suffix}").read_text()

    def _said(self) -> str:
        return " | ".join(self._printed(".err").splitlines()[-4:])


def lay_out(home: Path) -> None:
    """Write a project of stand-ins: what the recipe names is there, and nothing reads more of it than its bytes."""
    (home / "base").mkdir(parents=True)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8}
    (home / "base" / "config.json").write_text(json.dumps(config))
    (home / "base" / "tokenizer.json").write_text("{}")
    (home / "base" / "model.safetensors").write_bytes(b"weights of a stand-in")
    (home / "data").mkdir()
    for name in ("add", "copy", "upper"):
        (home / "data" / f"{name}.jsonl").write_text(json.dumps({"text": name}) + "\n")


def _not_resumed(trained: Path, before: Survey) -> list[str]:
    """Return the trainings of the last build that did not begin where they had come to."""
    first: dict[str, int] = {}
    for line in trained.read_text().splitlines() if trained.exists() else ():
        key, step = line.split()
        first.setdefault(key, int(step))
    return [
        f"{key[:12]} went on with step {step}, and step {before.saved.get(key, 0)} was saved"
        for key, step in first.items()
        if step != before.saved.get(key, 0) + 1
    ]


def _differences(
    scene: Scene, model: Mapping[str, str], outputs: Mapping[str, Mapping[str, str]]
) -> list[str]:
    wrong = [
        f"{name} has other outputs" for name in scene.outputs if outputs.get(name) != scene.outputs[name]
    ]
    return wrong if model == scene.models[-1] else [*wrong, "out/ holds another model"]
