"""A cluster of jobs beside a user who stops, other drivers, and a scheduler that is slow or silent: no job runs."""

from __future__ import annotations

import os
import queue
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import slow_kind
from slow_kind import slow_request

from dem_build.actions import KINDS
from dem_build.digest import Output
from dem_build.engine.jobs import cluster as clusters
from dem_build.engine.jobs import job as jobs
from dem_build.engine.jobs import slurm
from dem_build.engine.jobs.cluster import Cluster, JobWorker, Needs
from dem_build.engine.jobs.scheduler import Ended, Resources, SchedulerError
from dem_build.engine.protocol import Answer, Reply, Request
from dem_build.machine import Machine
from dem_build.store import Record, Store

MACHINE = Machine(engine="paper", submit={"poll_seconds": 0.02, "most": 4})  # type: ignore[arg-type]


class Paper:
    """A scheduler that notes what it is given, and runs nothing."""

    def __init__(self) -> None:
        self.asked: list[Resources] = []
        self.there: set[str] = set()
        self.cancelled: list[str] = []
        self.silent = 0
        self.opened = threading.Event()
        self.opened.set()

    def submit(self, command: Sequence[str], resources: Resources, log: Path) -> str:
        self.asked.append(resources)
        assert command[-1] == str(log.parent)
        assert self.opened.wait(30)
        self.there.add(str(len(self.asked)))
        return str(len(self.asked))

    def known(self, handles: Collection[str]) -> Mapping[str, str]:
        return {handle: "waits" for handle in handles if handle in self.there}

    def cancel(self, handle: str) -> None:
        if self.silent:
            self.silent -= 1
            raise SchedulerError("does not answer")
        self.cancelled.append(handle)
        self.there.discard(handle)


class Driver:
    """A build's side of a cluster."""

    def __init__(self, paper: Paper, store: Store, needs: Mapping[str, Needs] | None = None) -> None:
        self.cluster = Cluster(paper, store, MACHINE, needs or {})
        self.inbox: queue.Queue[Any] = queue.Queue()
        self.idle = self.cluster.workers(self.inbox)

    def submit(self, request: Request) -> JobWorker:
        worker = self.idle.pop()
        assert isinstance(worker, JobWorker)
        worker.submit(request)
        return worker

    def answer(self, said: str = "") -> Reply:
        """The next reply that says something; by default the next one that ends an action."""
        while True:
            reply: Reply = self.inbox.get(timeout=20).reply
            if (
                said in reply.what
                if said
                else reply.answer not in (Answer.TOLD, Answer.STARTED, Answer.QUEUED)
            ):
                return reply


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    for module in slow_kind.LOOK_UP:
        monkeypatch.setattr(module, "KINDS", slow_kind.kinds())
    for name in ("LOOK_SECONDS", "STOPPED_SECONDS"):
        monkeypatch.setattr(clusters, name, 0.02)
    return Store.open(tmp_path / "cache")


@pytest.fixture
def paper() -> Paper:
    return Paper()


@pytest.fixture
def driver(store: Store, paper: Paper) -> Iterator[Callable[..., Driver]]:
    made: list[Driver] = []

    def make(needs: Mapping[str, Needs] | None = None) -> Driver:
        made.append(Driver(paper, store, needs))
        return made[-1]

    yield make
    for one in made:
        one.cluster.close()


def folder_of(store: Store) -> Path:
    [folder] = (path for path in (store.root / "jobs").iterdir() if path.is_dir())
    return folder


def answered(store: Store, request: Request, *answers: Answer) -> None:
    """Have the only job answer, as if it ran."""
    for answer in answers:
        jobs._append(folder_of(store), {"key": request.key, "reply": asdict(Reply(answer))})


def wait(done: Callable[[], object]) -> None:
    until = time.monotonic() + 20
    while not done():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_what_is_stopped_while_others_are_submitted_gets_no_job(
    driver: Callable[..., Driver], paper: Paper
) -> None:
    one = driver()
    paper.opened.clear()
    workers = [one.submit(slow_request("first", 1))]
    wait(lambda: paper.asked)  # and sbatch takes its time
    workers += [one.submit(slow_request(name, 1)) for name in ("second", "third")]
    for worker in workers:
        worker.stop()
    paper.opened.set()
    assert {one.answer().answer for _ in workers} == {Answer.INTERRUPTED}
    assert (len(paper.asked), paper.there) == (1, set())


def test_another_driver_that_is_stopped_does_not_fail_a_build(
    driver: Callable[..., Driver], paper: Paper, store: Store
) -> None:
    one, two, request = driver(), driver(), slow_request("shared", 1)
    one.submit(request)
    one.answer("submitted as")
    worker = two.submit(request)
    two.answer("found again")
    worker.stop()
    assert two.answer().answer is Answer.INTERRUPTED
    one.answer("submitted again")
    assert (len(paper.asked), paper.there) == (2, {"2"})
    assert not (folder_of(store) / jobs.STOP).exists()


@pytest.mark.parametrize("stops", [False, True])
def test_a_job_whose_folder_another_driver_removed_is_done(
    driver: Callable[..., Driver], paper: Paper, store: Store, *, stops: bool
) -> None:
    request = replace(slow_request("forced", 1), force=True)
    one = driver()
    worker = one.submit(request)
    one.answer("submitted as")
    blob = store.objects.put_bytes(b"made")
    outputs = {"out": Output(blob.digest, blob.size)}
    made = Record(request.key, request.kind.name, request.preimage, outputs, {})
    store.records.publish(made)
    shutil.rmtree(folder_of(store))
    if stops:
        worker.stop()
        wait(lambda: paper.cancelled)
    paper.there.clear()
    assert one.answer().answer is Answer.DONE
    assert len(paper.asked) == 1


def test_the_same_action_in_two_caches_is_two_jobs(tmp_path: Path, store: Store, paper: Paper) -> None:
    one, two = (Driver(paper, at, {}) for at in (store, Store.open(tmp_path / "another")))
    for each in (one, two):
        each.submit(slow_request("same", 1))
        each.answer("submitted as")
        each.cluster.close()
    assert len({resources.mark for resources in paper.asked}) == 2
    assert paper.asked[0].mark == folder_of(store).name


def test_a_job_that_waits_in_the_queue_again_is_cancelled_at_once(
    driver: Callable[..., Driver], paper: Paper, store: Store
) -> None:
    one, request = driver(), slow_request("preempted", 1)
    worker = one.submit(request)
    one.answer("submitted as")
    answered(store, request, Answer.STARTED, Answer.INTERRUPTED)
    one.answer("its state is saved")
    worker.stop()
    assert one.answer().answer is Answer.INTERRUPTED
    assert paper.cancelled == ["1"]


def test_a_scheduler_that_does_not_answer_is_asked_again_to_cancel(
    driver: Callable[..., Driver], paper: Paper
) -> None:
    one = driver()
    workers = [one.submit(slow_request(name, 1)) for name in ("a", "b")]
    for _ in workers:
        one.answer("submitted as")
    paper.silent = 3
    for worker in workers:
        worker.stop()
    assert {one.answer().answer for _ in workers} == {Answer.INTERRUPTED}
    assert sorted(paper.cancelled) == ["1", "2"]


def test_what_others_had_while_its_job_ran_is_submitted_anew(
    driver: Callable[..., Driver], paper: Paper, store: Store
) -> None:
    one, request, other = driver(), slow_request("held", 1, trains=False), slow_request("b", 1, trains=False)
    one.submit(request)
    one.answer("submitted as")
    answered(store, request, Answer.HELD)
    assert one.answer().answer is Answer.HELD
    assert other.key != request.key
    one.submit(request)  # the job is still there
    one.answer("submitted as")
    assert len(paper.asked) == 2


def test_a_job_is_given_more_time_each_time_it_is_lost(driver: Callable[..., Driver], paper: Paper) -> None:
    one = driver({"long": Needs(seconds=3600.0)})
    one.submit(slow_request("long", 1))
    for said in ("submitted as", "submitted again", "submitted again"):
        one.answer(said)
        paper.there.clear()
    reply = one.answer()
    assert (reply.answer, [resources.minutes for resources in paper.asked]) == (Answer.DIED, [130, 260, 520])


def test_a_job_that_ran_out_of_memory_is_given_more_and_told_of(
    driver: Callable[..., Driver], paper: Paper, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    def ended(handle: str, printed: str) -> Ended | None:
        asked.append((handle, printed))
        return Ended("ran out of memory", "raise it", memory=True) if handle == "1" else None

    monkeypatch.setattr(paper, "ended", ended, raising=False)
    one = driver({"large": Needs(memory=800 << 20)})
    one.submit(slow_request("large", 1))
    one.answer("submitted as")
    (folder_of(store) / "log" / "1.out").write_text("x" * 9000 + "the end")
    for said in ("job 1 ran out of memory: submitted again as paper job 2", "job 2 is gone"):
        paper.there.clear()
        one.answer(said)
    assert [resources.memory for resources in paper.asked] == [1000 << 20, 2000 << 20, 2000 << 20]
    assert asked[0][1].endswith("the end")
    assert len(asked[0][1]) == 8192
    paper.there.clear()
    assert "the end" in str(one.answer().hint)


RUN_OUT = "slurmstepd-n1: error: StepId=1.0 exceeded memory limit (340680704 > 157286400), being killed\n"
OOM_KILL = "slurmstepd: error: Detected 1 oom_kill event in StepId=1.0. Some of the step tasks have been OOM Killed.\n"
SRUN = "srun: error: n2: task 0: Killed\nsrun: Force Terminated StepId=5.0\n"


@pytest.mark.parametrize(
    ("scontrol", "printed", "what", "memory"),
    [
        ("JobState=OUT_OF_MEMORY Reason=OutOfMemory ExitCode=0:125", "", "ran out of memory", True),
        ("JobState=FAILED Reason=NonZeroExitCode ExitCode=137:0", RUN_OUT + SRUN, "ran out of memory", True),
        ("", OOM_KILL, "ran out of memory", True),
        ("JobState=FAILED Reason=NonZeroExitCode ExitCode=137:0", SRUN, "was killed (SIGKILL)", False),
        ("JobState=FAILED Reason=RaisedSignal:9 ExitCode=0:9", "", "was killed (SIGKILL)", False),
        ("", SRUN, "was killed (SIGKILL)", False),
        ("JobState=CANCELLED Reason=None ExitCode=0:15", "", "ended as CANCELLED", False),
        ("JobState=TIMEOUT Reason=TimeLimit ExitCode=0:9", SRUN, "ended as TIMEOUT", False),  # after KillWait
        ("JobState=RUNNING Reason=None ExitCode=0:0", OOM_KILL, None, False),  # queued again meanwhile
        ("", "a traceback that says out of memory and Killed", None, False),
    ],
)
def test_of_an_end_slurm_tells_what_it_knows(
    monkeypatch: pytest.MonkeyPatch, scontrol: str, printed: str, what: str | None, *, memory: bool
) -> None:
    def called(*_: str) -> str:
        if not scontrol:
            raise SchedulerError("Invalid job id specified")
        return f"JobId=1 JobName=dem vector:a=b {scontrol}\n"

    monkeypatch.setattr(slurm, "_called", called)
    found = slurm.Slurm.ended(slurm.Slurm.__new__(slurm.Slurm), "1", printed)
    if what is None:
        assert found is None
    else:
        assert found is not None
        assert (found.what.startswith(what), found.memory) == (True, memory)
        assert ("memory_gb" in found.hint) is ("memory" in found.what)


@pytest.mark.parametrize(("way", "again"), [("forgets", False), ("", True)])
def test_a_job_that_meets_its_limit_is_queued_again_if_it_came_further(
    way: str, *, again: bool, store: Store, tmp_path: Path
) -> None:
    request = slow_request("limited", 300, way)
    folder, queued = tmp_path / "job", tmp_path / "queued"
    folder.mkdir()
    jobs.write_job(folder, [store.root], [request])
    (tmp_path / "sitecustomize.py").write_text(slow_kind.SITE)
    paths = f"{tmp_path}:{Path(slow_kind.__file__).parent}"
    environment = {**os.environ, "PYTHONPATH": paths, "DEM_REQUEUE": f"touch {queued}"}
    job = subprocess.Popen(jobs.command(folder, {}), env=environment, stdout=subprocess.PIPE, text=True)
    wait(lambda: jobs.read_answers(folder))
    wait(lambda: way or [*store.root.rglob("complete.json")])
    job.send_signal(signal.SIGUSR2)
    said = job.communicate(timeout=20)[0]
    assert jobs.read_answers(folder)[-1][1].answer is Answer.INTERRUPTED
    assert (queued.exists(), "raise `submit.minutes`" in said) == (again, not again)


def test_what_the_scheduler_still_has_is_not_tidied_away(
    driver: Callable[..., Driver], store: Store, paper: Paper
) -> None:
    one, request = driver(), slow_request("months", 1)
    one.submit(request)
    one.answer("submitted as")
    one.cluster.close()
    name, kept, gone = store.root / "jobs" / f"{request.key}.json", folder_of(store), store.root / "jobs/gone"
    gone.mkdir()
    for path in (*kept.iterdir(), kept, name, gone):
        os.utime(path, (0.0, 0.0))
    two = driver()
    two.submit(slow_request("today", 1))
    two.answer("submitted as")
    assert (kept.is_dir(), name.exists(), gone.exists()) == (True, True, False)
    two.cluster.close()
    paper.there.clear()
    three = driver()
    three.submit(slow_request("later", 1))
    three.answer("submitted as")
    assert (kept.is_dir(), name.exists()) == (False, False)


@pytest.mark.parametrize(
    ("name", "each", "gpus"), [("finetune", 1, 4), ("loss", 1, 1), ("mix", 1, 0), ("finetune", 0, 0)]
)
def test_a_job_of_a_training_has_the_gpus_of_an_action(store: Store, name: str, each: int, gpus: int) -> None:
    machine = Machine(engine="paper", gpus_per_action=4, submit={"gpus": each})  # type: ignore[arg-type]
    job: Any = SimpleNamespace(requests=[SimpleNamespace(kind=KINDS[name])])
    assert Cluster(Paper(), store, machine, {})._gpus(job) == gpus
