"""The benchmark that needs a GPU runs without one at a tiny shape, and counts as it says."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
import warm

GPU = Path(__file__).parent.parent / "bench" / "gpu.py"


def benchmark(*arguments: str) -> None:
    """Be the interpreter that runs it."""
    sys.argv = [str(GPU), *arguments]
    sys.path.insert(0, str(GPU.parent))
    runpy.run_path(str(GPU), run_name="__main__")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_gpu_benchmark_trains_and_composes_a_tiny_model(tmp_path):
    figures = tmp_path / "figures.json"
    done = warm.run(benchmark, "--shape", "tiny", "--steps", "3", "--json", str(figures))
    assert done.status == 0, done.err
    [told] = json.loads(figures.read_text())
    assert told["shape"] == "tiny"
    assert told["tokens_per_second"] > 0
    assert told["peak_memory"] > 0
    assert told["loss"] > 0
    assert "| tiny |" in done.out


def test_flops_are_those_of_the_stated_formula(monkeypatch):
    monkeypatch.syspath_prepend(str(GPU.parent))
    import gpu

    seven = 6_738_415_616 - 32000 * 4096  # without its embedding, which is a look-up
    one = 1_235_814_400  # its embedding is its head as well
    assert gpu.flops(gpu.SHAPES["7b"].config, 10, 100) == 10 * (6 * seven + 6 * 32 * 4096 * 100)
    assert gpu.flops(gpu.SHAPES["1b"].config, 10, 100) == 10 * (6 * one + 6 * 16 * 2048 * 100)
