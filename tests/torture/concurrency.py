"""Chapter: several builds at once into one cache, some of them killed, stopped, or without working locks."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

from crowd import Crowd, in_memory, recipe
from failpoints import Plan
from tally import Tally

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
SAME = recipe({"add": 0.5, "copy": 0.25})


def run(scale: Scale, folder: Path) -> Iterator[Tally]:
    """Try each."""
    drawn = random.Random(scale.seed)
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
