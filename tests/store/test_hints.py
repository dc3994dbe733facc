"""Hints: what was hashed is not read again, and nothing depends on them."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from dem_build import digest
from dem_build.store import Hints
from dem_build.store import hints as hints_module


@pytest.fixture
def reads(monkeypatch):
    """The files that were read, in order; they are really read."""
    found = []
    real = digest.of_file

    def of_file(path):
        found.append(path)
        return real(path)

    monkeypatch.setattr(digest, "of_file", of_file)
    return found


@pytest.fixture
def settled(tmp_path, monkeypatch):
    """A file that was last changed long ago by the clock of the process."""
    path = tmp_path / "data.jsonl"
    path.write_bytes(b"rows")
    later = time.time_ns() + 10**10
    monkeypatch.setattr(time, "time_ns", lambda: later)
    return path


ROWS = digest.Blob(digest.of_bytes(b"rows"), 4)


def test_a_file_that_did_not_change_is_read_once_by_all_processes(settled, tmp_path, reads):
    assert Hints(tmp_path / "hints").digest_of(settled) == ROWS
    assert Hints(tmp_path / "hints").digest_of(settled) == ROWS
    assert reads == [settled]


def test_a_changed_file_of_the_same_size_and_time_is_read_again(settled, tmp_path):
    hints = Hints(tmp_path / "hints")
    hints.digest_of(settled)
    stat = settled.stat()
    settled.write_bytes(b"ROWS")
    os.utime(settled, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert hints.digest_of(settled).digest == digest.of_bytes(b"ROWS")


def test_a_file_younger_than_two_seconds_is_read_each_time(tmp_path, reads):
    path, hints = tmp_path / "data.jsonl", Hints(tmp_path / "hints")
    path.write_bytes(b"rows")
    assert [hints.digest_of(path), hints.digest_of(path)] == [ROWS, ROWS]
    assert reads == [path, path]


def test_many_files_are_read_and_kept_at_once(tmp_path, settled, reads):
    paths = [settled]
    for number in range(20):
        paths.append(tmp_path / f"{number}.jsonl")
        paths[-1].write_bytes(str(number).encode())
    found = Hints(tmp_path / "hints").digests_of(paths)
    assert found == {p: digest.Blob(digest.of_bytes(p.read_bytes()), p.stat().st_size) for p in paths}
    reads.clear()
    assert Hints(tmp_path / "hints").digests_of(paths) == found
    assert reads == []


@pytest.mark.parametrize("size", [10, 100, 9000])
def test_a_damaged_hint_file_is_replaced(settled, tmp_path, reads, size):
    Hints(tmp_path / "hints").digest_of(settled)
    [file] = (tmp_path / "hints").iterdir()
    file.write_bytes(b"garbage " * size)
    assert Hints(tmp_path / "hints").digest_of(settled) == ROWS
    assert Hints(tmp_path / "hints").digest_of(settled) == ROWS
    assert reads == [settled, settled]


def test_damage_in_the_middle_of_the_hint_file_costs_only_time(settled, tmp_path):
    hints = Hints(tmp_path / "hints")
    hints.digest_of(settled)
    [file] = (tmp_path / "hints").iterdir()
    with file.open("r+b") as raw:
        raw.seek(4096)
        raw.write(b"\xff" * 4096)
    assert hints.digest_of(settled) == ROWS
    hints.close()
    assert Hints(tmp_path / "hints").digest_of(settled) == ROWS


def test_hints_work_where_nothing_can_be_written(settled, tmp_path):
    (tmp_path / "a file").write_bytes(b"")
    assert Hints(tmp_path / "a file" / "hints").digest_of(settled) == ROWS


def test_the_environment_says_where_hints_lie(settled, tmp_path, monkeypatch):
    monkeypatch.setenv("DEM_HINTS", str(tmp_path / "here"))
    Hints().digest_of(settled)
    monkeypatch.delenv("DEM_HINTS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    Hints().digest_of(settled)
    assert list((tmp_path / "here").iterdir())
    assert list((tmp_path / "xdg" / "dem").iterdir())


def test_hints_go_on_in_a_forked_process(settled, tmp_path, reads):
    hints = Hints(tmp_path / "hints")
    hints.digest_of(settled)
    child = os.fork()
    if child == 0:
        os._exit(0 if hints.digest_of(settled) == ROWS and len(reads) == 1 else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_no_process_is_copied_while_a_thread_is_in_sqlite(settled, tmp_path):
    """A copy would have its locks, and nobody who unlocks them: it hung, where others fetched meanwhile."""
    hints, inside, left = Hints(tmp_path / "hints"), threading.Event(), []

    def looked(_):
        inside.set()
        time.sleep(0.5)
        left.append(time.monotonic())

    thread = threading.Thread(target=lambda: hints._run(looked))
    thread.start()
    inside.wait()
    child = os.fork()
    if child == 0:
        os._exit(0 if left and Hints(tmp_path / "hints").digest_of(settled) else 1)
    assert os.waitpid(child, 0)[1] == 0
    thread.join()
    assert hints.digest_of(settled), "and nothing is locked afterwards"


def test_who_waited_for_the_hints_in_vain_asks_again_after_a_while(settled, tmp_path, reads, monkeypatch):
    """A worker lives for days: for one lock it would hash a base anew for each action."""
    now = [0.0]
    monkeypatch.setattr(hints_module, "_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    hints = Hints(tmp_path / "hints")
    hints.digest_of(settled)
    [file] = (tmp_path / "hints").glob("*.sqlite")
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        for _ in range(2):
            assert hints.digest_of(settled) == ROWS  # without
    assert len(reads) == 3
    hints.digest_of(settled)
    assert len(reads) == 4, "it does not ask all the time: each time would be waited for"
    now[0] += 61
    hints.digest_of(settled)
    assert len(reads) == 4


def test_a_file_that_is_not_there_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError):
        Hints(tmp_path / "hints").digest_of(tmp_path / "none")


def test_a_flipped_bit_in_the_hint_file_never_gives_a_wrong_digest(settled, tmp_path):
    Hints(tmp_path / "hints").digest_of(settled)
    [file] = (tmp_path / "hints").iterdir()
    whole = file.read_bytes()
    start = whole.index(ROWS.digest.encode())
    for at in range(start - 16, start + 72):  # the row, and what is before it
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert Hints(tmp_path / "hints").digest_of(settled) == ROWS


def test_what_is_forgotten_is_read_again(settled, tmp_path, reads):
    hints = Hints(tmp_path / "hints")
    hints.digest_of(settled)
    hints.forget(settled)
    hints.digest_of(settled)
    assert reads == [settled, settled]


@pytest.mark.parametrize(
    ("old", "new"), [(b"WITHOUT ROWID", b"W\xe9THOUT ROWID"), (b"mtime_ns", b"mtjme_ns")]
)
def test_a_hint_file_with_a_damaged_schema_is_replaced(settled, tmp_path, reads, old, new):
    Hints(tmp_path / "hints").digest_of(settled)
    [file] = (tmp_path / "hints").iterdir()
    file.write_bytes(file.read_bytes().replace(old, new))
    assert Hints(tmp_path / "hints").digest_of(settled) == ROWS
    reads.clear()
    assert Hints(tmp_path / "hints").digest_of(settled) == ROWS
    assert reads == []


@pytest.mark.parametrize("put", [Path.mkdir, os.mkfifo])
def test_what_is_no_file_in_the_place_of_the_hints_is_done_without(settled, tmp_path, put):
    (tmp_path / "hints").mkdir()
    Hints(tmp_path / "hints").digest_of(settled)
    [file] = (tmp_path / "hints").iterdir()
    file.unlink()
    put(file)
    assert Hints(tmp_path / "hints").digest_of(settled) == ROWS


def test_hints_that_live_until_the_interpreter_ends_say_nothing(tmp_path, monkeypatch):
    kept = Hints(tmp_path / "hints")
    monkeypatch.setattr(hints_module, "_SQLITE", None)  # as Python leaves the names of a module then
    kept.__del__()
