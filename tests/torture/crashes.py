"""Chapter: builds that die at each of their steps, by SIGKILL or by a power cut, and are built again."""

from __future__ import annotations

import os
import random
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from queue import Queue
from typing import TYPE_CHECKING

from light_trials import COLLECT, EDITED, RECIPE, REWEIGHTED, Bench, Cut, Scene
from tally import Tally
from trainings import POWER_CUTS, Death, Trainings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tally import Scale

TITLE = "Crashes"
INTRODUCTION = """
A build is killed before each call that changes the disk. What is left is read without the help of `dem`: every record
has its objects, whole; a model in `out/` is the old one, the new one or none. Then it is built again: the model and
every vector have the bytes of a build that nobody killed, nothing that was recorded runs again, a training goes on
from its newest complete checkpoint, `dem cache verify` finds nothing, and nothing is due. A power cut also takes, of
the same build, what no fsync had covered: the bytes of files (they are empty, or zeros) or the names in folders. The
first lines are whole builds whose steps need no torch; the real trainings are calls of `dem` as a user's.
"""
FIRST, RESUMED, EDIT = "a first build", "a resumed training", "an edited recipe"
DAMAGED, GARBAGE = "a damaged cache", "a collection"
BENCHES = 2
DEEPEST = 3
DEATHS = (
    Death("worker"),
    Death("driver"),
    Death("both"),
    Death("both", power="zeros"),
    Death("both", power="names"),
    Death("worker", random=True),
    Death("driver", random=True),
    Death("both", random=True),
)
RUNS, TIMES = 2, 4


def run(scale: Scale, folder: Path) -> Iterator[Tally]:
    """Try each fault in builds without torch, and in full also in real trainings."""
    yield from _light(scale, folder)
    if not scale.short:  # a short form is in the tests of `dem build`
        yield from _trainings(scale, folder)


def _light(scale: Scale, folder: Path) -> Iterator[Tally]:
    with ExitStack() as stack:
        place = _in_memory(stack) or folder
        benches = [stack.enter_context(closing(Bench(place / f"bench-{i}"))) for i in range(BENCHES)]
        scenes, drawn = _scenes(benches), random.Random(scale.seed)
        for name in scenes:
            cuts = [[Cut(at)] for at in _points(scenes, name, scale, short=6)]
            yield _tally(f"SIGKILL: {name}", name, cuts, scenes)
        yield _tally("SIGKILL, and again while it recovers", FIRST, _chains(scenes, scale, drawn), scenes)
        for turn, (form, what) in enumerate(POWER_CUTS.items()):
            for name in (FIRST, RESUMED, EDIT, GARBAGE):
                points = _points(scenes, name, scale, short=2)
                cuts = [[Cut(at, form)] for at in (points if scale.short else points[turn::3])]
                yield _tally(f"power cut, {what}: {name}", name, cuts, scenes)


def _in_memory(stack: ExitStack) -> Path | None:
    """Return a folder in memory, where there is one: a kill needs no disk, and a flush there waits for none."""
    if not os.access("/dev/shm", os.W_OK):
        return None
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dem-crashes-", dir="/dev/shm")))


Scenes = dict[str, Queue[tuple[Bench, Scene]]]


def _scenes(benches: Sequence[Bench]) -> Scenes:
    """Return name → the scene as each bench has it."""
    found: Scenes = {name: Queue() for name in (FIRST, RESUMED, EDIT, DAMAGED, GARBAGE)}
    for bench in benches:
        first = bench.stage("empty", None, RECIPE)
        found[FIRST].put((bench, first))
        found[RESUMED].put((bench, bench.stage("stopped", first, RECIPE, at=first.saved)))
        edited = bench.stage("built", first, EDITED)
        found[EDIT].put((bench, edited))
        found[GARBAGE].put((bench, bench.stage("old", edited, EDITED, command=COLLECT)))
        found[DAMAGED].put((bench, bench.stage("damaged", first, REWEIGHTED, _spoil)))
    return found


def _spoil(cache: Path) -> None:
    """Change a byte of a vector, and cut a record short."""
    vector = next(p for p in sorted(cache.glob("cas/sha256/*/*")) if b"delta/1" in p.read_bytes()[:400])
    record = next(p for p in sorted(cache.glob("actions/*/*.json")) if b'"prepare"' in p.read_bytes())
    for path, data in ((vector, vector.read_bytes()[:-1] + b"?"), (record, record.read_bytes()[:-9])):
        path.unlink()
        path.write_bytes(data)


def _points(scenes: Scenes, name: str, scale: Scale, short: int) -> list[int]:
    """Return every point of a scene's build, or a few that are spread over it."""
    count = scenes[name].queue[0][1].points
    points = range(1, count + 1)
    return list(points[:: max(1, count // short)] if scale.short else points)


def _chains(scenes: Scenes, scale: Scale, drawn: random.Random) -> list[list[Cut]]:
    """Return kills of one build after another, some with a power cut."""
    count, forms = scenes[FIRST].queue[0][1].points, ("", "", "", *POWER_CUTS)
    return [
        [Cut(drawn.randint(1, count), drawn.choice(forms)) for _ in range(drawn.randint(2, DEEPEST))]
        for _ in range(scale.pick(4, 150))
    ]


def _tally(fault: str, name: str, trials: Sequence[Sequence[Cut]], scenes: Scenes) -> Tally:
    """Try each, one on each bench at a time."""
    tally = Tally(fault)

    def one(cuts: Sequence[Cut]) -> tuple[int, list[str]]:
        bench, scene = scenes[name].get()
        try:
            return bench.trial(scene, cuts)
        finally:
            scenes[name].put((bench, scene))

    with ThreadPoolExecutor(BENCHES) as pool:
        for cuts, (died, wrong) in zip(trials, pool.map(one, trials), strict=True):
            _count(tally, died, [f"{name}, {list(cuts)}: {what}" for what in wrong])
    return tally


def _count(tally: Tally, died: int, wrong: Sequence[str]) -> None:
    tally.tried += died
    tally.recovered += 0 if wrong else died
    for what in wrong:
        tally.lose(what)


def _trainings(scale: Scale, folder: Path) -> Iterator[Tally]:
    """Let real trainings die, two at a time; each death is a line of the report."""
    trainings = Trainings(folder / "trainings")
    with ThreadPoolExecutor(BENCHES) as pool:
        for number, death in enumerate(DEATHS):
            tally = Tally(f"real training, SIGKILL: {death}")
            seeds = [scale.seed + 2 * number + run for run in range(RUNS)]
            runs = [pool.submit(trainings.run, f"run-{seed}", death, TIMES, seed) for seed in seeds]
            for seed, run in zip(seeds, runs, strict=True):
                died, wrong = run.result()
                _count(tally, died, [f"seed {seed}: {what}" for what in wrong])
            yield tally
