"""Other writers of a bucket, what a machine has noted of it, and collections there: the second half of `remotes.py`."""

from __future__ import annotations

import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from faulty import Fault
from remote_trials import (
    KILLED,
    PAGE,
    Found,
    Pairs,
    calm,
    flipped,
    judged,
    kept,
    noticed,
    resealed,
    right,
    tampered,
)
from two_machines import (
    BOTH,
    BUILD,
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

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from tally import Tally

GC = ("cache", "gc", "--remote", "trusted")
REPAIR = ("cache", "verify", "--remote", "--repair")
OLD = (r"<LastModified>[^<]*</LastModified>", "<LastModified>2020-01-01T00:00:00.000Z</LastModified>")


# Stores that do not mean what they say.


def _liar() -> Fault:
    return Fault("^PUT ", overwrite=True)


def stores_that_lie(pairs: Pairs) -> Iterator[Tally]:
    def found_out(pair: Pair) -> Found:
        pair.put_back({})
        home = pair.first("one", BOTH)
        pair.proxy.faults.append(_liar())
        wrong = calm(pair.call(home, "cache", "remote", "init"), 0)
        marker = json.loads(pair.held()[MARKER])
        wrong += [] if marker["create"] == "candidates" else ["it was believed"]
        wrong += calm(pair.call(home, *PUSH), 0) + pair.survey()
        if records_in(pair.held()) and any("/actions/" in name for name in pair.held()):
            wrong.append("a record was created where candidates must be")
        two = pair.second(BOTH)
        wrong += right(pair, two, BOTH) + pair.survey()
        return Found(wrong, noticed=marker["create"] == "candidates")

    def probed(pair: Pair) -> Found:
        """A remote that was initialised while it told the truth: `probe` says what it does now."""
        pair.put_back(pair.pushed)
        pair.proxy.faults.append(_liar())
        home = pair.first("one", BOTH)
        ended = pair.call(home, "cache", "remote", "probe")
        wrong = [] if ended.called.status == 1 else [f"not found out: {ended.called.brief}"]
        pair.proxy.forget()
        return Found(wrong + pair.survey() + kept(pair), noticed=ended.called.status == 1)

    trials = [("init", found_out), ("probe", probed)] * 3
    yield pairs.tally("a store that says 200 to a conditional write and overwrites", trials)


# Writers.


def two_writers(pairs: Pairs) -> Iterator[Tally]:
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
            wrong = [what for each in ended for what in calm(each, 0)] + pair.survey()
            if models[0] == models[1]:
                wrong.append("the trial is none: both have one result")
            if order != "at once" and not lies and built and not noticed(ended[1]):
                wrong.append("the second one was not told of another result")
            for luck, home in homes.items():
                again = pair.call(home, *BUILD, luck=luck)
                # Who builds beside another one may take what that one has pushed already; each pushes its own.
                right = [pair.right(ONE, luck)] if built else models
                if again.called.status or pair.model(home) not in right:
                    wrong.append(f"writer {luck or 'a'} has another model: {again.called.brief}")
            wrong += pair.survey() + _agreed(pair, models)
            return Found(wrong, any(map(noticed, ended)))

        return two

    stores = (
        ("two writers of one key with other results: conditional", "conditional", False),
        ("two writers of one key with other results: candidates", "candidates", True),
        ("two writers, and a store said to be conditional that overwrites", "conditional", True),
    )
    rounds = 3
    for fault, create, lies in stores:
        forms = [(order, PUSH) for order in ("one", "other", "at once")] + [("at once", BUILD)]
        trials = [
            (f"{o}, {c[0]}, {n}", trial(o, c, create, lies=lies)) for o, c in forms for n in range(rounds)
        ]
        yield pairs.tally(fault, trials)


def _agreed(pair: Pair, models: Sequence[Mapping[str, str]]) -> list[str]:
    """What is wrong with what machines read that have nothing."""
    read = []
    for name in ("reader-1", "reader-2"):
        home = pair.second(ONE, name=name)
        ended = pair.call(home, *BUILD)
        if wrong := calm(ended, 0):
            return wrong
        read.append(pair.model(home))
    wrong = [] if all(model in models for model in read) else ["a reader has ANOTHER MODEL"]
    return wrong if read[0] == read[1] else [*wrong, "two readers have two models"]


# What a machine has noted.


def notes(pairs: Pairs) -> Iterator[Tally]:
    changes: dict[str, Callable[[Sequence[Path]], None]] = {
        "deleted": _deleted,
        "empty": lambda paths: _rewritten(paths, lambda _: b""),
        "cut": lambda paths: _rewritten(paths, lambda data: data[:300]),
        "changed": lambda paths: _rewritten(paths, tampered),
        "swapped": _swapped,
    }
    texts = (BOTH, REWEIGHTED)
    trials = [(f"{name}, {len(text)}", _noted(c, text)) for name, c in changes.items() for text in texts]
    yield pairs.tally("notes of a remote deleted, damaged, swapped", trials, seen=False)
    states: dict[str, Callable[[Mapping[str, bytes]], Sequence[str]]] = {
        "objects": objects_in,
        "records and objects": lambda held: [*objects_in(held), *records_in(held)],
        "half": lambda held: objects_in(held)[::2],
    }
    trials = [
        (f"{name}, {files}, {len(text)}", _older(gone, text, files=files))
        for name, gone in states.items()
        for text in texts
        for files in (True, False)
    ]
    yield pairs.tally("notes of what was collected there since", trials, seen=False)


def _noted(change: Callable[[Sequence[Path]], None], text: str) -> Callable[[Pair], Found]:
    """A machine that has the records of what was pushed, and notes that are changed."""

    def trial(pair: Pair) -> Found:
        pair.put_back(pair.pushed)
        home = pair.second(text, files=True)
        wrong = calm(pair.call(home, "cache", "pull", "--records", "tiny.toml"), 0)
        found = sorted(path for path in (home / "cache" / "remote").rglob("*") if path.is_file())
        wrong += [] if found else ["the trial is none: nothing is noted"]
        change(found)
        wrong += right(pair, home, text) + pair.sound(home) + pair.survey() + kept(pair)
        return Found(wrong)

    return trial


def _rewritten(paths: Sequence[Path], rewrite: Callable[[bytes], bytes]) -> None:
    for path in paths:
        data = path.read_bytes()
        path.chmod(0o644)
        path.write_bytes(rewrite(data))


def _deleted(paths: Sequence[Path]) -> None:
    for path in paths:
        path.unlink()


def _swapped(paths: Sequence[Path]) -> None:
    contents = [path.read_bytes() for path in paths]
    others = iter([*contents[1:], contents[0]])
    _rewritten(paths, lambda _: next(others))


def _older(
    gone: Callable[[Mapping[str, bytes]], Sequence[str]], text: str, *, files: bool
) -> Callable[[Pair], Found]:
    """A machine with notes of what the bucket has no more."""

    def trial(pair: Pair) -> Found:
        pair.put_back(pair.pushed)
        home = pair.second(text, files=files)
        wrong = calm(pair.call(home, "cache", "pull", "--records", "tiny.toml"), 0)
        names = gone(pair.pushed)
        pair.put_back({name: data for name, data in pair.pushed.items() if name not in names})
        ended = pair.call(home, *BUILD)
        wrong += judged(pair, home, ended, text, must=files) + pair.sound(home) + pair.survey(names)
        pair.put_back(pair.pushed)
        wrong += right(pair, home, text) + pair.survey()
        return Found(wrong, noticed(ended))

    return trial


# Collections.


def collections(pairs: Pairs) -> Iterator[Tally]:
    trials = [(f"round {n}", _beside) for n in range(6)]
    yield pairs.tally("a collection in a loop beside a build that pushes", trials, seen=False)
    trials = [(f"at request {n}", _after_kill(n)) for n in range(12, 126, 6)]
    yield pairs.tally("a push killed, then collections, a day later too", trials, seen=False)
    trials = [(f"before request {n}", _during(n)) for n in range(26)]
    yield pairs.tally("a push at each moment of a collection of what it finds", trials, seen=False)
    record, objects = r"^GET .*/actions/.*json", r"^GET .*list-type.*cas"
    damaged = {"cut": lambda data: data[:99], "a page": lambda _: PAGE, "newer": _newer}
    trials = [
        (f"{name}, {times}, {command[1]}", _misread([Fault(record, times=times, edit=edit)], command))
        for name, edit in damaged.items()
        for times in (1, None)
        for command in (GC, REPAIR)
    ]
    others = {
        "wrong bytes, once": {"match": record, "times": 1, "edit": flipped},
        "404": {"match": record, "status": 404, "code": "NoSuchKey"},
        "404, once": {"match": record, "times": 1, "status": 404, "code": "NoSuchKey"},
        "no objects": {"match": objects, "edit": lambda page: _hidden(page, 1)},
        "half of the objects": {"match": objects, "edit": lambda page: _hidden(page, 2)},
    }
    trials += [
        (f"{name}, {command[1]}", _misread([Fault(**fault)], command))  # type: ignore[arg-type]
        for name, fault in others.items()
        for command in (GC, REPAIR)
    ]
    what = "a collection or repair that is shown damage, or what a newer dem wrote"
    yield pairs.tally(what, trials, seen=False)
    trials = [(f"1 of {share}", _lagging(share)) for share in (1, 2, 3) for _ in range(3)]
    yield pairs.tally("a listing that lags behind, of candidates", trials, seen=False)


def _beside(pair: Pair) -> Found:
    """Collections in a loop while a machine builds and pushes: what it has put is younger than a day."""
    pair.put_back(pair.empty)
    home, other = pair.first("one", BOTH, built=False), pair.first("other", BOTH)
    done = threading.Event()

    def collect() -> list[str]:
        wrong = []
        while not done.is_set():
            wrong += calm(pair.call(other, *GC, builder="b"), 0)
        return wrong

    with ThreadPoolExecutor(1) as pool:
        collected = pool.submit(collect)
        try:
            wrong = judged(pair, home, pair.call(home, *BUILD), BOTH, must=True)
        finally:
            done.set()
        wrong += collected.result()
    return Found(wrong + pair.survey() + _all_recorded(pair))


def _all_recorded(pair: Pair) -> list[str]:
    missing = keys_in(pair.pushed) - keys_in(pair.held())
    return [f"{len(missing)} results are not recorded in the bucket"] if missing else []


def _after_kill(n: int) -> Callable[[Pair], Found]:
    """A push that dies, a collection at once, one a day later, and the next push."""

    def trial(pair: Pair) -> Found:
        pair.put_back(pair.empty)
        home = pair.first("one", BOTH)
        pair.proxy.faults.append(Fault(skip=n, times=1, strike=pair.kill, vanish=True))
        died = pair.call(home, *PUSH).called.status == KILLED
        pair.proxy.forget()
        before = pair.held()
        wrong = calm(pair.call(home, *GC), 0) + ([] if pair.held() == before else ["young objects went"])
        pair.proxy.faults[:] = [_aged()]
        wrong += calm(pair.call(home, *GC), 0) + pair.survey()
        wrong += [] if keys_in(pair.held()) == keys_in(before) else ["a record went"]
        pair.proxy.forget()
        wrong += calm(pair.call(home, *PUSH), 0) + pair.survey() + _all_there(pair)
        return Found(wrong, tried=int(died))

    return trial


def _all_there(pair: Pair) -> list[str]:
    return [] if pair.held() == pair.pushed else ["not everything is in the bucket"]


def _during(n: int) -> Callable[[Pair], Found]:
    """A whole push before the n-th request of a collection that takes what the push finds there."""

    def trial(pair: Pair) -> Found:
        pair.put_back({name: data for name, data in pair.pushed.items() if not RECORD.fullmatch(name)})
        home, other = pair.first("one", BOTH), pair.first("other", BOTH)
        ends: list[Ended] = []

        def push() -> None:
            ends.append(pair.call(home, *PUSH))

        pair.proxy.faults[:] = [Fault(skip=n, times=1, strike=push), _aged()]
        wrong = calm(pair.call(other, *GC, builder="b"), 0)
        wrong += [what for each in ends for what in calm(each, 0, 1)]
        pair.proxy.forget()
        wrong += pair.survey() + calm(pair.call(home, *PUSH), 0) + pair.survey() + _all_there(pair)
        return Found(wrong, tried=len(ends))

    return trial


def _misread(faults: Sequence[Fault], command: Sequence[str]) -> Callable[[Pair], Found]:
    """A collection, or a repair, that a fault shows other records, or none, a day after they were pushed."""

    def trial(pair: Pair) -> Found:
        pair.put_back(pair.pushed)
        home = pair.first("one", BOTH)
        pair.proxy.faults[:] = [*faults, _aged()]
        ended = pair.call(home, *command)
        return Found(calm(ended, 0, 1) + pair.survey() + kept(pair), ended.called.status != 0)

    return trial


def _lagging(share: int) -> Callable[[Pair], Found]:
    """Candidates of which a listing shows but some; without any, what was put just now is not seen."""

    def trial(pair: Pair) -> Found:
        marker = json.loads(pair.empty[MARKER]) | {"create": "candidates"}
        pair.put_back({MARKER: json.dumps(marker).encode()})
        home = pair.first("one", BOTH)
        pair.proxy.faults[:] = [Fault("^GET .*list-type", edit=lambda page: _hidden(page, share))]
        ended = pair.call(home, *PUSH)
        wrong = calm(ended, 0, 1) + pair.survey()
        two = pair.second(BOTH, files=True)
        wrong += judged(pair, two, pair.call(two, *BUILD), BOTH, must=True) + pair.survey()
        pair.proxy.forget()
        wrong += calm(pair.call(home, *PUSH), 0) + pair.survey()
        three = pair.second(BOTH, name="three")
        return Found(wrong + right(pair, three, BOTH) + _all_recorded(pair), noticed(ended))

    return trial


def _aged() -> Fault:
    """Listings in which everything is old."""
    return Fault("^GET .*list-type", edit=lambda page: re.sub(OLD[0], OLD[1], page.decode()).encode())


def _newer(data: bytes) -> bytes:
    """A sound record of a dem that is not written yet."""
    return resealed(data, **{"dem-record": 99})


def _hidden(page: bytes, share: int) -> bytes:
    """A listing without one name of `share`; of one, without any."""
    parts = re.split(r"(<Contents>.*?</Contents>)", page.decode(), flags=re.DOTALL)
    return "".join(part for n, part in enumerate(parts) if n % 2 == 0 or (n // 2) % share).encode()
