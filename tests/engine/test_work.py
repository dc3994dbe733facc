"""Two workers on one store, really training: each vector once, and a killed one's checkpoint goes on in the other."""

from __future__ import annotations

import json
import signal
import time
from typing import TYPE_CHECKING, Any

from project import dataset, fresh, ran, recipe

from dem_build.actions.checkpoints import complete_checkpoints

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

RECIPE = recipe(
    dataset("add", omega=0.5), dataset("copy", omega=0.5), '[compose]\ndtype = "bfloat16"\n', steps=10
)


def test_workers_share_trainings_and_one_adopts_the_checkpoint_of_one_that_was_killed(
    tmp_path: Path, tiny_base: Path
) -> None:
    project = fresh(tmp_path, tiny_base)
    project.write(RECIPE)
    # A worker runs what is due itself, whatever engine builds have.
    (tmp_path / "machine.toml").write_text('checkpoint_seconds = 0\nengine = "slurm"\n')
    one, two = (project.start("work", "tiny.toml", "--json", "--slots", "1") for _ in range(2))
    begun, killed = _training_of(two)
    runs = tmp_path / "cache" / "work" / killed["key"]
    until = time.monotonic() + 120
    while not [c for run in runs.glob("*") for c in complete_checkpoints(run / "checkpoints")]:
        assert time.monotonic() < until
        assert two.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
    two.send_signal(signal.SIGKILL)
    begun += _events(two.communicate()[0])
    out, err = one.communicate(timeout=240)
    assert (one.returncode, "Traceback" in err) == (0, False), err
    events = _events(out)
    ended = [e for e in events + begun if e["event"] == "ended" and e["status"] == "ran"]
    assert sorted(e["action"] for e in ended if e["action"].startswith("vector:")) == [
        "vector:add",
        "vector:copy",
    ]
    assert len({e["key"] for e in ended}) == len(ended)
    [adopted] = [e for e in ended if e["key"] == killed["key"]]
    assert adopted["note"].startswith("resumed from step ")
    assert 1 <= int(adopted["note"].split()[-1]) < 10
    [resumed] = [e for e in events if e["event"] == "resumed"]  # told when it begins, too
    assert (resumed["action"], adopted["note"]) == (killed["action"], f"resumed from step {resumed['step']}")
    # Each vector's record names the process that this worker said it ran in.
    began = {e["key"]: e["pid"] for e in events if e["event"] == "started"}
    shown = json.loads(project.call("show", "tiny.toml", killed["action"], "--json").stdout)
    assert shown["provenance"]["pid"] == began[killed["key"]] != killed["pid"]
    assert events[-1].items() >= {"event": "end", "status": 0, "failed": 0, "left": 0}.items()
    assert not (tmp_path / "out").exists()
    (tmp_path / "machine.toml").unlink()
    assert ran(project.build(RECIPE)) == []
    assert (tmp_path / "out" / "tiny" / "model" / "config.json").exists()


def _training_of(worker: subprocess.Popen[str]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Read a worker's events until it trains; return those before, and the one that says so."""
    assert worker.stdout is not None
    seen: list[dict[str, Any]] = []
    for line in worker.stdout:
        event = json.loads(line)
        if event["event"] == "started" and event["action"].startswith("vector:"):
            return seen, event
        seen.append(event)
    raise AssertionError(f"it trained nothing: {seen}")


def _events(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]
