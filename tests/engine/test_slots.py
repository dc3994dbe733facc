"""What keeps a worker to its slot."""

from __future__ import annotations

import pytest

from dem_build.engine.pool import MEMORY, Slot


@pytest.mark.parametrize("name", MEMORY)
def test_what_the_user_says_of_memory_outranks_what_workers_are_told(monkeypatch, name):
    monkeypatch.delenv(name, raising=False)
    assert Slot((), 2).environment()[name] == MEMORY[name]
    monkeypatch.setenv(name, "mine")
    assert Slot((), 2).environment()[name] == "mine"


def test_a_slot_without_gpus_hides_them_all():
    told = Slot((), 3).environment()
    assert told["CUDA_VISIBLE_DEVICES"] == ""
    assert told["OMP_NUM_THREADS"] == "3"
