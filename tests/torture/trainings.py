"""Real trainings, killed again and again on their way: `dem` as a user calls it, its worker a process of its own.

A run begins with base and data prepared. It dies several times, and goes on after each; in the end its vector must be
that of a run that nobody killed, bit for bit. Used by `crashes.py`.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import failpoints
import power
from failpoints import Plan
from survey import Survey, contents, done_twice, lost, outputs_of, survey

if TYPE_CHECKING:
    from collections.abc import Sequence

RECIPE = """\
name = "tiny"

[base]
model = "base"

[train]
learning_rate = 1e-3
max_steps = 30
global_batch_size = 4
max_length = 64

[datasets.add]
path = "data/add.jsonl"
omega = 0.5

[compose]
dtype = "bfloat16"
"""
WORKER = "dem_build.engine.worker"
OUTLIVED_SECONDS = 15.0
MAKE = "import sys; from pathlib import Path; from tiny import *; make_base(Path('base')); make_data(Path('data'))"

POWER_CUTS = {"names": "names lost", "empty": "files emptied", "zeros": "files zeroed"}


@dataclass(frozen=True)
class Death:
    """How a build dies.

    Attributes:
        who: `worker` alone, `driver` alone, or `both`.
        random: Whether at a random time; else at a random step of the worker's on the disk.
        power: What a power cut takes then, of `POWER_CUTS`; "" for nothing.
    """

    who: str
    random: bool = False
    power: str = ""

    def __str__(self) -> str:
        when = "at a random time" if self.random else "at a step on the disk"
        names = {"worker": "the worker alone", "driver": "the driver alone", "both": "worker and driver"}
        return f"{names[self.who]}, {when}" + (
            f", and a power cut, {POWER_CUTS[self.power]}" if self.power else ""
        )


class Trainings:
    """Runs of one training, each in a folder of its own.

    Args:
        folder: An empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._start = folder / "start"
        self._start.mkdir(parents=True)
        tests = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "samples")}
        subprocess.run(
            [sys.executable, "-c", MAKE], cwd=self._start, env=tests, check=True, capture_output=True
        )
        (self._start / "tiny.toml").write_text(RECIPE)
        (self._start / "machine.toml").write_text("checkpoint_seconds = 0\n")
        self._finish(self._start, "--", "data:add")
        whole, journal = folder / "whole", folder / "whole.journal"
        shutil.copytree(self._start, whole)
        began = time.monotonic()
        document = self._finish(whole, plan=Plan(journal=str(journal), process=WORKER))
        self._seconds = time.monotonic() - began
        self._points = sum(json.loads(line)[0] == "point" for line in journal.read_bytes().splitlines())
        self._outputs = outputs_of(document, whole / "cache")
        self._model = contents(whole / "out" / "tiny" / "model")

    def run(self, name: str, death: Death, times: int, seed: int) -> tuple[int, list[str]]:
        """Let a run die so many times, then let it end.

        Returns:
            How often it died (at a random time it may have ended before), and what is wrong.
        """
        home, drawn = self._folder / name, random.Random(seed)
        shutil.copytree(self._start, home)
        died, wrong = 0, []
        for _ in range(times):
            before = survey(home / "cache")
            status, found = self._die(home, death, drawn, times)
            died += status != 0
            wrong += found
            after = survey(home / "cache")
            wrong += after.wrong + lost(before, after)
        wrong += self._recover(home)
        if not wrong:
            shutil.rmtree(home)
        return died, wrong

    def _die(self, home: Path, death: Death, drawn: random.Random, times: int) -> tuple[int, list[str]]:
        """Start a build and let it die; the further it gets in all, the fewer deaths are left to come."""
        journal, settled = home.with_suffix(".journal"), power.identities(home)
        journal.unlink(missing_ok=True)
        faults = {"worker": "kill", "driver": "parent", "both": "family"}
        at = 0 if death.random else drawn.randint(1, 2 * self._points // times)
        plan = Plan(at, str(journal), faults[death.who], WORKER)
        process = self._begin(home, plan)
        if death.random:
            time.sleep(drawn.uniform(0.1, 0.9) * self._seconds)
            _kill(home, process, death.who, drawn)
        out, err = process.communicate(timeout=240)
        wrong = [] if _gone(home) else ["a worker outlived its driver"]
        if "Traceback" in err or process.returncode not in (0, 1, -signal.SIGKILL):
            wrong.append(f"status {process.returncode}: {out[-300:]} {err[-600:]}")
        if death.power:
            power.cut(home, journal, settled, death.power)
        return process.returncode, wrong

    def _recover(self, home: Path) -> list[str]:
        before = survey(home / "cache")
        try:
            document = self._finish(home)
        except AssertionError as error:
            return [f"the next build fails: {error}"]
        wrong = done_twice(document, before) + _not_resumed(document, home / "cache", before)
        outputs = outputs_of(document, home / "cache")
        wrong += [f"{name} has other outputs" for name in outputs if outputs[name] != self._outputs[name]]
        if contents(home / "out" / "tiny" / "model") != self._model:
            wrong.append("out/ holds another model")
        if (found := self._call(home, "cache", "verify")).returncode:
            wrong.append(f"dem cache verify: {found.stdout}")
        return wrong

    def _finish(self, home: Path, *targets: str, plan: Plan | None = None) -> dict[str, Any]:
        done = self._call(home, "build", "tiny.toml", "--json", *targets, plan=plan)
        assert done.returncode == 0, f"{done.stdout[-300:]} {done.stderr[-600:]}"
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    def _call(
        self, home: Path, *arguments: str, plan: Plan | None = None
    ) -> subprocess.CompletedProcess[str]:
        process = self._begin(home, plan, arguments)
        out, err = process.communicate(timeout=240)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    @staticmethod
    def _begin(
        home: Path, plan: Plan | None, arguments: Sequence[str] = ("build", "tiny.toml", "--json")
    ) -> subprocess.Popen[str]:
        variables = {} if plan is None else failpoints.environment([home], plan)
        return subprocess.Popen(
            [sys.executable, "-m", "dem_build", *arguments],
            cwd=home,
            env={**os.environ, "DEM_HINTS": str(home / "hints"), **variables},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )


def _not_resumed(document: dict[str, Any], cache: Path, before: Survey) -> list[str]:
    wrong = []
    for action in document["actions"]:
        if action["kind"] == "finetune" and action["status"] == "ran":
            path = cache / "actions" / action["key"][:2] / f"{action['key']}.json"
            resumed = json.loads(path.read_bytes())["provenance"]["resumed_from"]
            if resumed != before.saved.get(action["key"]):
                wrong.append(f"went on from step {resumed}, and {before.saved} was saved")
    return wrong


def _kill(home: Path, driver: subprocess.Popen[str], who: str, drawn: random.Random) -> None:
    victims = [] if who == "driver" else _workers(home)
    victims += [] if who == "worker" else [driver.pid]
    drawn.shuffle(victims)
    for pid in victims:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _gone(home: Path) -> bool:
    deadline = time.monotonic() + OUTLIVED_SECONDS
    while _workers(home):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _workers(home: Path) -> list[int]:
    """Return the worker processes of a project's cache that are not dead."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            if WORKER.encode() in words and os.fsencode(home / "cache") in words:
                found.append(int(process.name))
    return found
