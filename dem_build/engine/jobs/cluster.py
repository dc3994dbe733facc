"""The driver's side of jobs: workers whose actions a scheduler runs, somewhere.

One thread submits and looks. An action is done when it is recorded, and runs while its lease is held; where there is
neither, and the scheduler does not know its job, the job is lost and submitted again: its checkpoint is adopted. What
lies in `jobs/` of the store names the job of each key, so that a driver finds the jobs of one that died.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from dem_build.engine.jobs.job import FINAL, STOP, command, newest_step, read_answers, read_job, write_job
from dem_build.engine.jobs.scheduler import Resources, SchedulerError
from dem_build.engine.pool import QUIET, Message, Worker
from dem_build.engine.protocol import Answer, Reply
from dem_build.errors import DemError
from dem_build.json_text import parse_json
from dem_build.slots import Slot
from dem_build.store import files

if TYPE_CHECKING:
    import queue
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from dem_build.action import Kind
    from dem_build.digest import Digest
    from dem_build.engine.jobs.scheduler import Ended, Scheduler
    from dem_build.engine.protocol import Request
    from dem_build.machine import Machine
    from dem_build.store import Store

JOBS = "jobs"
"""The store's folder for jobs."""
LOOK_SECONDS = 0.5
STOPPED_SECONDS = 1.0
MOST_BATCHED = 16
MOST_LOST = 3
"""How often in a row a job may be lost without a newer checkpoint: then its action fails."""
KEPT_SECONDS = 14 * 86400.0
"""For how long the folder of a job stays that nobody has looked after."""
LEAST_MINUTES = 15
PRINTED_BYTES = 8192
"""How much of a job's output is looked at when it is lost."""
SPARE = 1.25
"""What a job is given of memory, for each byte that is estimated."""


@dataclass(frozen=True)
class Needs:
    """What one action is expected to take; None is not known.

    Attributes:
        memory: Bytes of the node's memory.
    """

    memory: int | None = None
    seconds: float | None = None


class JobWorker(Worker):
    """One of the places of a cluster: like a worker process, for the build that uses it."""

    def __init__(self, slot: Slot, cluster: Cluster, inbox: queue.Queue[Message]) -> None:
        super().__init__(slot, (), inbox)
        self.told = 0
        self.begun = False
        self.stopped = False
        self._cluster = cluster
        self._run: object = None

    def takes(self, kind: Kind) -> bool:
        """Whether an action of this kind may run here: light ones are done before a job would start."""
        return not kind.light

    def submit(self, request: Request) -> None:
        """Give it an action; its replies come to the inbox."""
        self.request, self.told, self._run, self.stopped = request, 0, object(), False
        self._cluster.accept(self)

    def reply(self, reply: Reply) -> None:
        """Pass on what became of its action, or how that stands."""
        if reply.answer in (Answer.STARTED, Answer.QUEUED):
            self.begun = reply.answer is Answer.STARTED
        self._inbox.put(Message(self, reply, self._run))

    def runs_in(self, process: object) -> bool:
        """Whether `process` is the run that it has now."""
        return process is self._run

    def stop(self) -> None:
        """Ask its job to save its state and end; one that has not begun is cancelled."""
        self.stopped = True
        self._cluster.stop(self)

    def kill(self) -> None:
        """Wait for it no longer. A job that was to stop is cancelled; any other runs on, as a driver may come back."""
        if self.request is not None:
            if self.stopped:
                self._cluster.stop(self, at_once=True)
            self.reply(Reply(Answer.DIED, what="nobody waits for its job any more"))


@dataclass
class _Job:
    """A job, the workers that wait for its actions, and how often it was lost, and was short of memory."""

    folder: Path
    requests: Sequence[Request]
    handle: str | None = None
    workers: dict[Digest, JobWorker] = field(default_factory=dict)
    state: str = ""
    missed: int = 0
    lost: int = 0
    step: int = -1
    short: int = 0
    stopped: bool = False


class Cluster:
    """What a scheduler runs of a build.

    Args:
        scheduler: Runs the jobs.
        store: Where inputs are and results go; all nodes see it.
        machine: The machine file's keys.
        needs: What is expected of an action, by its name.
    """

    def __init__(
        self, scheduler: Scheduler, store: Store, machine: Machine, needs: Mapping[str, Needs]
    ) -> None:
        self.scheduler = scheduler
        self._store = store
        self._machine = machine
        self._needs = needs
        self._slot = Slot((), machine.submit.cpus)
        self._lock = threading.Lock()
        self._accepted: list[JobWorker] = []
        self._taken: list[JobWorker] = []
        self._stopped: dict[JobWorker, bool] = {}
        self._jobs: list[_Job] = []
        self._asked = 0.0
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def workers(self, inbox: queue.Queue[Message]) -> list[Worker]:
        """Its places: as many as jobs may be there at once."""
        count = self._machine.jobs or self._machine.submit.most
        return [JobWorker(self._slot, self, inbox) for _ in range(count)]

    def accept(self, worker: JobWorker) -> None:
        """Run the request of a worker; called by the build's thread."""
        with self._lock:
            self._accepted.append(worker)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="dem-jobs", daemon=True)
            self._thread.start()

    def stop(self, worker: JobWorker, *, at_once: bool = False) -> None:
        """Stop the job of a worker, `at_once` or when it has saved its state; called by the build's thread."""
        with self._lock:
            self._stopped[worker] = at_once

    def close(self) -> None:
        """Look no more; jobs that run run on."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    # The thread.

    def _work(self) -> None:
        self._tidy()
        while not self._ended.wait(LOOK_SECONDS):
            try:
                self._look()
            except Exception as error:  # noqa: BLE001  a thread that ends unheard would keep the build waiting for ever
                self._give_up(error)
        self._heed_stops()  # a second Ctrl-C comes just before the end

    def _look(self) -> None:
        self._take_accepted()
        self._heed_stops()
        for job in list(self._jobs):
            self._pass_on(job)
        self._ask()

    def _give_up(self, error: Exception) -> None:
        """Fail all that waits: jobs that run run on, and the next build finds them."""
        what = error.located if isinstance(error, DemError) else f"{type(error).__name__}: {error}"
        waiting = [worker for job in self._jobs for worker in job.workers.values()]
        self._jobs = []
        for worker in waiting + self._taken:
            worker.reply(Reply(Answer.FAILED, what=what, hint=getattr(error, "hint", None)))
        self._taken = []

    def _take_accepted(self) -> None:
        with self._lock:
            accepted, self._accepted = self._accepted, []
        self._taken = accepted  # of whom `_give_up` is to tell
        batch: list[JobWorker] = []
        for worker in accepted:
            assert worker.request is not None
            if self._adopt(worker):
                continue
            if worker.stopped:  # while others were submitted
                worker.reply(Reply(Answer.INTERRUPTED, what="stopped before its job was submitted"))
            elif (holder := self._store.leases.holder(worker.request.key)) is not None:
                worker.reply(Reply(Answer.HELD, what=f"{holder} is at work on this action"))
            elif worker.request.kind.trains:
                self._submit([worker])
            else:
                batch.append(worker)
        for start in range(0, len(batch), MOST_BATCHED):
            self._submit(batch[start : start + MOST_BATCHED])
        self._taken = []

    def _adopt(self, worker: JobWorker) -> bool:
        """Wait for the job of a worker's key that another driver submitted, if it is still there."""
        request = worker.request
        assert request is not None
        try:
            named = parse_json(self._names(request.key).read_bytes())
            folder, handle = self._folder / named["folder"], named["handle"]
            _, requests = read_job(folder)
        except (OSError, ValueError, KeyError, TypeError):
            return False
        mine = [r for r in requests if r.key == request.key and r.force == request.force]
        # What was held by others the job does not try again.
        past = FINAL | {Answer.HELD}
        ended = any(key == request.key and reply.answer in past for key, reply in read_answers(folder))
        if not mine or ended or (folder / STOP).exists():
            return False
        job = next((j for j in self._jobs if j.folder == folder), None)
        if job is None:
            with suppress(SchedulerError):  # it does not answer: submitting will say so, if it is needed
                if handle is not None and not self.scheduler.known([handle]):
                    return False
            job = _Job(folder, requests, handle)
            self._jobs.append(job)
            if handle is None and not self._start(
                job, worker
            ):  # its driver died when it was about to write it
                return True
        job.workers[request.key] = worker
        worker.reply(Reply(Answer.TOLD, what=f"found again as {self._called(job)}"))
        worker.reply(Reply(Answer.QUEUED, what=self._called(job)))
        return True

    def _submit(self, workers: Sequence[JobWorker]) -> None:
        """Submit the actions of some workers as one job."""
        requests = [worker.request for worker in workers if worker.request is not None]
        folder = self._folder / f"{requests[0].key[:16]}-{files.nonce()}"
        job = _Job(folder, requests)
        with files.writing(folder):
            (folder / "log").mkdir(parents=True)
            write_job(folder, self._store.places, requests)
            self._name(job)  # before it is submitted, so that it can be found whenever we die
        self._jobs.append(job)
        if not self._start(job, *workers):
            return
        for worker in workers:
            assert worker.request is not None
            job.workers[worker.request.key] = worker
            worker.reply(Reply(Answer.QUEUED, what=self._called(job)))
        beside = ", ".join(request.name for request in requests[1:])
        told = f"submitted as {self._called(job)}" + (f", with {beside}" if beside else "")
        workers[0].reply(Reply(Answer.TOLD, what=told))

    def _start(self, job: _Job, *workers: JobWorker) -> bool:
        """Hand a job to the scheduler; where it is refused its workers fail."""
        # Which GPUs a job sees is up to the scheduler.
        environment = QUIET | self._slot.environment()
        del environment["CUDA_VISIBLE_DEVICES"]
        try:
            job.handle = self.scheduler.submit(
                command(job.folder, environment), self._resources(job), job.folder / "log"
            )
        except SchedulerError as error:
            self._jobs.remove(job)
            for worker in workers or tuple(job.workers.values()):
                worker.reply(Reply(Answer.FAILED, what=error.what, hint=error.hint))
            return False
        job.missed, job.state = 0, ""
        self._name(job)
        return True

    def _resources(self, job: _Job) -> Resources:
        asked, first = self._machine.submit, job.requests[0]
        needs = [self._needs.get(request.name, Needs()) for request in job.requests]
        memory = max((n.memory for n in needs if n.memory is not None), default=None)
        times = [n.seconds for n in needs]
        minutes = asked.minutes
        if None not in times:
            # Twice what is expected: a short limit is scheduled early, and who meets it goes on later. Twice
            # that, where a job was lost: it may have met its limit before there was anything to go on from.
            expected = (
                max(LEAST_MINUTES, int(2 * sum(t for t in times if t is not None) / 60) + 10) << job.lost
            )
            minutes = expected if minutes is None else min(minutes, expected)
        more = f" +{len(job.requests) - 1}" if len(job.requests) > 1 else ""
        return Resources(
            name=first.name + more,
            mark=job.folder.name,
            cpus=asked.cpus,
            gpus=self._gpus(job),
            memory=asked.memory_gb * 10**9
            if asked.memory_gb
            else None
            if memory is None
            else int(memory * SPARE) << job.short,
            minutes=minutes,
        )

    def _gpus(self, job: _Job) -> int:
        """The GPUs of a job: those of a training, or one for what else runs a model."""
        if not any(request.kind.device for request in job.requests):
            return 0
        trains = any(request.kind.trains for request in job.requests)
        return self._machine.submit.gpus * (self._machine.gpus_per_action if trains else 1)

    def _heed_stops(self) -> None:
        with self._lock:
            # Who has no job yet may have one at the next look, or not: it is not forgotten.
            stopped = {w: once for w, once in self._stopped.items() if w not in self._accepted}
            self._stopped = {w: once for w, once in self._stopped.items() if w in self._accepted}
        for job in self._jobs:
            asked = {worker: stopped[worker] for worker in job.workers.values() if worker in stopped}
            if not asked:
                continue
            job.stopped = True
            with suppress(FileNotFoundError):  # another driver saw first that all is done
                (job.folder / STOP).touch()
            if job.handle is None or not (any(asked.values()) or self._waits(job)):
                continue
            try:
                self.scheduler.cancel(job.handle)
            except SchedulerError:  # it is asked again
                with self._lock:
                    self._stopped = asked | self._stopped

    def _waits(self, job: _Job) -> bool:
        """Whether a job is in a queue, for the first time or again: it sees no file, and has nothing to save."""
        running = any(self._store.leases.holder(request.key) is not None for request in job.requests)
        return not running or not read_answers(job.folder)

    def _pass_on(self, job: _Job) -> None:
        """Tell the workers of a job what it answered since the last look."""
        answers = read_answers(job.folder)
        for key, worker in list(job.workers.items()):
            replies = [reply for of, reply in answers if of == key]
            for reply in replies[worker.told :]:
                worker.told += 1
                # Stopped by its scheduler, which runs it again: nobody here has to do a thing.
                if reply.answer is Answer.INTERRUPTED and not job.stopped:
                    worker.reply(
                        Reply(Answer.TOLD, what=f"{self._called(job)} was stopped; its state is saved")
                    )
                    worker.reply(Reply(Answer.QUEUED, what=f"{self._called(job)}: stopped"))
                    continue
                worker.reply(reply)
                if reply.answer is not Answer.STARTED:
                    self._release(job, key)
                    break

    def _release(self, job: _Job, key: Digest) -> None:
        """An action of a job has ended for us; with the last one the job has."""
        del job.workers[key]
        if job.workers:
            return
        self._jobs.remove(job)
        answers = {of: reply.answer for of, reply in read_answers(job.folder)}
        if all(answers.get(r.key) in (Answer.DONE, Answer.FOUND) for r in job.requests):
            self._remove(job)

    # What became of jobs.

    def _ask(self) -> None:
        """Ask the scheduler, now and then, which jobs it knows; look after those that it does not."""
        waited = [job for job in self._jobs if job.handle is not None]
        pause = self._machine.submit.poll_seconds
        if any(job.stopped for job in waited):
            pause = min(pause, STOPPED_SECONDS)  # the user waits
        if not waited or time.monotonic() - self._asked < pause:
            return
        self._asked = time.monotonic()
        try:
            known = self.scheduler.known([job.handle for job in waited if job.handle is not None])
        except SchedulerError:
            return  # it is down for a while: what runs runs on, and nothing is lost by waiting
        for job in waited:
            assert job.handle is not None
            if (state := known.get(job.handle)) is not None:
                self._note(job, state)
            else:
                self._look_after(job)

    def _note(self, job: _Job, state: str) -> None:
        what = f"{self._called(job)}: {state.lower()}"
        for worker in job.workers.values() if state != job.state else ():
            # How a job waits is for who looks now. Once it has begun, a change is seldom, and worth a line.
            if not worker.begun:
                worker.reply(Reply(Answer.QUEUED, what=what))
            elif job.state and state.lower() not in ("running", "completing"):
                worker.reply(Reply(Answer.TOLD, what=what))
        job.missed, job.state = 0, state

    def _look_after(self, job: _Job) -> None:
        """See what became of a job that the scheduler does not know, or not any more."""
        self._pass_on(job)
        for key, worker in list(job.workers.items()):
            request = worker.request
            assert request is not None
            # A folder goes when all of its actions are done: another driver, which waited for them too, removed it.
            told = not request.force or not job.folder.exists()
            record = self._store.records.lookup(key) if told else None
            if record is not None:
                worker.reply(Reply(Answer.DONE, record.amount("seconds") or 0.0, log=record.log))
                self._release(job, key)
        if any(self._store.leases.holder(key) is not None for key in job.workers):
            return  # it runs, whatever the scheduler says
        job.missed += 1
        # Twice: what a node wrote a moment ago may not be here yet.
        if job.workers and job.missed > 1:
            self._lose(job)

    def _lose(self, job: _Job) -> None:
        step = max((newest_step(self._store, key) for key in job.workers), default=-1)
        job.lost = 1 if step > job.step else job.lost + 1
        job.step = step
        printed = _printed(job.folder / "log")
        ended = self._told_of(job, printed)
        how = ended.what if ended else "is gone, and what it was to make is not recorded"
        what = f"{self._called(job)} {how}"
        job.short += ended is not None and ended.memory
        for key, worker in list(job.workers.items()):
            if job.stopped:
                resumes = worker.request is not None and worker.request.kind.resumes
                stays = "its newest checkpoint stays" if resumes else "it starts over"
                worker.reply(Reply(Answer.INTERRUPTED, what=f"its job is cancelled; {stays}"))
                self._release(job, key)
            elif job.lost >= MOST_LOST:
                lines = printed.strip().splitlines() or ["nothing"]
                more = f"{ended.hint}; " if ended and ended.hint else ""
                hint = f"{more}its output is in {job.folder / 'log'}: {lines[-1]}"
                worker.reply(Reply(Answer.DIED, what=f"{what}, {MOST_LOST} times", hint=hint))
                self._release(job, key)
        if job not in self._jobs:
            return
        (job.folder / STOP).unlink(missing_ok=True)  # of another driver, which does not wait for it any more
        if self._start(job):
            for worker in job.workers.values():
                worker.reply(Reply(Answer.TOLD, what=f"{what}: submitted again as {self._called(job)}"))
                worker.reply(Reply(Answer.QUEUED, what=self._called(job)))

    def _told_of(self, job: _Job, printed: str) -> Ended | None:
        """How a job ended, where its scheduler has a way to say so: one of another package may have none."""
        asked = getattr(self.scheduler, "ended", None)
        if asked is None or job.handle is None:
            return None
        with suppress(SchedulerError):
            return cast("Ended | None", asked(job.handle, printed))
        return None

    # Files.

    @property
    def _folder(self) -> Path:
        return self._store.root / JOBS

    def _names(self, key: Digest) -> Path:
        return self._folder / f"{key}.json"

    def _name(self, job: _Job) -> None:
        """Write for each key of a job which one it is."""
        text = json.dumps({"engine": self._machine.engine, "folder": job.folder.name, "handle": job.handle})
        for request in job.requests:
            path = self._names(request.key)
            partial = files.beside(path)
            partial.write_text(text, encoding="utf-8")
            partial.replace(path)

    def _remove(self, job: _Job) -> None:
        for request in job.requests:
            self._names(request.key).unlink(missing_ok=True)
        shutil.rmtree(job.folder, ignore_errors=True)

    def _tidy(self) -> None:
        """Remove what jobs left that nobody has looked after for long, unless the scheduler still has the job."""
        # What cannot be read, or asked, stays: another call looks again.
        with suppress(OSError, ValueError, KeyError, TypeError, SchedulerError):
            if not (old := [path for path in self._folder.iterdir() if _is_old(path)]):
                return
            named = {path: parse_json(path.read_bytes()) for path in self._folder.glob("*.json")}
            known = self.scheduler.known([n["handle"] for n in named.values() if n["handle"] is not None])
            used = {n["folder"] for n in named.values() if n["handle"] in known}
            for path in old:
                if path.is_dir() and path.name not in used:
                    shutil.rmtree(path)
                elif path.is_file() and (path not in named or named[path]["folder"] not in used):
                    path.unlink()

    def _called(self, job: _Job) -> str:
        return f"{self._machine.engine} job {job.handle}"


def _is_old(path: Path) -> bool:
    parts = [path, *(path.iterdir() if path.is_dir() else ())]
    newest: float = max(part.stat().st_mtime for part in parts)
    return time.time() - newest > KEPT_SECONDS


def _printed(log: Path) -> str:
    """The end of what a job printed."""
    with suppress(OSError):
        newest = max(log.glob("*.out"), key=lambda path: path.stat().st_mtime, default=None)
        if newest is not None:
            with newest.open("rb") as file:
                file.seek(max(0, newest.stat().st_size - PRINTED_BYTES))
                return file.read().decode(errors="replace")
    return ""
