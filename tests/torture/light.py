"""Builds without torch in a fraction of a second: a process that has `dem` loaded forks for each.

    python light.py      reads calls as JSON lines from standard input, answers each with a line

Everything of `dem build` runs, from the recipe to `out/`, but for two things: steps that need torch have stand-ins,
and the one worker is no process of its own, so that a kill is driver and worker at once.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import failpoints
import stand_ins
from failpoints import Plan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PARTS = Path(__file__).parent


class Builder:
    """The other end: starts the process and asks it for builds."""

    def __init__(self) -> None:
        root = str(PARTS.parents[1])
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve())],
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
    ) -> int:
        """Call `dem` in a folder; return its status, or minus the signal that ended it.

        What it prints is in `home`'s neighbours `NAME.out` and `NAME.err`.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        call = {"home": str(home), "arguments": [*arguments], "plan": asdict(plan or Plan())}
        self._process.stdin.write(json.dumps(call | {"variables": dict(variables or {})}) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

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
        child = os.fork()
        if child == 0:
            _run(json.loads(line))
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        answers.write(f"{status}\n")
        answers.flush()


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
        status = run(call["arguments"])
    except BaseException:  # noqa: BLE001  nothing may reach the loop that forked this
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _load() -> None:
    """Import now what every build would import, and put the stand-ins in their places."""
    from dem_build.cli import app, build, stores, view_lines  # noqa: F401
    from dem_build.execute import build as loop
    from dem_build.execute import run
    from dem_build.steps import compose  # noqa: F401

    assert run.Runner
    stand_ins.stand_in()
    loop.Pool = OneWorker  # type: ignore[misc, assignment]


class OneWorker:
    """A pool of one worker in the driver's own process; its requests are written and read as if it were another."""

    def __init__(self, slots: Sequence[Any], store: Path) -> None:
        self.inbox: queue.Queue[Any] = queue.Queue()
        self.request: Any = None
        self.slot = slots[0]
        self._store = store
        self._runner: Any = None

    def idle(self) -> list[OneWorker]:
        return [self] if self.request is None else []

    def submit(self, request: Any) -> None:
        from dem_build.execute.request import Answer, Reply, Request
        from dem_build.execute.run import Runner
        from dem_build.store import Store

        self.request = request
        self._runner = self._runner or Runner(
            Store.open(self._store),
            lambda: False,
            lambda work: self._answer(Reply(Answer.STARTED, work=str(work))),
        )
        self._answer(self._runner.run(Request.parse(json.loads(json.dumps(request.document())))))

    def _answer(self, reply: Any) -> None:
        from dem_build.execute.pool import Message

        self.inbox.put(Message(self, reply, None))  # type: ignore[arg-type]

    def runs_in(self, process: None) -> bool:
        return process is None

    def stop(self) -> None:
        pass

    def kill(self) -> None:
        pass


if __name__ == "__main__":
    serve()
