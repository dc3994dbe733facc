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
def test_the_gpu_benchmark_takes_each_step_of_a_tiny_model(tmp_path):
    figures = tmp_path / "figures.json"
    done = warm.run(benchmark, "--tiny", "--here", "--steps", "3", "--json", str(figures))
    assert done.status == 0, done.err
    told = {one["step"]: one for one in json.loads(figures.read_text())}
    assert [*told] == ["prepare", "train", "lora", "compose", "tune", "evaluate"]
    assert {one["status"] for one in told.values()} == {"done"}, told
    for step in ("train", "lora"):
        assert told[step]["tokens_per_second"] > 0
        assert told[step]["peak_memory"] > 0
        assert told[step]["loss"] > 0
    assert told["compose"]["vectors"] == 2
    assert told["tune"]["derivatives_seconds"] > 0
    assert told["evaluate"]["loss"] > 0
    assert "| tiny | train | done |" in done.out


def test_a_step_that_fails_or_takes_too_long_costs_its_own_figures_alone(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(GPU.parent))
    import gpu

    fine, fails = (
        [sys.executable, "-c", "print('3 passed')"],
        [sys.executable, "-c", "raise SystemExit('odd')"],
    )
    slow = [sys.executable, "-c", "import time; time.sleep(60)"]
    report = gpu.Report(tmp_path / "figures.json", 600)
    for step, needs, command in (
        ("a", (), fine),
        ("b", (), fails),
        ("c", ("b",), fine),
        ("d", ("a",), slow),
        ("e", ("a",), fine),
    ):
        report.step(
            "tiny", step, 0.5 if command is slow else 60, needs, lambda most, c=command: gpu.in_child(c, most)
        )
    told = {
        one["step"]: (one["status"], one.get("said") or one["error"])
        for one in json.loads((tmp_path / "figures.json").read_text())
    }
    assert told["a"] == told["e"] == ("done", "3 passed")
    assert told["b"] == ("failed", "ended with 1: odd\n")
    assert told["c"] == ("left out", "there is no result of b")
    assert told["d"] == ("timed out", "not done after 0 s")
    late = gpu.Report(None, -1)
    late.step("tiny", "a", 20, (), lambda _: {"status": "done"})
    assert late.found[0]["status"] == "left out"
    assert gpu.table(report.found).count("\n") == 6


def test_flops_are_those_of_the_stated_formula(monkeypatch):
    monkeypatch.syspath_prepend(str(GPU.parent))
    import gpu

    seven = 6_738_415_616 - 32000 * 4096  # without its embedding, which is a look-up
    one = 1_235_814_400  # its embedding is its head as well
    assert gpu.flops(gpu.SHAPES["7b"].config, 10, 100) == 10 * (6 * seven + 6 * 32 * 4096 * 100)
    assert gpu.flops(gpu.SHAPES["1b"].config, 10, 100) == 10 * (6 * one + 6 * 16 * 2048 * 100)
