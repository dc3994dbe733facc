"""Chapter: two machines that share a bucket, and what networks, servers and other writers do between them."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from queue import Queue
from typing import TYPE_CHECKING

from bucket_servers import moto_serving
from crowd import in_memory
from faulty import Fault
from tally import Tally
from two_machines import (
    BOTH,
    BUILD,
    HASTY,
    MARKER,
    ONE,
    PUSH,
    RECORD,
    REWEIGHTED,
    Ended,
    Pair,
    keys_in,
    objects_in,
    records_in,
)

from dem_build.store.sealed import FIELD, sealed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from tally import Scale

TITLE = "Remotes"
INTRODUCTION = """
Two machines and a bucket on moto's server, behind a proxy that does what networks and servers do. One machine pushes
what it has built; the other has recipe, lock and machine file alone, or all files too. Under each fault a call ends
within 60 s, with the model of a build alone or with an error that says how to mend it, never with another model; the
next call without the fault ends with the right one, and what was in the bucket is there as it was. After every call
the bucket is read without `dem`: no record that lacks an object, or has one of other bytes. Machines that have files
build what the remote does not give them in the same call. Noticed are the calls that warned or failed. Where a server
accepts and never answers, deadlines are a tenth of the real ones: 1.5 s for a small call, 2 s for a read that stands
still, 12 s for a part that is written.
"""
PAIRS = 2
LONGEST = 60.0
READS, WRITES = r"^(GET|HEAD) ", r"^(PUT|POST|DELETE) "
GET_OBJECT = r"^GET .*/cas/"
GC = ("cache", "gc", "--remote", "trusted")
OLD = (r"<LastModified>[^<]*</LastModified>", "<LastModified>2020-01-01T00:00:00.000Z</LastModified>")
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
    """Pairs of machines, each of which does a trial at a time."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self._free: Queue[Pair] = Queue()
        self._count = len(pairs)
        for pair in pairs:
            self._free.put(pair)

    def tally(
        self, fault: str, trials: Sequence[tuple[str, Callable[[Pair], Found]]], *, seen: bool = True
    ) -> Tally:
        """Do the trials; where not `seen`, there is nothing that a call must notice."""
        tally = Tally(fault, detected=0 if seen else None)
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


def run(scale: Scale, folder: Path) -> Iterator[Tally]:
    """Try each."""
    with ExitStack() as stack:
        place = in_memory(stack) or folder
        server = stack.enter_context(moto_serving())
        count = scale.pick(1, PAIRS)
        made = [stack.enter_context(closing(Pair(place / f"pair-{n}", server, n))) for n in range(count)]
        pairs = Pairs(made)
        held = made[0].pushed  # the same names and bytes in each, but for what records note
        yield from _slow_and_cut(scale, pairs, held)
        yield from _refused(scale, pairs)
        yield from _spoiled(scale, pairs, held)
        yield from _in_the_middle(scale, pairs)
        yield from _killed(scale, pairs)
        yield from _stores_that_lie(scale, pairs)
        yield from _two_writers(scale, pairs)
        yield from _notes(scale, pairs)
        yield from _collections(scale, pairs)


# A call under a fault, and the next one without.


def _reading(
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
        wrong = _judged(pair, home, ended, text, must=files)
        wrong += pair.survey(spoiled) + pair.sound(home)
        if spoiled:
            pair.put_back(pair.pushed)
        wrong += _right(pair, home, text) + pair.survey() + _kept(pair)
        happened = sum(fault.times == 0 for fault in happening)
        return Found(wrong, _noticed(ended), happened if each else 1)

    return trial


def _pushing(
    faults: Callable[[Pair], list[Fault]], *, killed: bool = False, builder: str = ""
) -> Callable[[Pair], Found]:
    """The first machine pushes what it has."""

    def trial(pair: Pair) -> Found:
        pair.put_back(pair.empty)
        home = pair.first("one", BOTH)
        pair.proxy.faults[:] = faults(pair)
        ended = pair.call(home, *PUSH, builder=builder)
        pair.proxy.forget()
        died = killed and ended.called.status == -9
        wrong = [] if died else _calm(ended, 0, 1)
        wrong += pair.survey()
        again = pair.call(home, *PUSH)
        wrong += _calm(again, 0) + pair.survey()
        if (held := pair.held()) != pair.pushed:
            wrong.append(f"after the next push the bucket lacks {sorted(pair.pushed.keys() - held.keys())[:3]}")
        return Found(wrong, _noticed(ended), int(died or not killed))

    return trial


def _building(faults: Callable[[Pair], list[Fault]], *, killed: bool = False) -> Callable[[Pair], Found]:
    """The first machine builds, and pushes beside it; then the second one has what it made."""

    def trial(pair: Pair) -> Found:
        pair.put_back(pair.empty)
        home = pair.first("one", BOTH, built=False)
        pair.proxy.faults[:] = faults(pair)
        ended = pair.call(home, *BUILD)
        pair.proxy.forget()
        died = killed and ended.called.status == -9
        wrong = [] if died else _judged(pair, home, ended, BOTH, must=True)
        wrong += pair.survey() + _right(pair, home, BOTH) + _calm(pair.call(home, *PUSH), 0) + pair.survey()
        if keys_in(pair.held()) != keys_in(pair.pushed):
            wrong.append("not everything is recorded in the bucket")
        two = pair.second(BOTH)
        wrong += _right(pair, two, BOTH)
        return Found(wrong, _noticed(ended), int(died or not killed))

    return trial


def _calm(ended: Ended, *statuses: int) -> list[str]:
    """What is wrong with how a call ended, whatever it was to do."""
    called = ended.called
    wrong = [] if called.calm and called.status in statuses else [called.brief]
    if ended.seconds > LONGEST:
        wrong.append(f"took {ended.seconds:.0f} s")
    if called.status and not (re.search(r"hint: |\(.+\)|`dem ", called.err) or called.status == -9):
        wrong.append(f"does not say how to mend it: {called.brief}")
    return wrong


def _judged(pair: Pair, home: Path, ended: Ended, text: str, *, must: bool) -> list[str]:
    """What is wrong with a build under a fault; one that `must` end well has all that it needs."""
    wrong = _calm(ended, 0) if must else _calm(ended, 0, 1, 4)
    model = pair.model(home)
    if model != pair.right(text) and (model or not ended.called.status):
        wrong.append("ANOTHER MODEL" if model else "no model")
    return wrong


def _right(pair: Pair, home: Path, text: str) -> list[str]:
    """What is wrong with the next build, without a fault."""
    return [f"then: {what}" for what in _judged(pair, home, pair.call(home, *BUILD), text, must=True)]


def _kept(pair: Pair) -> list[str]:
    """What was in the bucket, and is there no more, or with other bytes."""
    held = pair.held()
    return [f"{name} is gone or other" for name, data in pair.pushed.items() if held.get(name) != data]


def _noticed(ended: Ended) -> bool:
    return ended.called.status != 0 or "warning" in ended.called.err


def _some(items: Sequence[str] | range, scale: Scale, short: int) -> list[str] | list[int]:
    """All of them, or a few that are spread over them."""
    return list(items[:: max(1, len(items) // short)][:short]) if scale.short else list(items)


# The connection.


def _slow_and_cut(scale: Scale, pairs: Pairs, held: Mapping[str, bytes]) -> Iterator[Tally]:
    trickle = [Fault("^GET ", rate=1500)]
    trials = [(f"trickle, {len(t)}", _reading(lambda _: [*trickle], text=t)) for t in (BOTH, REWEIGHTED)]
    trials += [
        ("replies late", _reading(lambda _: [Fault(delay=0.3)], text=REWEIGHTED)),
        ("replies late to a push", _pushing(lambda _: [Fault(delay=0.05)])),
    ]
    yield pairs.tally("bytes that trickle, and replies that are late", trials[: scale.pick(1, 4)], seen=False)

    def once(share: float) -> Callable[[Pair], list[Fault]]:
        return lambda pair: [
            Fault(f"^GET .*{name.rpartition('/')[2]}", times=1, cut=int(len(data) * share))
            for name, data in pair.pushed.items()
        ]

    steps = scale.pick(2, 48)
    trials = [
        (f"at {n}/{steps}", _reading(once(n / steps), text=text, each=True))
        for n in range(steps)
        for text in (BOTH, REWEIGHTED)
    ]
    yield pairs.tally(
        "the connection cut in each object and record, at every part of it", trials, seen=False
    )
    shares = [0, 1, 7, 64, 256, 700] if not scale.short else [64]
    trials = [
        (f"after {c} bytes, always", _reading(_always(GET_OBJECT, cut=c), text=text, files=files))
        for c in shares
        for text in (BOTH, REWEIGHTED)
        for files in (False, True)
    ]
    yield pairs.tally("every reply with bytes cut, again and again", trials[: scale.pick(2, 99)])
    puts = range(sum(name not in {MARKER} for name in held))
    trials = [
        (
            f"the reply to write {n}",
            _pushing(lambda _, n=n: [Fault("^PUT ", skip=n, times=1, lose=True)]),
        )
        for n in _some(puts, scale, 2)
    ]
    trials.append(("all replies to writes", _pushing(_always("^PUT ", lose=True))))
    yield pairs.tally("the reply to a write that worked is lost", trials)
    hung = [
        ("to reads", _reading(_always("", delay=30.0), files=True, builder=HASTY)),
        ("to objects", _reading(_always(GET_OBJECT, delay=30.0), text=REWEIGHTED, builder=HASTY)),
        ("to writes", _pushing(_always("^PUT ", delay=30.0), builder=HASTY)),
    ]
    yield pairs.tally("a server that accepts and never answers", hung[: scale.pick(1, 3)])


def _always(match: str, **what: object) -> Callable[[Pair], list[Fault]]:
    return lambda _: [Fault(match, **what)]  # type: ignore[arg-type]


# What the server answers.


def _refused(scale: Scale, pairs: Pairs) -> Iterator[Tally]:
    denied = {"status": 403, "code": "AccessDenied"}
    texts = [(text, files) for text in (BOTH, REWEIGHTED) for files in (False, True)]
    trials = [
        (f"{match} {files}", _reading(_always(match, **denied), text=text, files=files))
        for match in (READS, GET_OBJECT, r"^GET .*/actions/")
        for text, files in texts
    ]
    trials.append(("a push", _pushing(_always(READS, **denied))))
    yield pairs.tally("403 to reads", trials[:: scale.pick(4, 1)])
    trials = [
        ("a push", _pushing(_always(WRITES, **denied))),
        ("a push of records", _pushing(_always(r"^PUT .*/actions/", **denied))),
        ("a push of objects", _pushing(_always(r"^PUT .*/cas/", **denied))),
        ("a build", _building(_always(WRITES, **denied))),
        ("a machine with files", _reading(_always(WRITES, **denied), text=REWEIGHTED, files=True)),
    ]
    yield pairs.tally("403 to writes", trials[:: scale.pick(3, 1)])
    bursts = [
        (status, times, skip)
        for status in (500, 503)
        for times in (1, 2, 3, 6)
        for skip in ((5,) if scale.short else (0, 1, 3, 6, 9, 12))
    ]
    trials = [
        (
            f"{times} times {status} from request {skip + 1}",
            make(lambda _, s=status, t=times, n=skip: [Fault(skip=n, times=t, status=s)]),
        )
        for status, times, skip in bursts
        for make in (_reading, _pushing)
    ]
    yield pairs.tally("bursts of 500 and 503", trials[:: scale.pick(6, 1)], seen=False)


# What is in the bucket.


def _spoiled(scale: Scale, pairs: Pairs, held: Mapping[str, bytes]) -> Iterator[Tally]:
    forms = [(text, files) for text in (BOTH, REWEIGHTED) for files in (False, True)]

    def row(fault: str, names: Sequence[str], change: Callable[[bytes, dict[str, bytes]], bytes | None]) -> Tally:
        def trial(name: str, text: str, *, files: bool) -> tuple[str, Callable[[Pair], Found]]:
            def spoil(there: dict[str, bytes]) -> None:
                changed = change(there[name], there)
                if changed is None:
                    del there[name]
                else:
                    there[name] = changed

            return f"{name}, {files}, {len(text)}", _reading(spoil=spoil, text=text, files=files)

        chosen = _some(names, scale, 2)
        used = forms[1::2] if scale.short else forms
        return pairs.tally(fault, [trial(str(n), text, files=f) for n in chosen for text, f in used], seen=False)

    objects = [name for name in objects_in(held) if held[name]]
    records = records_in(held)
    yield row("404 of each object in turn", objects_in(held), lambda *_: None)
    yield row("404 of each record in turn", records, lambda *_: None)
    yield row("wrong bytes of the right size, for each object in turn", objects, lambda data, _: _flipped(data))
    yield row("an object that is cut short, or longer than it was", objects[::2], lambda data, _: data[:-1])
    yield row("a record that is cut short", records, lambda data, _: data[: len(data) // 2])
    yield row("a record that somebody changed", records, lambda data, _: _tampered(data))
    yield row("a record of objects that are nowhere", records, lambda data, _: _resealed(_tampered(data)))
    yield row("the record of another key", records, lambda data, there: _another(data, there))
    yield row("an error page in place of a record", records, lambda *_: PAGE)

    def all_objects(change: Callable[[bytes], bytes | None]) -> Callable[[dict[str, bytes]], None]:
        def spoil(there: dict[str, bytes]) -> None:
            for name in objects_in(there):
                changed = change(there.pop(name))
                if changed is not None:
                    there[name] = changed

        return spoil

    trials = [
        (f"{name}, {files}", _reading(spoil=all_objects(change), text=text, files=files))
        for name, change in (("gone", lambda _: None), ("wrong", _flipped))
        for text, files in forms
    ]
    yield pairs.tally("all objects gone, or wrong", trials[:: scale.pick(4, 1)], seen=False)


def _flipped(data: bytes) -> bytes:
    return bytes(byte ^ 1 for byte in data)


def _tampered(data: bytes) -> bytes:
    """Other outputs under the same key, as valid JSON."""
    document = json.loads(data)
    for output in document["outputs"].values():
        output["sha256"] = hashlib.sha256(b"another").hexdigest()
    return json.dumps(document).encode()


def _another(data: bytes, there: Mapping[str, bytes]) -> bytes:
    """The record of another key, of the same kind where there is one."""
    kind = json.loads(data)["kind"]
    others = [there[name] for name in records_in(there) if there[name] != data]
    return next((other for other in others if json.loads(other)["kind"] == kind), others[0])


# From a request on.


def _in_the_middle(scale: Scale, pairs: Pairs) -> Iterator[Tally]:
    reads, pushes, builds = range(0, 36, scale.pick(18, 1)), range(0, 130, scale.pick(70, 3)), range(0, 130, 13)

    def trials(**what: object) -> list[tuple[str, Callable[[Pair], Found]]]:
        def at(n: int) -> Callable[[Pair], list[Fault]]:
            return lambda _: [Fault(skip=n, **what)]  # type: ignore[arg-type]

        found = [(f"read {n}", _reading(at(n), text=REWEIGHTED, files=bool(n % 2))) for n in reads]
        found += [(f"push {n}", _pushing(at(n))) for n in pushes]
        return found + ([] if scale.short else [(f"build {n}", _building(at(n))) for n in builds])

    expired = trials(status=403, code="ExpiredToken")
    yield pairs.tally("credentials that expire, at each request", expired, seen=False)
    yield pairs.tally("the server vanishes, at each request", trials(vanish=True), seen=False)
    yield pairs.tally("it vanishes for four requests, and comes back", trials(vanish=True, times=4), seen=False)


def _killed(scale: Scale, pairs: Pairs) -> Iterator[Tally]:
    def at(n: int, *, after: bool) -> Callable[[Pair], list[Fault]]:
        return lambda pair: [Fault(skip=n, times=1, strike=pair.kill, lose=after, vanish=not after)]

    both = (False, True)
    trials = [
        (f"at request {n}, {after}", _pushing(at(n, after=after), killed=True))
        for n in range(0, 131, scale.pick(40, 1))
        for after in both
    ]
    yield pairs.tally("a pushing machine killed at each of its requests", trials[:: scale.pick(2, 1)], seen=False)
    trials = [
        (f"at request {n}, {after}", _building(at(n, after=after), killed=True))
        for n in range(2, 140, scale.pick(70, 6))
        for after in both
    ]
    yield pairs.tally("a building machine killed at its requests", trials[:: scale.pick(2, 1)], seen=False)

    def reader(n: int, text: str, *, after: bool) -> Callable[[Pair], Found]:
        def trial(pair: Pair) -> Found:
            pair.put_back(pair.pushed)
            home = pair.second(text)
            pair.proxy.faults[:] = at(n, after=after)(pair)
            ended = pair.call(home, *BUILD)
            pair.proxy.forget()
            died = ended.called.status == -9
            wrong = pair.survey() + pair.sound(home) + _right(pair, home, text) + pair.survey() + _kept(pair)
            return Found(wrong, tried=int(died))

        return trial

    trials = [
        (f"at request {n}, {after}", reader(n, text, after=after))
        for text, most in ((BOTH, 14), (REWEIGHTED, 37))
        for n in range(1, most, scale.pick(12, 1))
        for after in both
    ]
    yield pairs.tally("a reading machine killed at each of its requests", trials[:: scale.pick(2, 1)], seen=False)


# Stores that do not mean what they say.


def _liar() -> Fault:
    return Fault("^PUT ", overwrite=True)


def _stores_that_lie(scale: Scale, pairs: Pairs) -> Iterator[Tally]:
    def found_out(pair: Pair) -> Found:
        pair.put_back({})
        home = pair.first("one", BOTH)
        pair.proxy.faults.append(_liar())
        wrong = _calm(pair.call(home, "cache", "remote", "init"), 0)
        marker = json.loads(pair.held()[MARKER])
        wrong += [] if marker["create"] == "candidates" else ["it was believed"]
        wrong += _calm(pair.call(home, *PUSH), 0) + pair.survey()
        if records_in(pair.held()) and any("/actions/" in name for name in pair.held()):
            wrong.append("a record was created where candidates must be")
        two = pair.second(BOTH)
        wrong += _right(pair, two, BOTH) + pair.survey()
        return Found(wrong, noticed=marker["create"] == "candidates")

    def probed(pair: Pair) -> Found:
        """A remote that was initialised while it told the truth: `probe` says what it does now."""
        pair.put_back(pair.pushed)
        pair.proxy.faults.append(_liar())
        home = pair.first("one", BOTH)
        ended = pair.call(home, "cache", "remote", "probe")
        wrong = [] if ended.called.status == 1 else [f"not found out: {ended.called.brief}"]
        pair.proxy.forget()
        return Found(wrong + pair.survey() + _kept(pair), noticed=ended.called.status == 1)

    trials = [("init", found_out), ("probe", probed)] * scale.pick(1, 4)
    yield pairs.tally("a store that says 200 to a conditional write and overwrites", trials)


# Writers.


def _two_writers(scale: Scale, pairs: Pairs) -> Iterator[Tally]:
    def trial(order: str, command: Sequence[str], create: str, *, lies: bool) -> Callable[[Pair], Found]:
        def two(pair: Pair) -> Found:
            marker = json.loads(pair.empty[MARKER]) | {"create": create}
            pair.put_back({MARKER: json.dumps(marker).encode()})
            built = command == PUSH
            homes = {luck: pair.first(f"writer{luck}", ONE, built=built, luck=luck) for luck in ("", "b")}
            models = [pair.right(ONE, luck) for luck in homes]
            pair.proxy.faults[:] = [_liar()] if lies else []
            lucks = ["b", ""] if order == "other" else ["", "b"]

            def one(luck: str) -> Ended:
                return pair.call(homes[luck], *command, luck=luck, builder=luck)

            if order == "at once":
                with ThreadPoolExecutor(2) as pool:
                    ended = list(pool.map(one, lucks))
            else:
                ended = [one(luck) for luck in lucks]
            wrong = [what for each in ended for what in _calm(each, 0)] + pair.survey()
            if models[0] == models[1]:
                wrong.append("the trial is none: both have one result")
            if order != "at once" and not lies and built and not _noticed(ended[1]):
                wrong.append("the second one was not told of another result")
            for luck, home in homes.items():
                again = pair.call(home, *BUILD, luck=luck)
                # Who builds beside another one may take what that one has pushed already; each pushes its own.
                right = [pair.right(ONE, luck)] if built else models
                if again.called.status or pair.model(home) not in right:
                    wrong.append(f"writer {luck or 'a'} has another model: {again.called.brief}")
            wrong += pair.survey() + _agreed(pair, models)
            return Found(wrong, any(map(_noticed, ended)))

        return two

    stores = (
        ("two writers of one key with other results: conditional", "conditional", False),
        ("two writers of one key with other results: candidates", "candidates", True),
        ("two writers, and a store said to be conditional that overwrites", "conditional", True),
    )
    rounds = scale.pick(1, 5)
    for fault, create, lies in stores:
        forms = [(order, PUSH) for order in ("one", "other", "at once")] + [("at once", BUILD)]
        forms = forms[2:3] if scale.short else forms
        trials = [(f"{o}, {c[0]}, {n}", trial(o, c, create, lies=lies)) for o, c in forms for n in range(rounds)]
        yield pairs.tally(fault, trials)


def _agreed(pair: Pair, models: Sequence[Mapping[str, str]]) -> list[str]:
    """What is wrong with what machines read that have nothing."""
    read = []
    for name in ("reader-1", "reader-2"):
        home = pair.second(ONE, name=name)
        ended = pair.call(home, *BUILD)
        if wrong := _calm(ended, 0):
            return wrong
        read.append(pair.model(home))
    wrong = [] if all(model in models for model in read) else ["a reader has ANOTHER MODEL"]
    return wrong if read[0] == read[1] else [*wrong, "two readers have two models"]


# What a machine has noted.


def _notes(scale: Scale, pairs: Pairs) -> Iterator[Tally]:
    def trial(change: Callable[[Path, Sequence[Path]], None], text: str) -> Callable[[Pair], Found]:
        def noted(pair: Pair) -> Found:
            pair.put_back(pair.pushed)
            home = pair.second(text, files=True)
            # Records alone, of the recipe that was pushed.
            wrong = _calm(pair.call(home, "cache", "pull", "--records", "tiny.toml"), 0)
            notes = sorted(path for path in (home / "cache" / "remote").rglob("*") if path.is_file())
            wrong += [] if notes else ["the trial is none: nothing is noted"]
            change(home, notes)
            wrong += _right(pair, home, text) + pair.sound(home) + pair.survey() + _kept(pair)
            return Found(wrong)

        return noted

    def each(rewrite: Callable[[bytes], bytes]) -> Callable[[Path, Sequence[Path]], None]:
        def change(_: Path, notes: Sequence[Path]) -> None:
            for path in notes:
                data = path.read_bytes()
                path.chmod(0o644)
                path.write_bytes(rewrite(data))

        return change

    def gone(_: Path, notes: Sequence[Path]) -> None:
        for path in notes:
            path.unlink()

    def swapped(_: Path, notes: Sequence[Path]) -> None:
        contents = [path.read_bytes() for path in notes]
        for path, data in zip(notes, contents[1:] + contents[:1], strict=True):
            path.chmod(0o644)
            path.write_bytes(data)

    changes = {
        "deleted": gone,
        "empty": each(lambda _: b""),
        "cut": each(lambda data: data[:300]),
        "changed": each(_tampered),
        "swapped": swapped,
    }
    trials = [(f"{n}, {len(t)}", trial(c, t)) for n, c in changes.items() for t in (BOTH, REWEIGHTED)]
    yield pairs.tally("notes of a remote deleted, damaged, swapped", trials[:: scale.pick(5, 1)], seen=False)

    def older(names: Callable[[Mapping[str, bytes]], Sequence[str]], text: str, *, files: bool) -> Callable[[Pair], Found]:
        """Notes of what the bucket has no more."""

        def trial(pair: Pair) -> Found:
            pair.put_back(pair.pushed)
            home = pair.second(text, files=files)
            wrong = _calm(pair.call(home, "cache", "pull", "--records", "tiny.toml"), 0)
            left = {name: data for name, data in pair.pushed.items() if name not in names(pair.pushed)}
            pair.put_back(left)
            ended = pair.call(home, *BUILD)
            wrong += _judged(pair, home, ended, text, must=files) + pair.sound(home)
            wrong += [] if len(records_in(left)) else pair.survey()
            pair.put_back(pair.pushed)
            wrong += _right(pair, home, text) + pair.survey()
            return Found(wrong, _noticed(ended))

        return trial

    states = {
        "objects": objects_in,
        "records and objects": lambda held: [*objects_in(held), *records_in(held)],
        "half": lambda held: objects_in(held)[::2],
    }
    trials = [
        (f"{n}, {files}, {len(t)}", older(names, t, files=files))
        for n, names in states.items()
        for t in (BOTH, REWEIGHTED)
        for files in (False, True)
    ]
    yield pairs.tally("notes of what was collected there since", trials[1 :: scale.pick(6, 1)], seen=False)


# Collections.


def _collections(scale: Scale, pairs: Pairs) -> Iterator[Tally]:
    def beside(pair: Pair) -> Found:
        """Collections in a loop while a machine builds and pushes: what it has put is younger than a day."""
        pair.put_back(pair.empty)
        home, other = pair.first("one", BOTH, built=False), pair.first("other", BOTH)
        done = threading.Event()
        wrong: list[str] = []

        def collect() -> None:
            while not done.is_set():
                wrong.extend(_calm(pair.call(other, *GC, builder="gc"), 0))

        thread = threading.Thread(target=collect)
        thread.start()
        try:
            wrong += _judged(pair, home, pair.call(home, *BUILD), BOTH, must=True)
        finally:
            done.set()
            thread.join()
        wrong += pair.survey()
        if keys_in(pair.held()) != keys_in(pair.pushed):
            wrong.append("not everything is recorded in the bucket")
        return Found(wrong)

    yield pairs.tally("a collection in a loop beside a build that pushes", [("", beside)] * scale.pick(1, 8), seen=False)

    def after_kill(n: int) -> Callable[[Pair], Found]:
        def trial(pair: Pair) -> Found:
            pair.put_back(pair.empty)
            home = pair.first("one", BOTH)
            pair.proxy.faults.append(Fault(skip=n, times=1, strike=pair.kill, vanish=True))
            died = pair.call(home, *PUSH).called.status == -9
            pair.proxy.forget()
            before = pair.held()
            wrong = _calm(pair.call(home, *GC), 0) + ([] if pair.held() == before else ["young objects went"])
            pair.proxy.faults[:] = _aged()
            wrong += _calm(pair.call(home, *GC), 0) + pair.survey()
            named = keys_in(pair.held())
            wrong += [] if named == keys_in(before) else ["a record went"]
            pair.proxy.forget()
            wrong += _calm(pair.call(home, *PUSH), 0) + pair.survey()
            wrong += [] if pair.held() == pair.pushed else ["not everything is in the bucket"]
            return Found(wrong, tried=int(died))

        return trial

    trials = [(f"at request {n}", after_kill(n)) for n in range(12, 130, scale.pick(59, 6))]
    yield pairs.tally("a push killed, then collections, a day later too", trials, seen=False)

    def during(n: int) -> Callable[[Pair], Found]:
        """A whole push before the n-th request of a collection that takes what the push finds there."""

        def trial(pair: Pair) -> Found:
            left = {name: data for name, data in pair.pushed.items() if not RECORD.fullmatch(name)}
            pair.put_back(left)
            home, other = pair.first("one", BOTH), pair.first("other", BOTH)
            ends: list[Ended] = []

            def push() -> None:
                ends.append(pair.call(home, *PUSH))

            pair.proxy.faults[:] = [Fault(skip=n, times=1, strike=push), *_aged()]
            wrong = _calm(pair.call(other, *GC, builder="gc"), 0)
            wrong += [what for each in ends for what in _calm(each, 0, 1)]
            pair.proxy.forget()
            wrong += pair.survey() + _calm(pair.call(home, *PUSH), 0) + pair.survey()
            wrong += [] if pair.held() == pair.pushed else ["not everything is in the bucket"]
            return Found(wrong, tried=len(ends))

        return trial

    trials = [(f"before request {n}", during(n)) for n in range(0, 26, scale.pick(5, 1))]
    yield pairs.tally("a push at each moment of a collection of what it finds", trials, seen=False)

    def misread(edit: Callable[[bytes], bytes], match: str, times: int | None) -> Callable[[Pair], Found]:
        """A collection that a fault shows other records, or no records, a day later."""

        def trial(pair: Pair) -> Found:
            pair.put_back(pair.pushed)
            home = pair.first("one", BOTH)
            pair.proxy.faults[:] = [Fault(match, times=times, edit=edit), *_aged()]
            ended = pair.call(home, *GC)
            wrong = _calm(ended, 0, 1) + pair.survey() + _kept(pair)
            return Found(wrong, ended.called.status != 0)

        return trial

    one = r"^GET .*/actions/.*json"
    trials = [
        (f"{name}, {times}", misread(edit, one, times))
        for name, edit in (("cut", lambda d: d[:99]), ("a page", lambda _: PAGE), ("newer", _newer))
        for times in (1, None)
    ]
    trials.append(("flipped once", misread(_flipped, one, 1)))
    trials.append(("404", _gone_for_a_while))
    yield pairs.tally("a collection that is shown damaged records", trials, seen=False)

    def lagging(share: int) -> Callable[[Pair], Found]:
        """Candidates of which a listing shows but some; what was put just now it does not show."""

        def trial(pair: Pair) -> Found:
            marker = json.loads(pair.empty[MARKER]) | {"create": "candidates"}
            pair.put_back({MARKER: json.dumps(marker).encode()})
            home = pair.first("one", BOTH)
            pair.proxy.faults[:] = [Fault("^GET .*list-type", edit=lambda page: _hidden(page, share))]
            ended = pair.call(home, *PUSH)
            wrong = _calm(ended, 0, 1) + pair.survey()
            two = pair.second(BOTH, files=True)
            wrong += _judged(pair, two, pair.call(two, *BUILD), BOTH, must=True) + pair.survey()
            pair.proxy.forget()
            wrong += _calm(pair.call(home, *PUSH), 0) + pair.survey()
            three = pair.second(BOTH, name="three")
            wrong += _right(pair, three, BOTH)
            wrong += [] if keys_in(pair.held()) == keys_in(pair.pushed) else ["not everything is in the bucket"]
            return Found(wrong, _noticed(ended))

        return trial

    trials = [(f"1 of {n}", lagging(n)) for n in (1, 2, 3) for _ in range(scale.pick(1, 3))]
    yield pairs.tally("a listing that lags behind, of candidates", trials[: scale.pick(1, 9)], seen=False)


def _aged() -> list[Fault]:
    """Listings in which everything is old."""
    return [Fault("^GET .*list-type", edit=lambda page: re.sub(OLD[0], OLD[1], page.decode()).encode())]


def _newer(data: bytes) -> bytes:
    """A sound record of a dem that is not written yet."""
    return _resealed(data, **{"dem-record": 99})


def _resealed(data: bytes, **changes: object) -> bytes:
    document = {name: value for name, value in json.loads(data).items() if name != FIELD}
    return sealed(document | changes)


def _gone_for_a_while(pair: Pair) -> Found:
    pair.put_back(pair.pushed)
    home = pair.first("one", BOTH)
    pair.proxy.faults[:] = [Fault(r"^GET .*/actions/.*json", status=404, code="NoSuchKey"), *_aged()]
    ended = pair.call(home, *GC)
    return Found(_calm(ended, 0, 1) + pair.survey() + _kept(pair), ended.called.status != 0)


def _hidden(page: bytes, share: int) -> bytes:
    """A listing without one name of `share`; of one, without any."""
    parts = re.split(r"(<Contents>.*?</Contents>)", page.decode(), flags=re.DOTALL)
    return "".join(part for n, part in enumerate(parts) if n % 2 == 0 or (n // 2) % share).encode()
