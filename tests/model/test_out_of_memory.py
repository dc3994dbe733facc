"""Memory that runs out, in a process of its own: what others left of theirs is room that no limit sees."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_memory_that_runs_out_is_told_with_numbers():
    cases = Path(__file__).parent / "out_of_memory_cases.py"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(cases)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
