"""Chapter: several builds at once into one cache, some of them killed, stopped, or without working locks."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

from crowd import GC, Crowd, in_memory, recipe
from failpoints import Plan
from survey import survey
from tally import Tally
from tiny import make_base, make_data

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future

    from tally import Scale

TITLE = "Concurrency"
INTRODUCTION = """
Several processes build into one cache at once, each in a project of its own. Every one must end with the model that it
would have made alone, each step of each vector is trained by one of them, nobody waits for the dead, and afterwards
every record has its objects, whole. Collections of everything that is not needed, vectors too and without a grace
period, run in a loop beside some of them. Where `flock` does nothing, work may be done twice; what comes of it may not
differ. Trials are builds; a stopped process is given for dead by the others before it goes on.
"""
NAMES = ("add", "copy", "upper")
ELSEWHERE = {"host": "elsewhere", "boot_id": "another"}
ROOT = Path(__file__).resolve().parents[2]
REAL = """\
[base]
model = "base"
[train]
learning_rate = 1e-3
max_steps = 4
global_batch_size = 4
max_length = 64
[datasets.add]
path = "data/add.jsonl"
omega = 0.5
"""
REAL_DATA = {n: f'[datasets.{n}]\npath = "data/{n}.jsonl"\nomega = 0.25\n' for n in ("copy", "upper")}
SAME = recipe({"add": 0.5, "copy": 0.25})


def run(scale: Scale, folder: Path) -> Iterator[Tally]:
    """Try each."""
    drawn = random.Random(scale.seed)
    if not scale.short:  # the tests of builds have two real ones at once
        yield _real(folder / "real", rounds=2)
    with ExitStack() as stack:
        place = in_memory(stack) or folder
        crowd = stack.enter_context(closing(Crowd(place / "locks", 4)))
        yield _rounds("the same recipe at once", crowd, scale.pick(1, 25), lambda: [SAME] * 4)
        yield _rounds("overlapping recipes at once", crowd, scale.pick(1, 25), lambda: _overlapping(drawn))
        yield _with_collections("with a collection in a loop", crowd, scale.pick(1, 15), drawn)
        yield _holders("a holder killed", crowd, scale.pick(2, 40), drawn, "kill")
        yield _holders("a holder stopped, and awake too late", crowd, scale.pick(2, 40), drawn, "stop")
        crowd = stack.enter_context(closing(Crowd(place / "no locks", 4, locks=False)))
        what = "locks that do nothing: "
        rounds = scale.pick(1, 12)
        yield _rounds(
            what + "overlapping recipes at once", crowd, rounds, lambda: _overlapping(drawn), twice=True
        )
        yield _with_collections(what + "with a collection in a loop", crowd, rounds, drawn, twice=True)


def _real(folder: Path, rounds: int) -> Tally:
    """Real trainings by the real command: two of one recipe, one of another that shares a vector, and collections."""
    tally = Tally("real trainings at once, with a collection in a loop")
    make_data(folder / "data", 32)
    make_base(folder / "base")
    for name, text in (("one", REAL + REAL_DATA["copy"]), ("two", REAL + REAL_DATA["upper"])):
        (folder / f"{name}.toml").write_text(text)
    for number in range(rounds):
        cache = folder / f"cache-{number}"
        builds = [
            _dem(folder, "build", f"{name}.toml", "--json", cache=cache) for name in ("one", "one", "two")
        ]
        wrong: list[str] = []
        while any(build.poll() is None for build in builds):
            collection = _dem(folder, *GC[:-1], cache=cache)
            _, said = collection.communicate()
            if collection.returncode and "there is no cache here" not in said:
                wrong.append(f"gc: {said}")
        documents = []
        for build in builds:
            out, said = build.communicate()
            documents.append(json.loads(out))
            wrong += [f"status {build.returncode}: {said}"] if build.returncode else []
        ran = Counter(a["key"] for d in documents for a in d["actions"] if a["status"] == "ran")
        wrong += [f"{key[:12]} ran {count} times" for key, count in ran.items() if count > 1]
        if documents[0].get("model_digest") != documents[1].get("model_digest"):
            wrong.append("two models of one recipe")
        _count(tally, len(builds), [f"round {number}: {what}" for what in wrong + survey(cache).wrong])
    return tally


def _dem(folder: Path, *arguments: str, cache: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "dem_build", *arguments, "--cache", str(cache)],
        cwd=folder,
        env={**os.environ, "DEM_HINTS": str(folder / "hints"), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _overlapping(drawn: random.Random) -> list[str]:
    return [
        recipe({n: drawn.choice([0.25, 0.5]) for n in drawn.sample(NAMES, drawn.randint(1, 3))})
        for _ in range(4)
    ]


def _rounds(
    fault: str, crowd: Crowd, rounds: int, texts: Callable[[], list[str]], *, twice: bool = False
) -> Tally:
    tally = Tally(fault)
    for number in range(rounds):
        crowd.lay_out()
        asked = texts()
        running = [m.build(text, crowd.cache) for m, text in zip(crowd.members, asked, strict=True)]
        wrong = crowd.ended(running, asked) + ([] if twice else _done_twice(crowd)) + crowd.sound()
        _count(tally, len(asked), [f"round {number}: {what}" for what in wrong])
    return tally


def _with_collections(
    fault: str, crowd: Crowd, rounds: int, drawn: random.Random, *, twice: bool = False
) -> Tally:
    """Each member builds its datasets three times, with other ω; what it needs no more is taken at once."""
    tally = Tally(fault)
    for number in range(rounds):
        crowd.lay_out()
        chosen = [drawn.sample(NAMES, 2) for _ in crowd.members]
        ended: list[bool] = []
        collections = crowd.collecting(lambda: bool(ended))  # noqa: B023  of this round
        wrong = []
        for omega in (0.25, 0.5, 0.75):
            asked = [recipe(dict.fromkeys(names, omega)) for names in chosen]
            running = [m.build(text, crowd.cache) for m, text in zip(crowd.members, asked, strict=True)]
            wrong += crowd.ended(running, asked)
        ended.append(True)
        wrong += collections.result() + ([] if twice else _done_twice(crowd)) + crowd.sound()
        _count(tally, 3 * len(chosen), [f"round {number}: {what}" for what in wrong])
    return tally


def _holders(fault: str, crowd: Crowd, rounds: int, drawn: random.Random, what: str) -> Tally:
    """The first member dies, or stops, at a step drawn of its build; the others go on with what it held."""
    tally = Tally(fault)
    for _ in range(rounds):
        crowd.lay_out()
        first, at = crowd.members[0], drawn.randint(1, 400)
        begun = first.build(SAME, crowd.cache, Plan(at=at, fault=what))
        child = first.await_stop(begun) if what == "stop" else begun.exception() and None
        if child is not None:
            _give_for_dead(crowd.cache)
        running = [member.build(SAME, crowd.cache) for member in crowd.members[1:]]
        wrong = _others_ended(crowd, running)
        if child is not None:
            os.kill(child, signal.SIGCONT)
            wrong += crowd.ended([begun], [SAME])
        elif begun.result() not in (0, -signal.SIGKILL):
            wrong.append(f"the first: {first.said()}")
        wrong += crowd.ended([first.build(SAME, crowd.cache)], [SAME]) + crowd.sound()
        if what == "kill":
            wrong += [f"trained twice: {key}" for key in _redone(crowd)]
        _count(tally, 1, [f"at step {at}: {line}" for line in wrong])
    return tally


def _others_ended(crowd: Crowd, running: Sequence[Future[int]]) -> list[str]:
    first = crowd.members.pop(0)
    try:
        return crowd.ended(running, [SAME] * len(running))
    finally:
        crowd.members.insert(0, first)


def _give_for_dead(cache: Path) -> None:
    """Make every lease and note that of a host that has been silent for an hour."""
    for path in (*cache.glob("leases/*"), *cache.glob("running/*")):
        lease = path.parent.name == "leases"
        head, rest = (path.read_text(), "") if lease else path.read_text().split("\n", 1)
        path.chmod(0o644)
        path.write_text(json.dumps(json.loads(head) | ELSEWHERE) + "\n" + rest)
        then = time.time() - 3600
        os.utime(path, (then, then))


def _done_twice(crowd: Crowd) -> list[str]:
    return [
        f"{key[:12]}: step {step} was trained {n} times"
        for (key, step), n in crowd.trained().items()
        if n > 1
    ]


def _redone(crowd: Crowd) -> list[str]:
    """Return the trainings that began a third time: once by the dead, once more from what it had saved."""
    return [key[:12] for (key, step), n in crowd.trained().items() if n > 2]


def _count(tally: Tally, tried: int, wrong: Sequence[str]) -> None:
    tally.tried += tried
    for what in wrong:
        tally.lose(what)
    tally.recovered += 0 if wrong else tried
