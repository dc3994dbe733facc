"""What actions take that run at once: memory together, the time of all, and what waits for room."""

from __future__ import annotations

import io
import os
import re

import pytest
from build_samples import ROWS, MadeWithConfig, Reading, make_graph
from rich.console import Console

from dem_build.estimate import at_once, beside, estimates, shared_memory
from dem_build.estimate.beside import SharedMemory, _course, _Work
from dem_build.estimate.memory import BYTES, PROCESS
from dem_build.graph import united
from dem_build.hardware import Room
from dem_build.machine import Machine
from dem_build.view.plan import estimate_lines

pytestmark = pytest.mark.usefixtures("free")
NAMES = ("math", "chat", "code")


@pytest.fixture
def free(monkeypatch):
    """Let this machine be one without GPUs that has four CPUs, and so many bytes free."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("dem_build.slots.cpus", lambda: 4)

    def has(count):
        monkeypatch.setattr(beside, "room", lambda: Room("this machine", count, count, is_gpu=False))

    has(10**15)
    return has


def trained(seconds=100.0, **vector):
    """Three vectors that were trained on this host, each in so many seconds."""
    host = os.uname().nodename
    ran = {"host": host, "device_seconds": seconds, "tokens": {"seen": 5000}, "finished": "2026"} | vector
    made = MadeWithConfig(provenance={f"data:{n}": ROWS for n in NAMES} | {f"vector:{n}": ran for n in NAMES})
    made.build(make_graph(NAMES))
    return made


def looked_at(made, machine):
    plan = made.plan(make_graph(NAMES, rate=1e-4))
    found = estimates(plan, Reading(made), machine)
    return found, at_once(plan, found, Reading(made), machine)


def test_one_at_a_time_has_the_sum_of_times_and_the_memory_of_the_largest():
    found, together = looked_at(trained(), Machine())
    assert together is None
    stream = io.StringIO()
    estimate_lines(found, Console(file=stream, width=200))
    assert "all that is due: about" in stream.getvalue()
    assert "5m 00s and an unknown time" in stream.getvalue()


def test_two_at_once_take_the_memory_of_two_and_three_take_two_rounds():
    found, together = looked_at(trained(), Machine(jobs=2))
    [each] = {e.memory for e in found if e.kind == "finetune"}
    assert (together.slots, together.memory, together.warning) == (2, 2 * each, None)
    assert (together.seconds, together.least_seconds) == (200.0, 200.0)
    stream = io.StringIO()
    estimate_lines(found, Console(file=stream, width=200), together)
    assert (
        f"all that is due, 2 at once: about {2 * each / 1e9:.1f} GB of memory at most, 3m 20s"
        in stream.getvalue()
    )


def test_what_does_not_fit_beside_another_waits_and_it_is_said_with_numbers(free):
    found, _ = looked_at(trained(), Machine(jobs=2))
    each = next(e.memory for e in found if e.kind == "finetune")
    free(2 * each)
    assert looked_at(trained(), Machine(jobs=2))[1].warning is None
    free(2 * each - 1)
    _, together = looked_at(trained(), Machine(jobs=2))
    assert together.seconds == 300.0
    assert together.memory < 2 * each
    assert re.fullmatch(
        rf"vector:math and vector:chat would need about {2 * each / 1e9:.1f} GB at once, and this machine has "
        rf"{(2 * each - 1) / 1e9:.1f} GB free; what does not fit beside what runs waits for it",
        together.warning,
    )


def test_gpus_share_no_memory_and_run_at_once(monkeypatch):
    made = trained(device="NVIDIA H100")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    found, together = looked_at(made, Machine())
    assert together.memory == max(e.memory for e in found if e.memory is not None)
    assert (together.slots, together.seconds, together.warning) == (3, 100.0, None)
    assert shared_memory(made.plan(make_graph(NAMES)), Reading(made), Machine()) is None


def test_of_jobs_their_cluster_decides():
    assert looked_at(trained(), Machine(engine="slurm", jobs=2))[1] is None


@pytest.mark.parametrize(("threads", "seconds"), [(2, 100.0), (4, None), (None, 100.0)])
def test_a_time_with_other_threads_tells_nothing_of_this_one(threads, seconds):
    made = trained(device="cpu (x86_64)", **({"threads": threads} if threads else {}))
    found, _ = looked_at(made, Machine(jobs=2))
    assert {e.seconds for e in found if e.kind == "finetune"} == {seconds}


def test_a_training_is_counted_as_soon_as_its_data_are_prepared_and_an_evaluation_as_its_model():
    made = trained()
    graph = make_graph(NAMES, rate=1e-4)
    records = made.build(make_graph(NAMES))
    unprepared = MadeWithConfig(provenance={})
    unprepared.make(graph.actions["base"], {})
    shared = SharedMemory(unprepared.plan(graph), Reading(unprepared), Machine(jobs=2), 1)
    vector, loss = graph.actions["vector:math"], graph.actions["loss:composed:math"]
    before = shared.of(vector, {})
    longest = {"splits": {"train": ROWS["splits"]["train"] | {"longest": 60}}}
    object.__setattr__(records["data:math"], "provenance", longest)
    assert shared.of(vector, {"data:math": records["data:math"]}) < before
    shape = beside.Estimator.of_plan(shared.plan, shared.store, shared.machine).shape
    assert shared.of(loss, {}) == BYTES[loss.params["dtype"]] * shape.parameters + PROCESS
    assert shared.of(graph.actions["data:math"], {}) == 0


def test_a_course_starts_what_fits_in_order_and_lets_one_that_never_fits_run_alone():
    work = [
        _Work("data", set(), 1.0, 1.0, 0),
        _Work("large", {"data"}, 5.0, 5.0, 20),
        _Work("a", {"data"}, 2.0, 2.0, 6),
        _Work("b", {"data"}, 2.0, 2.0, 6),
        _Work("tune", {"a", "b"}, 3.0, 3.0, 5),
    ]
    seconds = [w.seconds for w in work]
    alone = _course(work, 2, 10, seconds)
    assert (alone.seconds, alone.memory, alone.most) == (1 + 5 + 2 + 2 + 3, 20, ("large",))
    free = _course(work, 2, None, seconds)
    assert (free.seconds, free.memory, free.most) == (1 + 4 + 3, 26, ("large", "a"))


def test_a_course_lets_what_takes_no_memory_run_beside_anything_as_a_build_does():
    work = [
        _Work("data", set(), 4.0, 4.0, 0),
        _Work("large", set(), 5.0, 5.0, 20),
        _Work("card", set(), 2.0, 2.0, 0),
    ]
    course = _course(work, 2, 10, [w.seconds for w in work])
    assert (course.seconds, course.memory, course.most) == (4 + 2, 20, ("data", "large"))


def test_actions_of_united_recipes_need_as_much_as_each_alone():
    made = trained()
    made.records = {k: r for k, r in made.records.items() if r.kind != "finetune"}
    graph = make_graph(NAMES)
    alone = made.plan(graph)
    records = {name: v.record for name, v in alone.verdicts.items() if v.record is not None}
    apart = SharedMemory(alone, Reading(made), Machine(jobs=2), 1)
    both = made.plan(united({"one": graph, "two@b": graph}))
    shared = SharedMemory(both, Reading(made), Machine(jobs=2), 1)
    for action in graph:
        need = apart.of(action, {n: records[n] for n in apart.told_by(action) if n in records})
        for label in ("one", "two@b"):
            called = both.graph.actions[f"{action.name}@{label}"]
            assert {*shared.told_by(called)} == {f"{n}@{label}" for n in apart.told_by(action)}
            known = {f"{n}@{label}": records[n] for n in apart.told_by(action) if n in records}
            assert shared.of(called, known) == need
    assert shared.of(both.graph.actions["vector:math@two@b"], {}) > PROCESS
