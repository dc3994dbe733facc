"""What is tried between two machines and a bucket, and judged: the trials of `remotes.py` and `remote_writers.py`."""

from __future__ import annotations

import hashlib
import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import Queue
from typing import TYPE_CHECKING

from faulty import Fault
from tally import Tally
from two_machines import BOTH, BUILD, PUSH, Ended, Pair, keys_in

from dem_build.store.sealed import FIELD, sealed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


LONGEST = 60.0
KILLED = -9
PAGE = b"<html>log in</html>"


@dataclass
class Found:
    """What came of a trial.

    Attributes:
        wrong: What must not be.
        noticed: Whether a call warned or failed.
        tried: How many faults happened.
    """

    wrong: list[str] = field(default_factory=list)
    noticed: bool = False
    tried: int = 1


class Pairs:
    """Pairs of machines, each of which does a trial at a time; in the short form one trial stands for a fault."""

    def __init__(self, pairs: Sequence[Pair], *, short: bool) -> None:
        self._short = short
        self._free: Queue[Pair] = Queue()
        self._count = len(pairs)
        for pair in pairs:
            self._free.put(pair)

    def tally(
        self, fault: str, trials: Sequence[tuple[str, Callable[[Pair], Found]]], *, seen: bool = True
    ) -> Tally:
        """Do the trials; where not `seen`, there is nothing that a call must notice."""
        tally = Tally(fault, detected=0 if seen else None)
        if self._short:
            trials = trials[len(trials) // 2 :][:1]
        with ThreadPoolExecutor(self._count) as pool:
            for (what, _), found in zip(trials, pool.map(self._one, trials), strict=True):
                tally.tried += found.tried
                tally.recovered += 0 if found.wrong else found.tried
                if tally.detected is not None:
                    tally.detected += found.tried if found.noticed else 0
                for line in found.wrong:
                    tally.lose(f"{what}: {line}")
        return tally

    def _one(self, trial: tuple[str, Callable[[Pair], Found]]) -> Found:
        pair = self._free.get()
        try:
            return trial[1](pair)
        finally:
            pair.proxy.forget()
            self._free.put(pair)


def reading(
    faults: Callable[[Pair], list[Fault]] = lambda _: [],
    *,
    text: str = BOTH,
    files: bool = False,
    spoil: Callable[[dict[str, bytes]], None] = lambda _: None,
    each: bool = False,
    builder: str = "",
) -> Callable[[Pair], Found]:
    """The second machine builds.

    Args:
        faults: What the proxy does.
        text: Its recipe.
        files: Whether it could make everything itself.
        spoil: Changes what the bucket holds.
        each: Whether each fault that happened counts as one.
        builder: Which calls.
    """

    def trial(pair: Pair) -> Found:
        there = dict(pair.pushed)
        spoil(there)
        spoiled = [name for name in {*there, *pair.pushed} if there.get(name) != pair.pushed.get(name)]
        pair.put_back(there)
        home = pair.second(text, files=files)
        pair.proxy.faults[:] = happening = faults(pair)
        ended = pair.call(home, *BUILD, builder=builder)
        pair.proxy.forget()
        wrong = judged(pair, home, ended, text, must=files)
        wrong += pair.survey(spoiled) + pair.sound(home)
        if spoiled:
            pair.put_back(pair.pushed)
        wrong += right(pair, home, text) + pair.survey() + kept(pair)
        happened = sum(fault.times == 0 for fault in happening)
        return Found(wrong, noticed(ended), happened if each else 1)

    return trial


def pushing(
    faults: Callable[[Pair], list[Fault]], *, killed: bool = False, builder: str = ""
) -> Callable[[Pair], Found]:
    """The first machine pushes what it has."""

    def trial(pair: Pair) -> Found:
        pair.put_back(pair.empty)
        home = pair.first("one", BOTH)
        pair.proxy.faults[:] = faults(pair)
        ended = pair.call(home, *PUSH, builder=builder)
        pair.proxy.forget()
        died = killed and ended.called.status == KILLED
        wrong = [] if died else calm(ended, 0, 1)
        wrong += pair.survey()
        again = pair.call(home, *PUSH)
        wrong += calm(again, 0) + pair.survey()
        if (held := pair.held()) != pair.pushed:
            wrong.append(
                f"after the next push the bucket lacks {sorted(pair.pushed.keys() - held.keys())[:3]}"
            )
        return Found(wrong, noticed(ended), int(died or not killed))

    return trial


def building(faults: Callable[[Pair], list[Fault]], *, killed: bool = False) -> Callable[[Pair], Found]:
    """The first machine builds, and pushes beside it; then the second one has what it made."""

    def trial(pair: Pair) -> Found:
        pair.put_back(pair.empty)
        home = pair.first("one", BOTH, built=False)
        pair.proxy.faults[:] = faults(pair)
        ended = pair.call(home, *BUILD)
        pair.proxy.forget()
        died = killed and ended.called.status == KILLED
        wrong = [] if died else judged(pair, home, ended, BOTH, must=True)
        wrong += pair.survey() + right(pair, home, BOTH) + calm(pair.call(home, *PUSH), 0) + pair.survey()
        if keys_in(pair.held()) != keys_in(pair.pushed):
            wrong.append("not everything is recorded in the bucket")
        two = pair.second(BOTH)
        wrong += right(pair, two, BOTH)
        return Found(wrong, noticed(ended), int(died or not killed))

    return trial


def calm(ended: Ended, *statuses: int) -> list[str]:
    """What is wrong with how a call ended, whatever it was to do."""
    called = ended.called
    wrong = [] if called.calm and called.status in statuses else [called.brief]
    if ended.seconds > LONGEST:
        wrong.append(f"took {ended.seconds:.0f} s")
    if called.status and not (re.search(r"hint: |\(.+\)|`dem ", called.err) or called.status == KILLED):
        wrong.append(f"does not say how to mend it: {called.brief}")
    return wrong


def judged(pair: Pair, home: Path, ended: Ended, text: str, *, must: bool) -> list[str]:
    """What is wrong with a build under a fault; one that `must` end well has all that it needs."""
    wrong = calm(ended, 0) if must else calm(ended, 0, 1, 4)
    model = pair.model(home)
    if model != pair.right(text) and (model or not ended.called.status):
        wrong.append("ANOTHER MODEL" if model else "no model")
    return wrong


def right(pair: Pair, home: Path, text: str) -> list[str]:
    """What is wrong with the next build, without a fault."""
    return [f"then: {what}" for what in judged(pair, home, pair.call(home, *BUILD), text, must=True)]


def kept(pair: Pair) -> list[str]:
    """What was in the bucket, and is there no more, or with other bytes."""
    held = pair.held()
    return [f"{name} is gone or other" for name, data in pair.pushed.items() if held.get(name) != data]


def noticed(ended: Ended) -> bool:
    return ended.called.status != 0 or "warning" in ended.called.err


def always(match: str, **what: object) -> Callable[[Pair], list[Fault]]:
    return lambda _: [Fault(match, **what)]  # type: ignore[arg-type]


def flipped(data: bytes) -> bytes:
    return bytes(byte ^ 1 for byte in data)


def tampered(data: bytes) -> bytes:
    """Other outputs under the same key, as valid JSON."""
    document = json.loads(data)
    for output in document["outputs"].values():
        output["sha256"] = hashlib.sha256(b"another").hexdigest()
    return json.dumps(document).encode()


def resealed(data: bytes, **changes: object) -> bytes:
    document = {name: value for name, value in json.loads(data).items() if name != FIELD}
    return sealed(document | changes)
