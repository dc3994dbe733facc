"""The whole store: opening, formats, roots, statistics and verification."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from store_samples import make_record, record_file, rewrite

from dem_build.digest import Blob
from dem_build.errors import CorruptObjectError, StoreError
from dem_build.store import Hints, Store
from dem_build.store.gc.census import Usage
from dem_build.store.hints import Hashed
from dem_build.store.sealed import sealed


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


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b"\xff", b'{"dem-store": null}', b'{"dem-store": 0}'])
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
    store.objects.put_bytes(b"x")
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
record = store.records.lookup(key)
for output in record.outputs.values():
    store.objects.check(output)
assert store.leases.holder(key) is None
assert not store.verify() and store.stats().objects.count == 4
for change in (lambda: store.objects.put_bytes(b"x"), lambda: store.leases.take(key), lambda: store.work.new(key)):
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
    record = public_store.records.publish(make_record(public_store))
    set_modes(public_store.root, 0o555)
    command = [sys.executable, "-c", READ_ONLY, str(public_store.root), record.key]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    set_modes(public_store.root, 0o755)
    assert (result.returncode, result.stderr) == (0, "")


def test_a_root_is_what_was_written_last(store):
    assert store.roots.read("recipe one") is None
    store.roots.write("recipe one", {"keys": {"vector:math": "a" * 64}})
    store.roots.write("recipe one", {"keys": {"vector:math": "b" * 64}})
    store.roots.write("../another", [1])
    assert store.roots.read("recipe one") == {"keys": {"vector:math": "b" * 64}}
    assert store.roots.read("../another") == [1]


def test_a_damaged_root_is_none(store):
    store.roots.write("recipe", {})
    [path] = (store.root / "roots").iterdir()
    rewrite(path, b'{"recipe_id"')
    assert store.roots.read("recipe") is None
    assert store.stats().recipes == {}


def test_a_folder_in_place_of_a_root_is_none_and_is_replaced(store):
    store.roots.write("recipe", {})
    [path] = (store.root / "roots").iterdir()
    path.unlink()
    path.mkdir()
    assert store.roots.read("recipe") is None
    store.roots.write("recipe", {"a": 1})
    assert store.roots.read("recipe") == {"a": 1}


def test_statistics_count_what_is_shared_once(store):
    one, two = make_record(store, data=b"1234", params=1), make_record(store, data=b"1234", params=2)
    store.records.publish(one)
    store.records.publish(two)
    store.objects.put_bytes(b"nobody's")
    store.roots.write("recipe", {"vector": one.key, "a digest of something else": "f" * 64})
    stats = store.stats()
    tree = store.objects.path(one.outputs["weights"].digest).stat().st_size
    named = 4 + 1 + tree + len(b"log of 1234")
    assert stats.kinds == {"finetune": Usage(2, named)}
    assert stats.unnamed == Usage(1, 8)
    assert stats.objects == Usage(5, named + 8)
    assert stats.recipes == {"recipe": Usage(1, named)}
    assert stats.quarantine == Usage(0, 0)


def test_a_sound_store_has_no_damage_and_progress_ends_at_the_total(store):
    store.records.publish(make_record(store))
    seen = []
    assert store.verify(lambda done, total: seen.append((done, total))) == []
    size = store.stats().objects.bytes
    assert seen[0] == (0, size)
    assert seen[-1] == (size, size)


def rot(path: Path, data: bytes) -> None:
    """Change a file's bytes and put its times back."""
    stat = path.stat()
    path.chmod(0o644)
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def contents(store):
    return {p.relative_to(store.root): p.read_bytes() for p in store.root.rglob("*") if p.is_file()}


def quarantined(store):
    return sorted(p.name.partition("-")[0] for p in (store.root / "quarantine").iterdir())


def test_verify_finds_a_changed_byte_that_no_hint_shows_and_changes_nothing(store):
    record = store.records.publish(make_record(store))
    path = store.objects.path(record.outputs["delta"].digest)
    rot(path, b"dElta")
    before = contents(store)
    damages = store.verify()
    assert [d.path for d in damages] == [path, record_file(store, record.key)]
    assert "other bytes" in damages[0].what
    assert damages[1].key == record.key
    assert contents(store) == before


def test_what_verify_found_damaged_is_read_again_by_the_next_step(store):
    """A disk that rots changes no time; here the hint is made to agree with the times of the rotten file."""
    record = store.records.publish(make_record(store))
    path = store.objects.path(record.outputs["delta"].digest)
    rot(path, b"dElta")
    store.hints.remember([Hashed(path, Blob(path.name, 5), path.stat(), settled=True)])
    store.objects.check(record.outputs["delta"])  # nothing shows
    store.verify()
    with pytest.raises(CorruptObjectError):
        store.objects.check(record.outputs["delta"])


def test_repair_sets_aside_a_damaged_object_and_the_records_that_name_it(store):
    record = store.records.publish(make_record(store))
    rot(store.objects.path(record.outputs["delta"].digest), b"dElta")
    assert [d.repaired for d in store.verify(repair=True)] == ["now in quarantine"] * 2
    assert quarantined(store) == ["object", "record"]
    assert store.records.lookup(record.key) is None
    assert store.verify() == []
    again = make_record(store)
    assert store.records.publish(again) == again


def test_repair_sets_aside_invalid_records_and_strays(store):
    record = store.records.publish(make_record(store))
    rewrite(record_file(store, record.key), b"{")
    stray = store.root / "cas" / "sha256" / "ab"
    stray.mkdir(exist_ok=True)
    (stray / "notes.txt").write_bytes(b"x")
    damages = store.verify()
    assert {d.path for d in damages} == {stray / "notes.txt", record_file(store, record.key)}
    assert store.verify() == damages
    store.verify(repair=True)
    assert quarantined(store) == ["object", "record"]
    assert store.verify() == []


def test_a_lost_log_costs_no_result_and_repair_takes_it_out_of_the_record(store):
    record = store.records.publish(make_record(store))
    store.objects.path(record.log.digest).unlink()
    [damage] = store.verify(repair=True)
    assert damage.repaired == "it names no log now"
    assert store.records.lookup(record.key) == replace(record, log=None)
    assert store.verify() == []


def test_a_folder_in_place_of_an_object_is_damage_and_not_an_abort(store):
    record = store.records.publish(make_record(store))
    path = store.objects.path(record.outputs["delta"].digest)
    path.unlink()
    path.mkdir()
    assert store.records.lookup(record.key) is None
    assert "is not a file" in store.verify()[0].what
    assert make_record(store) == record  # stored again, the folder set aside
    assert store.records.lookup(record.key) == record


def test_a_folder_in_place_of_a_record_is_a_miss_and_is_replaced(store):
    record = store.records.publish(make_record(store))
    path = record_file(store, record.key)
    path.unlink()
    path.mkdir()
    assert store.records.lookup(record.key) is None
    assert store.records.publish(record) == record


def test_a_record_of_a_newer_dem_is_no_hit_and_no_damage(store):
    record = store.records.publish(make_record(store))
    path = record_file(store, record.key)
    rewrite(path, sealed({**record.to_json(), "dem-record": 3, "new": True}))
    assert store.records.lookup(record.key) is None
    assert store.verify(repair=True) == []
    assert path.exists()


def test_a_record_of_an_older_dem_has_no_seal_and_is_a_hit(store):
    record = store.records.publish(make_record(store))
    path = record_file(store, record.key)
    rewrite(path, json.dumps(record.to_json() | {"dem-record": 1}).encode())
    assert store.records.lookup(record.key) == record
    assert store.verify() == []


def test_folders_of_the_store_that_somebody_removed_are_made_again(store):
    for name in ("tmp", "quarantine", "leases", "roots", "work"):
        shutil.rmtree(store.root / name)
    again = Store.open(store.root)
    record = again.records.publish(make_record(again))
    rot(again.objects.path(record.outputs["delta"].digest), b"dElta")
    again.verify(repair=True)
    assert quarantined(again) == ["object", "record"]


def test_importing_the_store_imports_nothing_heavy():
    code = "import sys, dem_build.store; print(' '.join(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    heavy = {"pydantic", "rich", "typer", "numpy", "torch", "transformers", "datasets", "asyncio"}
    assert not heavy & set(result.stdout.split())
