"""Many `dem work` at once, whose actions make something up: `bench/scale.py --workers` starts this.

python bench/scale_work.py FOLDER WORKERS work RECIPE …

All but the steps themselves is dem's own: plans, leases, verified inputs, objects, records. Workers are copies of this
process, which has loaded `dem`: what is counted is what they do, and no imports. In FOLDER, `ran` gets the key of each
step that ran, a line each, whatever became of it, a file of each process's number how often it looked and touched files
and folders, and `cpu` the CPU seconds of all workers.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from dem_build.cli import main as dem
from dem_build.engine import build, run
from dem_build.engine.pool import Worker
from dem_build.engine.protocol import Answer
from dem_build.store.folders import WorkFolders
from dem_build.store.leases import Leases
from dem_build.store.records import Records

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "samples"))
from scaled import make_up, told_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dem_build.action import Kind
    from dem_build.step import Context, Inputs


class MadeUp:
    """The step of a kind: its outputs, made up, the same for the same key."""

    def __init__(self, kind: Kind, log: Path) -> None:
        self._kind = kind
        self._log = log

    def run(self, inputs: Inputs, params: Mapping[str, Any], context: Context) -> dict[str, Any]:
        """Write the outputs."""
        del inputs, params
        key = context.work.parent.name
        with self._log.open("a", encoding="ascii") as log:  # one write, at the end
            log.write(f"{key}\n")
        context.out.mkdir(exist_ok=True)
        make_up(self._kind, key, context.out, np.random.default_rng(int(key[:16], 16)))
        return told_of(self._kind, None)


def count(of: Any, method: str, counts: Counter[str], name: str, where: Any = lambda *_: True) -> None:
    """Count the calls of a method, or of a function of a module."""
    real = getattr(of, method)

    @wraps(real)
    def counting(first: Any, *arguments: Any, **named: Any) -> Any:
        counts[name] += bool(where(*arguments))
        return real(first, *arguments, **named)

    setattr(of, method, counting)


OPENED, LISTED = ("open",), ("os.listdir", "os.scandir")
CHANGED = ("os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.utime", "os.chmod")
EVENTS = {
    event: name
    for name, of in (("opens", OPENED), ("listings", LISTED), ("changes", CHANGED))
    for event in of
}


class Told:
    """What this process did, in a file of its number; a copy begins at nothing."""

    def __init__(self, home: Path) -> None:
        self.counts = Counter[str]()
        self._home = home
        os.register_at_fork(after_in_child=self.counts.clear)
        sys.addaudithook(self._heed)

    def _heed(self, event: str, _arguments: tuple[Any, ...]) -> None:
        if event in EVENTS:
            self.counts[EVENTS[event]] += 1

    def write(self, *_: object) -> bool:
        """Write it down."""
        told = json.dumps(self.counts)
        (self._home / f"{os.getpid()}.json").write_text(told)
        self.counts["opens"] -= 1
        return True


def be_a_worker(arguments: list[str], told: Told) -> NoReturn:
    """Be `dem`, and end."""
    status = 1
    try:
        sys.argv = ["dem", *arguments]
        dem()
    except SystemExit as ended:
        status = int(ended.code or 0)
    finally:
        told.write()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def main(folder: str, workers: str, *arguments: str) -> None:
    """Start the workers, and wait for their ends."""
    home = Path(folder)
    run._step_of = lambda kind: MadeUp(kind, home / "ran")  # noqa: SLF001
    # A copy of the driver takes actions of all kinds: what a process more takes to start does not depend on how many.
    Worker._new = Worker._copy  # noqa: SLF001
    Worker._can_run = lambda worker, **_: worker._process is not None and worker._process.poll() is None  # noqa: SLF001
    told = Told(home)
    counts = told.counts
    count(Records, "lookup", counts, "records")
    count(Leases, "holder", counts, "leases")
    count(build._Build, "_finish", counts, "races", lambda _, said: said.reply.answer is Answer.HELD)  # noqa: SLF001
    count(build._Build, "_finish", counts, "found", lambda _, said: said.reply.answer is Answer.FOUND)  # noqa: SLF001
    count(
        WorkFolders, "drop", counts, "told", told.write
    )  # a copy is killed with its driver, and tells before
    count(os, "stat", counts, "stats")
    count(os, "lstat", counts, "stats")
    pids = []
    for _ in range(int(workers)):
        if (pid := os.fork()) == 0:
            be_a_worker([*arguments], told)
        pids.append(pid)
    cpu, statuses = 0.0, []
    for pid in pids:
        _, status, used = os.wait4(pid, 0)
        statuses.append(os.waitstatus_to_exitcode(status))
        cpu += used.ru_utime + used.ru_stime
    (home / "cpu").write_text(str(cpu))
    sys.exit(f"workers ended with {statuses}" if any(statuses) else 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
