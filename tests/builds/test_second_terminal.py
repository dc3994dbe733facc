"""What a second call says of a build that runs or was stopped, of edited data, and of a cache that was moved."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
from project import Project, dataset, fresh, recipe

LONG = recipe(dataset("add", omega=0.5), dataset("copy", omega=0.5), steps=4000)
SHORT = recipe(dataset("add", omega=0.5), dataset("copy", omega=0.5), steps=2)


@pytest.fixture
def project(tmp_path: Path, tiny_base: Path) -> Project:
    return fresh(tmp_path, tiny_base)


def begun(project: Project) -> list[dict]:
    return json.loads(project.call("plan", "tiny.toml", "--json").stdout).get("begun", [])


def test_a_plan_says_who_is_at_work_and_then_what_is_saved(project):
    project.write(LONG)
    build = project.start("build", "tiny.toml")
    try:
        until = time.monotonic() + 300
        while not (found := [b for b in begun(project) if b["action"] == "vector:add"]):
            assert build.poll() is None
            assert time.monotonic() < until
        assert found[0]["holder"].startswith("process ")
        assert "is at work on it" in project.call("plan", "tiny.toml").stdout
        time.sleep(1)  # so that a step is done
        build.send_signal(signal.SIGINT)
        build.communicate(timeout=300)
    finally:
        build.kill()
    assert build.returncode == 130
    [one] = begun(project)
    assert (one["action"], one["holder"]) == ("vector:add", None)
    assert one["saved"] > 0
    told = f"vector:add: step {one['saved']} is saved, and a build goes on from there"
    assert told in project.call("plan", "tiny.toml").stdout


def test_why_names_the_file_and_a_plan_says_that_the_cache_is_another(project):
    project.build(SHORT)
    data = project.home / "data" / "add.jsonl"
    data.write_text(data.read_text().split("\n", 1)[1])
    told = project.call("why", "tiny.toml", "data:add").stdout
    assert told.splitlines()[1].startswith("  sources.jsonl: ")
    assert told.splitlines()[2] == f"    in {Path('data', 'add.jsonl')}"

    assert "has nothing of it" not in project.call("plan", "tiny.toml").stdout
    (project.home / "cache").rename(project.home / "moved")
    said = project.call("plan", "tiny.toml").stdout
    assert (
        f"{project.home / 'out' / 'tiny'} was built, and {project.home / 'cache'} has nothing of it" in said
    )
    [problem] = json.loads(project.call("plan", "tiny.toml", "--json").stdout)["problems"]
    assert problem in said
    assert "has nothing of it" not in project.call("plan", "tiny.toml", "--cache", "moved").stdout
