"""The whole store: opening, formats, roots, statistics and verification."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from store_samples import make_record, record_file, rewrite

from dem_build.errors import StoreError
from dem_build.store import Hints, Store
from dem_build.store.verify import Usage


def test_opening_makes_a_store_and_opening_it_again_changes_nothing(tmp_path):
    Store.open(tmp_path / "a" / "cache")
    before = sorted(p.name for p in (tmp_path / "a" / "cache").rglob("*"))
    Store.open(tmp_path / "a" / "cache")
    assert sorted(p.name for p in (tmp_path / "a" / "cache").rglob("*")) == before
    assert json.loads((tmp_path / "a" / "cache" / "format.json").read_bytes()) == {"dem-store": 1}


def test_a_store_of_a_newer_format_is_refused(store):
    rewrite(store.root / "format.json", b'{"dem-store": 2}')
    with pytest.raises(StoreError, match="upgrade dem"):
        Store.open(store.root)


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b"\xff", b'{"dem-store": null}'])
def test_a_store_that_does_not_say_its_format_is_refused(store, text):
    rewrite(store.root / "format.json", text)
    with pytest.raises(StoreError, match="format"):
        Store.open(store.root)


def test_a_store_that_cannot_be_made_is_an_error_that_says_where(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="file"):
        Store.open(tmp_path / "file" / "cache")


def test_git_sees_nothing_of_a_store_but_its_readme(tmp_path):
    subprocess.run(["git", "init", "-q", tmp_path / "repo"], check=True)
    store = Store.open(tmp_path / "repo" / "cache")
    store.put_bytes(b"x")
    (store.root / "README.md").write_text("what this is")
    command = ["git", "-C", tmp_path / "repo", "status", "--porcelain", "--untracked-files=all"]
    status = subprocess.run(command, check=True, capture_output=True, text=True)
    assert status.stdout == "?? cache/README.md\n"


READ_ONLY = """
import os, sys
from pathlib import Path
from dem_build.errors import StoreError
from dem_build.store import Hints, Store
root, key = Path(sys.argv[1]), sys.argv[2]
assert Store.open(root).verify() == []  # all modules are loaded before the user changes
if os.geteuid() == 0:
    os.setuid(65534)
store = Store.open(root, hints=Hints(Path("/nonexistent/hints")))
record = store.lookup(key)
for output in record.outputs.values():
    store.check(output)
assert store.lease_holder(key) is None
assert not store.verify() and store.stats().objects.count == 4
for change in (lambda: store.put_bytes(b"x"), lambda: store.lease(key), lambda: store.new_work(key)):
    try:
        change()
    except StoreError as error:
        assert "not allowed" in str(error), error
    else:
        raise SystemExit("written")
"""


@pytest.fixture
def public_store():
    """A store that another user can reach."""
    with tempfile.TemporaryDirectory(prefix="dem-test-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield Store.open(folder / "cache", hints=Hints(folder / "hints"))


def set_modes(root: Path, mode: int) -> None:
    for folder in [root, *(p for p in root.rglob("*") if p.is_dir())]:
        folder.chmod(mode)


def test_hits_of_a_read_only_store_work_and_writing_is_refused_with_a_hint(public_store):
    """Modes do not bind root, so where root tests, the reader changes its user first."""
    record = public_store.publish(make_record(public_store))
    set_modes(public_store.root, 0o555)
    command = [sys.executable, "-c", READ_ONLY, str(public_store.root), record.key]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    set_modes(public_store.root, 0o755)
    assert (result.returncode, result.stderr) == (0, "")


def test_a_root_is_what_was_written_last(store):
    assert store.read_root("recipe one") is None
    store.write_root("recipe one", {"keys": {"vector:math": "a" * 64}})
    store.write_root("recipe one", {"keys": {"vector:math": "b" * 64}})
    store.write_root("../another", [1])
    assert store.read_root("recipe one") == {"keys": {"vector:math": "b" * 64}}
    assert store.read_root("../another") == [1]


def test_a_damaged_root_is_none(store):
    store.write_root("recipe", {})
    [path] = (store.root / "roots").iterdir()
    rewrite(path, b'{"recipe_id"')
    assert store.read_root("recipe") is None
    assert store.stats().recipes == {}


def test_statistics_count_what_is_shared_once(store):
    one, two = make_record(store, data=b"1234", params=1), make_record(store, data=b"1234", params=2)
    store.publish(one)
    store.publish(two)
    store.put_bytes(b"nobody's")
    store.write_root("recipe", {"vector": one.key, "a digest of something else": "f" * 64})
    stats = store.stats()
    tree = store.object_path(one.outputs["weights"].digest).stat().st_size
    named = 4 + 1 + tree + len(b"log of 1234")
    assert stats.kinds == {"finetune": Usage(2, named)}
    assert stats.unnamed == Usage(1, 8)
    assert stats.objects == Usage(5, named + 8)
    assert stats.recipes == {"recipe": Usage(1, named)}
    assert stats.quarantine == Usage(0, 0)


def test_a_sound_store_has_no_damage_and_progress_ends_at_the_total(store):
    store.publish(make_record(store))
    seen = []
    assert store.verify(lambda done, total: seen.append((done, total))) == []
    size = store.stats().objects.bytes
    assert seen[0] == (0, size)
    assert seen[-1] == (size, size)


def test_verify_finds_a_changed_byte_that_no_hint_shows(store):
    record = store.publish(make_record(store))
    path = store.object_path(record.outputs["delta"].digest)
    stat = path.stat()
    path.chmod(0o644)
    path.write_bytes(b"dElta")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    damages = store.verify()
    assert [d.path for d in damages] == [path, record_file(store, record.key)]
    assert "other bytes" in damages[0].what
    assert damages[1].key == record.key
    assert store.lookup(record.key) is None
    assert len(list((store.root / "quarantine").iterdir())) == 1


def test_verify_tells_invalid_records_and_strays_and_leaves_them(store):
    record = store.publish(make_record(store))
    rewrite(record_file(store, record.key), b"{")
    stray = store.root / "cas" / "sha256" / "ab"
    stray.mkdir(exist_ok=True)
    (stray / "notes.txt").write_bytes(b"x")
    damages = store.verify()
    assert {d.path for d in damages} == {stray / "notes.txt", record_file(store, record.key)}
    assert store.verify() == damages


def test_importing_the_store_imports_nothing_heavy():
    code = "import sys, dem_build.store; print(' '.join(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    heavy = {"pydantic", "rich", "typer", "numpy", "torch", "transformers", "datasets", "asyncio"}
    assert not heavy & set(result.stdout.split())
