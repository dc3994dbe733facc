"""A worker process that is a copy of this one: what a light action needs is loaded, so it is there in milliseconds.

It speaks the protocol of `worker` and ends as every worker does, killed or with its driver. What it has from the driver
is its modules. It closes the driver's files, so that no pipe or lock outlives the driver through it, and takes part in
no other state of the driver's: threads do not come along, and it opens the store anew.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from dem_build.engine import worker
from dem_build.engine.interrupt import Interrupt

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

POSSIBLE = sys.platform == "linux"
"""Whether a process may be copied: elsewhere the system's own libraries do not bear it."""
FAILED = 70


class Copied:
    """The driver's end of such a process: what the pool asks of `subprocess.Popen`.

    Args:
        places: The store's folder, and where unfinished runs lie if not there, as `worker.main` takes them.
        environment: Variables that the process has beside the driver's.

    Attributes:
        stdin: Where requests are written.
        stdout: Where answers are read.
    """

    def __init__(self, places: Sequence[Path], environment: Mapping[str, str]) -> None:
        (read, write), (answered, answer) = os.pipe(), os.pipe()
        with warnings.catch_warnings():
            # From Python 3.12 on, of the driver's other threads, which may hold locks. Those that read workers' pipes
            # and touch files every ten seconds hold none that a worker takes; those that fetch and push ask stores,
            # which no worker does, and note what they hashed: `store.hints` is not copied while they do.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            _serve(places, environment, read, answer)
        os.close(read)
        os.close(answer)
        self.stdin = os.fdopen(write, "w", encoding="utf-8")
        self.stdout = os.fdopen(answered, encoding="utf-8")
        self._status: int | None = None
        self._waiting = threading.Lock()

    def poll(self) -> int | None:
        """How the process ended, None while it runs."""
        if self._status is None and self._waiting.acquire(blocking=False):
            try:
                self._wait(os.WNOHANG)
            finally:
                self._waiting.release()
        return self._status

    def wait(self) -> int:
        """Wait for the end of the process, and return how it ended: its status, or minus the signal that killed it."""
        with self._waiting:
            self._wait(0)
        assert self._status is not None
        return self._status

    def kill(self) -> None:
        """Kill the process."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # another thread has just seen its end
                os.kill(self.pid, signal.SIGKILL)

    def _wait(self, options: int) -> None:
        if self._status is None:
            pid, status = os.waitpid(self.pid, options)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)


def _serve(places: Sequence[Path], environment: Mapping[str, str], requests: int, answers: int) -> NoReturn:
    """Be a worker. Nothing of what the driver was about to do is done here."""
    try:
        gc.freeze()  # what the driver dropped is not cleaned up: its files have our numbers by then
        os.setsid()  # Ctrl-C reaches the driver alone, which tells its workers what to do
        for number in Interrupt.SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        os.dup2(requests, 0)
        os.dup2(answers, 1)
        for path in [*Path("/proc/self/fd").iterdir()]:
            if int(path.name) > 2:
                with contextlib.suppress(OSError):  # that of the listing itself
                    os.close(int(path.name))
        # The driver's hold what it has not written, and perhaps a lock.
        sys.stdin, sys.stdout, sys.stderr = (
            os.fdopen(number, mode, encoding="utf-8", closefd=False) for number, mode in enumerate("rww")
        )
        os.environ.update(environment)
        worker.main(*map(str, places))
    finally:
        os._exit(FAILED)
