"""Locks that a person or a merge has touched, and files that go away between being found and being read."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from dem_build.action import SourceFile
from dem_build.errors import RecipeError, UsageError
from dem_build.lock import lock
from dem_build.store import Hints

WHOLE = {
    "dem_lock": 1,
    "base": {"source": "directory", "files": [{"tag": "config.json", "path": "x", "sha256": "0" * 64}]},
    "datasets": {"math": {"files": []}},
    "tasks": {},
}


HUB = {
    "dataset": "org/name", "revision": "main", "config": None, "splits": {"train": "train"}, "commit": "0" * 40,
    "files": [],
}  # fmt: skip
MODEL = {"model": "org/name", "revision": "main", "commit": "0" * 40, "files": []}
FILE = {"tag": "config.json", "sha256": "0" * 64}
ODD_MODELS = (
    {"model": None},
    {"files": [FILE | {"tag": "../config.json"}]},
    {"files": [FILE | {"sha256": 3}]},
)
ODD = (
    {"revision": []},
    {"commit": {}},
    {"config": 3},
    {"splits": {"train": None}},
    {"files": [{"tag": "jsonl", "sha256": "0" * 64, "path": "../../x.jsonl"}]},
    {"files": [{"tag": "jsonl", "sha256": "0" * 64, "path": "/etc/passwd"}]},
    {"files": [{"tag": "jsonl", "sha256": 3, "path": "x.jsonl"}]},
)


@pytest.mark.parametrize(
    "change",
    [
        {"tasks": None},
        {"base": {}},
        {"base": {"files": [{"path": "x"}]}},
        {"datasets": []},
        {"datasets": {"math": 3}},
        {"tasks": {"arc_easy": "x"}},
        *({"datasets": {"math": {"files": [], "hub": HUB | odd}}} for odd in ODD),
        *({"base": {"source": "directory", "files": [], "hub": MODEL | odd}} for odd in ODD_MODELS),
        {"datasets": {"math": {"files": [], "hub": MODEL}}},
        {"base": {"source": "directory", "files": [], "hub": HUB}},
    ],
)
def test_a_lock_that_lacks_parts_is_a_mistake_of_its_file(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "tiny.lock"
    path.write_text(json.dumps(WHOLE | change))
    with pytest.raises(RecipeError, match=r"tiny\.lock.*no whole lock"):
        lock.read(path)


def test_a_whole_lock_is_read_as_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "tiny.lock"
    path.write_text(json.dumps(WHOLE))
    assert lock.read(path) == WHOLE


def test_a_file_that_goes_away_after_it_was_found_is_named(tmp_path: Path) -> None:
    located = lock.Located("directory", (("config.json", tmp_path / "config.json"),), {}, {})
    with pytest.raises(UsageError, match=r"config\.json: cannot be read"):
        lock.resolve(located, Hints(tmp_path / "hints"))


def test_a_name_that_is_no_utf_8_is_locked(tmp_path):
    """A file system's names are bytes."""
    file = tmp_path / os.fsdecode(b"caf\xe9.jsonl")
    file.write_text("{}\n")
    made = lock.Lock(lock.LockedBase("gguf", ()), {"a": (SourceFile("jsonl", "0" * 64, file),)})
    lock.update(tmp_path / "r.lock", made, lock.read(tmp_path / "r.lock"))
    assert lock.changes(lock.read(tmp_path / "r.lock"), made, tmp_path) == []


def test_a_lock_that_somebody_else_wrote_meanwhile_is_not_replaced(tmp_path):
    """It may pin a revision that was asked for by `dem lock --upgrade` while a build was planned."""
    path, mine, theirs = (
        tmp_path / "r.lock",
        *(lock.Lock(lock.LockedBase(source, ())) for source in ("gguf", "directory")),
    )
    lock.update(path, theirs, None)
    written = lock.read(path)
    with pytest.raises(UsageError, match="changed by somebody else"):
        lock.update(path, mine, None)
    assert lock.read(path) == written
    lock.update(path, theirs, None)  # who wrote the same is no other
    lock.update(path, mine, written)
    assert lock.read(path) == lock.document(mine, tmp_path)
