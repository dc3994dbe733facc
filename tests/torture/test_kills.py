"""Kills at one step, and damage at one place, where what must follow is more than that nothing is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import failpoints
import pytest
import stand_ins
from failpoints import Plan
from light import Builder
from light_trials import BUILD, RECIPE, lay_out

from dem_build.action import Action, Edge, Input, SourceFile
from dem_build.actions import KINDS
from dem_build.digest import of_json
from dem_build.engine.build import Options, build
from dem_build.engine.interrupt import Interrupt
from dem_build.engine.outcome import Done, Result
from dem_build.graph import Graph
from dem_build.machine import Machine
from dem_build.plan import History, make_plan, preimage_of
from dem_build.store import Hints, Record, Store

LOCK = """
import sys
from pathlib import Path
from dem_build.lock import lock
path = Path(sys.argv[1]) / "tiny.lock"
lock.update(path, lock.Lock(lock.LockedBase(sys.argv[2], ())), lock.read(path))
"""
WORKER = "dem_build.engine.worker"
# A light action's worker is a copy of the driver, which here is the process of the tests.
os.register_at_fork(after_in_child=lambda: failpoints.install_from_environment([WORKER]))
PARTS = ("weights", "config", "tokenizer", "generation_config")


def write_lock(home: Path, source: str, at: int) -> int:
    environment = os.environ | failpoints.environment([home], Plan(at=at))
    return subprocess.run([sys.executable, "-c", LOCK, home, source], env=environment, check=False).returncode


@pytest.mark.parametrize("at", [3, 5])
def test_a_lock_that_is_killed_while_it_is_written_is_the_old_one_and_leaves_nothing_that_stays(tmp_path, at):
    assert write_lock(tmp_path, "directory", 0) == 0
    assert write_lock(tmp_path, "gguf", at) == -9
    assert json.loads((tmp_path / "tiny.lock").read_text())["base"]["source"] == "directory"
    assert len(list(tmp_path.iterdir())) == 2
    assert write_lock(tmp_path, "gguf", 0) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.lock"]
    assert (tmp_path / "tiny.lock").stat().st_mode & 0o777 == 0o644


BASE = Action("base", KINDS["import"], {"source": "directory", "dtype": None})
MODEL = Action(
    "model",
    KINDS["compose"],
    {"method": "dem", "dtype": "float32"},
    tuple(Input(f"base/{part}", Edge("base", part)) for part in PARTS),
)
GRAPH = Graph({a.name: a for a in (BASE, MODEL)})


def store_with_a_base(home: Path) -> Store:
    lay_out(home)
    store = Store.open(home / "cache", hints=Hints(home / "hints"))
    document = preimage_of(BASE, {})
    key = of_json(document)
    work = store.work.new(key)
    files = [SourceFile(p.name, "0" * 64, p) for p in (home / "base").iterdir()]
    context: Any = SimpleNamespace(out=work / "out")
    provenance = stand_ins.import_base(SimpleNamespace(sources=files), {}, context)  # type: ignore[arg-type]
    outputs = {part: store.objects.put(work / "out" / part) for part in PARTS}
    store.records.publish(Record(key, "import", document, outputs, provenance))
    store.work.drop(key)
    return store


def compose(home: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> tuple[Store, Result]:
    """Compose with a worker of its own process, in which the plan is carried out."""
    store = store_with_a_base(home)
    for name, value in failpoints.environment([home / "cache"], plan).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DEM_HINTS", str(home / "hints"))
    silent: Any = SimpleNamespace(
        action_event=lambda *_: None, action_ended=lambda *_: None, action_started=lambda *_: None
    )
    outcome = build(
        make_plan(GRAPH, store.records, History()), store, Options(Machine()), silent, Interrupt()
    )
    return store, outcome.results["model"]


def test_what_a_worker_recorded_before_it_was_killed_counts_as_run(tmp_path, monkeypatch):
    _, whole = compose(tmp_path / "whole", Plan(), monkeypatch)
    assert whole.status is Done.RAN, whole.error
    after = Plan(
        at=1, named=r"^fsync .*/actions/\w\w$", process=WORKER
    )  # where the record has just got its name
    store, killed = compose(tmp_path / "after", after, monkeypatch)
    assert (killed.status, killed.note) == (Done.RAN, "its worker died when this was recorded")
    assert killed.record is not None
    assert killed.record.outputs == whole.record.outputs
    assert store.work.previous(killed.key) == []
    before = Plan(at=1, named=r"^os\.link .*/actions/", process=WORKER)
    _, killed = compose(tmp_path / "before", before, monkeypatch)
    assert killed.status is Done.FAILED
    assert "the worker was killed by signal 9" in str(killed.error)


def test_data_that_are_damaged_when_shared_prompts_are_counted_are_made_again_and_counted(tmp_path):
    home = tmp_path / "home"
    lay_out(home)
    for name in ("add", "copy"):
        (home / "data" / f"{name}.jsonl").write_text(f'{{"text": "both"}}\n{{"text": "{name}"}}\n')
    (home / "tiny.toml").write_text(RECIPE)
    with closing(Builder()) as builder:

        def call(*arguments: str) -> Any:
            assert builder.call(home, arguments) == 0, Path(f"{home}.err").read_text()
            return json.loads(Path(f"{home}.out").read_text())

        first = call(*BUILD)
        assert first["overlap"] == [
            {"name": "add", "split": "train", "other": "copy", "other_split": "train", "count": 1}
        ]
        digest = call("show", "tiny.toml", "data:add", "--json")["outputs"]["train"]["digest"]
        for root in (home / "cache" / "roots").iterdir():
            root.unlink()  # so that it is counted again
        spoil(home / "cache" / "cas" / "sha256" / digest[:2] / digest)
        again = call(*BUILD)
        assert again["overlap"] == first["overlap"]
        assert [a["name"] for a in again["actions"] if a["status"] == "ran"] == ["data:add"]
        assert call(*BUILD)["overlap"] == first["overlap"]


def spoil(path: Path) -> None:
    """Flip the first byte, as a disk does."""
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
