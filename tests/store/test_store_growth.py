"""What the store does for one more record does not depend on how many there are, nor does it wait for each."""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from typing import TYPE_CHECKING

import pytest
from growth import assert_linear, calls_of

from dem_build import digest
from dem_build.digest import Output
from dem_build.store import Hints, Record, Store
from dem_build.store.files import ReadAhead
from dem_build.store.gc.garbage import Policy

if TYPE_CHECKING:
    from pathlib import Path

SIZES = (6, 18, 42)


def _publish(store: Store, name: str, *contents: str) -> Record:
    preimage = {"kind": "compose", "name": name}
    blobs = [store.objects.put_bytes(text.encode()) for text in contents]
    outputs = {f"weights{i}": Output(b.digest, b.size) for i, b in enumerate(blobs)}
    return store.records.publish(Record(digest.of_json(preimage), "compose", preimage, outputs, {}))


def _root(store: Store, recipe: Path, *records: Record) -> None:
    recipe.touch()
    actions = {f"action {i}": record.key for i, record in enumerate(records)}
    store.roots.write(recipe.name, {"recipe": str(recipe), "host": os.uname().nodename, "actions": actions})


def _store_of(folder: Path, records: int) -> tuple[Store, list[Record]]:
    store = Store.open(folder / "cache", hints=Hints(folder / "hints"))
    return store, [_publish(store, f"record {i}", f"{i}", "the same in all") for i in range(records)]


def test_what_a_recipe_has_alone_is_counted_and_no_more(store: Store, tmp_path: Path) -> None:
    both = _publish(store, "both", "of both")
    mine, others = _publish(store, "mine", "1", "22", "shared"), _publish(store, "others", "333", "shared")
    _root(store, tmp_path / "mine", both, mine)
    _root(store, tmp_path / "others", both, others)
    found = {name: (usage.count, usage.bytes) for name, usage in store.stats().exclusive.items()}
    assert found == {"mine": (1, 3), "others": (1, 3)}


def test_statistics_take_as_many_calls_for_a_recipe_among_many_as_among_few(tmp_path: Path) -> None:
    def calls(recipes: int) -> int:
        store, records = _store_of(tmp_path / f"{recipes}", recipes)
        for i, record in enumerate(records):
            _root(store, tmp_path / f"{recipes}" / f"r{i}", record, records[0])
        return calls_of(store.stats)

    calls(1)  # what is imported at the first time
    assert_linear(calls, SIZES)


def test_a_collection_takes_as_many_calls_for_a_record_among_many_as_among_few(tmp_path: Path) -> None:
    def calls(records: int) -> int:
        store, _ = _store_of(tmp_path / f"{records}", records)
        freed: list[int] = []

        def collect() -> None:
            freed.append(store.collect(Policy(grace=0)).freed["compose"].count)

        found = calls_of(collect)
        assert freed == [records]
        return found

    calls(1)
    assert_linear(calls, SIZES)


@pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="the system does not tell who will wait")
def test_where_a_file_is_waited_for_the_next_ones_are_begun(tmp_path: Path) -> None:
    names = [f"{n:03}" for n in range(200)]
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
        _evict(tmp_path / name)
    cold = [
        name for name in names if not _in_memory(tmp_path / name)
    ]  # all, but for what a processor still holds
    if len(cold) < 100:
        pytest.skip("this file system keeps what it is told to drop")
    ahead = ReadAhead(cold, tmp_path.joinpath)
    assert ahead.read(cold[0]) == cold[0].encode()
    deadline = time.monotonic() + 30
    while not all(_in_memory(tmp_path / name) for name in cold[1:65]):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not any(_in_memory(tmp_path / name) for name in cold[65:])  # no more than a memory may hold
    assert [ahead.read(name) for name in names] == [name.encode() for name in names]
    assert ahead.read("none such") is None


def _evict(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def _in_memory(path: Path) -> bool:
    """Whether the system has a file in memory, of which nothing is read by that."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE) as mapped:
        pages, first = (ctypes.c_ubyte * 1)(), ctypes.c_char.from_buffer(mapped)
        try:
            assert not ctypes.CDLL(None).mincore(ctypes.c_void_p(ctypes.addressof(first)), len(mapped), pages)
        finally:
            del first
    return bool(pages[0] & 1)
