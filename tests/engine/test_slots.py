"""What keeps a worker to its slot."""

from __future__ import annotations

import pytest

from dem_build.engine.pool import MEMORY, Slot, slots
from dem_build.errors import UsageError
from dem_build.machine import Machine


@pytest.mark.parametrize("name", MEMORY)
def test_what_the_user_says_of_memory_outranks_what_workers_are_told(monkeypatch, name):
    monkeypatch.delenv(name, raising=False)
    assert Slot((), 2).environment()[name] == MEMORY[name]
    monkeypatch.setenv(name, "mine")
    assert Slot((), 2).environment()[name] == "mine"


@pytest.mark.parametrize(
    ("there", "each", "sets"),
    [("0,1,2,3", 2, [("0", "1"), ("2", "3")]), ("0,1,2", 2, [("0", "1")]), ("4", 1, [("4",)]), ("", 2, [()])],
)
def test_a_slot_has_as_many_gpus_as_an_action_uses(monkeypatch, there, each, sets):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", there)
    assert [slot.gpus for slot in slots(Machine(gpus_per_action=each))] == sets


def test_fewer_gpus_than_an_action_is_to_use_are_refused_where_it_would_run(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(UsageError, match="gpus_per_action = 2, and this machine has 1"):
        slots(Machine(gpus_per_action=2))
    assert [slot.gpus for slot in slots(Machine(gpus_per_action=2, engine="slurm"))] == [("0",)]


def test_processes_that_would_share_a_gpu_are_refused(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(UsageError, match="processes_per_action = 2 is for a machine without GPUs"):
        slots(Machine(processes_per_action=2))


def test_a_slot_without_gpus_hides_them_all():
    told = Slot((), 3).environment()
    assert told["CUDA_VISIBLE_DEVICES"] == ""
    assert told["OMP_NUM_THREADS"] == "3"
