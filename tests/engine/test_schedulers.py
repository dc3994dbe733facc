"""Schedulers of other packages, and what a cluster does when one does not answer: with jobs that are processes here."""

from __future__ import annotations

import queue
import subprocess
import threading
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import pytest

from dem_build.action import Action, key_of, preimage
from dem_build.actions import KINDS
from dem_build.engine.jobs import scheduler as seam
from dem_build.engine.jobs.cluster import Cluster
from dem_build.engine.jobs.scheduler import GROUP, Resources, SchedulerError, open_scheduler
from dem_build.engine.protocol import Answer, Reply, Request
from dem_build.errors import UsageError
from dem_build.machine import Machine
from dem_build.store import Store


class Processes:
    """A scheduler whose jobs are processes of this host."""

    def __init__(self, options: Mapping[str, object]) -> None:
        self.options = options
        self.silent = 0
        self.asked: list[Resources] = []
        self.jobs: list[subprocess.Popen[bytes]] = []

    def submit(self, command: Sequence[str], resources: Resources, log: Path) -> str:
        self.asked.append(resources)
        with (log / "job.out").open("wb") as file:
            self.jobs.append(subprocess.Popen(command, stdout=file, stderr=file))
        return str(self.jobs[-1].pid)

    def known(self, handles: Collection[str]) -> Mapping[str, str]:
        if self.silent:
            self.silent -= 1
            raise SchedulerError("does not answer")
        return {
            str(job.pid): "running" for job in self.jobs if str(job.pid) in handles and job.poll() is None
        }

    def cancel(self, handle: str) -> None:
        next(job for job in self.jobs if str(job.pid) == handle).terminate()


class Entry:
    name = "processes"

    @staticmethod
    def load() -> type[Processes]:
        return Processes


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    def found(*, group: str) -> list[type[Entry]]:
        assert group == GROUP
        return [Entry]

    monkeypatch.setattr(seam, "entry_points", found)
    submit = {"cpus": 1, "poll_seconds": 0.1, "most": 2, "options": {"queue": "short"}}
    return Machine(engine="processes", submit=submit)  # type: ignore[arg-type]


def nothing() -> Request:
    """A mixture of nothing: it ends at once, as a failure, and without torch."""
    document = preimage(Action("any", KINDS["mix"], {}), ())
    return Request("data:mix", key_of(document), document, (), (), Machine(), threads=1)


def test_a_scheduler_of_a_package_runs_actions_and_may_be_silent_for_a_while(
    machine: Machine, tmp_path: Path
) -> None:
    scheduler = open_scheduler(machine)
    assert isinstance(scheduler, Processes)
    assert scheduler.options == {"queue": "short"}
    scheduler.silent = 3
    store = Store.open(tmp_path / "cache")
    cluster = Cluster(scheduler, store, machine, {})
    inbox: queue.Queue = queue.Queue()
    worker, _ = cluster.workers(inbox)
    worker.submit(nothing())
    replies: list[Reply] = []
    while not replies or replies[-1].answer in (Answer.TOLD, Answer.STARTED, Answer.QUEUED):
        replies.append(inbox.get(timeout=60).reply)
    cluster.close()
    assert [job.wait(timeout=60) for job in scheduler.jobs] == [0]
    assert replies[-1].answer is Answer.FAILED
    assert [reply.answer for reply in replies].count(Answer.STARTED) == 1
    assert [(r.name, r.mark) for r in scheduler.asked] == [
        ("data:mix", scheduler.jobs[0].args[-1].rpartition("/")[2])
    ]
    assert "dem-jobs" not in [thread.name for thread in threading.enumerate()]


def test_an_engine_that_nobody_brings_is_refused_by_name(machine: Machine) -> None:
    with pytest.raises(UsageError, match="no engine is called 'other'") as caught:
        open_scheduler(machine.model_copy(update={"engine": "other"}))
    assert "local, slurm, processes" in str(caught.value.hint)
