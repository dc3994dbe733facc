"""What is recorded of the machine."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dem_build.model.environment import peak_memory, release_memory, reset_peak_memory

CPU = torch.device("cpu")


@pytest.mark.skipif(sys.platform != "linux", reason="no other system lets a process reset its peak")
def test_the_peak_of_an_action_is_not_that_of_one_before_it_in_the_same_process():
    filled = bytearray(600_000_000)
    before = peak_memory(CPU)
    del filled
    reset_peak_memory(CPU)
    assert peak_memory(CPU) < before - 400_000_000


def resident():
    """Bytes of this process' memory, as Linux counts them."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(sys.platform != "linux", reason="how much memory a process has is read from /proc")
def test_what_nobody_uses_goes_back_to_the_system():
    """Small blocks lie on the heap, and one that is used at its end keeps all before it from the system."""
    blocks = [np.ones(12_000) for _ in range(2_000)]
    last = np.ones(12_000)
    held = resident()
    blocks.clear()
    kept = resident()
    release_memory()
    assert held - resident() > 100e6 > held - kept
    assert last.all()
