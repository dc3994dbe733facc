"""What running processes say they use, and how long that counts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from store_samples import make_record

from dem_build.store import Hints, Store, uses
from dem_build.store.files import LOCK_SECONDS, exclusively
from dem_build.store.local import open_layout
from dem_build.store.uses import read_uses

KEY = "ab" * 32
USE = """
import sys, time
from pathlib import Path
from dem_build.store import Store
store = Store.open(Path(sys.argv[1]))
with store.in_use():
    store.records.lookup(sys.argv[2])
    print("used", flush=True)
    time.sleep(60)
"""


def used(store: Store) -> frozenset[str]:
    return read_uses(open_layout(store.root))[0]


def test_a_key_counts_as_used_from_before_it_is_looked_up_until_the_block_ends(store, monkeypatch):
    seen = []
    peek = store.records.peek
    monkeypatch.setattr(store.records, "peek", lambda key: seen.append(used(store)) or peek(key))
    with store.in_use():
        store.records.lookup(KEY)
        assert {*seen} == {frozenset({KEY})}
        assert used(store) == {KEY}
    assert used(store) == frozenset()
    assert not list((store.root / "running").iterdir())


def test_what_is_stored_and_published_counts_as_used(store):
    with store.in_use():
        record = store.records.publish(make_record(store))
        objects = {b.digest for b in record.blobs()} | {record.log.digest}
        assert used(store) == objects | {record.key}


def test_outside_of_a_block_nothing_is_written(store):
    store.records.publish(make_record(store))
    assert not (store.root / "running").exists()
    assert not (store.root / "gc.lock").exists()


def test_a_killed_process_uses_nothing_and_a_stopped_one_still_does(store):
    command = [sys.executable, "-c", USE, str(store.root), KEY]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "used\n"
        os.kill(process.pid, signal.SIGSTOP)
        assert used(store) == {KEY}
        process.kill()
        process.wait()
    names, dead = read_uses(open_layout(store.root))
    assert names == frozenset()
    assert len(dead) == 1


def test_a_store_that_cannot_be_written_is_used_without_notes(store, tmp_path):
    record = store.records.publish(make_record(store))
    (store.root / "running").write_text("in the way")
    other = Store.open(store.root, hints=Hints(tmp_path / "hints"))
    with other.in_use():
        assert other.records.lookup(record.key) == record


def test_a_collection_that_is_stopped_is_waited_for_once(store, monkeypatch):
    record, waited, acquire = store.records.publish(make_record(store)), [], uses.files.acquire

    def shortened(descriptor, operation, seconds):
        waited.append(seconds)
        return acquire(descriptor, operation, min(seconds, 0.05))

    monkeypatch.setattr(uses.files, "acquire", shortened)
    with store.in_use(), exclusively(store.root / "gc.lock", 1.0):
        assert store.records.lookup(record.key) == record
        assert store.records.lookup(record.key) == record
    assert waited[-2:] == [LOCK_SECONDS, 0.0]
