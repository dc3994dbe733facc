"""Leases of machines that share a remote alone: one has it, who falls silent loses it, and no clocks are compared."""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from shared_samples import Shared

from dem_build.errors import RemoteError
from dem_build.machine import Remote
from dem_build.session.sharing import Sharing
from dem_build.store.gc.garbage import Policy
from dem_build.store.leases import Holder
from dem_build.store.remote import leases as leases_module
from dem_build.store.remote import objectstore
from dem_build.store.remote.address import open_bucket
from dem_build.store.remote.leases import RemoteLeases
from dem_build.store.remote.push import push
from dem_build.store.remote.survey import collect, survey, take

KEY = "ab" * 32
SILENT = 0.2


class Voice:
    def __init__(self):
        self.warned: list[str] = []

    def warn(self, text):
        self.warned.append(text)

    def tell(self, text):
        pass


@pytest.fixture
def shared(tmp_path):
    return Shared(tmp_path)


def leases(shared, name, *, beat=1000.0, silent=SILENT, said=None):
    machine = shared.machine(name)
    return closing(RemoteLeases(machine.write, (said if said is not None else []).append, beat, silent))


def there(shared):
    return sorted(p.name for p in shared.folder.glob(f"trusted/leases/{KEY}/*"))


def taken_by(found, seconds=5.0):
    """Try to take a lease until it is there, and return how long that took."""
    begun = time.monotonic()
    while found.take(KEY) is not None:
        assert time.monotonic() - begun < seconds
        time.sleep(0.01)
    return time.monotonic() - begun


def test_one_machine_has_a_lease_and_another_hears_which_until_it_is_given_back(shared):
    with leases(shared, "one") as one, leases(shared, "two") as two:
        assert one.take(KEY) is None
        assert one.take(KEY) is None  # it has it
        assert two.keys() == {KEY}
        assert str(two.take(KEY)).startswith("process ")
        one.release(KEY)
        assert there(shared) == []
        assert two.take(KEY) is None
        assert one.take(KEY) is not None
    assert there(shared) == []


def stays_taken(by, seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert by.take(KEY) is not None
        time.sleep(0.02)


def test_who_falls_silent_loses_it_and_what_it_wrote_goes(shared):
    with leases(shared, "one") as one, leases(shared, "two") as two:
        assert one.take(KEY) is None
        assert taken_by(two) >= SILENT
        assert there(shared) == ["2"]
        one.release(KEY)  # it wakes up, and takes nothing from its successor
        assert there(shared) == ["2"]
        assert one.take(KEY) is not None


def test_who_gives_signs_of_life_keeps_it(shared):
    with leases(shared, "one", beat=SILENT / 8) as one, leases(shared, "two") as two:
        assert one.take(KEY) is None
        stays_taken(two, 4 * SILENT)
        one.release(KEY)
        time.sleep(SILENT / 2)
        assert there(shared) == [], "a sign of life of what was given back stays"


@pytest.mark.parametrize("end", ["release", "close"])
def test_a_sign_of_life_that_is_on_its_way_is_not_written_over_the_next_holders(shared, monkeypatch, end):
    """Numbers begin anew where a lease was given back: what came late would be written there, and then deleted."""
    with leases(shared, "one", beat=0.01) as one, leases(shared, "two") as two, ThreadPoolExecutor(1) as pool:
        bucket, asked, go = one._namespace.remote.bucket, threading.Event(), threading.Event()
        put = type(bucket).put

        def slowly(self, name, file):
            if self is bucket:
                asked.set()
                assert go.wait(10)
            put(self, name, file)

        monkeypatch.setattr(type(bucket), "put", slowly)
        assert one.take(KEY) is None
        assert asked.wait(10)
        ending = pool.submit(one.release, KEY) if end == "release" else pool.submit(one.close)
        time.sleep(0.1)
        assert two.take(KEY) is not None, "it was given back before the sign of life came"
        go.set()
        ending.result(10)
        assert two.take(KEY) is None
        [mine] = [path.read_bytes() for path in shared.folder.glob(f"trusted/leases/{KEY}/*")]
        one.close()
        assert not one._thread.is_alive()
        assert [p.read_bytes() for p in shared.folder.glob(f"trusted/leases/{KEY}/*")] == [mine]


def test_a_full_disk_takes_a_sign_of_life_and_not_the_lease(shared, monkeypatch):
    full = [True]
    write = Path.write_bytes

    def writes(path, data):
        if full and path.name == "lease":
            full.clear()
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", writes)
    with leases(shared, "one", beat=SILENT / 8) as one, leases(shared, "two") as two:
        assert one.take(KEY) is None
        stays_taken(two, 3 * SILENT)
        assert not full


def test_of_many_that_take_a_dead_ones_one_has_it(shared):
    with leases(shared, "dead") as dead:
        assert dead.take(KEY) is None
        machines = [leases(shared, f"m{i}").__enter__() for i in range(8)]
        assert all(m.take(KEY) for m in machines)
        time.sleep(1.5 * SILENT)
        with ThreadPoolExecutor(8) as pool:
            told = list(pool.map(lambda m: m.take(KEY), machines))
        assert told.count(None) == 1
        for machine in machines:
            machine.close()


def test_a_remote_that_does_not_answer_keeps_nobody_from_work_and_is_told_of_once(shared, monkeypatch):
    said: list[str] = []
    with leases(shared, "one", said=said) as one:

        def broken(*_):
            raise RemoteError("does not answer", where="there")

        monkeypatch.setattr(one._namespace.remote.bucket, "list", broken)
        assert one.take(KEY) is None
        assert one.take(KEY) is None
        assert one.keys() == frozenset()  # so that all are asked for
        assert len(said) == 1
        one.release(KEY)


@pytest.fixture
def silent_server():
    """Serve connections that are taken and never answered; yield the address and what was taken."""
    taken: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            with suppress(OSError):
                while True:
                    taken.append(server.accept()[0])

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", taken
        server.shutdown(socket.SHUT_RDWR)
    for connection in taken:
        connection.close()


@pytest.mark.usefixtures("store_credentials")
def test_a_remote_that_takes_calls_and_never_answers_costs_a_build_seconds_once(silent_server, monkeypatch):
    """Else each of a hundred actions would wait for half a minute."""
    endpoint, taken = silent_server
    monkeypatch.setattr(objectstore, "_HURRIED", 1)
    voice = Voice()
    sharing = Sharing([Remote(url="s3://team-models/x", endpoint=endpoint, write="trusted")], voice)
    sharing.writes[0].remote._candidates = False  # it answered while the build was planned
    began = time.monotonic()
    with closing(sharing.leases()) as found:
        assert found.take(KEY) is None
        assert 0.5 < time.monotonic() - began < 6
        asked, again = len(taken), time.monotonic()
        assert asked == 1
        for key in ("cd" * 32, "ef" * 32):
            assert found.take(key) is None
            assert found.keys() == frozenset()
        assert time.monotonic() - again < 0.5
        assert len(taken) == asked
    assert len(voice.warned) == 1
    assert "others may do the same work meanwhile" in voice.warned[0]


@pytest.mark.usefixtures("store_credentials")
def test_a_lease_whose_remote_falls_silent_is_not_given_back_at_length_and_is_asked_for_again_later(
    shared, silent_server, monkeypatch
):
    endpoint, taken = silent_server
    monkeypatch.setattr(objectstore, "_HURRIED", 1)
    machine, hung = shared.machine("one"), []
    at = machine.write.remote
    silent = open_bucket("s3://team-models/x", endpoint, hurried=True)
    monkeypatch.setattr(type(at), "hurried", property(lambda self: silent if hung else self.bucket))
    with closing(RemoteLeases(machine.write, machine.said.append, 1000.0, SILENT)) as found:
        for key in (KEY, "cd" * 32, "ef" * 32):
            assert found.take(key) is None
        hung.append(True)
        began = time.monotonic()
        for key in (KEY, "cd" * 32):
            found.release(key)
        assert time.monotonic() - began < 6
        assert len(taken) == 1, "each lease waited for itself"
        hung.clear()
        found._asked_from = time.monotonic()  # a minute later
        assert found.take("01" * 32) is None
        assert (shared.folder / "trusted/leases" / ("01" * 32) / "1").exists(), "it is asked for no more"
    assert there(shared) == ["1"], "it falls silent"


def test_an_error_of_the_moment_loses_no_lease(shared, monkeypatch):
    with leases(shared, "one") as one:
        bucket, errors = one._namespace.remote.bucket, [RemoteError("the store answered 503", where="there")]
        listed = type(bucket).list
        monkeypatch.setattr(
            bucket,
            "list",
            lambda prefix: (_ for _ in ()).throw(errors.pop()) if errors else listed(bucket, prefix),
        )
        assert one.take(KEY) is None
        assert there(shared) == ["1"]


def test_a_lease_whose_creation_was_heard_of_by_nobody_is_not_waited_for_by_its_holder(shared, monkeypatch):
    with leases(shared, "one", silent=1000.0) as one, leases(shared, "two", silent=1000.0) as two:
        bucket, lost = one._namespace.remote.bucket, [True]
        create = type(bucket).create

        def creates(name, data):
            create(bucket, name, data)
            if lost:
                lost.clear()
                raise RemoteError("the store cannot be reached", where="there")

        monkeypatch.setattr(bucket, "create", creates)
        assert one.take(KEY) is None
        assert not lost
        assert KEY in one._ours, "it works without"
        assert there(shared) == ["2"]
        assert two.take(KEY) is not None


def test_who_waits_for_a_holder_does_not_begin_as_the_remote_is_slow_for_a_moment(shared, monkeypatch):
    said: list[str] = []
    with leases(shared, "one") as one, leases(shared, "two", silent=1.0, said=said) as two:
        assert one.take(KEY) is None
        told = two.take(KEY)
        assert told is not None
        began = time.monotonic()
        monkeypatch.setattr(leases_module, "_AT_ONCE", 0.0)

        def slow(*_):
            raise RemoteError("the store did not answer in time", where="there")

        monkeypatch.setattr(two._namespace.remote.bucket, "list", slow)
        assert two.take(KEY) == told
        assert two.take("cd" * 32) is None, "nobody was seen at that"
        assert two.take(KEY) == told
        assert taken_by(two) <= 1.5  # nor does it wait for ever
        assert time.monotonic() - began >= 0.9
        two._asked_from = 0.0
        two._seen[KEY] = (two._seen[KEY][0], time.monotonic())
        two._namespace.remote.down = RemoteError("gone", where="there")
        assert two.take(KEY) is None, "no record would come from there"


@pytest.mark.usefixtures("store_credentials")
def test_a_sign_of_life_has_more_time_than_what_somebody_waits_for(monkeypatch):
    made = []
    monkeypatch.setattr("obstore.store.from_url", lambda _, **options: made.append(options))
    bucket = objectstore.ObjectStoreBucket("s3://team-models/x", hurried=True)
    for use in ("small", "write"):
        bucket._made(use)
    small, write = (options["client_options"]["timeout"].total_seconds() for options in made)
    assert (small, write) == (3, 15)


def test_what_anybody_may_have_written_as_a_lease_is_waited_for_as_any_other(shared):
    place = shared.folder / "trusted" / "leases" / KEY
    place.mkdir(parents=True)
    (place / "3").write_text(json.dumps([1]))
    (place / "no number").write_text("{}")
    with leases(shared, "one") as one:
        assert one.take(KEY) == "somebody is at work on this action"
        taken_by(one)
        assert there(shared) == ["4", "no number"]


@pytest.mark.parametrize("here", [True, False], ids=["of this host", "of another host"])
def test_a_process_of_this_host_that_is_no_more_is_not_waited_for(shared, *, here):
    """A build that was killed would else keep the next one on its machine for five minutes."""
    me = Holder.me()
    gone = replace(me, start_time=me.start_time + 1, boot_id=me.boot_id if here else "another kernel")
    place = shared.folder / "trusted" / "leases" / KEY
    place.mkdir(parents=True)
    (place / "1").write_text(json.dumps({**gone.document("dem-lease"), "who": str(gone), "beat": 3}))
    with leases(shared, "one", silent=1000.0) as one:
        assert one.take(KEY) == (None if here else f"{gone} is at work on this action")


DAY = 86400.0
ALL = Policy(grace=0.0, older_than=0.0, vectors=True)


def test_what_one_with_a_lease_takes_is_not_collected_nor_what_it_may_just_have_recorded(shared):
    """Else its inputs would be trained again, and what it pushes in a damaged record's place would go with that."""
    one = shared.machine("one")
    taken, damaged, other = (
        one.make(name, params=i) for i, name in enumerate((b"taken", b"damaged", b"other"))
    )
    for record in (taken, damaged, other):
        push(record, one.store, one.write)
    (shared.folder / one.name(damaged.outputs["delta"])).unlink()
    [stray, on_its_way] = [
        one.store.objects.put_bytes(data) for data in (b"of a record that went", b"on its way")
    ]
    for blob in (stray, on_its_way):
        one.bucket.put(one.name(blob), one.store.objects.open(blob))
    needs = {blob.digest for blob in taken.outputs["weights"].blobs()} | {stray.digest}
    with leases(shared, "worker") as worker:
        assert worker.take(damaged.key, needs) is None
        found = survey(one.write)
        going = collect(found, ALL, (), time.time() + 1)
        assert [r.name for r in going.records] == [one.write.record(other.key)]
        assert going.objects == (), "what is young may be of a record that comes"
        old = collect(found, ALL, (), time.time() + 2 * DAY).objects
        assert one.name(on_its_way) in (names := [o.name for o in old])
        assert one.name(stray) not in names
        worker.release(damaged.key)
    going = collect(survey(one.write), ALL, (), time.time() + 1)
    assert len(going.records) == 3
    assert {one.name(stray), one.name(on_its_way)} <= {o.name for o in going.objects}


def test_what_is_pushed_and_given_back_while_a_collection_looks_is_not_taken_for_the_damage_before_it(shared):
    one, other = shared.machine("one"), shared.machine("other")
    push(record := one.make(), one.store, one.write)
    lost = shared.folder / one.name(record.outputs["delta"])
    data = lost.read_bytes()
    lost.unlink()
    with leases(shared, "worker") as worker:
        assert worker.take(record.key) is None

        def mended():
            if lost.exists() or ("size", one.name(record.outputs["delta"])) not in other.bucket.calls[:-1]:
                return  # it has not looked yet
            lost.write_bytes(data)
            worker.release(record.key)

        other.bucket.meanwhile = dict.fromkeys(range(1000), mended)
        found = survey(other.write)
    assert there(shared) == []
    assert collect(found, ALL, (), time.time() + 1).records == ()


def test_leases_of_the_dead_are_collected_and_keep_nothing(shared):
    one = shared.machine("one")
    push(record := one.make(), one.store, one.write)
    with leases(shared, "dead") as dead:
        assert dead.take(KEY, {b.digest for b in record.blobs()}) is None
        place = shared.folder / "trusted" / "leases"
        (place / KEY / "no number").write_text("{}")
        for path in place.rglob("*"):
            os.utime(path, (time.time() - DAY,) * 2)
        found = survey(one.write)
        going = collect(found, ALL, (), time.time() + 1)
        assert len(going.records) == 1
        take(one.write, found, going)
        assert there(shared) == ["no number"]
