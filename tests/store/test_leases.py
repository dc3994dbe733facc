"""Leases: one living holder; the dead give way."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dem_build.errors import LeaseHeldError
from dem_build.store import Hints, Store, files
from dem_build.store.leases import SILENT_SECONDS, Leases
from dem_build.store.local import open_layout

KEY = "ab" * 32
HOLD = """
import sys, time
from pathlib import Path
from dem_build.store import Store
lease = Store.open(Path(sys.argv[1])).leases.take(sys.argv[2])
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def other(store):
    """Another process that holds the lease."""
    command = [sys.executable, "-c", HOLD, str(store.root), KEY]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def rewrite(store: Store, **fields) -> None:
    """Make the lease that of another holder."""
    path = store.root / "leases" / KEY
    document = json.loads(path.read_bytes()) | fields
    path.unlink()
    path.write_text(json.dumps(document))


def age(store: Store, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(store.root / "leases" / KEY, (then, then))


def test_a_lease_is_held_until_it_is_released(store):
    with store.leases.take(KEY) as lease:
        assert store.leases.holder(KEY) == lease.holder
        assert lease.holder.pid == os.getpid()
    assert store.leases.holder(KEY) is None
    store.leases.take(KEY).release()


def test_a_living_holder_is_named(store, other):
    with pytest.raises(LeaseHeldError, match=rf"process {other.pid} on .+ \(since \d\d:\d\d:\d\d\)"):
        store.leases.take(KEY)


def test_a_living_holders_lease_is_refused_before_anything_is_written(store, other, monkeypatch):
    """Of sixty workers that come to one action at once, all but one would flush a file to the disk for nothing."""

    def written(*_):
        raise AssertionError

    assert store.leases.keys() == {KEY}
    monkeypatch.setattr(files, "write_new", written)
    with pytest.raises(LeaseHeldError):
        store.leases.take(KEY)
    other.kill()
    other.wait()
    assert store.leases.keys() == {KEY}  # of the dead as well


def test_a_store_without_leases_has_none(tmp_path):
    assert Leases(open_layout(tmp_path / "none", make=False)).keys() == frozenset()


def test_leases_of_two_keys_are_independent(store, other):
    with store.leases.take("cd" * 32):
        assert store.leases.holder(KEY).pid == other.pid


def test_a_killed_holder_is_replaced_at_once_even_before_it_is_reaped(store, other):
    os.kill(other.pid, signal.SIGKILL)
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie now, and keeps its pid
    assert store.leases.holder(KEY) is None
    with store.leases.take(KEY) as lease:
        assert store.leases.holder(KEY) == lease.holder


@pytest.mark.usefixtures("other")
def test_a_pid_that_was_given_to_another_process_is_not_the_holder(store):
    start = store.leases.holder(KEY).start_time
    rewrite(store, start_time=start - 1)
    assert store.leases.holder(KEY) is None


@pytest.mark.usefixtures("other")
def test_a_holder_from_before_this_host_was_started_is_dead(store):
    rewrite(store, boot_id="00000000-0000-0000-0000-000000000000")
    assert store.leases.holder(KEY) is None


def test_where_nobody_says_when_a_process_started_one_that_is_silent_for_five_minutes_lost_its_pid_to_another(
    store, monkeypatch
):
    """As on macOS, which has no /proc. The lease is that of a process that died, and its pid has come to be ours."""
    monkeypatch.setattr("dem_build.store.leases._text", lambda _: "")
    with store.leases.take(KEY) as lease:
        assert (lease.holder.boot_id, lease.holder.start_time) == ("", 0)
        age(store, SILENT_SECONDS - 20)
        assert store.leases.holder(KEY) == lease.holder
        age(store, SILENT_SECONDS + 1)
        assert store.leases.holder(KEY) is None


def test_where_nobody_says_when_a_process_started_the_dead_give_way_at_once(store, monkeypatch):
    monkeypatch.setattr("dem_build.store.leases._text", lambda _: "")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with store.leases.take(KEY):
        rewrite(store, pid=gone.pid)
        assert store.leases.holder(KEY) is None


FOREIGN = [
    {"host": "elsewhere", "boot_id": "00000000-0000-0000-0000-000000000000"},
    {"pid_namespace": "pid:[1]"},
]


@pytest.mark.usefixtures("other")
@pytest.mark.parametrize("fields", FOREIGN, ids=["another host", "another container"])
def test_a_foreign_holder_counts_until_it_was_silent_for_five_minutes(store, fields):
    rewrite(store, **fields)
    age(store, SILENT_SECONDS - 20)
    with pytest.raises(LeaseHeldError):
        store.leases.take(KEY)
    age(store, SILENT_SECONDS + 1)
    with store.leases.take(KEY) as lease:
        assert store.leases.holder(KEY) == lease.holder


@pytest.mark.usefixtures("other")
def test_a_lease_that_was_touched_in_the_future_is_not_waited_for_until_then(store):
    """The clock was set back since; a living holder would have touched it by the clock that is now."""
    rewrite(store, **FOREIGN[0])
    age(store, -365 * 86400)
    with store.leases.take(KEY) as lease:
        assert store.leases.holder(KEY) == lease.holder


@pytest.mark.parametrize("text", ["", "{", "[]", '{"dem-lease": 1, "pid": "x"}'])
def test_a_lease_that_names_nobody_is_taken(store, text):
    (store.root / "leases" / KEY).write_text(text)
    with store.leases.take(KEY) as lease:
        assert store.leases.holder(KEY) == lease.holder


@pytest.mark.parametrize("put", [Path.mkdir, os.mkfifo])
def test_what_is_no_file_in_the_place_of_a_lease_is_replaced(store, put):
    put(store.root / "leases" / KEY)
    assert store.leases.holder(KEY) is None
    with store.leases.take(KEY):
        assert store.leases.holder(KEY) is not None


def test_a_late_holder_does_not_release_its_successors_lease(store):
    late = store.leases.take(KEY)
    rewrite(store, nonce="successor")
    late.release()
    assert store.leases.holder(KEY).nonce == "successor"


def test_a_lease_that_is_removed_as_soon_as_it_is_taken_is_still_a_lease(store, monkeypatch):
    """Where locks do nothing, a process that saw the dead holder may remove its successor's lease."""
    link = os.link

    def removed(source, target):
        link(source, target)
        target.unlink()

    monkeypatch.setattr(os, "link", removed)
    with store.leases.take(KEY) as lease:
        assert lease.holder.pid == os.getpid()


def test_a_lease_shows_signs_of_life(tmp_path):
    leases = Leases(open_layout(tmp_path / "cache"), heartbeat=0.01)
    path = tmp_path / "cache" / "leases" / KEY
    with leases.take(KEY):
        os.utime(path, (1, 1))
        deadline = time.monotonic() + 20
        while path.stat().st_mtime == 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert path.stat().st_mtime > 1


def contend(arguments) -> bool:
    root, hints, barrier = arguments
    store = Store.open(root, hints=Hints(hints))
    barrier.wait()
    try:
        lease = store.leases.take(KEY)
    except LeaseHeldError:
        won = False
    else:
        won = True
    barrier.wait()  # nobody releases before all have tried
    if won:
        lease.release()
    return won


@pytest.mark.parametrize("before", ["free", "dead"])
def test_one_of_many_contenders_gets_the_lease(store, tmp_path, before):
    if before == "dead":
        (store.root / "leases" / KEY).write_text("{}")
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, context.Pool(6) as pool:
        barrier = manager.Barrier(6)
        won = pool.map(contend, [(store.root, tmp_path / "hints", barrier)] * 6, chunksize=1)
    assert sum(won) == 1
    assert not list((store.root / "tmp").iterdir())


def test_a_run_finds_what_earlier_runs_left_newest_first(store):
    assert store.work.previous(KEY) == []
    runs = [store.work.new(KEY) for _ in range(3)]
    assert store.work.previous(KEY) == runs[::-1]
    assert all((run / "out").is_dir() and (run / "checkpoints").is_dir() for run in runs)


def test_dropped_work_is_gone_and_that_of_other_keys_stays(store):
    (store.work.new(KEY) / "checkpoints" / "state").write_bytes(b"x")
    other_run = store.work.new("cd" * 32)
    store.work.drop(KEY)
    store.work.drop(KEY)
    assert store.work.previous(KEY) == []
    assert store.work.previous("cd" * 32) == [other_run]
