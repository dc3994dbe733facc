"""One worker process a slot, started when it first gets work and then kept warm.

A light action runs in whatever process its slot has; where it has none, that is a copy of the driver, which another
kind of action replaces.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

from dem_build.engine.copied import POSSIBLE, Copied
from dem_build.engine.protocol import Answer, Reply
from dem_build.json_text import parse_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from dem_build.action import Kind
    from dem_build.engine.protocol import Request
    from dem_build.slots import Slot

Process: TypeAlias = "subprocess.Popen[str] | Copied"


@dataclass(frozen=True)
class Message:
    """A reply, the worker that gave it, and the process that did: a worker may have another one by now."""

    worker: Worker
    reply: Reply
    process: object

    @property
    def stale(self) -> bool:
        """Whether nobody waits for it: it tells of the end of a process that had nothing to do."""
        return self.worker.request is None or not self.worker.runs_in(self.process)


class Worker:
    """The driver's end of a worker process; the process starts with its first request.

    Args:
        slot: What it runs on.
        places: The store's folder, and where unfinished runs lie if not there.
        inbox: Where its replies go.
        light_only: Whether it is given light actions alone.
        copies: Whether a light action may run in a copy of this process.
    """

    def __init__(
        self,
        slot: Slot,
        places: Sequence[Path],
        inbox: queue.Queue[Message],
        *,
        light_only: bool = False,
        copies: bool = POSSIBLE,
    ) -> None:
        self.slot = slot
        self.request: Request | None = None
        self._light_only = light_only
        self._copies = copies
        self._places = places
        self._inbox = inbox
        self._process: Process | None = None

    def takes(self, kind: Kind) -> bool:
        """Whether it is for actions of this kind."""
        return kind.light or not self._light_only

    def submit(self, request: Request) -> None:
        """Give the worker an action; its replies come to the inbox."""
        self.request = request
        light = request.kind.light
        if not self._can_run(light=light):
            # One slot, one process: a copy of the driver is cheap to make again, and what it holds is the slot's.
            self.kill()
            self._process = process = self._copy() if light and self._copies else self._new()
            threading.Thread(target=self._receive, args=(process,), daemon=True).start()
        self._write({"run": request.document()})

    def runs_in(self, process: object) -> bool:
        """Whether `process` is the one that this worker has now."""
        return process is self._process

    @property
    def pid(self) -> int | None:
        """Its process, by which leases name it; None where it has none here."""
        return None if self._process is None else self._process.pid

    def stop(self) -> None:
        """Ask the running action to save its state and end."""
        self._write({"stop": True})

    def kill(self) -> None:
        """End the process at once."""
        if self._process is None or self._process.stdin is None:
            return
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(BrokenPipeError):  # of a request that it never read
            self._process.stdin.close()

    def _can_run(self, *, light: bool) -> bool:
        """Whether the process that is there can run an action."""
        if self._process is None or self._process.poll() is not None:
            return False
        return light or not isinstance(self._process, Copied)

    def _copy(self) -> Process:
        # Each thread of a sum is one of the step's; those of numpy's own would only be in their way.
        return Copied(self._places, QUIET | self.slot.environment() | {"OPENBLAS_NUM_THREADS": "1"})

    def _new(self) -> Process:
        # A session of its own: Ctrl-C reaches the driver alone, which tells the workers what to do.
        # -P: a `datasets` or `queue.py` in the user's folder is not the module of that name.
        return subprocess.Popen(  # noqa: S603  our own interpreter and module
            [sys.executable, "-P", "-m", "dem_build.engine.worker", *map(str, self._places)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env={**os.environ, **QUIET, **self.slot.environment(), **self.slot.allocation()},
            start_new_session=True,
        )

    def _receive(self, process: Process) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                if (reply := _reply(line)) is not None:
                    self._inbox.put(Message(self, reply, process))
        # Every end is told, one on purpose too: the driver knows whether it still waits for this process.
        status = process.wait()
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        death = Reply(Answer.DIED, what=f"the worker {how}", hint=_DEATH_HINT)
        self._inbox.put(Message(self, death, process))

    def _write(self, message: object) -> None:
        if self._process is None or self._process.stdin is None:
            return
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it died: the end of its output says so, and `_receive` tells


class Places(Protocol):
    """Where actions run that do not run on this machine's slots."""

    def workers(self, inbox: queue.Queue[Message]) -> list[Worker]:
        """Its places for actions, which answer to an inbox."""


class Pool:
    """The workers of a build.

    Args:
        slots: What they run on.
        places: The store's folder, and where unfinished runs lie if not there.
        cluster: What runs all but light actions, in place of the slots. Default: nothing, the slots do.
        copies: Whether a light action may run in a copy of this process: not where others have threads in it.
    """

    def __init__(
        self,
        slots: Iterable[Slot],
        *places: Path,
        cluster: Places | None = None,
        copies: bool = POSSIBLE,
    ) -> None:
        self.inbox: queue.Queue[Message] = queue.Queue()
        light_only = cluster is not None
        here = [Worker(slot, places, self.inbox, light_only=light_only, copies=copies) for slot in slots]
        self.workers = here + (cluster.workers(self.inbox) if cluster is not None else [])

    def idle(self) -> list[Worker]:
        """The workers that have nothing to do, those that are warm first."""
        return sorted((w for w in self.workers if w.request is None), key=lambda w: w._process is None)  # noqa: SLF001

    def busy(self) -> list[Worker]:
        """The workers that run an action."""
        return [w for w in self.workers if w.request is not None]

    def stop(self) -> None:
        """Ask every running action to save its state and end."""
        for worker in self.busy():
            worker.stop()

    def kill(self) -> None:
        """End every worker at once."""
        for worker in self.workers:
            worker.kill()


QUIET = {
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "PYTHONUNBUFFERED": "1",
    "TOKENIZERS_PARALLELISM": "true",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}
_DEATH_HINT = (
    "its checkpoints are kept: build again; if memory ran out, lower micro_batch in the machine file"
)


def _reply(line: str) -> Reply | None:
    """Read an answer; None for what a library or a site's start-up printed before the worker had the stream."""
    try:
        return Reply.parse(parse_json(line))
    except (ValueError, KeyError, TypeError):
        return None
