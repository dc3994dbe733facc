"""What is recorded of the machine."""

import sys

import pytest
import torch

from dem_build.steps.environment import peak_memory, reset_peak_memory

CPU = torch.device("cpu")


@pytest.mark.skipif(sys.platform != "linux", reason="no other system lets a process reset its peak")
def test_the_peak_of_an_action_is_not_that_of_one_before_it_in_the_same_process():
    filled = bytearray(600_000_000)
    before = peak_memory(CPU)
    del filled
    reset_peak_memory(CPU)
    assert peak_memory(CPU) < before - 400_000_000
