"""Records: what is a hit, who wins, and in which order things reach the disk."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import store_samples
from store_samples import make_record, record_file, rewrite

from dem_build import digest
from dem_build.actions import KINDS
from dem_build.errors import StoreError
from dem_build.store import Hints, Store
from dem_build.store.files import exclusively
from dem_build.store.local import CacheLayout
from dem_build.store.sealed import sealed


def test_what_was_published_is_found_unchanged(store):
    record = make_record(store)
    assert store.records.lookup(record.key) is None
    assert store.records.publish(record) == record
    assert store.records.lookup(record.key) == record
    assert list(store.records.all()) == [record]


def test_a_second_store_object_finds_what_the_first_published(store, tmp_path):
    record = store.records.publish(make_record(store))
    assert Store.open(store.root, hints=Hints(tmp_path / "other")).records.lookup(record.key) == record


def test_a_lookup_reads_no_object(store, monkeypatch):
    record = store.records.publish(make_record(store))
    monkeypatch.setattr(digest, "of_file", lambda _path: pytest.fail("an object was read"))
    assert Store.open(store.root).records.lookup(record.key) == record


def test_the_first_record_of_a_key_wins(store):
    first = store.records.publish(make_record(store, data=b"first"))
    assert store.records.publish(make_record(store, data=b"second")) == first
    assert store.records.lookup(first.key) == first


@pytest.mark.parametrize("lost", ["delta", "a file of the tree", "the tree"])
def test_a_record_without_one_of_its_objects_is_a_miss_that_can_be_peeked_at(store, lost):
    record = store.records.publish(make_record(store))
    weights = record.outputs["weights"]
    digests = {"delta": record.outputs["delta"].digest, "a file of the tree": weights.files["b"].digest}
    store.objects.path(digests.get(lost, weights.digest)).unlink()
    assert store.records.lookup(record.key) is None
    assert store.records.peek(record.key) == record


def test_a_record_whose_object_has_another_size_is_a_miss(store):
    record = store.records.publish(make_record(store))
    path = store.objects.path(record.outputs["delta"].digest)
    path.chmod(0o644)
    os.truncate(path, 2)
    assert store.records.lookup(record.key) is None


def test_a_lost_log_costs_no_rebuild(store):
    record = store.records.publish(make_record(store))
    store.objects.path(record.log.digest).unlink()
    assert store.records.lookup(record.key) == record


def truncated(document: dict) -> bytes:
    return sealed(document)[:-20]


def empty(_document: dict) -> bytes:
    return b""


def other_preimage(document: dict) -> bytes:
    return sealed(document | {"preimage": {"dem": 1, "kind": "else"}})


def other_version(document: dict) -> bytes:
    return sealed(document | {"dem-record": 99})


def no_object(_document: dict) -> bytes:
    return b"[1, 2]"


def other_provenance(document: dict) -> bytes:
    return sealed(document).replace(b"1.5", b"1.4")


def no_seal(document: dict) -> bytes:
    return json.dumps(document).encode()


def file_outside(document: dict) -> bytes:
    files = {"../../evil": digest.Blob(digest.of_bytes(b"b"), 1)}
    entry = {"sha256": digest.of_bytes(digest.tree_bytes(files)), "size": 1}
    entry["files"] = {"../../evil": {"sha256": digest.of_bytes(b"b"), "size": 1}}
    return sealed(document | {"outputs": {"weights": entry}})


def another_tree(document: dict) -> bytes:
    document["outputs"]["weights"]["files"]["c"] = {"sha256": digest.of_bytes(b"b"), "size": 0}
    return sealed(document)


def negative_size(document: dict) -> bytes:
    document["outputs"]["delta"]["size"] = -1
    return sealed(document)


BROKEN = [
    truncated,
    empty,
    other_preimage,
    other_version,
    no_object,
    other_provenance,
    no_seal,
    file_outside,
    another_tree,
    negative_size,
]


@pytest.mark.parametrize("break_it", BROKEN, ids=lambda f: f.__name__)
def test_an_invalid_record_is_a_miss_and_is_replaced_and_kept_in_quarantine(store, break_it):
    record = store.records.publish(make_record(store, data=b"first"))
    path = record_file(store, record.key)
    document = json.loads(path.read_bytes())
    del document["seal"]
    broken = break_it(document)
    rewrite(path, broken)
    assert store.records.lookup(record.key) is None
    assert store.records.peek(record.key) is None
    second = make_record(store, data=b"second")
    assert store.records.publish(second) == second
    [kept] = (store.root / "quarantine").iterdir()
    assert kept.read_bytes() == broken


def test_a_record_under_the_name_of_another_key_is_a_miss(store):
    one, two = (
        store.records.publish(make_record(store, params=1)),
        store.records.publish(make_record(store, params=2)),
    )
    rewrite(record_file(store, two.key), record_file(store, one.key).read_bytes())
    assert store.records.lookup(two.key) is None


def test_a_record_with_missing_objects_gives_way_to_a_new_one(store):
    lost = store.records.publish(make_record(store, data=b"first"))
    store.objects.path(lost.outputs["delta"].digest).unlink()
    second = make_record(store, data=b"second")
    assert store.records.publish(second) == second


def test_a_record_is_refused_while_an_object_of_it_is_not_stored(store):
    record = make_record(store)
    store.objects.path(record.outputs["delta"].digest).unlink()
    with pytest.raises(StoreError, match="is not in the cache"):
        store.records.publish(record)
    assert store.records.peek(record.key) is None


def test_a_record_whose_key_is_not_the_hash_of_its_preimage_is_refused(store):
    with pytest.raises(StoreError, match="not the hash of the preimage"):
        store.records.publish(replace(make_record(store), key="0" * 64))


def test_a_record_with_a_number_that_json_lacks_is_refused(store):
    with pytest.raises(StoreError, match="not valid"):
        store.records.publish(replace(make_record(store), provenance={"loss": float("nan")}))


def publish_one(arguments) -> str:
    root, hints, number, barrier, locks = arguments
    if not locks:
        fcntl.flock = lambda *_: None
    store = Store.open(root, hints=Hints(hints))
    record = make_record(store, data=f"result {number}".encode())
    barrier.wait()
    return store.records.publish(record).provenance["who"]


@pytest.mark.parametrize("locks", [True, False], ids=["locks", "locks that do nothing"])
@pytest.mark.parametrize("there", ["nothing", "an invalid record"])
def test_all_of_many_concurrent_publishers_get_the_same_winner(store, tmp_path, there, locks):
    processes = 6
    context = multiprocessing.get_context("spawn")
    if there == "an invalid record":
        record = store.records.publish(make_record(store))
        rewrite(record_file(store, record.key), b"{")
    with context.Manager() as manager, context.Pool(processes) as pool:
        barrier = manager.Barrier(processes)
        winners = pool.map(
            publish_one,
            [(store.root, tmp_path / "hints", n, barrier, locks) for n in range(processes)],
            chunksize=1,
        )
    assert len(set(winners)) == 1
    [record] = store.records.all()
    assert record.provenance["who"] == winners[0]
    assert not list((store.root / "tmp").iterdir())
    assert not store.verify()


def test_leaves_reach_the_disk_before_the_tree_and_the_tree_before_the_record(store, monkeypatch):
    """The calls are made for real; each is written down with the path that it is about."""
    calls: list[tuple[str, str]] = []

    def spy(name, path_of):
        real = getattr(os, name)

        def call(*arguments, **keywords):
            about = path_of(*arguments)
            result = real(*arguments, **keywords)
            calls.append((name, str(about)))
            return result

        monkeypatch.setattr(os, name, call)

    spy("fsync", lambda descriptor: Path(f"/proc/self/fd/{descriptor}").readlink())
    spy("rename", lambda _source, target: target)
    spy("link", lambda _source, target: target)
    record = store.records.publish(make_record(store))
    weights = record.outputs["weights"]

    def first(call: str, path: Path) -> int:
        return calls.index((call, str(path)))

    def last(call: str, path: Path) -> int:
        return len(calls) - 1 - calls[::-1].index((call, str(path)))

    tree_object, target = store.objects.path(weights.digest), record_file(store, record.key)
    for blob in weights.files.values():
        leaf = store.objects.path(blob.digest)
        assert first("rename", leaf) < first("fsync", leaf.parent) < first("rename", tree_object)
    assert first("rename", tree_object) < last("fsync", tree_object.parent) < first("link", target)
    assert first("link", target) < last("fsync", target.parent)
    # Each file was flushed under its temporary name before it got the name that counts.
    temporaries = str(store.root / "tmp") + "/"
    named = 0
    for call, path in calls:
        flushed = sum(
            c == "fsync" and p.startswith(temporaries) for c, p in calls[: calls.index((call, path))]
        )
        if (call == "rename" and "/cas/" in path) or call == "link":
            named += 1
            assert flushed >= named


def test_a_valid_record_that_was_put_aside_for_an_invalid_one_goes_back(store, monkeypatch):
    """Where locks do nothing: between the look at the invalid record and its removal, another process replaces it."""
    first = store.records.publish(make_record(store))
    file, valid = record_file(store, first.key), record_file(store, first.key).read_bytes()
    rewrite(file, b"{")
    aside = CacheLayout.set_aside

    def late(layout, path, kind):
        monkeypatch.undo()
        rewrite(path, valid)
        return aside(layout, path, kind)

    monkeypatch.setattr(CacheLayout, "set_aside", late)
    assert store.records.publish(replace(make_record(store), provenance={"who": "a later one"})) == first
    assert not list((store.root / "quarantine").iterdir())


def test_a_lock_that_a_stopped_process_holds_is_not_waited_for_without_end(store):
    lock = store.root / "lock"
    with exclusively(lock) as first, exclusively(lock, seconds=0.05) as second:
        assert (first, second) == (True, False)
    with exclusively(lock) as again:
        assert again


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from dem_build.store import Hints, Store
from dem_build.store.files import exclusively
from dem_build.store.local import CacheLayout
from store_samples import make_record

def deadly(name):
    real = getattr(os, name)
    def call(*arguments, **keywords):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **keywords)
    setattr(os, name, call)

store = Store.open(Path(sys.argv[1]), hints=Hints(Path(sys.argv[1]) / "hints"))
left = int(sys.argv[2])
for name in ("fsync", "rename", "link", "unlink", "chmod"):
    deadly(name)
store.records.publish(make_record(store))
"""


def test_a_kill_at_any_call_leaves_a_store_without_damage_that_the_next_run_completes(tmp_path):
    """Every fourth rename, link, unlink, chmod and flush of a publish is in turn the last thing done."""
    point, survived = 0, False
    while not survived:
        root = tmp_path / str(point)
        arguments = [str(root), str(point), str(Path(store_samples.__file__).parent)]
        status = subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False).returncode
        assert status in (0, -signal.SIGKILL)
        survived = status == 0
        store = Store.open(root, hints=Hints(tmp_path / "hints"))
        assert not store.verify()
        record = make_record(store)
        assert store.records.publish(record) == record
        point += 4  # each is a process, so not all of them
    assert point > 10


def _rewritten(store, record, **changes):
    rewrite(record_file(store, record.key), sealed(record.to_json() | changes))


@pytest.mark.parametrize("provenance", [None, [], "text", 1])
def test_a_record_whose_provenance_is_no_table_is_none(store, provenance):
    record = store.records.publish(make_record(store))
    _rewritten(store, record, provenance=provenance)
    assert store.records.peek(record.key) is None


def _vector(store):
    preimage = {"kind": "finetune", "version": KINDS["finetune"].version}
    return store.records.publish(replace(make_record(store), key=digest.of_json(preimage), preimage=preimage))


def test_a_record_that_lacks_an_output_of_the_kind_that_was_asked_for_is_none(store):
    record = _vector(store)
    assert store.records.peek(record.key) == record
    _rewritten(store, record, outputs={"weights": record.to_json()["outputs"]["weights"]})
    assert store.records.peek(record.key) is None


def test_a_record_under_another_kind_than_was_asked_for_is_none(store):
    record = _vector(store)
    _rewritten(store, record, kind="compose")
    assert store.records.peek(record.key) is None


def test_the_outputs_of_another_version_of_a_kind_are_not_judged(store):
    preimage = {"kind": "finetune", "version": KINDS["finetune"].version + 1}
    made = make_record(store)
    outputs = {"weights": made.outputs["weights"]}
    record = store.records.publish(
        replace(made, key=digest.of_json(preimage), preimage=preimage, outputs=outputs)
    )
    assert store.records.peek(record.key) == record


def test_a_record_that_is_nested_too_deeply_is_none(store):
    record = store.records.publish(make_record(store))
    rewrite(record_file(store, record.key), b'{"dem-record": 2, "x": ' + b"[" * 100_000)
    assert store.records.peek(record.key) is None


def test_a_pipe_in_the_place_of_a_record_is_damage_that_gives_way(store):
    record = make_record(store)
    path = record_file(store, record.key)
    path.parent.mkdir(exist_ok=True)
    os.mkfifo(path)
    assert store.records.lookup(record.key) is None
    assert [d.what for d in store.verify()] == ["is not a valid record: it is not a file"]
    assert store.records.publish(record) == record
    assert store.records.lookup(record.key) == record


def test_what_provenance_has_in_another_shape_is_not_there(store):
    said = {"splits": {"train": {"rows": 3}}, "seconds": 1.5, "threads": -1, "tokens": [4], "host": "here"}
    record = replace(make_record(store), provenance=said)
    assert (record.count("splits", "train", "rows"), record.amount("seconds"), record.noted("host")) == (
        3,
        1.5,
        "here",
    )
    assert record.count("seconds") is None
    assert [record.amount(n) for n in ("threads", "tokens", "host", "splits", "absent")] == [None] * 5
    assert record.noted("tokens", "seen") is record.noted("seconds", "of", "what") is None
    assert replace(record, provenance={"rows": 10**300}).count("rows") is None
