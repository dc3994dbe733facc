"""File systems that have hard links within a folder alone, as BeeGFS, and unfinished work on another one."""

from __future__ import annotations

import errno
import os
import shutil
import time
from pathlib import Path

import pytest
from store_samples import make_record, record_file

from dem_build.store import Hints, Store
from dem_build.store.gc.collect import Trash, collect, put_back_all
from dem_build.store.gc.garbage import Item, Policy
from dem_build.store.local import open_layout

DAY = 86400.0


@pytest.fixture
def no_links_between_folders(monkeypatch):
    link = os.link

    def within(source, target):
        if Path(source).parent != Path(target).parent:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(source), None, str(target))
        link(source, target)

    monkeypatch.setattr(os, "link", within)


@pytest.mark.usefixtures("no_links_between_folders")
def test_records_leases_and_the_trash_need_no_links_between_folders(tmp_path):
    store = Store.open(tmp_path / "cache", hints=Hints(tmp_path / "hints"))
    record = store.records.publish(make_record(store))
    with store.leases.take(record.key):
        assert store.leases.holder(record.key) is not None
    layout = open_layout(tmp_path / "cache")

    def taken():
        trash = Trash(layout)
        delta = store.objects.path(record.outputs["delta"].digest)
        assert trash.take(Item(record_file(store, record.key), "", "record"))
        assert trash.take(Item(delta, "", "object"))
        return delta

    delta = taken()
    with store.in_use():
        assert store.records.lookup(record.key) == record, "who misses something finds it in the trash"
    assert delta.read_bytes() == b"delta"
    taken()
    put_back_all(layout)
    assert record_file(store, record.key).exists()
    assert store.objects.open(record.outputs["delta"]).read_bytes() == b"delta"
    assert store.verify() == []
    assert not [p for p in (tmp_path / "cache").rglob(".*") if p.name != ".gitignore"]


@pytest.mark.usefixtures("no_links_between_folders")
def test_what_was_published_meanwhile_stays(tmp_path):
    store = Store.open(tmp_path / "cache", hints=Hints(tmp_path / "hints"))
    record = store.records.publish(make_record(store))
    trash = Trash(open_layout(tmp_path / "cache"))
    item = Item(record_file(store, record.key), "", "record")
    trash.take(item)
    other = make_record(store, data=b"other")
    record_file(store, record.key).write_bytes(b"published meanwhile")
    trash.put_back(item)
    assert record_file(store, record.key).read_bytes() == b"published meanwhile"
    assert other.key == record.key


def test_records_and_leases_in_the_making_are_no_records_and_are_collected(tmp_path):
    store = Store.open(tmp_path / "cache", hints=Hints(tmp_path / "hints"))
    record = store.records.publish(make_record(store))
    strays = [
        record_file(store, record.key).with_name(f".{'0' * 16}"),
        store.root / "leases" / f".{'0' * 16}",
        store.root / f".{'1' * 16}",
        store.root / "remote" / "parts" / f"{'a' * 64}-{'0' * 16}",
    ]
    for path in strays:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    assert list(store.records.all()) == [record]
    assert store.verify() == []
    store.collect(Policy())
    assert all(path.exists() for path in strays), "they are young"
    for path in strays:
        os.utime(path, (time.time() - 3 * DAY,) * 2)
    found = store.collect(Policy(), dry_run=True)
    # A file's change of status is now, so another clock says that it is old.
    assert "temporary files" not in found.freed
    collect(open_layout(store.root), Policy(), now=time.time() + 2 * DAY)
    assert not any(path.exists() for path in strays)


def test_unfinished_work_may_lie_elsewhere(tmp_path):
    scratch = tmp_path / "nvme"
    store = Store.open(tmp_path / "cache", hints=Hints(tmp_path / "hints"), work=scratch)
    key = "0" * 64
    folder = store.work.new(key)
    assert folder.is_relative_to(scratch)
    (folder / "checkpoints" / "step").write_bytes(b"12 bytes")
    assert store.stats().work.bytes == 8
    assert store.work.previous(key) == [folder]
    other = Store.open(tmp_path / "other", hints=Hints(tmp_path / "hints"), work=scratch)
    assert other.work.previous(key) == [], "of another store"
    again = Store.open(tmp_path / "cache", hints=Hints(tmp_path / "hints"), work=scratch)
    assert again.work.previous(key) == [folder]
    collect(open_layout(tmp_path / "cache", work=scratch), Policy(), now=time.time() + 40 * DAY)
    assert store.work.previous(key) == []
    assert not [p for p in scratch.rglob("*") if p.is_file()]


def test_what_lies_on_another_file_system_is_copied_into_the_store(tmp_path):
    shm = Path("/dev/shm")
    if not shm.is_dir() or shm.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system")
    scratch = shm / f"dem-test-{os.getpid()}"
    try:
        store = Store.open(tmp_path / "cache", hints=Hints(tmp_path / "hints"), work=scratch)
        record = store.records.publish(make_record(store))
        assert store.objects.open(record.outputs["delta"]).read_bytes() == b"delta"
        assert store.verify() == []
        folder = store.work.new("1" * 64)
        (folder / "checkpoints" / "step").write_bytes(b"12 bytes")
        collect(open_layout(tmp_path / "cache", work=scratch), Policy(), now=time.time() + 40 * DAY)
        assert store.work.previous("1" * 64) == []
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
