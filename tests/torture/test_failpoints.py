"""What the torture counts as a point, and what it does there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import failpoints
import pytest
from failpoints import Plan

WRITER = """
import os, shutil, sys
from pathlib import Path
home = Path(sys.argv[1])
(home / "folder").mkdir()
with (home / "folder" / "a").open("wb") as file:
    file.write(b"a")
    file.flush()
    os.fsync(file.fileno())
(home / "folder" / "a").read_bytes()
(home / "folder" / "a").chmod(0o444)
(home / "folder" / "a").rename(home / "b")
os.link(home / "b", home / "c")
shutil.rmtree(home / "folder")
(home / "c").unlink()
"""
CALLS = ["os.mkdir", "open", "fsync", "os.chmod", "os.rename", "os.link", "os.rmdir", "os.remove"]


def write(home: Path, plan: Plan) -> subprocess.CompletedProcess[str]:
    home.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-c", WRITER, str(home)],
        env={**os.environ, **failpoints.environment([home], plan)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_each_call_that_changes_the_disk_is_a_point_and_reading_is_none(tmp_path):
    journal = tmp_path / "journal"
    done = write(tmp_path / "home", Plan(journal=str(journal)))
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    assert [name for what, _, name, *_ in lines if what == "point"] == CALLS
    assert [name for what, _, name, *_ in lines if what == "done"] == ["mkdir", "fsync", "rename", "link"]


@pytest.mark.parametrize(
    ("at", "left"),
    [(1, []), (2, ["folder"]), (5, ["folder"]), (6, ["b", "folder"]), (8, ["b", "c"]), (0, ["b"])],
)
def test_a_process_dies_before_the_call_at_its_point(tmp_path, at, left):
    done = write(tmp_path / "home", Plan(at=at))
    assert done.returncode == (-signal.SIGKILL if at else 0), done.stderr
    assert sorted(p.name for p in (tmp_path / "home").iterdir()) == left


def test_a_disk_is_full_from_a_point_on(tmp_path):
    done = write(tmp_path / "home", Plan(at=2, fault="full"))
    assert "No space left on device" in done.stderr


def test_only_the_process_that_is_meant_dies(tmp_path):
    assert write(tmp_path / "home", Plan(at=2, process="of another name")).returncode == 0
