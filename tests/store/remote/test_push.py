"""What is pushed, in which order, and what is there whenever that ends."""

from __future__ import annotations

import errno
import os
import threading
import time
from contextlib import suppress

import pytest
from shared_samples import Killed, Shared, whole

from dem_build.errors import RemoteError
from dem_build.store.gc.garbage import Policy
from dem_build.store.remote.push import NotKeptError, Pushed, Pusher, push
from dem_build.store.remote.survey import Going, collect, survey, take
from dem_build.store.sealed import sealed

DAY = 86400.0


@pytest.fixture
def shared(tmp_path):
    return Shared(tmp_path)


def test_files_come_before_the_trees_that_name_them_then_the_log_then_the_record(shared):
    one = shared.machine("one")
    record = one.make(b"a longer one")
    assert push(record, one.store, one.write).bytes == sum(b.size for b in {*record.blobs(), record.log})
    tree, delta = record.outputs["weights"], record.outputs["delta"]
    put = one.bucket.named("put")
    order = [put.index(one.name(blob)) for blob in (delta, tree, record.log)]
    assert order == [*sorted(order)]
    assert order[1:] == [len(put) - 2, len(put) - 1]
    last = [what for what, _ in one.bucket.calls]
    assert last.index("create") > max(i for i, what in enumerate(last) if what in ("put", "size"))
    assert whole(shared.folder) == [record.key]


def test_a_writer_that_dies_at_any_call_leaves_no_record_without_its_objects(shared):
    record = shared.machine("one").make()
    for at in range(1, 60):
        one = shared.machine("one")
        one.bucket.stop_at = at
        try:
            push(record, one.store, one.write)
        except Killed:
            whole(shared.folder)
            continue
        assert whole(shared.folder) == [record.key]
        assert at > 10
        return
    raise AssertionError("it never came to an end")


def test_what_is_there_is_not_sent_again(shared):
    one = shared.machine("one")
    record = one.make()
    one.bucket.put(one.name(record.outputs["delta"]), one.store.objects.open(record.outputs["delta"]))
    before = len(one.bucket.named("put"))
    assert push(record, one.store, one.write).result is Pushed.SENT
    assert one.name(record.outputs["delta"]) not in one.bucket.named("put")[before:]
    before = len(one.bucket.named("put"))
    assert push(record, one.store, one.write).result is Pushed.KNOWN
    assert len(one.bucket.named("put")) == before


def test_two_results_of_one_key_are_both_kept(shared):
    one, two = shared.machine("one"), shared.machine("two", read=())
    first, second = one.make(b"first"), two.make(b"second")
    assert push(first, one.store, one.write).result is Pushed.SENT
    assert push(second, two.store, two.write).result is Pushed.DIFFERS
    assert two.store.records.lookup(second.key) == second
    assert shared.machine("three").store.records.lookup(first.key) == first


def test_two_writers_at_once_leave_one_record(shared):
    machines = [shared.machine(str(n), read=()) for n in range(8)]
    records = [m.make(f"result {n}".encode()) for n, m in enumerate(machines)]
    results = [None] * len(machines)
    barrier = threading.Barrier(len(machines))

    def run(n):
        barrier.wait()
        results[n] = push(records[n], machines[n].store, machines[n].write).result

    threads = [threading.Thread(target=run, args=(n,)) for n in range(len(machines))]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert sorted(results) == sorted([Pushed.SENT] + [Pushed.DIFFERS] * 7)
    winner = records[results.index(Pushed.SENT)]
    assert shared.machine("reader").store.records.lookup(winner.key) == winner


def test_a_lost_reply_is_not_another_writer(shared):
    one = shared.machine("one")
    one.bucket.lossy = True
    assert push(one.make(), one.store, one.write).result is Pushed.SENT


def test_an_object_that_vanishes_before_the_record_is_an_error(shared):
    one = shared.machine("one")
    record = one.make()
    one.bucket.lost.add(one.name(record.outputs["delta"]))
    with pytest.raises(RemoteError, match="not there after it was put"):
        push(record, one.store, one.write)
    assert whole(shared.folder) == []


def test_a_log_that_is_lost_costs_no_push(shared):
    one = shared.machine("one")
    record = one.make()
    one.store.objects.path(record.log.digest).unlink()
    assert push(record, one.store, one.write).result is Pushed.SENT
    found = shared.machine("two").store.records.lookup(record.key)
    assert found.log is None
    assert found.outputs == record.outputs


def test_a_pusher_tells_what_it_did_and_what_it_could_not(shared):
    one = shared.machine("one")
    pusher = Pusher(one.store, [one.write])
    for n in range(6):
        pusher.add(f"action {n}", one.make(params=n))
    pusher.close()
    pusher.wait(30)
    assert [p.result for p in pusher.done] == [Pushed.SENT] * 6
    assert pusher.error is None
    dead = shared.machine("two")
    dead.bucket.dead = True
    pusher = Pusher(dead.store, [dead.write])
    for n in range(6):
        pusher.add(f"action {n}", dead.make(params=n))
    pusher.close()
    pusher.wait(30)
    assert pusher.left == 6
    assert isinstance(pusher.error, RemoteError)
    assert len(dead.bucket.calls) <= 4, "one each of those who asked at once"


def test_a_survey_finds_damage_and_a_collection_takes_it_and_what_nobody_names(shared):
    one = shared.machine("one")
    kept, damaged = one.make(params=1), one.make(b"other", params=2)
    for record in (kept, damaged):
        push(record, one.store, one.write)
    stray = one.store.objects.put_bytes(b"of no record")
    one.bucket.put(one.name(stray), one.store.objects.open(stray))
    assert list(survey(one.write).damage()) == []
    (shared.folder / one.name(damaged.outputs["delta"])).unlink()
    found = survey(one.write)
    [(name, what)] = found.damage()
    assert name == one.write.record(damaged.key)
    assert "is not there" in what
    now = time.time()
    assert collect(found, Policy(), (), now).bytes == 0, "all of it is young"
    going = collect(found, Policy(), (), now + 2 * DAY)
    assert [r.name for r in going.records] == [name]
    assert [o.name for o in going.objects] == [one.name(stray)]
    take(one.write, found, going)
    assert whole(shared.folder) == [kept.key]
    assert not (shared.folder / one.name(stray)).exists()
    # What only the record named that went goes next time.
    later = survey(one.write)
    assert collect(later, Policy(), (), now + 2 * DAY).objects


def test_records_go_by_their_age_and_vectors_where_that_is_asked_for(shared):
    one = shared.machine("one")
    record = one.make()
    push(record, one.store, one.write)
    found, later = survey(one.write), time.time() + 40 * DAY
    old = {"older_than": 30 * DAY}
    assert collect(found, Policy(**old), (), later).records == ()
    assert collect(found, Policy(**old, vectors=True), {record.key}, later).records == ()
    assert len(collect(found, Policy(**old, vectors=True), (), later).records) == 1


def test_an_object_that_a_new_record_names_stays(shared):
    one = shared.machine("one")
    record = one.make()
    for blob in (*record.blobs(), record.log):
        one.bucket.put(one.name(blob), one.store.objects.open(blob))
    found = survey(one.write)
    going = collect(found, Policy(grace=0.0), (), time.time() + 1)
    assert len(going.objects) == len({*record.blobs(), record.log})
    push(record, one.store, one.write)
    take(one.write, found, going)
    assert whole(shared.folder) == [record.key]


def aged(shared):
    """Make everything in the remote two days old."""
    then = time.time() - 2 * DAY
    for path in shared.folder.rglob("*"):
        if path.is_file():
            os.utime(path, (then, then))


def test_what_a_newer_dem_recorded_is_no_damage_and_keeps_what_it_names(shared):
    one = shared.machine("one")
    record = one.make()
    push(record, one.store, one.write)
    path = shared.folder / one.write.record(record.key)
    path.write_bytes(sealed(record.to_json() | {"dem-record": 99}))
    aged(shared)
    found = survey(one.write)
    assert list(found.damage()) == []
    policy = Policy(older_than=DAY, vectors=True)
    assert collect(found, policy, (), time.time()) == Going((), ())


@pytest.mark.parametrize("shown", [b"<html>log in</html>", None])
def test_a_record_that_reads_otherwise_than_it_is_listed_is_no_damage(shared, shown):
    one = shared.machine("one")
    record = one.make()
    push(record, one.store, one.write)
    aged(shared)
    name = one.write.record(record.key)
    one.bucket.shown = {name: shown}
    with pytest.raises(RemoteError, match="nothing was taken away"):
        survey(one.write)
    one.bucket.shown_once = True
    assert list(survey(one.write).damage()) == []


def test_a_record_that_reads_wrong_once_is_no_damage(shared):
    one = shared.machine("one")
    record = one.make()
    push(record, one.store, one.write)
    name = one.write.record(record.key)
    one.bucket.shown, one.bucket.shown_once = {name: bytes((shared.folder / name).stat().st_size)}, True
    assert list(survey(one.write).damage()) == []


def test_a_listing_without_an_object_that_is_there_is_no_damage(shared):
    one = shared.machine("one")
    record = one.make()
    push(record, one.store, one.write)
    one.bucket.unlisted = {one.name(record.outputs["delta"])}
    assert list(survey(one.write).damage()) == []


@pytest.mark.parametrize("call", range(1, 9))
def test_a_push_at_any_moment_of_a_collection_of_what_it_finds_there(shared, call):
    one, other = shared.machine("one"), shared.machine("other")
    record = one.make()
    for blob in (*record.blobs(), record.log):
        one.bucket.put(one.name(blob), one.store.objects.open(blob))
    aged(shared)
    found = survey(other.write)
    going = collect(found, Policy(), (), time.time())
    assert len(going.objects) == len({*record.blobs(), record.log})
    other.bucket.calls.clear()
    pushed = []
    other.bucket.meanwhile = {call: lambda: pushed.append(push(record, one.store, one.write))}
    take(other.write, found, going)
    assert pushed or call > len(other.bucket.calls)
    there = whole(shared.folder)  # which fails where a record lacks an object
    assert push(record, one.store, one.write).result is (Pushed.KNOWN if there else Pushed.SENT)
    assert whole(shared.folder) == [record.key]


def test_a_log_that_goes_while_its_record_comes_takes_the_record_with_it(shared):
    one, other = shared.machine("one"), shared.machine("other")
    record = one.make()
    one.bucket.put(one.name(record.log), one.store.objects.open(record.log))
    aged(shared)
    found = survey(other.write)
    going = collect(found, Policy(), (), time.time())
    other.bucket.calls.clear()
    deletion = 2  # after the look at what has come
    other.bucket.meanwhile = {deletion + 1: lambda: push(record, one.store, one.write)}
    take(other.write, found, going)
    assert ("delete", one.name(record.log)) in other.bucket.calls
    assert whole(shared.folder) == []
    assert push(record, one.store, one.write).result is Pushed.SENT
    assert whole(shared.folder) == [record.key]


@pytest.mark.parametrize("call", range(1, 10))
def test_a_push_in_the_place_of_a_record_that_goes(shared, call):
    """The record that came has the name of one that the collection has seen."""
    one, other = shared.machine("one"), shared.machine("other")
    record = one.make()
    for blob in (*record.blobs(), record.log):
        one.bucket.put(one.name(blob), one.store.objects.open(blob))
    damaged = shared.folder / one.write.record(record.key)
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"of no record")
    aged(shared)
    found = survey(other.write)
    going = collect(found, Policy(), (), time.time())
    assert len(going.records) == 1
    assert len(going.objects) == len({*record.blobs(), record.log})
    other.bucket.calls.clear()

    def pushing():
        with suppress(NotKeptError):  # while the damaged one is there
            push(record, one.store, one.write)

    other.bucket.meanwhile = {call: pushing}
    take(other.write, found, going)
    whole(shared.folder)  # which fails where a record lacks an object
    push(record, one.store, one.write)
    assert whole(shared.folder) == [record.key]


def test_what_goes_while_it_is_pushed_is_sent_again(shared):
    one = shared.machine("one")
    record = one.make()
    for blob in (*record.blobs(), record.log):
        one.bucket.put(one.name(blob), one.store.objects.open(blob))
    gone = shared.folder / one.name(record.outputs["delta"])
    created = one.bucket.create
    one.bucket.create = lambda name, data: (gone.unlink(), created(name, data))[1]
    assert push(record, one.store, one.write).result is Pushed.SENT
    assert whole(shared.folder) == [record.key]


def test_a_record_that_is_damaged_there_does_not_keep_others_from_being_pushed(shared):
    one = shared.machine("one")
    records = [one.make(params=n) for n in range(6)]
    path = shared.folder / one.write.record(records[0].key)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"of no record")
    pusher = Pusher(one.store, [one.write])
    for n, record in enumerate(records):
        pusher.add(f"action {n}", record)
    pusher.close()
    pusher.wait(30)
    assert (len(pusher.done), pusher.left) == (5, 1)
    assert "what is there is none" in str(pusher.error)


def test_a_folder_of_records_that_cannot_be_listed_ends_a_collection(shared, monkeypatch):
    """Its records would not be seen, and their objects be taken for nobody's."""
    one = shared.machine("one")
    record = one.make()
    push(record, one.store, one.write)
    hidden = (shared.folder / one.write.record(record.key)).parent
    scandir = os.scandir

    def refused(path):
        if str(path) == str(hidden):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(RemoteError, match="Permission denied"):
        survey(one.write)


def test_a_remote_that_takes_nothing_is_read_all_the_same(shared):
    """With credentials that only read, a build's first push failed, and then whatever it had yet to fetch."""
    one, two = shared.machine("one"), shared.machine("two")
    record = one.make()
    push(record, one.store, one.write)
    assert two.store.records.lookup(record.key) == record

    def forbidden(name, _file):
        raise RemoteError("the store forbids it", where=name)

    two.bucket.put = forbidden
    pusher = Pusher(two.store, [two.write])
    for n in (2, 3):
        pusher.add(f"action {n}", two.make(b"another", params=n))
    pusher.close()
    pusher.wait(30)
    assert pusher.left == 2
    assert two.store.objects.read_bytes(record.outputs["delta"]) == b"delta"
    assert two.said == []


def test_what_could_not_be_pushed_goes_again_and_only_then_is_told_to_be_there(shared, monkeypatch):
    one = shared.machine("one")
    record, there = one.make(), []
    pusher = Pusher(one.store, [one.write], after=there.append)
    with monkeypatch.context() as broken:

        def refuse(*_):
            raise RemoteError("does not answer", where="there")

        broken.setattr(one.bucket, "put", refuse)
        pusher.add("vector:add", record)
        pusher.close()
        pusher.wait(30)
    assert (pusher.left, there, whole(shared.folder)) == (1, [], [])
    one.write.remote.down = RemoteError("as the reader found", where="there")
    pusher.again()
    pusher.wait(30)
    assert (pusher.left, pusher.error, there) == (0, None, [record.key])
    assert whole(shared.folder) == [record.key]
