"""`dem work`, whose actions make something up: `bench/scale.py --workers` starts many of these.

python bench/scale_work.py FOLDER work RECIPE …

All but the steps themselves is dem's own: plans, leases, verified inputs, objects, records. In FOLDER, `ran` gets the
key of each step that ran, a line each, whatever became of it, and a file of each process's number how often it looked.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
from collections import Counter
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dem_build.engine import build, run
from dem_build.engine.pool import Worker
from dem_build.engine.protocol import Answer
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


def count(of: type, method: str, counts: Counter[str], name: str, where: Any = lambda *_: True) -> None:
    """Count the calls of a method."""
    real = getattr(of, method)

    @wraps(real)
    def counting(self: Any, *arguments: Any) -> Any:
        counts[name] += bool(where(*arguments))
        return real(self, *arguments)

    setattr(of, method, counting)


def main(folder: str, *arguments: str) -> None:
    """Be `dem`."""
    home, counts, driver = Path(folder), Counter[str](), os.getpid()
    run._step_of = lambda kind: MadeUp(kind, home / "ran")  # noqa: SLF001
    # A copy of the driver takes actions of all kinds: what a process more takes to start does not depend on how many.
    Worker._new = Worker._copy  # noqa: SLF001
    Worker._can_run = lambda worker, **_: worker._process is not None and worker._process.poll() is None  # noqa: SLF001
    count(Records, "lookup", counts, "records")
    count(Leases, "holder", counts, "leases")
    count(build._Build, "_finish", counts, "races", lambda _, said: said.reply.answer is Answer.HELD)  # noqa: SLF001
    count(build._Build, "_finish", counts, "found", lambda _, said: said.reply.answer is Answer.FOUND)  # noqa: SLF001

    def tell() -> None:
        if os.getpid() == driver:
            (home / f"{driver}.json").write_text(json.dumps(counts))

    atexit.register(tell)
    sys.argv = ["dem", *arguments]
    from dem_build.cli import main as dem  # noqa: PLC0415

    dem()


if __name__ == "__main__":
    main(*sys.argv[1:])
