"""Copies past the system's memory, and where a file system does not take them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from dem_build.store import files
from dem_build.store.files import copy

BLOCK, LARGE = files._BLOCK, files._LARGE
SIZES = [0, 1, LARGE - 1, LARGE, LARGE + 1, LARGE + BLOCK, 2 * LARGE + BLOCK // 2 + 3]


def made(path: Path, size: int) -> Path:
    path.write_bytes(os.urandom(size))
    path.chmod(0o444)
    return path


@pytest.fixture
def opened(monkeypatch):
    """The files that were opened for writing past the system's memory."""
    real, found = os.open, []

    def watched(path, flags, *more):
        found.extend([path] if flags & files._DIRECT else [])
        return real(path, flags, *more)

    monkeypatch.setattr(os, "open", watched)
    return found


@pytest.mark.parametrize("size", SIZES)
def test_a_copy_has_the_bytes_and_is_a_file_of_its_own(tmp_path, size):
    source = made(tmp_path / "object", size)
    copy(source, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()
    assert (tmp_path / "copy").stat().st_ino != source.stat().st_ino
    assert source.stat().st_nlink == 1
    assert os.access(tmp_path / "copy", os.W_OK)
    assert (tmp_path / "copy").stat().st_mode & 0o222


@pytest.mark.skipif(not files._DIRECT, reason="this system has no O_DIRECT")
def test_only_a_large_file_goes_past_memory(tmp_path, monkeypatch, opened):
    monkeypatch.setattr(files, "share", lambda *_: False)
    for size in SIZES:
        copy(made(tmp_path / f"object-{size}", size), tmp_path / f"copy-{size}")
    assert [path.name for path in opened] == [f"copy-{size}" for size in SIZES if size >= LARGE]


@pytest.mark.parametrize("where", ["open", "write", "middle"])
def test_a_file_system_that_refuses_gets_an_ordinary_copy(tmp_path, monkeypatch, where):
    real_open, real_write, done = os.open, os.pwrite, []

    def refuses(path, flags, *more):
        if where == "open" and flags & files._DIRECT:
            raise OSError(errno.EINVAL, "refused")
        return real_open(path, flags, *more)

    def stops(descriptor, data, at):
        if where == "write" or (where == "middle" and done):
            raise OSError(errno.EINVAL, "refused")
        done.append(at)
        return real_write(descriptor, bytes(len(data)), at)  # what is there by then does not count

    monkeypatch.setattr(files, "share", lambda *_: False)
    monkeypatch.setattr(files, "_PIECE", BLOCK)
    monkeypatch.setattr(os, "open", refuses)
    monkeypatch.setattr(os, "pwrite", stops)
    source = made(tmp_path / "object", LARGE + 5)
    copy(source, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()


def test_a_full_disk_is_no_refusal(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(files, "share", lambda *_: False)
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="full"):
        copy(made(tmp_path / "object", LARGE), tmp_path / "copy")


def test_what_is_there_is_not_written_into(tmp_path):
    (tmp_path / "copy").write_text("mine")
    with pytest.raises(FileExistsError):
        copy(made(tmp_path / "object", 5), tmp_path / "copy")
    assert (tmp_path / "copy").read_text() == "mine"


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="no file system in memory is here")
def test_a_file_system_in_memory_takes_a_copy(tmp_path):
    source, target = made(tmp_path / "object", LARGE + 7), Path(f"/dev/shm/dem-copy-{os.getpid()}")
    try:
        copy(source, target)
        assert target.read_bytes() == source.read_bytes()
    finally:
        target.unlink(missing_ok=True)
