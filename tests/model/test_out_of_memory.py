"""Memory that runs out, in a process of its own: what others left of theirs is room that no limit sees."""

from __future__ import annotations

from pathlib import Path

import pytest
import warm


def cases() -> None:
    file = Path(__file__).parent / "out_of_memory_cases.py"
    raise SystemExit(pytest.main(["-q", "--assert=plain", "-p", "no:cacheprovider", str(file)]))


def test_memory_that_runs_out_is_told_with_numbers():
    done = warm.run(cases, together=True)
    assert done.status == 0, done.out
    assert " passed" in done.out
