"""Chapter: collections that are killed, or stopped in the middle while others build, at each of their steps."""

from __future__ import annotations

import json
import os
import shutil
import signal
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

from crowd import GC, Crowd, in_memory, recipe
from failpoints import Plan
from survey import survey
from tally import Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tally import Scale

TITLE = "Garbage"
INTRODUCTION = """
A cache holds what three builds of a recipe made, of which the last one needs a part, and what a killed build left. A
collection of all the rest is killed before each call that changes the disk: no record is left without its objects,
nothing that is needed is gone, and the next collection ends where one ends that nobody killed. Or it is stopped there;
then another recipe builds what the collection was about to take, and only then does it go on. That recipe's model is
right, and of what it needs nothing is lost. Both again where `flock` does nothing.
"""
WIDE = recipe({"add": 0.5, "copy": 0.25, "upper": 1.0})
NARROW = recipe({"add": 0.75, "copy": 0.25})


def run(scale: Scale, folder: Path) -> Iterator[Tally]:
    """Try each."""
    with ExitStack() as stack:
        place = in_memory(stack) or folder
        for name, what in (("locks", ""), ("no locks", "locks that do nothing: ")):
            crowd = stack.enter_context(closing(Crowd(place / name, 2, locks=not what)))
            scene = _Scene(crowd, place / f"scene with {name}")
            if not what:
                yield _each(
                    what + "a collection killed at each step", scene, scene.killed, scale.pick(6, 1000)
                )
            yield _each(
                what + "a collection stopped while others build", scene, scene.stopped, scale.pick(4, 60)
            )


class _Scene:
    """A cache with garbage in it, copied for each trial."""

    def __init__(self, crowd: Crowd, folder: Path) -> None:
        self._crowd, self._kept = crowd, folder
        crowd.lay_out()
        owner, other = crowd.members
        for text in (WIDE, NARROW.replace("0.75", "0.5"), NARROW):
            assert owner.build(text, crowd.cache).result() == 0, owner.said()
        assert other.build(WIDE.replace("1.0", "2.0"), crowd.cache, Plan()).result() == 0
        (other.home / "tiny.toml").unlink()  # a recipe that is gone
        assert owner.build(WIDE.replace("0.5", "3.0"), crowd.cache, Plan(at=20)).result() == -signal.SIGKILL
        assert owner.build(NARROW, crowd.cache).result() == 0
        shutil.copytree(owner.home, folder)
        journal = folder.with_name(folder.name + ".journal")
        assert owner.call([*GC, str(crowd.cache)], Plan(journal=str(journal))).result() == 0, owner.said()
        lines = [json.loads(line) for line in journal.read_text().splitlines()]
        self.points = sum(line[0] == "point" for line in lines)
        self._after = self._holds()
        assert self._after < _files(folder / "cache"), "there was garbage"

    def _begin(self) -> None:
        shutil.rmtree(self._crowd.members[0].home)
        shutil.copytree(self._kept, self._crowd.members[0].home)

    def _holds(self) -> set[str]:
        return _files(self._crowd.cache)

    def killed(self, at: int) -> list[str]:
        """A collection dies at a step; look, collect again, and build."""
        self._begin()
        owner = self._crowd.members[0]
        status = owner.call([*GC, str(self._crowd.cache)], Plan(at=at)).result()
        wrong = [] if status == -signal.SIGKILL else [f"status {status}: {owner.said()}"]
        wrong += survey(self._crowd.cache).wrong
        if not self._holds() >= self._after - {"trash"}:
            wrong.append("something that is needed is gone")
        if owner.call([*GC, str(self._crowd.cache)]).result():
            wrong.append(f"the next collection: {owner.said()}")
        if self._holds() != self._after:
            wrong.append(f"the next collection leaves {sorted(self._holds() ^ self._after)[:3]} different")
        return wrong + self._builds_nothing()

    def stopped(self, at: int) -> list[str]:
        """A collection stops at a step, others build what it was about to take, and it goes on."""
        self._begin()
        owner, other = self._crowd.members
        other.lay_out()
        collection = owner.call([*GC, str(self._crowd.cache)], Plan(at=at, fault="stop"))
        child = owner.await_stop(collection)
        status = other.build(WIDE, self._crowd.cache).result()
        wrong = [f"the build: {status}: {other.said()}"] if status else []
        if child is not None:
            os.kill(child, signal.SIGCONT)
        if status := collection.result():
            wrong.append(f"the collection: {status}: {owner.said()}")
        if not wrong and other.model() != self._crowd.right_model(WIDE):
            wrong.append("another model")
        wrong += survey(self._crowd.cache).wrong
        if other.call(["plan", "tiny.toml", "--check", "--cache", str(self._crowd.cache)]).result():
            wrong.append(f"what a living recipe needs was taken: {other.said()}")
        return wrong + self._builds_nothing()

    def _builds_nothing(self) -> list[str]:
        owner = self._crowd.members[0]
        if owner.build(NARROW, self._crowd.cache).result():
            return [f"the next build: {owner.said()}"]
        document = json.loads(owner.home.with_name(owner.home.name + ".out").read_text())
        ran = [a["name"] for a in document["actions"] if a["status"] != "hit"]
        return [f"{', '.join(ran)} ran again"] if ran else []


def _files(cache: Path) -> set[str]:
    """Return the names of what a collection may take at once; what is in the making stays for an hour."""
    parts = ("actions/*/*", "cas/sha256/*/*", "work/*", "leases/*", "running/*", "trash/*", "roots/*")
    found = (p for part in parts for p in cache.glob(part) if not p.name.startswith("."))
    return {str(p.relative_to(cache)) for p in found}


def _each(fault: str, scene: _Scene, trial: Callable[[int], list[str]], most: int) -> Tally:
    """Try every step, or `most` that are spread over them."""
    tally = Tally(fault)
    points = range(1, scene.points + 1)
    for at in list(points)[:: max(1, -(-len(points) // most))]:
        wrong = trial(at)
        tally.tried += 1
        for what in wrong:
            tally.lose(f"at step {at}: {what}")
        tally.recovered += not wrong
    return tally
