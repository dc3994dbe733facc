"""What a job runs: the actions of its folder, one after another, each unless it is answered already.

The folder is in the store, and all that driver and job tell each other lies there:

    job.json        the requests, and where the store is: written before the job is submitted
    answers.jsonl   a JSON document a line, {"key": …, "reply": …}, with a `protocol.Reply`: begun, done, failed …
    stop            there once the driver wants it to stop, which then takes as long as its checkpoint does
    log/            what the scheduler keeps of the job's output

SIGTERM, SIGUSR1 and SIGUSR2 stop it: the running action saves its state. After the latter two, which tell of a time
limit, the job has itself queued again (`$DEM_REQUEUE`), if it came further than before; after the first the scheduler
has decided that already.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from dem_build.actions.checkpoints import complete_checkpoints, step_of
from dem_build.engine.protocol import Answer, Reply, Request
from dem_build.json_text import parse_json
from dem_build.store.leases import SILENT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

    from dem_build.digest import JSON, Digest
    from dem_build.engine.run import Runner
    from dem_build.store import Store

JOB = "job.json"
ANSWERS = "answers.jsonl"
STOP = "stop"
STOP_SECONDS = 1.0
FINAL = frozenset((Answer.DONE, Answer.FOUND, Answer.CORRUPT, Answer.FAILED))
"""Answers after which a job does not run an action again."""
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
HELD_SECONDS = SILENT_SECONDS + 60
RETRY_SECONDS = 2.0


def write_job(folder: Path, places: Sequence[Path], requests: Sequence[Request]) -> None:
    """Write what a job is to run.

    Args:
        folder: The job's; it is there.
        places: The store's folder, and where unfinished runs lie if not there.
        requests: The actions, in their order.
    """
    document = {"places": [str(p) for p in places], "requests": [r.document() for r in requests]}
    partial = folder / f".{JOB}"
    partial.write_text(json.dumps(document), encoding="utf-8")
    partial.replace(folder / JOB)


def read_job(folder: Path) -> tuple[list[Path], list[Request]]:
    """What `write_job` wrote.

    Raises:
        OSError: It is not there.
        ValueError: It is damaged.
    """
    document = parse_json((folder / JOB).read_bytes())
    return [Path(p) for p in document["places"]], [Request.parse(r) for r in document["requests"]]


def read_answers(folder: Path) -> list[tuple[Digest, Reply]]:
    """What a job has answered so far, each with its action's key; half a line waits for the next look."""
    try:
        written = (folder / ANSWERS).read_bytes()
    except OSError:
        return []
    found = []
    for line in written[: written.rfind(b"\n") + 1].splitlines():
        try:
            document = parse_json(line)
            found.append((document["key"], Reply.parse(document["reply"])))
        except (ValueError, KeyError, TypeError):
            continue  # two writers at once, after a node was lost for a while: the record tells
    return found


def newest_step(store: Store, key: Digest) -> int:
    """How far the newest checkpoint of an action is; -1 where it has none."""
    found = [c for run in store.work.previous(key) for c in complete_checkpoints(run / "checkpoints")]
    return max(map(step_of, found), default=-1)


def command(folder: Path, threads: dict[str, str]) -> list[str]:
    """The command that runs the job of a folder, with the variables `threads` that keep it to its CPU cores."""
    # -P: a `datasets` or `queue.py` in the user's folder is not the module of that name.
    words = [f"{name}={value}" for name, value in threads.items()]
    return ["env", *words, sys.executable, "-P", "-m", __name__, str(folder)]


class _Stop:
    """Whether to stop, and whether the job is to be queued again. Plain flags: handlers of signals take no lock."""

    def __init__(self, folder: Path) -> None:
        self.again = self._asked = False
        self._file = folder / STOP
        self._looked = 0.0
        for number in SIGNALS:
            signal.signal(number, self._heed)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # those that came before we could heed them

    @property
    def asked(self) -> bool:
        """Whether a signal or the driver asked to stop; asked at each step."""
        if not self._asked and time.monotonic() - self._looked > STOP_SECONDS:
            self._looked = time.monotonic()
            self._asked = self._file.exists()
        return self._asked

    def _heed(self, number: int, _frame: FrameType | None) -> None:
        self._asked = True
        self.again |= number != signal.SIGTERM


def run_job(folder: Path) -> None:
    """Run what is left of a job's actions."""
    stop = _Stop(folder)
    # Imported when signals are heeded already.
    from dem_build.engine.run import Runner  # noqa: PLC0415
    from dem_build.store import Store  # noqa: PLC0415

    places, requests = read_job(folder)
    said = read_answers(folder)
    answered, begun = {key for key, reply in said if reply.answer in FINAL}, {key for key, _ in said}
    left = [request for request in requests if request.key not in answered]
    store = Store.open(places[0], work=places[1] if len(places) > 1 else None)
    before = {request.key: newest_step(store, request.key) for request in left}
    running = [""]

    def tell(reply: Reply) -> None:
        _append(folder, {"key": running[0], "reply": asdict(reply)})

    # One for all: what it keeps loaded serves the next action.
    runner = Runner(store, lambda: stop.asked, lambda work: tell(Reply(Answer.STARTED, work=str(work))))
    for request in left:
        running[0] = request.key
        tell(
            Reply(Answer.INTERRUPTED)
            if stop.asked
            else _run(runner, request, stop, began=request.key in begun)
        )
    done = {key for key, reply in read_answers(folder) if reply.answer in FINAL}
    unfinished = [request.key for request in left if request.key not in done]
    requeue = os.environ.get("DEM_REQUEUE")
    if not (stop.again and unfinished and requeue):
        return
    # Else it would run to its limit for ever, and come no further; its driver counts how often a job is lost.
    if len(unfinished) < len(left) or any(newest_step(store, key) > before[key] for key in unfinished):
        subprocess.run(requeue, shell=True, check=False)  # noqa: S602  of the scheduler's engine
    else:
        why = "its time limit came before there was anything to go on from: raise `submit.minutes`"
        sys.stdout.write(f"{why}\n")  # the job's log, of which the driver tells the last line


def _run(runner: Runner, request: Request, stop: _Stop, *, began: bool) -> Reply:
    """Run an action. One that `began` may have its lease held by this job, from before its node was lost."""
    until = time.monotonic() + HELD_SECONDS
    while True:
        reply = runner.run(request)
        if reply.answer is not Answer.HELD or not began or stop.asked or time.monotonic() > until:
            return reply
        time.sleep(RETRY_SECONDS)


def _append(folder: Path, document: JSON) -> None:
    # One write, which is whole or not there on a local file system, and on NFS as long as there is one writer.
    with (folder / ANSWERS).open("ab", buffering=0) as file:
        file.write(json.dumps(document).encode() + b"\n")
        os.fsync(file.fileno())


if __name__ == "__main__":
    run_job(Path(sys.argv[1]))
