"""A fenced process: `dem` reads what strangers wrote, many times over, and every way out of bounds is told.

    python -P fence.py FOLDER EXAMPLES SEED TARGET

The fence: memory and processor time have limits; a hook of the interpreter's own audit sees each file that is opened
to be written, each folder made, each process and connection begun, each pickle and each piece of code that is run. On
standard output a JSON document says what came of it. A process that dies before died of an example.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import signal
import sys
import traceback
import warnings
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, Phase, given, seed, settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import FrameType

    from hostile_targets import Target

CPU_SECONDS = 10  # of a call; what it reads is small
WALL_SECONDS = 240  # a machine may be busy
MORE_BYTES = 1 << 30  # over what the process has when it begins
CODE = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "pickle.find_class")
NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.sendto")
TRIAL = ["-P", "-m", "dem_build.data.template"]
CHANGES = {
    "os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink",
    "os.truncate", "os.utime", "shutil.rmtree", "sqlite3.connect",
}  # fmt: skip
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class HungError(BaseException):
    """A call took longer than any input may make it take."""


class Fence:
    """Watches what this process does while it stands in the block.

    Args:
        folder: The only place where files may change.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = os.path.realpath(folder)
        self._up = False
        self.crossed: list[str] = []
        sys.addaudithook(self._see)
        signal.signal(signal.SIGPROF, _hung)
        signal.signal(signal.SIGALRM, _hung)

    @contextmanager
    def up(self) -> Iterator[None]:
        used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        # What no handler of Python's can interrupt is killed by the kernel.
        resource.setrlimit(resource.RLIMIT_CPU, (int(used) + 3 * CPU_SECONDS, resource.RLIM_INFINITY))
        self.crossed = []
        self._up = True
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        signal.alarm(WALL_SECONDS)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.alarm(0)
            self._up = False

    def _see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._up:
            return
        self._up = False
        try:
            if (what := self._crossing(event, arguments)) is not None:
                self.crossed.append(f"{event} {what}"[:300])
        finally:
            self._up = True

    def _crossing(self, event: str, arguments: tuple[Any, ...]) -> str | None:
        if event == "open":
            path, _, flags = arguments
            return self._outside(path) if isinstance(flags, int) and flags & WRITES else None
        if event == "exec":
            name = getattr(arguments[0], "co_filename", "")
            return None if name.startswith("<") or self._outside(name) else name
        if event in CHANGES:
            return next((p for a in arguments if (p := self._outside(a))), None)
        ours = event == "subprocess.Popen" and arguments[1][1:4] == TRIAL  # it stands in a fence of its own
        return repr(arguments)[:200] if not ours and event.startswith((*NETWORK, *CODE)) else None

    def _outside(self, path: object) -> str | None:
        """Return a path that lies elsewhere, None for one in the folder, or for what is no path."""
        if not isinstance(path, str | bytes | os.PathLike):
            return None
        name = os.fsdecode(path)
        if name in (os.devnull, ":memory:", "") or "\0" in name:
            return None
        parent, last = os.path.split(os.path.abspath(name))  # noqa: PTH100  a link's own name is what changes
        real = os.path.join(os.path.realpath(parent), last)  # noqa: PTH118  as above
        return None if real == self._folder or real.startswith(self._folder + os.sep) else name


def _hung(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise HungError


class Trial:
    """The examples of one target."""

    def __init__(self, target: Target, fence: Fence, folder: Path) -> None:
        self._target = target
        self._fence = fence
        self._folder = folder
        self.tried = 0
        self.refused = 0
        self.losses: Counter[str] = Counter()
        self.told: dict[str, str] = {}

    def run(self, example: Any) -> None:
        self.tried += 1
        try:
            with self._fence.up():
                self._target.read(example, self._folder)
        except self._target.refusals:
            self.refused += 1
        except (Exception, HungError) as error:  # noqa: BLE001  whatever it is, it is a find
            self._lose(_place(error), example)
        for crossing in dict.fromkeys(self._fence.crossed):
            self._lose(crossing, example)

    def _lose(self, what: str, example: Any) -> None:
        self.losses[what] += 1
        shown = repr(example)
        shorter = shown if len(shown) <= 400 else f"{shown[:300]} … {shown[-80:]}"
        if what not in self.told or len(shorter) < len(self.told[what]):
            self.told[what] = shorter

    def document(self) -> dict[str, Any]:
        lost = [f"{what} ({n} times), first with {self.told[what]}" for what, n in self.losses.items()]
        return {"tried": self.tried, "refused": self.refused, "bad": self.losses.total(), "losses": lost}


def _place(error: BaseException) -> str:
    """Return what was raised, and the innermost line of dem's that it came through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "dem_build" in f.filename] or list(frames)
    if isinstance(error, AssertionError):
        return f"{error}"[:300]
    where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "nowhere"
    return f"{type(error).__name__} at {where}: {str(error)[:160]}"


def many(read: Callable[[Any], None], target: Target, examples: int, number: int) -> None:
    """Call `read` with so many examples of a target."""
    settle = settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )

    @settle
    @seed(number)
    @given(target.examples)
    def each(example: Any) -> None:
        read(example)

    # All of them in full; a sample of them where few others are tried either.
    for example in target.first[:: max(1, len(target.first) // examples)]:
        read(example)
    each()


def main(arguments: Sequence[str]) -> None:
    place, examples, number, name = arguments
    from hostile_targets import TARGETS

    faulthandler.enable()
    warnings.simplefilter("ignore")
    folder = Path(place)
    fence, answers = Fence(folder), os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    target, home = TARGETS[name], folder / "home"
    home.mkdir()
    os.chdir(home)
    target.lay_out(home)
    trial = Trial(target, fence, home)
    _bound_memory()
    many(trial.run, target, int(examples), int(number))
    answers.write(json.dumps({"end": name, **trial.document()}) + "\n")
    answers.flush()


def _bound_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MORE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))


if __name__ == "__main__":
    main(sys.argv[1:])
