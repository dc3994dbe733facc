"""Builds without torch in a fraction of a second: a process that has `dem` loaded forks for each.

    python light.py [--real]      reads calls as JSON lines from standard input, answers each with a line

Everything of `dem build` runs, from the recipe to `out/`, but for two things: steps that need torch have stand-ins
(with `--real` they are the real ones, imported once), and the one worker is no process of its own, so that a kill is
driver and worker at once.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import queue
import resource
import signal
import subprocess
import sys
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import failpoints
from failpoints import Plan

import dem_build

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PARTS = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Bounds:
    """What a call may do.

    Attributes:
        user: Who calls, where it is not whoever runs this; only root may become another.
        largest: Bytes that a file may have; 0 for no limit.
        seconds: After so many it is killed.
    """

    user: int = 0
    largest: int = 0
    seconds: int = 240


class Builder:
    """The other end: starts the process and asks it for builds.

    Args:
        real: Whether steps are real, with torch.
        script: Which program of this folder serves, and its arguments.
    """

    def __init__(self, *, real: bool = False, script: Sequence[str] = ("light.py",)) -> None:
        root = str(PARTS.parents[1])
        self._process = subprocess.Popen(
            [sys.executable, str(PARTS / script[0]), *script[1:], *(["--real"] if real else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": root},
        )

    def call(
        self,
        home: Path,
        arguments: Sequence[str],
        plan: Plan | None = None,
        variables: Mapping[str, str] | None = None,
        bounds: Bounds | None = None,
    ) -> int:
        """Call `dem` in a folder; return its status, or minus the signal that ended it.

        What it prints is in `home`'s neighbours `NAME.out` and `NAME.err`.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        call = {"home": str(home), "arguments": [*arguments], "plan": asdict(plan or Plan())}
        call["bounds"] = asdict(bounds or Bounds())
        self._process.stdin.write(json.dumps(call | {"variables": dict(variables or {})}) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def child(self) -> int | None:
        """Return the process that does the call, where there is one."""
        pid = self._process.pid
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(found[0]) if found else None

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


def serve() -> None:
    """Fork for each call."""
    _load()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        call, child = json.loads(line), os.fork()
        if child == 0:
            _run(call)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        answers.write(f"{status}\n")
        answers.flush()


def _bind(bounds: Bounds) -> None:
    """Keep this process within bounds."""
    signal.alarm(bounds.seconds)
    if bounds.largest:
        resource.setrlimit(resource.RLIMIT_FSIZE, (bounds.largest, bounds.largest))
    if bounds.user:
        os.setgroups([])
        os.setgid(bounds.user)
        os.setuid(bounds.user)


def _run(call: Mapping[str, Any]) -> None:
    """Do one call in a process of its own, which ends with it."""
    home = Path(call["home"])
    for suffix, descriptor in ((".out", 1), (".err", 2)):
        file = os.open(f"{home}{suffix}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(file, descriptor)
    os.environ.update({"DEM_HINTS": str(home / "hints"), **call["variables"]})
    os.chdir(home)
    status = 70  # of a program that failed inside
    try:
        from dem_build.cli.app import run

        failpoints.install([home], Plan(**call["plan"]))
        _bind(Bounds(**call["bounds"]))
        status = run(call["arguments"])
    except BaseException:  # noqa: BLE001  nothing may reach the loop that forked this
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _load() -> None:
    """Import now what every build would import, and put the stand-ins in their places unless steps are to be real."""
    # All of it: another user may not be able to read where Python lies.
    for found in pkgutil.walk_packages(dem_build.__path__, "dem_build."):
        if not found.name.startswith(("dem_build.actions.", "dem_build.model.")) and not found.name.endswith(
            "__main__"
        ):
            importlib.import_module(found.name)
    encodings = [f"encodings.{name}" for name in ("ascii", "latin_1", "utf_16_be", "utf_8_sig")]
    page = (
        "jinja2.ext",
        "jinja2.debug",
        "encodings.unicode_escape",
        "dem_build.report.html.page",
    )  # what a report needs
    for name in ("dem_build.actions.compose.run", "importlib.metadata", "rich.table", *page, *encodings):
        importlib.import_module(name)
    from dem_build.engine import build as loop

    if "--real" in sys.argv:
        from dem_build.actions.base import run as base  # noqa: F401
        from dem_build.actions.finetune import run as finetune  # noqa: F401
        from dem_build.actions.loss import run as loss  # noqa: F401
        from dem_build.actions.prepare import run as prepare  # noqa: F401
    else:
        import stand_ins

        stand_ins.stand_in()
    loop.Pool = OneWorker  # type: ignore[misc, assignment]


class OneWorker:
    """A pool of one worker in the driver's own process; its requests are written and read as if it were another."""

    def __init__(
        self, slots: Sequence[Any], *places: Path, cluster: None = None, copies: bool = True
    ) -> None:
        assert cluster is None  # and a copy is as good as its process
        del copies
        self.inbox: queue.Queue[Any] = queue.Queue()
        self.request: Any = None
        self.slot = slots[0]
        self.pid = os.getpid()
        self._places = places
        self._runner: Any = None

    def idle(self) -> list[OneWorker]:
        return [self] if self.request is None else []

    def takes(self, _: Any) -> bool:
        return True

    def submit(self, request: Any) -> None:
        from dem_build.engine.protocol import Answer, Reply, Request
        from dem_build.engine.run import Runner
        from dem_build.store import Store

        self.request = request
        self._runner = self._runner or Runner(
            Store.open(self._places[0], work=next(iter(self._places[1:]), None)),
            lambda: False,
            lambda work: self._answer(Reply(Answer.STARTED, work=str(work))),
        )
        self._answer(self._runner.run(Request.parse(json.loads(json.dumps(request.document())))))

    def _answer(self, reply: Any) -> None:
        from dem_build.engine.pool import Message

        self.inbox.put(Message(self, reply, None))  # type: ignore[arg-type]

    def runs_in(self, process: None) -> bool:
        return process is None

    def stop(self) -> None:
        pass

    def kill(self) -> None:
        pass


if __name__ == "__main__":
    serve()
