"""Chapter: two machines that share a bucket, and what networks, servers and other writers do between them."""

from __future__ import annotations

import json
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

from bucket_servers import moto_serving
from crowd import in_memory
from faulty import Fault
from remote_trials import (
    KILLED,
    PAGE,
    Found,
    Pairs,
    always,
    building,
    flipped,
    kept,
    pushing,
    reading,
    resealed,
    tampered,
)
from remote_trials import right as built_right
from remote_writers import collections, notes, stores_that_lie, two_writers
from two_machines import BOTH, BUILD, HASTY, MARKER, REWEIGHTED, Pair, objects_in, records_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from tally import Scale, Tally

TITLE = "Remotes"
INTRODUCTION = """
Two machines and a bucket on moto's server, behind a proxy that does what networks and servers do. One machine pushes
what it has built; the other has recipe, lock and machine file alone, or all files too. Under each fault a call ends
within 60 s, with the model of a build alone or with an error that says how to mend it, never with another model; who
has files builds in the same call what the remote does not give. The next call without the fault ends with the right
model, and what was in the bucket is there as it was. After every call the bucket is read without `dem`: no record that
lacks an object, or has one of other bytes. Noticed are the calls that warned or failed. Of two writers the second is
told, each keeps its own result, and all readers have one of the two. A store that was probed and overwrites since
(`dem cache remote probe` says so) may give a later reader the other one: each is whole. Where a server accepts and
never answers, deadlines here are a tenth of the real ones. With these a call goes on without the remote after 16 s (2 s
where nobody listens, 22 s where objects alone hang), and a write that hangs is given up after 121 s; what trickles is
waited for as long as it comes.
"""
PAIRS = 3
READS, WRITES = r"^(GET|HEAD) ", r"^(PUT|POST|DELETE) "
GET_OBJECT = r"^GET .*/cas/"


def run(scale: Scale, folder: Path) -> Iterator[Tally]:
    """Try each."""
    with ExitStack() as stack:
        place = in_memory(stack) or folder
        server = stack.enter_context(moto_serving())
        count = scale.pick(1, PAIRS)
        made: list[Pair] = []
        for number in range(count):
            pair = Pair(place / f"pair-{number}", server, number, *made[:1])
            made.append(stack.enter_context(closing(pair)))
        pairs, held = Pairs(made, short=scale.short), made[0].pushed  # of the same names and bytes in each
        yield from _slow_and_cut(scale, pairs, held)
        yield from _refused(pairs)
        yield from _spoiled(scale, pairs, held)
        yield from _in_the_middle(pairs)
        yield from _killed(pairs)
        yield from stores_that_lie(pairs)
        yield from two_writers(pairs)
        yield from notes(pairs)
        yield from collections(pairs)


# The connection.


def _slow_and_cut(scale: Scale, pairs: Pairs, held: Mapping[str, bytes]) -> Iterator[Tally]:
    trickle = [Fault("^GET ", rate=1500)]
    trials = [(f"trickle, {len(t)}", reading(lambda _: [*trickle], text=t)) for t in (BOTH, REWEIGHTED)]
    trials += [
        ("replies late", reading(lambda _: [Fault(delay=0.3)], text=REWEIGHTED)),
        ("replies late to a push", pushing(lambda _: [Fault(delay=0.05)])),
    ]
    yield pairs.tally("bytes that trickle, and replies that are late", trials, seen=False)

    def once(share: float) -> Callable[[Pair], list[Fault]]:
        return lambda pair: [
            Fault(f"^GET .*{name.rpartition('/')[2]}", times=1, cut=int(len(data) * share))
            for name, data in pair.pushed.items()
        ]

    steps = scale.pick(2, 16)
    trials = [
        (f"at {n}/{steps}", reading(once(n / steps), text=text, each=True))
        for n in range(steps)
        for text in (BOTH, REWEIGHTED)
    ]
    yield pairs.tally("the connection cut in each object and record, at every part of it", trials, seen=False)
    shares = (0, 1, 64, 700)
    trials = [
        (f"after {c} bytes, always", reading(always(GET_OBJECT, cut=c), text=text, files=files))
        for c in shares
        for text in (BOTH, REWEIGHTED)
        for files in (False, True)
    ]
    yield pairs.tally("every reply with bytes cut, again and again", trials)
    puts = range(sum(name != MARKER for name in held))
    trials = [
        (
            f"the reply to write {n}",
            pushing(lambda _, n=n: [Fault("^PUT ", skip=n, times=1, lose=True)]),
        )
        for n in puts
    ]
    trials.append(("all replies to writes", pushing(always("^PUT ", lose=True))))
    yield pairs.tally("the reply to a write that worked is lost", trials)
    if scale.short:
        return
    hung = [
        ("to reads", reading(always("", delay=30.0), files=True, builder=HASTY)),
        ("to objects", reading(always(GET_OBJECT, delay=30.0), text=REWEIGHTED, builder=HASTY)),
        ("to writes", pushing(always("^PUT ", delay=30.0), builder=HASTY)),
    ]
    yield pairs.tally("a server that accepts and never answers", hung)


# What the server answers.


def _refused(pairs: Pairs) -> Iterator[Tally]:
    denied = {"status": 403, "code": "AccessDenied"}
    texts = [(text, files) for text in (BOTH, REWEIGHTED) for files in (False, True)]
    trials = [
        (f"{match} {files}", reading(always(match, **denied), text=text, files=files))
        for match in (READS, GET_OBJECT, r"^GET .*/actions/")
        for text, files in texts
    ]
    trials.append(("a push", pushing(always(READS, **denied))))
    yield pairs.tally("403 to reads", trials)
    trials = [
        ("a push", pushing(always(WRITES, **denied))),
        ("a push of records", pushing(always(r"^PUT .*/actions/", **denied))),
        ("a push of objects", pushing(always(r"^PUT .*/cas/", **denied))),
        ("a build", building(always(WRITES, **denied))),
        ("a machine with files", reading(always(WRITES, **denied), text=REWEIGHTED, files=True)),
    ]
    yield pairs.tally("403 to writes", trials)
    bursts = [(status, times, skip) for status in (500, 503) for times in (1, 2, 3, 6) for skip in (0, 3, 9)]
    trials = [
        (
            f"{times} times {status} from request {skip + 1}",
            make(lambda _, s=status, t=times, n=skip: [Fault(skip=n, times=t, status=s)]),
        )
        for status, times, skip in bursts
        for make in (reading, pushing)
    ]
    yield pairs.tally("bursts of 500 and 503", trials, seen=False)


# What is in the bucket.


def _spoiled(scale: Scale, pairs: Pairs, held: Mapping[str, bytes]) -> Iterator[Tally]:
    forms = [(text, files) for text in (BOTH, REWEIGHTED) for files in (False, True)]

    def row(
        fault: str, names: Sequence[str], change: Callable[[bytes, dict[str, bytes]], bytes | None]
    ) -> Tally:
        def trial(name: str, text: str, *, files: bool) -> tuple[str, Callable[[Pair], Found]]:
            def spoil(there: dict[str, bytes]) -> None:
                changed = change(there[name], there)
                if changed is None:
                    del there[name]
                else:
                    there[name] = changed

            return f"{name}, {files}, {len(text)}", reading(spoil=spoil, text=text, files=files)

        used = forms if names[0] in objects else forms[1:3]
        return pairs.tally(fault, [trial(n, text, files=f) for n in names for text, f in used], seen=False)

    objects = [name for name in objects_in(held) if held[name]]
    records = records_in(held)
    yield row("404 of each object in turn", objects_in(held), lambda *_: None)
    yield row("404 of each record in turn", records, lambda *_: None)
    yield row("wrong bytes of the right size, each object in turn", objects, lambda data, _: flipped(data))
    yield row("the record of another key", records, _another)
    yield row("a record that somebody changed", records, lambda data, _: tampered(data))
    if scale.short:
        return
    yield row("an object that is cut short", objects[::2], lambda data, _: data[:-1])
    yield row("a record that is cut short", records, lambda data, _: data[: len(data) // 2])
    yield row("a record of objects that are nowhere", records, lambda data, _: resealed(tampered(data)))
    yield row("an error page in place of a record", records, lambda *_: PAGE)

    def all_objects(change: Callable[[bytes], bytes | None]) -> Callable[[dict[str, bytes]], None]:
        def spoil(there: dict[str, bytes]) -> None:
            for name in objects_in(there):
                changed = change(there.pop(name))
                if changed is not None:
                    there[name] = changed

        return spoil

    trials = [
        (f"{name}, {files}", reading(spoil=all_objects(change), text=text, files=files))
        for name, change in (("gone", lambda _: None), ("wrong", flipped))
        for text, files in forms
    ]
    yield pairs.tally("all objects gone, or wrong", trials, seen=False)


def _another(data: bytes, there: Mapping[str, bytes]) -> bytes:
    """The record of another key, of the same kind where there is one."""
    kind = json.loads(data)["kind"]
    others = [there[name] for name in records_in(there) if there[name] != data]
    return next((other for other in others if json.loads(other)["kind"] == kind), others[0])


# From a request on.


def _in_the_middle(pairs: Pairs) -> Iterator[Tally]:
    reads, pushes, builds = range(36), range(0, 130, 10), range(0, 130, 40)

    def trials(**what: object) -> list[tuple[str, Callable[[Pair], Found]]]:
        def at(n: int) -> Callable[[Pair], list[Fault]]:
            return lambda _: [Fault(skip=n, **what)]  # type: ignore[arg-type]

        found = [(f"read {n}", reading(at(n), text=REWEIGHTED, files=bool(n % 2))) for n in reads]
        found += [(f"push {n}", pushing(at(n))) for n in pushes]
        return found + [(f"build {n}", building(at(n))) for n in builds]

    expired = trials(status=403, code="ExpiredToken")
    yield pairs.tally("credentials that expire, at each request", expired, seen=False)
    yield pairs.tally("the server vanishes, at each request", trials(vanish=True), seen=False)
    yield pairs.tally(
        "it vanishes for four requests, and comes back", trials(vanish=True, times=4), seen=False
    )


def _killed(pairs: Pairs) -> Iterator[Tally]:
    def at(n: int, *, after: bool) -> Callable[[Pair], list[Fault]]:
        return lambda pair: [Fault(skip=n, times=1, strike=pair.kill, lose=after, vanish=not after)]

    trials = [
        (f"at request {n}, {after}", pushing(at(n, after=after), killed=True))
        for n in range(128)
        for after in (n % 2 == 0,)
    ]
    yield pairs.tally("a pushing machine killed at each of its requests", trials, seen=False)
    trials = [
        (f"at request {n}, {after}", building(at(n, after=after), killed=True))
        for n in range(2, 140, 6)
        for after in (n % 4 == 0,)
    ]
    yield pairs.tally("a building machine killed at its requests", trials, seen=False)

    def reader(n: int, text: str, *, after: bool) -> Callable[[Pair], Found]:
        def trial(pair: Pair) -> Found:
            pair.put_back(pair.pushed)
            home = pair.second(text)
            pair.proxy.faults[:] = at(n, after=after)(pair)
            ended = pair.call(home, *BUILD)
            pair.proxy.forget()
            died = ended.called.status == KILLED
            wrong = (
                pair.survey() + pair.sound(home) + built_right(pair, home, text) + pair.survey() + kept(pair)
            )
            return Found(wrong, tried=int(died))

        return trial

    trials = [
        (f"at request {n}, {after}", reader(n, text, after=after))
        for text, most in ((BOTH, 14), (REWEIGHTED, 37))
        for n in range(1, most)
        for after in (n % 2 == 0,)
    ]
    yield pairs.tally("a reading machine killed at each of its requests", trials, seen=False)
