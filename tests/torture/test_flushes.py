"""What is on the disk before what, read from a trace of a process that publishes: the kernel's where strace may
trace, and in any case that of `failpoints`, which hears what Python calls.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import failpoints
import pytest
from failpoints import Plan

from dem_build.actions.checkpoints import adopt, keep, newest_complete

SCRIPT = """
import os, sys
from pathlib import Path
from dem_build import digest
from dem_build.lock import lock
from dem_build.engine.publish import Destination, publish
from dem_build.actions.checkpoints import adopt, keep
from dem_build.digest import Output
from dem_build.store import Hints, Record, Store

home = Path(sys.argv[1])
store = Store.open(home / "cache", hints=Hints(home / "hints"))
key = digest.of_json({"kind": "finetune"})
with store.leases.take(key):
    work = store.work.new(key)
    checkpoints = work / "checkpoints"
    for step in (1, 2, 3):
        (checkpoints / f"checkpoint-{step}" / "optimizer").mkdir(parents=True)
        (checkpoints / f"checkpoint-{step}" / "optimizer" / "state").write_bytes(b"state")
        keep(checkpoints / f"checkpoint-{step}")
    later = store.work.new(key)
    adopt(checkpoints / "checkpoint-3", later / "checkpoints")
    (later / "out" / "delta").mkdir()
    for name in ("a", "b"):
        (later / "out" / "delta" / name).write_bytes(name.encode())
    delta = store.objects.put(later / "out" / "delta")
    log = store.objects.put_bytes(b"log")
    store.records.publish(Record(key, "finetune", {"kind": "finetune"}, {"delta": delta}, {}, log))
store.roots.write("recipe", {"actions": {"vector:a": key}})
lock.update(home / "tiny.lock", lock.Lock(lock.LockedBase("gguf", ())), lock.read(home / "tiny.lock"))

models = Store.open(home / "models", hints=Hints(home / "hints"))
to = Destination(home / "out", home / "tiny.toml")
for turn in ("1", "2"):
    blobs = {n: models.objects.put_bytes(t.encode()) for n, t in (("config", turn), ("generation_config", "{}"))}
    outputs = {name: Output(blob.digest, blob.size) for name, blob in blobs.items()}
    for name in ("weights", "tokenizer"):
        (home / name).mkdir(exist_ok=True)
        (home / name / f"{name}.json").write_text(turn)
        outputs[name] = models.objects.put(home / name)
    publish(to, Record(digest.of_json(turn), "compose", {"kind": "compose"}, outputs, {}), turn, models, dict)
"""

Call = tuple[str, ...]


@dataclass(frozen=True)
class Trace:
    """Calls that were done, in order: `fsync PATH`, `rename OLD NEW`, `link OLD NEW`, `mkdir PATH`, `remove PATH`."""

    home: Path
    calls: list[Call]

    def named(self, *folders: str) -> list[tuple[int, Path, Path]]:
        """Return when which file got which name in one of the folders of the project."""
        places = tuple(str(self.home / folder) for folder in folders)
        return [
            (at, Path(call[1]), Path(call[2]))
            for at, call in enumerate(self.calls)
            if call[0] in ("rename", "link") and call[2].startswith(places)
        ]

    def flushed(self, path: Path, *, after: int = -1) -> int:
        """Return when a file or folder was next flushed after a call; beyond the end where it never was."""
        found = (at for at, call in enumerate(self.calls) if at > after and call == ("fsync", str(path)))
        return next(found, len(self.calls))


def python_trace(home: Path) -> list[Call]:
    journal = home.parent / "journal"
    environment = os.environ | failpoints.environment([home], Plan(journal=str(journal)))
    run([sys.executable, "-c", SCRIPT, str(home)], environment)
    entries = [json.loads(line) for line in journal.read_text().splitlines()]
    done = {"fsync": 1, "rename": 2, "link": 2, "mkdir": 1}
    calls: list[Call] = []
    for what, _, name, *told in entries:
        if what == "done":
            calls.append((name, *told[: done[name]]))
        elif name == "os.remove":
            calls.append(("remove", told[0]))
    return calls


def kernel_trace(home: Path) -> list[Call]:
    if (
        shutil.which("strace") is None
        or subprocess.run(["strace", "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("strace is not here, or may not trace")
    out = home.parent / "strace"
    watched = "trace=fsync,rename,renameat,renameat2,link,linkat,mkdir,mkdirat,unlink,unlinkat"
    run(
        ["strace", "-f", "-y", "-o", str(out), "-e", watched, sys.executable, "-c", SCRIPT, str(home)],
        os.environ,
    )
    return [call for line in whole_lines(out.read_text()) if (call := parsed(line))]


def run(command: list[str], environment: object) -> None:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def whole_lines(text: str) -> list[str]:
    """Join the calls that another thread's interrupted in the trace, where they ended."""
    begun: dict[str, str] = {}
    lines: list[str] = []
    for line in text.splitlines():
        thread, _, call = line.partition(" ")
        call = call.strip()
        if call.endswith("<unfinished ...>"):
            begun[thread] = call.removesuffix("<unfinished ...>")
        elif match := re.match(r"<\.\.\. \w+ resumed>", call):
            lines.append(begun.pop(thread) + call[match.end() :])
        else:
            lines.append(call)
    return lines


def parsed(line: str) -> Call | None:
    """Return the call of a line of strace's, None where it failed or is of no interest."""
    match = re.match(r"(\w+)\((.*)\) += 0$", line)
    if match is None:
        return None
    name = re.sub(r"at2?$", "", match[1])
    if name == "fsync":
        return ("fsync", match[2].partition("<")[2].rpartition(">")[0])
    found = re.findall(r'(?:\w+<([^>]*)>, )?"([^"]*)"', match[2])
    paths = tuple(str(Path(folder, path)) for folder, path in found)
    return ("remove" if name == "unlink" else name, *paths)


@pytest.fixture(scope="module", params=[python_trace, kernel_trace], ids=["python", "kernel"])
def trace(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trace:
    home = tmp_path_factory.mktemp("trace") / "home"
    home.mkdir()
    make: Callable[[Path], list[Call]] = request.param
    return Trace(home, make(home))


def test_bytes_are_flushed_before_their_name_and_the_name_after_it(trace: Trace) -> None:
    names = trace.named("cache/cas", "cache/actions", "cache/roots", "cache/work", "tiny.lock")
    kinds = {
        str(new.relative_to(trace.home)).split("/")[1 if "cache" in str(new) else 0] for _, _, new in names
    }
    assert kinds == {"cas", "actions", "roots", "work", "tiny.lock"}
    for at, old, new in names:
        assert trace.flushed(old) < at, f"{new} was named before its bytes were flushed"
        assert trace.flushed(new.parent, after=at) < len(trace.calls), f"the name {new} was never flushed"


def test_a_record_is_named_after_the_names_of_its_objects_are_flushed(trace: Trace) -> None:
    objects = trace.named("cache/cas")
    [(linked, _, _)] = trace.named("cache/actions")
    assert len(objects) == 4
    assert all(trace.flushed(new.parent, after=at) < linked for at, _, new in objects)


def test_a_new_folder_is_flushed_in_its_parent_before_a_record_counts_on_it(trace: Trace) -> None:
    [(linked, _, _)] = trace.named("cache/actions")
    made = [
        (at, Path(call[1]))
        for at, call in enumerate(trace.calls)
        if call[0] == "mkdir" and Path(call[1]).parent == trace.home / "cache/cas/sha256"
    ]
    assert made
    assert all(trace.flushed(folder.parent, after=at) < linked for at, folder in made)


def test_a_checkpoint_is_on_the_disk_before_the_one_that_it_replaces_goes(trace: Trace) -> None:
    marks = [(at, new) for at, _, new in trace.named("cache/work") if new.parent.name == "checkpoint-3"]
    [first_removal] = [
        at
        for at, call in enumerate(trace.calls)
        if call[0] == "remove" and (Path(call[1]).name, "checkpoint-1" in call[1]) == ("state", True)
    ]
    at, mark = marks[0]
    for path in (mark.parent / "optimizer" / "state", mark.parent / "optimizer", mark.parent):
        assert trace.flushed(path) < at, f"{path} was not flushed before the mark"
    assert trace.flushed(mark.parent, after=at) < trace.flushed(mark.parent.parent, after=at) < first_removal


def test_a_run_and_its_folders_are_on_the_disk_before_its_checkpoints(trace: Trace) -> None:
    for at, _, mark in trace.named("cache/work"):
        run_folder = mark.parents[2]
        assert all(trace.flushed(p) < at for p in (run_folder, run_folder.parent, run_folder.parents[1]))


def test_a_new_model_has_its_name_on_the_disk_before_the_old_one_is_taken_apart(trace: Trace) -> None:
    """A power cut that undid the renames would leave what is left of the old model under the model's name."""
    model = trace.home / "out" / "model"
    _, (named, _, _) = [(at, old, new) for at, old, new in trace.named("out") if new == model]
    removals = [at for at, call in enumerate(trace.calls) if call[0] == "remove" and at > named]
    assert removals
    assert trace.flushed(model.parent, after=named) < removals[0]


def test_a_copied_checkpoint_is_not_complete_before_it_is_flushed(tmp_path, monkeypatch) -> None:
    """A power cut after the copy and before the flush must not leave a mark that vouches for lost bytes."""
    earlier = tmp_path / "earlier" / "checkpoint-3"
    earlier.mkdir(parents=True)
    (earlier / "state").write_bytes(b"state")
    keep(earlier)

    def fails(_descriptor: int) -> None:
        raise OSError("the power is gone")

    with monkeypatch.context() as cut:
        cut.setattr(os, "fsync", fails)
        with pytest.raises(OSError, match="power"):
            adopt(earlier, tmp_path / "later")
    assert newest_complete(tmp_path / "later") is None
    assert adopt(earlier, tmp_path / "later") == newest_complete(tmp_path / "later")
