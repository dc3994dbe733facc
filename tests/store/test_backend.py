"""A store whose objects and records are elsewhere: files of this host are fetched when something opens them."""

from __future__ import annotations

from pathlib import Path

import pytest
from store_samples import tree

from dem_build.action import Action
from dem_build.actions import KINDS
from dem_build.digest import Blob, Output
from dem_build.errors import CorruptObjectError
from dem_build.graph import Graph
from dem_build.plan import History, key_of, make_plan, preimage_of
from dem_build.store import Hints, Record, Store
from dem_build.store.backend import Backend
from dem_build.store.files import nonce
from dem_build.store.local import open_layout


class MemoryBytes:
    """Bytes in a dictionary that several stores may share; each has the files that it opened in a folder of its own."""

    where = "memory"

    def __init__(self, held: dict[str, bytes], folder: Path) -> None:
        self.fetched: list[str] = []
        self._held = held
        self._folder = folder
        folder.mkdir()

    def path(self, name):
        return self._folder / name

    def size(self, name):
        return len(self._held[name]) if name in self._held else None

    def open(self, name):
        if name not in self._held:
            raise FileNotFoundError(name)
        if not self.path(name).exists():
            self.fetched.append(name)
            self.path(name).write_bytes(self._held[name])
        return self.path(name)

    def staged(self):
        return self._folder / f"staged-{nonce()}"

    def place(self, file, name):
        self._held[name] = file.read_bytes()
        file.rename(self.path(name))

    def flush(self, names):
        assert set(names) <= set(self._held)

    def set_aside(self, name):
        self.path(name).unlink(missing_ok=True)
        return self._held.pop(name, None) is not None

    def all(self):
        return (Blob(name, len(data)) for name, data in sorted(self._held.items()))


class MemoryDocuments:
    """Documents in a dictionary."""

    def __init__(self, held: dict[str, bytes]) -> None:
        self._held = held

    def expect(self, keys):
        pass

    def read(self, key):
        return self._held.get(key)

    def create(self, key, data, sound):
        if not sound(self._held.setdefault(key, data)):
            self._held[key] = data

    def take_back(self, key, sound):
        """Nothing is ever moved away."""

    def update(self, key, change):
        changed = change(self._held[key]) if key in self._held else None
        if changed is not None:
            self._held[key] = changed
        return changed is not None

    def set_aside(self, key, sound):
        return key in self._held and not sound(self._held[key]) and self._held.pop(key) is not None

    def all(self):
        return iter(sorted(self._held))


class Shared:
    """What two hosts share, each of which has a folder for what is its own."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self.objects: dict[str, bytes] = {}
        self.records: dict[str, bytes] = {}

    def host(self, name: str) -> tuple[Store, MemoryBytes]:
        home = self._home / name
        held = MemoryBytes(self.objects, self._home / f"{name} files")
        backend = Backend(held, MemoryDocuments(self.records))
        return Store(open_layout(home / "cache"), Hints(home / "hints"), backend), held


@pytest.fixture
def shared(tmp_path):
    return Shared(tmp_path)


BASE = Action("base", KINDS["import"], {"source": "directory", "dtype": None})
GRAPH = Graph({"base": BASE})


def made(store: Store, text: bytes) -> Record:
    """What an import of a base makes, published; the record that holds."""
    names = [name for name in BASE.kind.outputs if name != "weights"]
    blobs = {name: store.objects.put_bytes(text + name.encode()) for name in names}
    outputs = {name: Output(blob.digest, blob.size) for name, blob in blobs.items()}
    outputs["weights"] = tree(store, {"a": text, "b": b"b"})
    key = key_of(BASE, {})
    assert key is not None
    return store.records.publish(Record(key, "import", preimage_of(BASE, {}), outputs, {}))


def test_what_one_host_made_another_plans_with_and_fetches_when_it_is_read(shared, tmp_path):
    one, _ = shared.host("one")
    assert make_plan(GRAPH, one.records, History()).verdicts["base"].record is None
    record = made(one, b"first")
    assert made(one, b"second") == record

    two, held = shared.host("two")
    assert make_plan(GRAPH, two.records, History()).verdicts["base"].record == record
    assert list(two.records.all()) == [record]
    assert held.fetched == []

    assert two.objects.read_bytes(record.outputs["config"]) == b"firstconfig"
    folder = two.views.view(record.outputs["weights"], tmp_path / "in", "weights")
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {"a": b"first", "b": b"b"}
    assert len(held.fetched) == 4, "the config, and a tree with its two files"
    two.views.export(record.outputs["tokenizer"], tmp_path / "tokenizer")
    assert (tmp_path / "tokenizer").read_bytes() == b"firsttokenizer"


def test_bytes_that_are_wrong_where_they_come_from_are_set_aside_and_their_record_is_a_miss(shared):
    record = made(shared.host("one")[0], b"first")
    config = record.outputs["config"]
    shared.objects[config.digest] = bytes(config.size)
    two, _ = shared.host("two")
    with pytest.raises(CorruptObjectError, match="holds other bytes"):
        two.objects.open(config)
    assert two.records.lookup(record.key) is None
    assert made(two, b"first") == record
    assert two.objects.open(config).read_bytes() == b"firstconfig"


def test_a_record_that_is_damaged_where_it_comes_from_is_a_miss_and_is_replaced(shared):
    one, _ = shared.host("one")
    record = made(one, b"first")
    shared.records[record.key] = b"{"
    two, _ = shared.host("two")
    assert two.records.lookup(record.key) is None
    later = made(two, b"second")
    assert one.records.lookup(record.key) == later != record


def test_bytes_that_are_gone_where_they_were_are_placed_again_though_this_host_still_has_a_copy(shared):
    one, _ = shared.host("one")
    record = made(one, b"first")
    config = record.outputs["config"]
    del shared.objects[config.digest]
    assert one.records.lookup(record.key) is None
    assert made(one, b"first") == record
    assert shared.objects[config.digest] == b"firstconfig"
