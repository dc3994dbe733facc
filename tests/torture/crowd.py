"""Several projects that build into one cache at once, without torch: the people of `concurrency.py` and `garbage.py`.

Each member has a builder process and a project folder of its own; all name one cache. What each trains is written down
outside, so that nothing is trained twice unseen.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import light
from failpoints import Plan
from light_trials import lay_out
from stand_ins import TRAINED
from survey import contents, survey

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import ExitStack

HEAD = '[base]\nmodel = "base"\n[train]\nmax_steps = {steps}\n[compose]\ndtype = "bfloat16"\n'
DATASET = '[datasets.{name}]\npath = "data/{name}.jsonl"\nomega = {omega}\n'
GC = ("cache", "gc", "--grace", "0s", "--vectors", "--cache")
LONGEST = 90.0


def recipe(omegas: Mapping[str, float], steps: int = 5) -> str:
    """Return the recipe of some datasets."""
    return HEAD.format(steps=steps) + "".join(DATASET.format(name=n, omega=o) for n, o in omegas.items())


def in_memory(stack: ExitStack) -> Path | None:
    """Return a folder in memory until the stack is closed, where there is one: a flush there waits for no disk."""
    if not os.access("/dev/shm", os.W_OK):
        return None
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dem-crowd-", dir="/dev/shm")))


class Member:
    """One project and its builder.

    Args:
        home: The project's folder.
        locks: Whether `flock` does anything in its processes.
    """

    def __init__(self, home: Path, *, locks: bool = True) -> None:
        self.home = home
        self.trained = home.with_name(home.name + ".trained")
        self._builder = light.Builder(script=("crowd.py", "locks" if locks else "no locks"))
        self._thread = ThreadPoolExecutor(1)

    def lay_out(self) -> None:
        """Make the project anew."""
        shutil.rmtree(self.home, ignore_errors=True)
        self.trained.unlink(missing_ok=True)
        lay_out(self.home)

    def build(self, text: str, cache: Path, plan: Plan | None = None) -> Future[int]:
        """Begin to build a recipe."""
        (self.home / "tiny.toml").write_text(text)
        return self.call(["build", "tiny.toml", "--json", "--cache", str(cache)], plan)

    def call(self, arguments: Sequence[str], plan: Plan | None = None) -> Future[int]:
        """Begin to call `dem`; the result is its status."""
        return self._thread.submit(self._call, arguments, plan or Plan())

    def _call(self, arguments: Sequence[str], plan: Plan) -> int:
        return self._builder.call(self.home, arguments, plan, {TRAINED: str(self.trained)})

    def await_stop(self, running: Future[int]) -> int | None:
        """Wait until the call has stopped itself; return its process, or None where it ended before."""
        while not running.done():
            child = self._builder.child()
            if child is not None and _state(child) == "T":
                return child
            time.sleep(0.005)
        return None

    def kill_child(self) -> None:
        """End a call that does not end."""
        if (child := self._builder.child()) is not None:
            os.kill(child, signal.SIGKILL)

    def said(self) -> str:
        """Return the end of what the last call said."""
        lines = (
            Path(f"{self.home}.err").read_text().splitlines()
            + Path(f"{self.home}.out").read_text().splitlines()
        )
        return " | ".join(lines[-5:])[-600:]

    def model(self) -> Mapping[str, str]:
        """Return the digests of the published model's files."""
        return contents(self.home / "out" / "tiny" / "model")

    def close(self) -> None:
        self._thread.shutdown()
        self._builder.close()


class Crowd:
    """Members that share a cache.

    Args:
        folder: Where everything lies.
        size: How many build.
        locks: Whether `flock` does anything in their processes.
    """

    def __init__(self, folder: Path, size: int, *, locks: bool = True) -> None:
        folder.mkdir(parents=True)
        self.members = [Member(folder / f"member-{i}", locks=locks) for i in range(size)]
        self.collector = Member(folder / "collector", locks=locks)
        # In the first one's folder, so that its failpoints hear of the cache too.
        self.cache = self.members[0].home / "cache"
        self._models: dict[str, Mapping[str, str]] = {}
        self._alone = Member(folder / "alone")

    def lay_out(self) -> None:
        """Begin anew, with an empty cache."""
        for member in (*self.members, self.collector):
            member.lay_out()

    def right_model(self, text: str) -> Mapping[str, str]:
        """Return what a build alone, in a cache of its own, makes of a recipe."""
        if text not in self._models:
            self._alone.lay_out()
            assert self._alone.build(text, self._alone.home / "cache").result() == 0, self._alone.said()
            self._models[text] = self._alone.model()
        return self._models[text]

    def trained(self) -> Counter[tuple[str, str]]:
        """Return how often each step of each training was done."""
        found: Counter[tuple[str, str]] = Counter()
        for member in self.members:
            lines = member.trained.read_text().splitlines() if member.trained.exists() else []
            found.update((line.split()[0], line.split()[1]) for line in lines)
        return found

    def collecting(self, done: Callable[[], bool]) -> Future[list[str]]:
        """Collect again and again until `done`; the result is what went wrong."""
        return self.collector._thread.submit(self._collect, done)

    def _collect(self, done: Callable[[], bool]) -> list[str]:
        wrong = []
        while not done():
            if status := self.collector._call([*GC, str(self.cache)], Plan()):
                if "there is no cache here" not in self.collector.said():
                    wrong.append(f"gc: {status}: {self.collector.said()}")
                time.sleep(0.01)
        return wrong

    def ended(self, running: Sequence[Future[int]], texts: Sequence[str]) -> list[str]:
        """Wait for a build of each member; return what is wrong with how they ended."""
        wrong, deadline = [], time.monotonic() + LONGEST
        for member, future, text in zip(self.members, running, texts, strict=False):
            try:
                status = future.result(max(0.1, deadline - time.monotonic()))
            except TimeoutError:
                wrong.append(f"{member.home.name} still waits: {member.said()}")
                member.kill_child()
                continue
            if status:
                wrong.append(f"{member.home.name}: status {status}: {member.said()}")
            elif member.model() != self.right_model(text):
                wrong.append(f"{member.home.name} has another model")
        return wrong

    def sound(self) -> list[str]:
        """Return what is wrong with the cache: read without `dem`, then by `dem cache verify`."""
        wrong = survey(self.cache).wrong
        if self.collector.call(["cache", "verify", "--cache", str(self.cache)]).result():
            wrong.append(f"verify: {self.collector.said()}")
        return wrong

    def close(self) -> None:
        for member in (*self.members, self.collector, self._alone):
            member.close()


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def serve(*, locks: bool) -> None:
    """Be a builder; where locks do nothing, they say that they were given."""
    if not locks:
        fcntl.flock = lambda *_: None  # type: ignore[assignment]
    from dem_build.store import files, uses

    assert uses
    files.acquire.__defaults__ = (0.3,)  # type: ignore[attr-defined]  nobody waits for a stopped process for long
    files.exclusively.__wrapped__.__defaults__ = (0.3,)  # type: ignore[attr-defined]
    files.LOCK_SECONDS = 0.3
    light.serve()


if __name__ == "__main__":
    serve(locks=sys.argv[1] == "locks")
