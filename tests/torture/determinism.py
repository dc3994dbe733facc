"""Chapter: the same recipe built in other places, with other threads and other jobs, and what of it is the same."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tally import Tally
from trainings import MAKE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tally import Scale

TITLE = "Determinism"
INTRODUCTION = """
Clean builds of one recipe by calls of `dem` as a user's: in folders of other names, with other numbers of threads and
jobs, with another micro-batch. Prepared data is always the same, and a composed model has the same bytes wherever its
vectors do: composing is also tried by itself, from the same vectors. Where threads and micro-batch are the same,
vectors and tuned ω are the same bit for bit. With other threads or another micro-batch sums are taken in another
order, and a vector differs: by less than {bound:.0%} of its norm. Trials are outputs that were compared.
"""
BOUND = 0.02
"""Largest ‖Δ₂ − Δ₁‖ / ‖Δ₁‖ between vectors that were trained with other threads or another micro-batch. They are as
good as each other; how far apart they are grows with the steps and the learning rate, and here both are high."""
INTRODUCTION = INTRODUCTION.format(bound=BOUND)
RECIPE = """\
name = "tiny"

[base]
model = "base"

[train]
learning_rate = 1e-3
max_steps = {steps}
global_batch_size = 8
max_length = 64

[datasets.add]
path = "data/add.jsonl"
validation = 0.25
omega = {add}

[datasets.copy]
path = "data/copy.jsonl"
validation = 0.25
omega = {copy}

[tune]
max_samples = 8

[compose]
dtype = "bfloat16"
"""


@dataclass
class Built:
    """A build: action → output → digest, and where it is."""

    home: Path
    outputs: dict[str, dict[str, str]] = field(default_factory=dict)

    def differing(self, other: Built, *families: str) -> tuple[int, list[str]]:
        """Compare the outputs of actions whose names begin so; return how many there are, and which differ."""
        chosen = [
            (action, output)
            for action in self.outputs
            for output in self.outputs[action]
            if action.split(":")[0] in families
        ]
        return len(chosen), [
            f"{action}/{output} of {other.home.name}"
            for action, output in chosen
            if self.outputs[action][output] != other.outputs[action][output]
        ]

    def vector(self, name: str) -> Path:
        found = self.outputs[f"vector:{name}"]["delta"]
        return self.home / "cache" / "cas" / "sha256" / found[:2] / found


class Places:
    """Folders to build in."""

    def __init__(self, folder: Path, steps: int, *, tuned: bool) -> None:
        self._folder = folder
        self._text = RECIPE.format(
            steps=steps, add='"tune"' if tuned else 0.5, copy='"tune"' if tuned else 0.25
        )
        self._start = folder / "start"
        self._start.mkdir()
        tests = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "samples")}
        subprocess.run(
            [sys.executable, "-c", MAKE], cwd=self._start, env=tests, check=True, capture_output=True
        )

    def build(
        self, name: str, machine: str = "", *, threads: int = 1, jobs: int = 1, cache: Path | None = None
    ) -> Built:
        """Build in a folder of its own.

        Args:
            name: The folder.
            machine: The machine file.
            threads: CPUs that the build may use for each job.
            jobs: `--jobs`.
            cache: A cache to begin with, of which the model is composed again.
        """
        home = self._folder / name
        shutil.copytree(self._start, home)
        (home / "tiny.toml").write_text(self._text)
        (home / "machine.toml").write_text(machine)
        if cache is not None:
            shutil.copytree(cache, home / "cache")
        options = ["--json", "--jobs", str(jobs), *(["--rebuild", "model"] if cache is not None else [])]
        done = subprocess.run(
            [sys.executable, "-c", LIMITED, str(threads * jobs), "build", "tiny.toml", *options],
            cwd=home,
            env={**os.environ, "DEM_HINTS": str(home / "hints")},
            capture_output=True,
            text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{done.stdout[-500:]} {done.stderr[-500:]}"
        return Built(home, _outputs(home, json.loads(done.stdout)))


# The affinity says how many threads each worker gets; where there are fewer CPUs, it is said for them.
LIMITED = """\
import os, sys
cpus = int(sys.argv[1])
os.sched_getaffinity = lambda _: range(cpus)
from dem_build.cli.app import run
sys.exit(run(sys.argv[2:]))
"""


def run(scale: Scale, folder: Path) -> Iterator[Tally]:
    """Build again and again."""
    places = Places(folder, steps=scale.pick(4, 20), tuned=not scale.short)
    names = ["first", "Another folder, with 'quotes' and ü"]
    with ThreadPoolExecutor(2) as pool:
        first, *same = pool.map(places.build, names)
    same += [] if scale.short else [places.build("two jobs", jobs=2)]
    others = [] if scale.short else _elsewhere(places)
    yield _compared("prepared data, everywhere", first, [*same, *others], ("base", "data"))
    yield _compared("vectors, same threads and micro-batch", first, same, ("vector",))
    if not scale.short:
        yield _compared("tuned ω, same threads and micro-batch", first, same, ("tune",))
    yield _compared("composed models, same threads and micro-batch", first, same, ("model",))
    if not scale.short:
        again = [
            places.build(f"composed with {n} threads", threads=n, cache=first.home / "cache") for n in (2, 3)
        ]
        yield _compared("composed models of the same vectors, other threads", first, again, ("model",))
        yield _near(first, others)


def _elsewhere(places: Places) -> list[Built]:
    return [
        places.build("two threads", threads=2),
        places.build("micro-batch 2", "micro_batch = 2\n"),
        places.build("both", "micro_batch = 3\n", threads=2),
    ]


def _compared(what: str, first: Built, others: Sequence[Built], families: Sequence[str]) -> Tally:
    tally = Tally(what)
    for other in others:
        tried, wrong = first.differing(other, *families)
        tally.tried += tried
        tally.recovered += tried - len(wrong)
        for line in wrong:
            tally.lose(line)
    return tally


def _near(first: Built, others: Sequence[Built]) -> Tally:
    far: list[float] = []
    tally = Tally("")
    for other in others:
        for name in ("add", "copy"):
            distance = _distance(first.vector(name), other.vector(name))
            far.append(distance)
            tally.tried += 1
            if distance <= BOUND:
                tally.recovered += 1
            else:
                tally.lose(f"{name} of {other.home.name} differs by {distance:.3f} of its norm")
    tally.fault = f"vectors, other threads or micro-batch: they differ by up to {max(far):.2%} of their norm"
    return tally


def _distance(one: Path, other: Path) -> float:
    from dem_build.checkpoint.reader import open_checkpoint

    squares, apart = 0.0, 0.0
    with open_checkpoint(one) as a, open_checkpoint(other) as b:
        for name in a.tensors:
            x, y = (c.read(name).astype(np.float64) for c in (a, b))
            squares += float((x * x).sum())
            apart += float(((x - y) ** 2).sum())
    return (apart / squares) ** 0.5


def _outputs(home: Path, document: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    found = {}
    for action in document["actions"]:
        path = home / "cache" / "actions" / action["key"][:2] / f"{action['key']}.json"
        record = json.loads(path.read_bytes())
        found[action["name"]] = {name: output["sha256"] for name, output in record["outputs"].items()}
    return found
