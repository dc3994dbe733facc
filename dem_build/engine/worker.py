"""The worker process: imports what its actions need once, then runs one after another.

It reads requests from standard input and answers on standard output, a JSON document a line:

    → {"run": REQUEST}   ← {"answer": "started", "work": …}   ← {"answer": "done" | "failed" | …}
    → {"stop": true}     the running action saves its state and ends

The end of standard input means that the driver is gone: the worker dies with it, whatever it is doing, so that a
killed build leaves no process behind that trains on.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from dem_build.engine.protocol import Answer, Reply, Request
from dem_build.engine.run import Runner
from dem_build.parent import die_with_parent
from dem_build.store import Store

if TYPE_CHECKING:
    from types import FrameType
    from typing import TextIO


def main(store: str, scratch: str = "") -> None:
    """Serve until standard input ends.

    Args:
        store: The store's folder.
        scratch: The folder of unfinished runs; empty: they lie in the store.
    """
    die_with_parent()  # the end of standard input does it as well, and elsewhere alone
    _leave_stopping_to_parent()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints outside of an action must not look like an answer
    requests: queue.Queue[Request] = queue.Queue()
    stop = threading.Event()
    threading.Thread(target=_listen, args=(sys.stdin, requests, stop), daemon=True).start()
    runner = Runner(
        Store.open(Path(store), work=Path(scratch) if scratch else None),
        stop.is_set,
        lambda work: _send(answers, Reply(Answer.STARTED, work=str(work))),
    )
    while True:
        request = requests.get()
        # A stop may come between two actions: what was sent before it must not start after it.
        _send(answers, Reply(Answer.INTERRUPTED) if stop.is_set() else runner.run(request))


def _listen(stream: TextIO, requests: queue.Queue[Request], stop: threading.Event) -> None:
    try:
        for line in stream:
            message = json.loads(line)
            # Read in a thread of its own, so that a stop reaches a step that is in the middle of its work.
            if "run" in message:
                requests.put(Request.parse(message["run"]))
            else:
                stop.set()
    finally:  # after half a line of a killed driver as well: a worker that nobody can stop must not train on
        os.kill(os.getpid(), signal.SIGKILL)


def _send(answers: TextIO, reply: Reply) -> None:
    answers.write(json.dumps(asdict(reply)) + "\n")
    answers.flush()


def _leave_stopping_to_parent() -> None:
    """Outlive SIGTERM: a scheduler sends it to every process of a job, and the driver says what follows from it."""
    ours = os.getpid()

    def heed(number: int, _frame: FrameType | None) -> None:
        if os.getpid() != ours:  # a library's helper process, copied from this one, which it ends that way
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, heed)


if __name__ == "__main__":
    main(*sys.argv[1:])
