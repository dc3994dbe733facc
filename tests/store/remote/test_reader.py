"""What a machine reads of a shared store: records when it plans, bytes when it opens them, and never wrong ones."""

from __future__ import annotations

import fcntl
import os
import time
from dataclasses import replace

import pytest
from shared_samples import Killed, Shared

from dem_build.errors import CorruptObjectError, InterruptedBuildError, RemoteError
from dem_build.machine import Remote
from dem_build.session.sharing import Sharing, Warned
from dem_build.store import Hints, Store
from dem_build.store.local import open_layout
from dem_build.store.remote import reader
from dem_build.store.remote.folder import FolderBucket
from dem_build.store.remote.namespace import Connection, Namespace
from dem_build.store.remote.push import Pushed, push
from dem_build.store.sealed import sealed


@pytest.fixture
def shared(tmp_path):
    return Shared(tmp_path)


@pytest.fixture
def record(shared):
    """A record that one machine made and pushed."""
    one = shared.machine("one")
    made = one.make()
    assert push(made, one.store, one.write).result is Pushed.SENT
    return made


def test_planning_reads_records_alone_and_opening_brings_bytes(shared, record):
    two = shared.machine("two")
    found = two.store.records.lookup(record.key)
    assert found == record
    assert found.away.blobs == set(record.blobs())
    assert two.bucket.named("read") == []
    assert two.store.objects.open(record.outputs["delta"]).read_bytes() == b"delta"
    assert len(two.bucket.named("read")) == 1
    assert two.store.records.peek(record.key) is None, "not all of its objects are here"


def test_a_record_becomes_this_stores_when_all_of_it_is_here(shared, record):
    two = shared.machine("two")
    assert two.store.records.lookup(record.key) == record
    two.store.objects.bring(record.blobs())
    two.store.records.adopt()
    alone = shared.machine("two", read=())
    assert alone.store.records.lookup(record.key) == record
    assert alone.store.objects.read_bytes(record.log) == b"log of delta"
    assert alone.store.verify() == []


def test_what_came_once_is_not_asked_for_again(shared, record):
    assert shared.machine("two").store.records.lookup(record.key) == record
    again = shared.machine("two")
    again.bucket.dead = True
    found = again.store.records.lookup(record.key)
    assert found == record
    assert again.bucket.calls == []


def test_what_is_not_there_is_asked_for_again_by_the_next_process(shared):
    two = shared.machine("two")
    one = shared.machine("one")
    record = one.make()
    assert two.store.records.lookup(record.key) is None
    push(record, one.store, one.write)
    assert two.store.records.lookup(record.key) is None, "one process has one answer"
    assert shared.machine("two").store.records.lookup(record.key) == record


def test_who_runs_for_hours_asks_again_for_what_was_not_there(shared, monkeypatch):
    one, two = shared.machine("one"), shared.machine("two")
    record = one.make()
    assert two.store.records.lookup(record.key) is None
    push(record, one.store, one.write)
    assert two.store.records.lookup(record.key) is None
    two.write.remote.down = RemoteError("it did not answer", where="there")
    two.reader._refused_at = time.monotonic()
    two.store.records.ask_again([record.key])
    assert two.store.records.lookup(record.key) is None, "it is asked again too soon"
    monkeypatch.setattr(reader, "FORGIVEN_SECONDS", 0.0)
    two.store.records.ask_again([record.key])
    assert two.store.records.lookup(record.key) == record
    asked = len(two.bucket.named("get"))
    two.store.records.ask_again([record.key])
    assert len(two.bucket.named("get")) == asked, "what came is not asked for again"


def test_keys_are_asked_for_at_once(shared):
    one = shared.machine("one")
    records = [one.make(params=n) for n in range(40)]
    for made in records:
        push(made, one.store, one.write)
    two = shared.machine("two")
    two.store.records.expect(made.key for made in records)
    asked = len(two.bucket.calls)
    assert [two.store.records.lookup(made.key) for made in records] == records
    assert len(two.bucket.calls) == asked


@pytest.mark.parametrize("how", ["lost", "wrong"])
def test_each_object_that_is_lost_or_wrong_makes_its_record_a_miss(shared, record, how):
    for blob in dict.fromkeys(record.blobs()):
        two = shared.machine(f"two {blob.digest[:8]}")
        getattr(two.bucket, how).add(two.name(blob))
        assert two.store.records.lookup(record.key) == record
        output = next(o for o in record.outputs.values() if blob in o.blobs())
        with pytest.raises(CorruptObjectError, match=f"{blob.digest} is missing"):
            two.store.objects.check(output)
        said = [line for line in two.said if "has other bytes than its name says" in line]
        assert len(said) == (how == "wrong"), (
            "it is there at its size, so nothing else would tell who may delete it"
        )
        assert two.store.records.lookup(record.key) is None
        assert not two.store.objects.present(blob)
        assert two.store.verify() == []
        assert list((two.store.root / "remote").glob("*/*/*.json")) == [], "no note promises it"
        assert two.make() == record, "and it is made again"
        assert two.store.objects.open(record.outputs["delta"]).read_bytes() == b"delta"


def test_what_one_namespace_lacks_another_may_have(shared, record):
    own = shared.machine("one", write="user-ada")
    push(record, own.store, own.write)
    two = shared.machine("two", read=("user-ada", "trusted"))
    delta = record.outputs["delta"]
    two.bucket.lost.add(own.name(delta))
    assert two.store.objects.open(delta).read_bytes() == b"delta"
    assert two.store.records.lookup(record.key) == record


def test_a_namespace_that_is_not_listed_serves_nothing(shared, record):
    two = shared.machine("two", read=("user-ada",))
    assert two.store.records.lookup(record.key) is None
    with pytest.raises(CorruptObjectError):
        two.store.objects.open(record.outputs["delta"])


@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff", b'{"dem-record": 99}'])
def test_a_record_that_is_none_is_a_miss(shared, record, damage):
    two = shared.machine("two")
    path = shared.folder / two.write.record(record.key)
    path.chmod(0o644)
    path.write_bytes(damage)
    assert two.store.records.lookup(record.key) is None


def test_a_record_under_anothers_key_is_a_miss(shared, record):
    other = "0" * 64
    two = shared.machine("two")
    path = shared.folder / two.write.record(other)
    path.parent.mkdir()
    path.write_bytes((shared.folder / two.write.record(record.key)).read_bytes())
    assert two.store.records.lookup(other) is None


def test_a_dead_remote_is_told_once_and_asked_once_more_at_most(shared, record):
    two = shared.machine("two")
    two.bucket.dead = True
    for n in range(50):
        assert two.store.records.lookup(f"{n:064x}") is None
    assert two.make() == record
    assert len(two.bucket.calls) == 1
    assert len(two.said) == 1
    assert "cannot be reached" in two.said[0]


def test_a_dead_remote_that_is_required_is_an_error(shared, record):
    two = shared.machine("two", required=True)
    two.bucket.dead = True
    with pytest.raises(RemoteError, match="cannot be reached"):
        two.store.records.lookup(record.key)


def test_a_remote_that_dies_before_bytes_came_makes_its_records_misses(shared, record):
    two = shared.machine("two")
    assert two.store.records.lookup(record.key) == record
    two.bucket.dead = True
    with pytest.raises(CorruptObjectError):
        two.store.objects.open(record.outputs["delta"])
    assert two.store.records.lookup(record.key) is None
    assert len(two.said) == 1


def test_a_transfer_that_is_cut_goes_on_where_it_was(shared, monkeypatch):
    monkeypatch.setattr(reader, "PAUSE_SECONDS", 0.0)
    one, two = shared.machine("one"), shared.machine("two")
    data = b"0123456789abcdef" * 640
    made = one.make(data)
    push(made, one.store, one.write)
    delta = made.outputs["delta"]
    two.bucket.cut_at = [1000, 5000]
    assert two.store.objects.read_bytes(delta) == data
    starts = [int(name.rpartition("@")[2]) for name in two.bucket.named("read")]
    assert starts == [0, 1000, 6000]


def test_what_came_before_a_stop_is_not_asked_for_again(shared):
    one = shared.machine("one")
    data = b"0123456789abcdef" * 640
    made = one.make(data)
    push(made, one.store, one.write)
    delta = made.outputs["delta"].blobs()[0]
    two = shared.machine("two")
    two.bucket.cut_at = [3000]

    def stop(more):
        if more:
            raise InterruptedBuildError("Ctrl-C")

    with pytest.raises(InterruptedBuildError):
        two.store.objects.bring([delta], stop)
    again = shared.machine("two")
    assert again.store.objects.read_bytes(made.outputs["delta"]) == data
    assert again.bucket.named("read") == [f"{again.name(delta)}@3000"]
    assert list((two.store.root / "remote" / "parts").iterdir()) == []


def test_what_a_dead_process_left_is_not_believed(shared, record):
    two = shared.machine("two")
    delta = record.outputs["delta"]
    parts = two.store.root / "remote" / "parts"
    parts.mkdir(parents=True)
    (parts / f"{delta.digest}-{'0' * 16}").write_bytes(b"de\0\0")
    assert two.store.objects.read_bytes(delta) == b"delta"
    assert list(parts.iterdir()) == []


def test_an_object_that_is_damaged_here_is_mended_from_there(shared, record):
    two = shared.machine("two")
    two.store.records.lookup(record.key)
    two.store.objects.bring(record.blobs())
    two.store.records.adopt()
    path = two.store.objects.path(record.outputs["delta"].digest)
    path.unlink()
    again = shared.machine("two")
    assert again.store.records.lookup(record.key) == record
    assert again.store.objects.open(record.outputs["delta"]).read_bytes() == b"delta"


def test_of_candidates_the_one_that_was_finished_first_holds_for_everybody(shared):
    shared.mark("candidates")
    made = {}
    for name, finished in (("late", "2026-11-29T12:00:00Z"), ("early", "2026-11-29T11:00:00Z")):
        one = shared.machine(name)
        record = one.make(name.encode())
        made[name] = replace(record, provenance=record.provenance | {"finished": finished})
        for blob in (*record.blobs(), record.log):
            one.bucket.put(one.name(blob), one.store.objects.open(blob))
        one.write.publish(made[name], sealed(made[name].to_json()))
    for reader_name in ("a", "b"):
        found = shared.machine(reader_name).store.records.lookup(made["early"].key)
        assert found == made["early"]
    late = shared.machine("late", read=())
    assert push(late.store.records.lookup(made["late"].key), late.store, late.write).result is Pushed.DIFFERS


def test_a_remote_of_another_dem_is_not_read(shared, record):
    shared.mark("conditional", version=2)
    two = shared.machine("two")
    assert two.store.records.lookup(record.key) is None
    assert "a newer dem can use it" in two.said[0]


def test_a_folder_that_is_no_remote_is_neither_read_nor_written(shared, record):
    (shared.folder / "dem-remote.json").unlink()
    two = shared.machine("two")
    assert two.store.records.lookup(record.key) is None
    assert "dem cache remote init" in two.said[0]
    with pytest.raises(RemoteError, match="is no remote"):
        push(two.make(), two.store, two.write)


def test_killed_readers_leave_a_sound_store(shared, record):
    """At each call to the bucket the reader dies; what it leaves is whole, and the next one goes on."""
    for at in range(1, 40):
        two = shared.machine(f"two {at}")
        two.bucket.stop_at = at
        try:
            two.store.records.lookup(record.key)
            two.store.objects.bring(record.blobs())
            two.store.records.adopt()
            ended = True
        except Killed:
            ended = False
        assert shared.machine(f"two {at}", read=()).store.verify() == []
        again = shared.machine(f"two {at}")
        assert again.store.records.lookup(record.key) == record
        for output in record.outputs.values():
            again.store.objects.check(output)
        if ended:
            return
    raise AssertionError("it never came to an end")


def test_a_silent_remote_is_waited_for_once_however_many_keys_are_asked_for(shared):
    two = shared.machine("two")

    def silent(name):
        two.bucket.calls.append(("get", name))
        time.sleep(0.2)
        raise RemoteError("did not answer in time", where=two.bucket.url)

    two.bucket.get = silent
    begun = time.monotonic()
    two.store.records.expect(f"{n:064x}" for n in range(20))
    assert time.monotonic() - begun < 1
    assert two.bucket.calls == [("get", "dem-remote.json")]
    assert len(two.said) == 1


def test_a_part_that_another_process_took_over_as_it_was_begun_is_left_to_it(shared, record, monkeypatch):
    """Between its making and its lock any process may find it, and take it for what a dead one has left."""
    two = shared.machine("two")
    delta = record.outputs["delta"]
    parts = two.store.root / "remote" / "parts"
    flock, other = fcntl.flock, []

    def late(descriptor, operation):
        if not other:
            [path] = parts.iterdir()
            other.append(path.open("r+b"))
            flock(other[0], operation)
        return flock(descriptor, operation)

    monkeypatch.setattr(reader.fcntl, "flock", late)
    assert two.store.objects.read_bytes(delta) == b"delta"
    [left] = parts.iterdir()
    assert os.path.samestat(os.fstat(other[0].fileno()), left.stat())
    assert left.read_bytes() == b""
    other[0].close()


def test_a_part_that_is_taken_over_is_in_the_making_again(shared, record):
    two = shared.machine("two")
    delta = record.outputs["delta"]
    part = two.store.root / "remote" / "parts" / f"{delta.digest}-{'0' * 16}"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"de")
    os.utime(part, (0, 0))
    read = two.bucket.read

    def seen(name, start=0):
        assert time.time() - part.stat().st_mtime < 60
        return read(name, start)

    two.bucket.read = seen
    assert two.store.objects.read_bytes(delta) == b"delta"


def test_a_bucket_of_the_same_name_on_another_server_is_another_remote(shared, record):
    """Whoever changes `endpoint` does not go on with what the other server told."""
    home = shared.home / "two"
    layout = open_layout(home / "cache")
    empty = shared.home / "empty"
    empty.mkdir()
    (empty / "dem-remote.json").write_bytes((shared.folder / "dem-remote.json").read_bytes())

    def found(folder, endpoint):
        at = Connection("s3://team-models", lambda: FolderBucket(folder), endpoint)
        elsewhere = reader.RemoteReader(layout, [Namespace(at, "trusted")], reader.Caller(lambda _: None))
        return Store(layout, Hints(home / "hints"), elsewhere=elsewhere).records.lookup(record.key)

    assert found(shared.folder, "http://127.0.0.1:9000") == record
    assert found(empty, None) is None
    assert found(empty, "http://127.0.0.1:9001") is None
    remote = Remote(url="s3://team-models", endpoint="http://127.0.0.1:9000", read=("trusted",))
    [namespace] = Sharing([remote], Warned()).reads
    assert "9000" in namespace.remote.identity
