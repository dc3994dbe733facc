"""Collection: what goes, what stays, and what it says of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_samples import record_file, rewrite

from dem_build import digest
from dem_build.digest import Output
from dem_build.errors import LeaseHeldError, StoreError
from dem_build.store import Hints, Record, Store
from dem_build.store.gc import collect
from dem_build.store.gc.census import DAY, entries, size_of
from dem_build.store.gc.garbage import Policy
from dem_build.store.local import open_layout

NOW = Policy(grace=0)
HOST = os.uname().nodename


def publish(
    store: Store, name: str, *contents: str, kind: str = "compose", output: str = "weights"
) -> Record:
    """Record an action whose outputs are files of these contents."""
    preimage = {"kind": kind, "name": name}
    blobs = [store.objects.put_bytes(text.encode()) for text in contents or (name,)]
    outputs = {f"{output}{i or ''}": Output(b.digest, b.size) for i, b in enumerate(blobs)}
    return store.records.publish(Record(digest.of_json(preimage), kind, preimage, outputs, {}))


def root(store: Store, recipe: Path, *records: Record, **more) -> None:
    actions = {f"action {i}": record.key for i, record in enumerate(records)}
    store.roots.write(recipe.name, {"recipe": str(recipe), "host": HOST, "actions": actions} | more)


def age(store: Store, days: float) -> None:
    """Make everything in the store older."""
    then = time.time() - days * DAY
    for path in store.root.rglob("*"):
        os.utime(path, (then, then))


def kinds(store: Store, policy: Policy = NOW, **options) -> dict[str, int]:
    """Collect; return how many of each kind went."""
    return {kind: usage.count for kind, usage in store.collect(policy, **options).freed.items()}


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text("")
    return path


def test_what_the_last_build_of_a_recipe_names_stays_and_the_rest_goes_with_its_objects(store, recipe):
    kept, lost = publish(store, "kept", "own", "shared"), publish(store, "lost", "shared", "other")
    root(store, recipe, kept)
    before = store.stats().objects
    found = store.collect(NOW)
    assert {kind: (u.count, u.bytes) for kind, u in found.freed.items()} == {"compose": (1, len("other"))}
    assert store.records.lookup(kept.key) == kept
    assert store.records.peek(lost.key) is None
    assert store.stats().objects.bytes == before.bytes - found.bytes == found.left


def test_a_recipe_that_is_gone_keeps_nothing_and_its_root_goes(store, recipe):
    root(store, recipe, publish(store, "a"))
    recipe.unlink()
    found = store.collect(NOW)
    assert found.gone == (str(recipe),)
    assert found.freed["compose"].count == 1
    assert not list((store.root / "roots").iterdir())


def test_a_recipe_that_cannot_be_looked_at_is_not_gone(store, tmp_path):
    record = publish(store, "a")
    root(store, tmp_path / ("n" * 300), record)  # no file system takes such a name, so stat fails
    assert kinds(store) == {}


def test_a_recipe_of_another_host_counts_until_nobody_built_it_for_thirty_days(store, recipe):
    root(store, recipe, publish(store, "a"), host="elsewhere")
    recipe.unlink()
    age(store, 29)
    assert kinds(store) == {}
    age(store, 31)
    assert kinds(store)["compose"] == 1


def root_file(store: Store) -> Path:
    [path] = (store.root / "roots").iterdir()
    return path


def test_nothing_goes_while_any_bit_of_a_root_is_another(store, recipe):
    record = publish(store, "a")
    root(store, recipe, record)
    path = root_file(store)
    whole = path.read_bytes()
    for place in range(len(whole)):
        rewrite(path, whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        with pytest.raises(StoreError, match="this root is damaged"):
            store.collect(Policy(grace=0, vectors=True))
    assert store.records.lookup(record.key) == record


def test_a_damaged_root_names_the_recipe_that_it_seems_to_be_of(store, recipe):
    root(store, recipe)
    rewrite(root_file(store), root_file(store).read_bytes().replace(HOST.encode(), b"elsewhere"))
    with pytest.raises(StoreError) as caught:
        store.collect(NOW, dry_run=True)
    assert caught.value.hint == f"build {recipe} again, which writes it anew; or delete it if that is gone"
    root(store, recipe)
    assert kinds(store) == {}


@pytest.mark.parametrize("put", [Path.mkdir, os.mkfifo])
def test_what_is_no_file_in_the_place_of_a_root_is_a_damaged_one(store, recipe, put):
    record = publish(store, "a")
    root(store, recipe, record)
    path = root_file(store)
    path.unlink()
    put(path)
    with pytest.raises(StoreError, match="this root is damaged"):
        store.collect(NOW)
    assert store.roots.read(recipe.name) is None


def test_a_damaged_root_counts_until_nobody_built_its_recipe_for_thirty_days(store, recipe):
    root(store, recipe, publish(store, "a"))
    rewrite(root_file(store), b"{")
    age(store, 31)
    assert kinds(store) == {"compose": 1, collect.GONE: 1}


def test_a_root_of_a_dem_before_the_seal_counts(store, recipe):
    record = publish(store, "a")
    root(store, recipe)
    said = {"recipe": str(recipe), "host": HOST, "actions": {"model": record.key}}
    rewrite(root_file(store), json.dumps({"dem-root": 1, "recipe_id": "r", "root": said}).encode())
    assert kinds(store) == {}


@pytest.mark.parametrize("when", ["NaN", "1" + "0" * 400, "-1", '"x"'])
def test_a_time_in_a_root_that_is_none_protects_nothing(store, recipe, when):
    record = publish(store, "a")
    root(store, recipe)
    said = f'{{"recipe": {json.dumps(str(recipe))}, "host": "{HOST}", "dropped": {{"{record.key}": {when}}}}}'
    rewrite(root_file(store), f'{{"dem-root": 1, "recipe_id": "r", "root": {said}}}'.encode())
    age(store, 2)
    assert kinds(store) == {"compose": 1}


def test_nothing_younger_than_the_grace_period_goes(store):
    publish(store, "a")
    store.objects.put_bytes(b"of no record")
    assert kinds(store, Policy()) == {}
    age(store, 1.01)
    assert kinds(store, Policy()) == {"compose": 1, "objects of no record": 1}


def test_older_than_counts_from_the_last_build_that_used_it(store, recipe):
    old, dropped, built = (publish(store, name) for name in ("old", "dropped", "built"))
    age(store, 60)
    root(store, recipe, built, dropped={dropped.key: time.time() - 10 * DAY})
    recipe.unlink()
    assert kinds(store, Policy(older_than=30 * DAY)) == {"compose": 1}
    assert store.records.peek(old.key) is None
    assert kinds(store, Policy(older_than=5 * DAY)) == {"compose": 1}
    assert store.records.peek(dropped.key) is None
    assert store.records.peek(built.key) == built


def test_vectors_go_only_where_that_is_asked_for(store):
    vector = publish(store, "v", kind="finetune", output="delta")
    found = store.collect(NOW)
    assert found.freed == {}
    assert (found.vectors.count, found.vectors.bytes) == (1, 1)
    assert store.records.lookup(vector.key) == vector
    assert kinds(store, Policy(grace=0, vectors=True)) == {"finetune": 1}


def test_a_size_is_reached_by_taking_what_was_unused_longest(store):
    made = [publish(store, f"{i}" * 100) for i in range(4)]
    for i, record in enumerate(made):
        then = time.time() - (10 - i) * DAY
        os.utime(record_file(store, record.key), (then, then))
    found = store.collect(Policy(grace=0, max_bytes=250))
    assert found.freed["compose"].bytes == found.left == 200
    assert [store.records.peek(r.key) is None for r in made] == [True, True, False, False]


def test_what_a_running_process_has_looked_up_or_stored_stays(store, tmp_path):
    hit, other = publish(store, "hit"), publish(store, "other")
    builder = Store.open(store.root, hints=Hints(tmp_path / "hints"))
    with builder.in_use():
        assert builder.records.lookup(hit.key) == hit
        stored = builder.objects.put_bytes(b"not yet recorded")
        assert kinds(store) == {"compose": 1}
        assert store.records.lookup(hit.key) == hit
        assert store.objects.path(stored.digest).exists()
        assert store.records.peek(other.key) is None
    assert kinds(store) == {"compose": 1, "objects of no record": 1}


@pytest.mark.parametrize("look", [2, 3, 4])
def test_what_comes_to_be_used_while_it_is_moved_is_put_back(store, monkeypatch, look):
    """Where locks do nothing: a process says what it uses between the decision and one of the looks after it."""
    record, read, looks = publish(store, "a"), collect.read_uses, []

    def late(layout):
        looks.append(None)
        found, dead = read(layout)
        return (found | {record.key} if len(looks) >= look - 1 else found), dead

    monkeypatch.setattr(collect, "read_uses", late)
    assert kinds(store) == {}
    assert store.records.lookup(record.key) == record
    assert list((store.root / "trash").iterdir()) == []


def test_an_object_that_a_record_names_by_now_is_put_back(store, monkeypatch):
    blob, moved = store.objects.put_bytes(b"a"), collect._put_back

    def publishing(items, keep, trash):
        if len(items) == 0:
            monkeypatch.undo()
            path = store.root / "actions" / "ab" / f"{'ab' * 32}.json"
            path.parent.mkdir()
            path.write_text(json.dumps({"dem-record": 99, "needs": blob.digest}))
        moved(items, keep, trash)

    monkeypatch.setattr(collect, "_put_back", publishing)
    assert kinds(store) == {}
    assert store.objects.path(blob.digest).exists()


def test_what_a_record_of_a_newer_dem_names_stays(store):
    record = publish(store, "a")
    path = record_file(store, record.key)
    text = path.read_text().replace('"dem-record": 2', '"dem-record": 99')
    path.unlink()
    path.write_text(text)
    assert kinds(store) == {}
    assert store.objects.path(record.outputs["weights"].digest).exists()


def test_a_dry_run_says_what_would_go_and_changes_nothing(store):
    publish(store, "a")
    store.objects.put_bytes(b"of no record")
    (store.work.new("ab" * 32) / "out" / "x").write_text("12345")
    before = sorted(store.root.rglob("*"))
    planned = store.collect(NOW, dry_run=True)
    assert sorted(store.root.rglob("*")) == before
    assert planned == store.collect(NOW)
    assert planned.freed["unfinished work"].bytes == 5


def checkpoint(store: Store, key: str) -> Path:
    folder = store.work.new(key) / "checkpoints" / "checkpoint-5"
    folder.mkdir()
    (folder / "complete.json").write_text("{}")
    return folder


def test_checkpoints_go_only_when_stale_or_asked_for_and_never_while_a_recipe_wants_them(store, recipe):
    wanted, stale = "ab" * 32, "cd" * 32
    root(store, recipe, wanted=[wanted])
    folders = [checkpoint(store, wanted), checkpoint(store, stale)]
    age(store, 29)
    assert kinds(store) == {}
    age(store, 31)
    assert kinds(store) == {"unfinished work": 1}
    assert [folder.exists() for folder in folders] == [True, False]
    checkpoint(store, stale)
    assert kinds(store, Policy(grace=0, vectors=True)) == {"unfinished work": 1}
    assert folders[0].exists()


def test_work_that_is_leased_stays(store, tmp_path):
    other = Store.open(store.root, hints=Hints(tmp_path / "hints"))
    with other.leases.take("ab" * 32):
        work = store.work.new("ab" * 32)
        assert kinds(store) == {}
    assert work.exists()
    assert kinds(store) == {"unfinished work": 1}


def test_what_killed_processes_left_goes(store):
    (store.root / "leases" / KEY).write_text("{}")
    stray = store.root / "tmp" / ("ab" * 8)
    stray.write_text("half a file")
    aside = store.root / "quarantine" / f"object-{KEY}-{'ab' * 8}"
    aside.write_text("damaged")
    assert kinds(store) == {"leases of the dead": 1}
    later = collect.collect(open_layout(store.root), NOW, now=time.time() + 2 * DAY)
    assert {k: u.count for k, u in later.freed.items()} == {"temporary files": 1}
    later = collect.collect(open_layout(store.root), NOW, now=time.time() + 31 * DAY)
    assert {k: u.count for k, u in later.freed.items()} == {"quarantine": 1}


KEY = "ab" * 32


def test_what_the_store_has_not_named_is_never_touched(store):
    mine = [
        store.root / p for p in ("work/thesis", "tmp/notes.txt", "cas/sha256/ab/README", "actions/x.json")
    ]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    age(store, 100)
    assert kinds(store, Policy(grace=0, vectors=True)) == {}
    assert all(path.exists() for path in mine)


def test_a_pipe_in_the_place_of_a_note_is_neither_read_nor_removed(store):
    with store.in_use():
        pipe = store.root / "running" / ("ab" * 8)
        os.mkfifo(pipe)
        (store.root / "running" / "notes.txt").write_text("somebody's")
        age(store, 31)
        store.collect(NOW)
        assert pipe.is_fifo()
        assert (store.root / "running" / "notes.txt").exists()


def test_no_link_is_followed(store, tmp_path):
    outside = tmp_path / "outside"
    for name in (KEY, f"{time.time_ns():019d}-{'ab' * 8}"):
        (outside / name).mkdir(parents=True)
        (outside / name / "file").write_text("mine")
    (store.root / "cas" / "sha256" / "ab").symlink_to(outside)
    (store.root / "work" / KEY).symlink_to(outside)
    (store.work.new("cd" * 32) / "out" / "link").symlink_to(outside)
    age(store, 100)
    kinds(store, Policy(grace=0, vectors=True))
    assert len(list(outside.rglob("file"))) == 2


def test_a_store_with_a_folder_that_is_a_link_is_not_collected(store, tmp_path):
    shutil.move(store.root / "work", tmp_path / "elsewhere")
    (store.root / "work").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="is a link"):
        store.collect(NOW)


def test_two_collections_at_once_are_one(store, tmp_path):
    other = Store.open(store.root, hints=Hints(tmp_path / "hints"))
    with other.leases.take("gc"), pytest.raises(LeaseHeldError, match="at work"):
        store.collect(NOW)


def moved_to_trash(store, record):
    trash = store.root / "trash" / ("ab" * 8)
    trash.mkdir(parents=True, exist_ok=True)
    record_file(store, record.key).rename(trash / f"record-{record.key}.json")
    thing = record.outputs["weights"].digest
    store.objects.path(thing).rename(trash / f"object-{thing}")


def test_what_a_collection_has_moved_and_not_deleted_is_found(store):
    """Where locks do nothing, or the collection was killed: nobody makes again, or misses, what is there."""
    record = publish(store, "a")
    moved_to_trash(store, record)
    with store.in_use():
        assert store.records.lookup(record.key) == record
        assert store.objects.read_bytes(record.outputs["weights"]) == b"a"
    collect.put_back_all(store._layout)
    assert store.records.lookup(record.key) == record
    assert list((store.root / "trash").iterdir()) == []


def test_a_record_in_the_trash_stays_there_for_who_only_looks_or_where_its_objects_are_gone(store):
    """Else it would be a record without its objects as soon as the collection goes on."""
    looked_at, broken = publish(store, "a"), publish(store, "b")
    moved_to_trash(store, looked_at)
    assert store.records.lookup(looked_at.key) is None
    with store.in_use():
        assert store.records.peek(looked_at.key) is None
        moved_to_trash(store, broken)
        (store.root / "trash" / ("ab" * 8) / f"object-{broken.outputs['weights'].digest}").unlink()
        assert store.records.lookup(broken.key) is None
        log, preimage = store.objects.put_bytes(b"log"), {"kind": "logged"}
        blob = store.objects.put_bytes(b"c")
        outputs = {"weights": Output(blob.digest, blob.size)}
        told = Record(digest.of_json(preimage), "logged", preimage, outputs, {}, log)
        moved_to_trash(store, store.records.publish(told))
        store.objects.path(log.digest).unlink()
        assert store.records.lookup(told.key) is None
    assert [*(store.root / "actions").glob("*/*.json")] == []


def test_what_a_killed_collection_moved_is_put_back_and_decided_again(store, recipe):
    record = publish(store, "a")
    moved_to_trash(store, record)
    root(store, recipe, record)
    assert not record_file(store, record.key).exists()
    assert kinds(store) == {}
    assert store.records.lookup(record.key) == record
    recipe.unlink()
    assert kinds(store)["compose"] == 1


CONTENTS = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=3)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.integers(0, 5), CONTENTS),
        st.tuples(st.just("root"), st.integers(0, 1), st.lists(st.integers(0, 5), max_size=3)),
        st.tuples(st.just("gone"), st.integers(0, 1), st.none()),
        st.tuples(st.just("hit"), st.integers(0, 5), st.none()),
        st.tuples(st.just("end"), st.none(), st.none()),
        st.tuples(st.just("stray"), st.integers(0, 3), st.none()),
        st.tuples(st.just("gc"), st.sampled_from([None, 0, 6, 20]), st.booleans()),
    ),
    max_size=25,
)


class Model:
    """A store, and what must be true of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.layout = open_layout(folder / "cache")
        self.store = Store.open(folder / "cache", hints=Hints(folder / "hints"))
        self.builder = Store.open(folder / "cache", hints=Hints(folder / "hints"))
        self.use = None
        self.roots: dict[int, set[str]] = {}
        self.used: set[str] = set()

    def publish(self, name: int, contents: list[str]) -> None:
        # One key has one result here: what differs between runs is another matter's test.
        kind, output = ("finetune", "delta") if name == 5 else ("compose", "weights")
        publish(
            self.store,
            str(name),
            *{f"{c}{name % 2}" * (ord(c) - 95) for c in contents},
            kind=kind,
            output=output,
        )

    def root(self, name: int, wanted: list[int]) -> None:
        recipe = self.folder / f"{name}.toml"
        recipe.write_text("")
        found = [r for r in self.store.records.all() if int(r.preimage["name"]) in wanted]
        root(self.store, recipe, *found)
        self.roots[name] = {r.key for r in found}

    def gone(self, name: int, _: None) -> None:
        (self.folder / f"{name}.toml").unlink(missing_ok=True)
        self.roots.pop(name, None)

    def hit(self, name: int, _: None) -> None:
        if self.use is None:
            self.use = self.builder.in_use()
            self.use.__enter__()
        record = self.builder.records.lookup(digest.of_json({"kind": "compose", "name": str(name)}))
        self.used |= {record.key} if record else set()

    def end(self, *_: None) -> None:
        if self.use is not None:
            self.use.__exit__(None, None, None)
        self.use, self.used = None, set()

    def stray(self, name: int, _: None) -> None:
        self.store.objects.put_bytes(b"stray" * (name + 1))

    def gc(self, limit: int | None, vectors: bool) -> None:
        needed = self.used.union(*self.roots.values())
        trained = {r.key for r in self.store.records.all() if r.kind == "finetune"}
        policy = Policy(grace=0, max_bytes=limit, vectors=vectors)
        planned, before = self.store.collect(policy, dry_run=True), self.bytes()
        found = self.store.collect(policy)
        assert found == planned
        assert before - self.bytes() == found.bytes, "it says what it frees, no more and no less"
        assert all(self.store.records.lookup(key) is not None for key in needed)
        left = {r.key for r in self.store.records.all()}
        assert vectors or trained <= left
        assert all(self.store.records.lookup(key) is not None for key in left), "no record lost an object"
        named = {n for r in self.store.records.all() for n in {b.digest for b in r.blobs()}}
        marked = {p.name for p in self.layout.objects.glob("*/*")} - named
        assert not marked, "no object is left that nobody names"
        assert self.store.collect(policy).freed == {}, "a second collection frees nothing"

    def bytes(self) -> int:
        return sum(p.stat().st_size for p in self.layout.objects.glob("*/*"))


@settings(max_examples=40)
@given(steps=STEPS)
def test_any_sequence_of_builds_and_collections_keeps_what_is_needed(tmp_path_factory, steps):
    model = Model(tmp_path_factory.mktemp("model"))
    for name, first, second in [*steps, ("gc", None, False), ("end", None, None), ("gc", 0, True)]:
        getattr(model, name)(first, second)
    model.end()


def test_what_is_given_back_while_a_collection_lists_it_is_passed_over(tmp_path):
    for name in "abc":
        (tmp_path / name).write_text(name)
    listing = entries(tmp_path, re.compile("."))
    first = next(listing).path
    (tmp_path / "b").unlink()
    assert [first, *(entry.path for entry in listing)] == [tmp_path / "a", tmp_path / "c"]


def test_what_is_gone_has_no_bytes_and_is_as_old_as_can_be(tmp_path):
    assert size_of(tmp_path / "gone") == (0, 0.0)
