"""Builds whose actions a real Slurm runs: two nodes on this host, started here."""

from __future__ import annotations

import json
import os
import queue
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import slow_kind
from project import dataset, fresh, recipe
from slow_kind import slow_request
from slurm_cluster import SlurmCluster, require_slurm

from dem_build.engine.jobs.cluster import Cluster, JobWorker, Needs
from dem_build.engine.jobs.scheduler import Resources, SchedulerError, open_scheduler
from dem_build.engine.protocol import Answer, Reply, Request
from dem_build.machine import Machine
from dem_build.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SUBMIT = {"cpus": 1, "gpus": 0, "memory_gb": 1, "poll_seconds": 0.5, "most": 8}
MACHINE = """\
engine = "slurm"
[submit]
cpus = 1
gpus = 0
memory_gb = 1
poll_seconds = 0.5
"""
RECIPE = recipe(dataset("add", omega=0.5))


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    require_slurm()
    cluster = SlurmCluster(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


class Driver:
    """What a build does with a cluster: it gives out requests, and reads the replies."""

    def __init__(
        self, store: Store, options: dict[str, object], needs: dict[str, Needs] | None = None
    ) -> None:
        machine = Machine(engine="slurm", submit=SUBMIT | {"options": options})  # type: ignore[arg-type]
        self.cluster = Cluster(open_scheduler(machine), store, machine, needs or {})
        self.inbox: queue.Queue = queue.Queue()
        self.idle = self.cluster.workers(self.inbox)
        self.said: list[Reply] = []

    def submit(self, *requests: Request) -> list[JobWorker]:
        workers = [self.idle.pop() for _ in requests]
        for worker, request in zip(workers, requests, strict=True):
            worker.submit(request)
        return workers  # type: ignore[return-value]

    def answer(self, *answers: Answer) -> Reply:
        """The next reply of some sorts; of those that end an action by default."""
        while True:
            # A job's time limit is a minute, and slurm looks at it twice a minute.
            reply: Reply = self.inbox.get(timeout=200).reply
            self.said.append(reply)
            if reply.answer in (answers or set(Answer) - {Answer.STARTED, Answer.TOLD, Answer.QUEUED}):
                return reply

    @property
    def told(self) -> str:
        return "\n".join(reply.what for reply in self.said if reply.answer is Answer.TOLD)


def know_slow_kinds(slurm: SlurmCluster, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Submit to this Slurm, and have each process of its jobs know the kinds of `slow_kind`."""
    (folder / "sitecustomize.py").write_text(slow_kind.SITE)
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{Path(slow_kind.__file__).parent}")
    monkeypatch.setenv("SLURM_CONF", str(slurm.file))
    for module in slow_kind.LOOK_UP:
        monkeypatch.setattr(module, "KINDS", slow_kind.kinds())


@pytest.fixture
def store(slurm: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    know_slow_kinds(slurm, tmp_path, monkeypatch)
    return Store.open(tmp_path / "cache")


@pytest.fixture
def driver(store: Store) -> Iterator[Callable[..., Driver]]:
    made: list[Driver] = []

    def make(**options: object) -> Driver:
        made.append(Driver(store, options))
        return made[-1]

    yield make
    for one in made:
        one.cluster.close()


def began(store: Store, request: Request) -> int:
    record = store.records.lookup(request.key)
    assert record is not None
    return int(record.provenance["began"])  # type: ignore[arg-type]


def job_of(store: Store, request: Request) -> str:
    handle = json.loads((store.root / "jobs" / f"{request.key}.json").read_text())["handle"]
    return str(handle)


def past_step(store: Store, request: Request, step: int) -> bool:
    """Whether an action has a checkpoint of a step, or of a later one."""
    return any(
        int(made.name.rpartition("-")[2]) >= step
        for run in store.work.previous(request.key)
        for made in (run / "checkpoints").glob("checkpoint-*")
        if (made / "complete.json").exists()
    )


def test_trainings_have_a_job_each_and_the_rest_shares_one(
    slurm: SlurmCluster, store: Store, driver: Callable[..., Driver]
) -> None:
    short = [slow_request(name, 1, trains=False) for name in "abc"]
    trainings = [slow_request(name, 1) for name in "de"]
    one = driver()
    one.submit(*short, *trainings)
    assert {one.answer().answer for _ in range(5)} == {Answer.DONE}
    submitted = [line for line in one.told.splitlines() if line.startswith("submitted")]  # a line a job
    assert (
        len(submitted) == len({re.match(r"submitted as slurm job (\d+)", line)[1] for line in submitted}) == 3
    )  # type: ignore[index]
    assert [line.partition(", with ")[2] for line in submitted if "with" in line] == ["b, c"]
    assert all(store.records.lookup(r.key) for r in short + trainings)
    slurm.wait(lambda: not list((store.root / "jobs").iterdir()))  # nobody needs them any more


def test_a_job_asks_for_what_its_action_is_expected_to_take(slurm: SlurmCluster, store: Store) -> None:
    request = slow_request("asks", 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SUBMIT, "memory_gb", None)
        patch.setitem(SUBMIT, "gpus", 1)
        one = Driver(store, {}, {"asks": Needs(memory=400 << 20, seconds=3600.0)})
    one.submit(request)
    assert one.answer(Answer.TOLD)
    said = slurm.call("scontrol", "show", "job", "-o", job_of(store, request))
    [folder] = (path.name for path in (store.root / "jobs").iterdir() if path.is_dir())
    assert one.answer().answer is Answer.DONE
    one.cluster.close()
    assert "TimeLimit=02:10:00" in said  # twice the hour, and ten minutes
    assert "mem=500M" in said  # a quarter more
    assert "TresPerNode=gres:gpu:1" in said
    assert f"Comment={folder}" in said
    assert "Requeue=1" in said


def test_a_failure_is_told_in_the_words_of_the_action(driver: Callable[..., Driver]) -> None:
    one = driver()
    one.submit(slow_request("wrong", 1, "fails"))
    reply = one.answer()
    assert (reply.answer, reply.what, reply.hint) == (
        Answer.FAILED,
        "slow: goes wrong, as it was told",
        "tell it otherwise",
    )


def test_what_slurm_refuses_fails_with_its_words(
    driver: Callable[..., Driver], capfd: pytest.CaptureFixture[str]
) -> None:
    one = driver(partition="nowhere")
    one.submit(slow_request("refused", 1))
    reply = one.answer()
    assert reply.answer is Answer.FAILED
    assert "Invalid partition name specified" in reply.what
    assert capfd.readouterr().err == ""  # which a live screen would be spoilt by


def test_a_preempted_job_is_queued_again_and_goes_on_from_its_checkpoint(
    slurm: SlurmCluster, store: Store, driver: Callable[..., Driver]
) -> None:
    request = slow_request("preempted", 30)
    one = driver()
    one.submit(request)
    slurm.wait(lambda: past_step(store, request, 3))
    slurm.call("sbatch", "--partition=high", "--nodes=2", "--wrap=sleep 1", "--output=/dev/null")
    assert one.answer().answer is Answer.DONE
    assert began(store, request) >= 3
    assert "was stopped; its state is saved" in one.told
    # Who looks sees that it waits again, until it has begun again.
    answers = [reply.answer for reply in one.said if reply.answer is not Answer.TOLD]
    again = answers.index(Answer.STARTED) + 1
    assert answers[again] is Answer.QUEUED
    assert answers[-2:] == [Answer.STARTED, Answer.DONE]
    assert one.told.count("submitted") == 1  # Slurm ran it again, not we


def test_a_cancelled_build_cancels_its_jobs_which_save_their_state(
    slurm: SlurmCluster, store: Store, driver: Callable[..., Driver]
) -> None:
    request, waiting = slow_request("cancelled", 300), slow_request("waiting", 300)
    third = slow_request("third", 300)
    one = driver()
    workers = one.submit(request, waiting, third)  # two nodes: one of them waits
    slurm.wait(lambda: sum(past_step(store, r, 1) for r in (request, waiting, third)) == 2)
    for worker in workers:
        worker.stop()
    replies = [one.answer() for _ in range(3)]
    assert {reply.answer for reply in replies} == {Answer.INTERRUPTED}
    assert sorted(bool(reply.work) for reply in replies) == [False, True, True]  # two had something to save
    slurm.wait(lambda: not slurm.jobs())
    assert store.leases.holder(request.key) is None


def test_a_build_that_is_killed_leaves_no_job_that_it_had_stopped(
    slurm: SlurmCluster, store: Store, driver: Callable[..., Driver]
) -> None:
    request = slow_request("deaf", 300, "deaf")
    one = driver()
    [worker] = one.submit(request)
    slurm.wait(lambda: past_step(store, request, 1))
    worker.stop()
    worker.kill()
    assert one.answer().answer is Answer.DIED
    one.cluster.close()
    slurm.wait(lambda: not slurm.jobs())


def test_a_job_that_is_gone_is_submitted_again_and_adopts_its_checkpoint(
    slurm: SlurmCluster, store: Store, driver: Callable[..., Driver]
) -> None:
    request = slow_request("lost", 20)
    one = driver()
    one.submit(request)
    slurm.wait(lambda: past_step(store, request, 3))
    slurm.call("scancel", job_of(store, request))  # somebody else does
    assert one.answer().answer is Answer.DONE
    assert began(store, request) >= 3
    assert "submitted again as slurm job" in one.told


def test_more_gpus_than_a_node_has_are_refused_and_as_many_as_it_has_are_seen(
    slurm: SlurmCluster, store: Store, tmp_path: Path
) -> None:
    scheduler = open_scheduler(Machine(engine="slurm"))
    command = ("bash", "-c", f"echo $CUDA_VISIBLE_DEVICES > {tmp_path}/seen")
    with pytest.raises(SchedulerError, match="node configuration is not available"):
        scheduler.submit(command, Resources("three", f"{store.root.parent}-3", gpus=3), tmp_path / "log")
    scheduler.submit(command, Resources("two", f"{store.root.parent}-2", gpus=2), tmp_path / "log")
    assert slurm.wait(lambda: (tmp_path / "seen").exists() and (tmp_path / "seen").read_text()) == "0,1\n"


def test_what_is_lost_each_time_fails_at_last(
    driver: Callable[..., Driver], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dem_build.engine.jobs.cluster.MOST_LOST", 2)
    one = driver()
    one.submit(slow_request("killed", 5, "killed"))
    reply = one.answer()
    assert reply.answer is Answer.DIED
    assert one.told.count("submitted again") == 1
    # Without cgroups Slurm cannot tell what killed it.
    assert (
        "was killed (SIGKILL): out of memory, which Slurm tells with cgroups only, or by somebody"
        in reply.what
    )
    assert "raise `memory_gb` in [submit]" in str(reply.hint)


def test_a_second_driver_finds_the_jobs_of_one_that_died(
    slurm: SlurmCluster, store: Store, driver: Callable[..., Driver]
) -> None:
    request = slow_request("found", 60)
    first, second, third = driver(), driver(), driver()
    first.submit(request)
    slurm.wait(lambda: past_step(store, request, 1))
    job = job_of(store, request)
    first.cluster.close()
    second.submit(request)
    assert second.answer(Answer.STARTED).work
    second.cluster.close()
    # As if its driver had died before it wrote the number: the comment tells.
    name = store.root / "jobs" / f"{request.key}.json"
    name.write_text(json.dumps(json.loads(name.read_text()) | {"handle": None}))
    third.submit(request)
    assert third.answer().answer is Answer.DONE
    for one in (second, third):
        assert one.told.splitlines()[0] == f"found again as slurm job {job}"
    assert began(store, request) == 0


def test_a_job_whose_node_is_lost_runs_on_another(
    slurm: SlurmCluster, store: Store, driver: Callable[..., Driver]
) -> None:
    request = slow_request("homeless", 30)
    one = driver()
    one.submit(request)
    slurm.wait(lambda: past_step(store, request, 3))
    node = slurm.call("squeue", "-h", "-o", "%N").strip()
    holder = store.leases.holder(request.key)
    assert holder is not None
    slurm.kill_node(node)
    os.kill(holder.pid, signal.SIGKILL)
    slurm.call("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    assert one.answer().answer is Answer.DONE
    assert began(store, request) >= 3
    slurm.start_node(node)
    slurm.wait(lambda: slurm.states() == ["idle", "idle"])


@pytest.fixture(scope="module")
def limited(
    slurm: SlurmCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Driver, Store, Request]]:
    """An action that takes longer than Slurm lets it, begun: a minute's limit is told of within half a minute."""
    folder = tmp_path_factory.mktemp("limited")
    request = slow_request("limited", 320)
    store = Store.open(folder / "cache")
    with pytest.MonkeyPatch.context() as patch:
        know_slow_kinds(slurm, folder, patch)
        driver = Driver(store, {"time": 1})
        driver.submit(request)
        driver.answer(Answer.TOLD)  # that it is submitted, with this environment
    yield driver, store, request
    driver.cluster.close()


@pytest.mark.usefixtures("limited")  # whose time runs meanwhile, on the other node
def test_a_build_on_slurm_outlives_its_driver(slurm: SlurmCluster, tmp_path: Path, tiny_base: Path) -> None:
    project = fresh(tmp_path, tiny_base)
    project.environment |= {"SLURM_CONF": str(slurm.file)}
    project.write(RECIPE)
    project.call("build", "tiny.toml", "--", "data:add")  # here, in one process
    (tmp_path / "machine.toml").write_text(MACHINE)
    first = project.start("build", "tiny.toml", "--", "vector:add")
    slurm.wait(lambda: "dem vector:add RUNNING" in slurm.jobs("%j %T"), 120)
    first.kill()
    first.communicate()
    job = next(line.split()[0] for line in slurm.jobs("%A %j") if "vector:add" in line)
    slurm.call("scontrol", "suspend", job)  # so that it is there when it is looked for; and it is not lost
    second = project.start("build", "tiny.toml", "--", "vector:add")
    assert second.stdout is not None
    assert any(f"vector:add: found again as slurm job {job}" in line for line in second.stdout)
    slurm.call("scontrol", "resume", job)
    out, err = second.communicate(timeout=120)
    assert (second.returncode, err) == (0, "")
    assert "submitted" not in out
    shown = json.loads(project.call("show", "tiny.toml", "vector:add", "--json").stdout)
    assert shown["provenance"]["job"] == f"slurm job {job}"


def test_at_its_time_limit_a_job_saves_its_state_and_has_itself_queued_again(
    limited: tuple[Driver, Store, Request],
) -> None:
    driver, store, request = limited
    assert driver.answer().answer is Answer.DONE
    record = store.records.lookup(request.key)
    assert record is not None
    assert record.provenance["began"] > 0  # type: ignore[operator]
    assert "queued again" in record.provenance["job"]  # type: ignore[operator]
    assert driver.told.count("submitted") == 1
