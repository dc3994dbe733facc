"""Objects: put, verified reads, quarantine, views and exports."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from dem_build import digest
from dem_build.digest import Output
from dem_build.errors import CorruptObjectError, StoreError
from dem_build.store import Hints, Store, files, objects
from dem_build.store.hints import hash_file
from dem_build.store.local import trash_name


def write_tree(folder: Path) -> Path:
    (folder / "deep").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights" * 1000)
    (folder / "deep" / "config.json").write_bytes(b"{}")
    return folder


def put_file(store: Store, data: bytes) -> Output:
    path = store.work.new("0" * 64) / "out" / "delta"
    path.write_bytes(data)
    return store.objects.put(path)


def damage(path: Path, data: bytes) -> None:
    """Change an object in place, as a stray writer would; a time of its own, however coarse the clock is."""
    path.chmod(0o644)
    path.write_bytes(data)
    os.utime(path, (1, 1))


def quarantined(store: Store) -> list[str]:
    return sorted(p.name for p in (store.root / "quarantine").iterdir())


def test_a_file_is_moved_to_the_name_of_its_digest_and_is_read_only(store):
    output = put_file(store, b"delta")
    path = store.objects.path(output.digest)
    assert path.read_bytes() == b"delta"
    assert (output.digest, output.size, output.files) == (digest.of_bytes(b"delta"), 5, None)
    assert path.stat().st_mode & 0o777 == 0o444
    assert not list(store.root.glob("work/*/*/out/*"))
    assert not list(store.root.glob("tmp/*"))


def test_a_folder_becomes_a_tree_that_names_its_files(store, tmp_path):
    output = store.objects.put(write_tree(tmp_path / "out"))
    assert output.files == {
        "deep/config.json": digest.Blob(digest.of_bytes(b"{}"), 2),
        "model.safetensors": digest.Blob(digest.of_bytes(b"weights" * 1000), 7000),
    }
    assert output.size == 7002
    assert store.objects.path(output.digest).read_bytes() == digest.tree_bytes(output.files)
    assert not (tmp_path / "out").exists()


def test_outputs_that_come_together_are_those_that_come_alone(store, tmp_path):
    (tmp_path / "config").write_bytes(b"{}")
    alone = store.objects.put(write_tree(tmp_path / "alone"))
    paths = {"weights": write_tree(tmp_path / "out"), "config": tmp_path / "config"}
    empty = tmp_path / "empty"
    empty.mkdir()
    outputs = store.objects.put_all(paths | {"empty": empty}, {})
    assert outputs["weights"] == alone
    assert outputs["config"] == Output(digest.of_bytes(b"{}"), 2)
    assert outputs["empty"].files == {}
    assert not any(path.exists() for path in (*paths.values(), empty))


def test_what_was_hashed_as_it_was_written_is_not_read_and_all_else_is(store, tmp_path, monkeypatch):
    folder, read = write_tree(tmp_path / "out"), []
    weights = folder / "model.safetensors"
    monkeypatch.setattr(objects, "hash_file", lambda path: read.append(path) or hash_file(path))
    output = store.objects.put_all({"weights": folder}, {weights: digest.of_file(weights)})["weights"]
    assert output.files == {
        "deep/config.json": digest.Blob(digest.of_bytes(b"{}"), 2),
        "model.safetensors": digest.Blob(digest.of_bytes(b"weights" * 1000), 7000),
    }
    assert len(read) == 1
    store.objects.check(output)
    assert len(read) == 1
    assert not store.verify()


def test_an_empty_folder_is_a_tree_without_files(store, tmp_path):
    (tmp_path / "out").mkdir()
    output = store.objects.put(tmp_path / "out")
    store.objects.check(output)
    assert (output.files, output.size) == ({}, 0)


def test_a_hard_linked_file_is_copied_so_that_nobody_can_write_to_the_object(store, tmp_path):
    checkpoint, out = tmp_path / "checkpoint", tmp_path / "out"
    checkpoint.write_bytes(b"delta")
    os.link(checkpoint, out)
    output = store.objects.put(out)
    checkpoint.write_bytes(b"later")
    assert store.objects.path(output.digest).read_bytes() == b"delta"
    assert store.objects.path(output.digest).stat().st_nlink == 1


def test_a_file_of_another_file_system_is_copied(store):
    shm = Path("/dev/shm")
    if not shm.is_dir() or shm.stat().st_dev == store.root.stat().st_dev:
        pytest.skip("needs a second file system")
    source = shm / f"dem-test-{os.getpid()}"
    try:
        source.write_bytes(b"delta")
        output = store.objects.put(source)
        assert not source.exists()
    finally:
        source.unlink(missing_ok=True)
    assert store.objects.path(output.digest).read_bytes() == b"delta"


def test_a_link_in_an_output_is_stored_as_the_file_that_it_leads_to(store, tmp_path):
    shared = store.objects.put_bytes(b"tokenizer")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "tokenizer.json").symlink_to(store.objects.path(shared.digest))
    output = store.objects.put(tmp_path / "out")
    assert output.files == {"tokenizer.json": shared}
    assert store.objects.path(shared.digest).read_bytes() == b"tokenizer"


def test_an_output_that_is_not_a_file_is_refused(store, tmp_path):
    (tmp_path / "out").mkdir()
    os.mkfifo(tmp_path / "out" / "pipe")
    with pytest.raises(StoreError, match="pipe"):
        store.objects.put(tmp_path / "out")


def test_an_object_that_is_there_already_is_kept(store):
    first = put_file(store, b"delta")
    inode = store.objects.path(first.digest).stat().st_ino
    assert put_file(store, b"delta") == first
    assert store.objects.path(first.digest).stat().st_ino == inode
    assert not quarantined(store)


@pytest.mark.parametrize("rotten", [b"del", b"dElta"], ids=["wrong size", "wrong bytes"])
def test_a_damaged_object_is_replaced_when_its_bytes_arrive_again(store, rotten):
    output = put_file(store, b"delta")
    damage(store.objects.path(output.digest), rotten)
    put_file(store, b"delta")
    assert store.objects.path(output.digest).read_bytes() == b"delta"
    assert len(quarantined(store)) == 1


def test_a_damaged_object_goes_to_quarantine_when_it_is_opened(store):
    output = put_file(store, b"delta")
    store.objects.check(output)
    damage(store.objects.path(output.digest), b"dElta")
    with pytest.raises(CorruptObjectError, match="other bytes"):
        store.objects.check(output)
    assert not store.objects.path(output.digest).exists()
    assert quarantined(store)[0].startswith(f"object-{output.digest}-")


def test_all_damaged_files_of_a_tree_are_told_at_once(store, tmp_path):
    output = store.objects.put(write_tree(tmp_path / "out"))
    names = [blob.digest for blob in output.files.values()]
    for name in names:
        damage(store.objects.path(name), b"x")
    with pytest.raises(CorruptObjectError) as caught:
        store.objects.check(output)
    assert all(name in str(caught.value) for name in names)
    assert len(quarantined(store)) == 2


def test_a_missing_object_is_told_as_such(store):
    output = put_file(store, b"delta")
    store.objects.path(output.digest).unlink()
    with pytest.raises(CorruptObjectError, match="is missing"):
        store.objects.check(output)


def test_what_this_host_verified_is_not_read_again(store, monkeypatch):
    output = put_file(store, b"delta")
    monkeypatch.setattr(digest, "of_file", lambda _path: pytest.fail("read again"))
    store.objects.check(output)


def test_another_host_reads_an_object_before_it_trusts_it(store, tmp_path):
    output = put_file(store, b"delta")
    path = store.objects.path(output.digest)
    path.chmod(0o644)
    path.write_bytes(b"dElta")
    elsewhere = Store.open(store.root, hints=Hints(tmp_path / "hints of another host"))
    with pytest.raises(CorruptObjectError):
        elsewhere.objects.check(output)


def test_reading_bytes_verifies_them_each_time(store):
    blob = store.objects.put_bytes(b"metrics")
    assert store.objects.read_bytes(blob) == b"metrics"
    assert store.objects.read_bytes(Output(blob.digest, blob.size)) == b"metrics"
    damage(store.objects.path(blob.digest), b"mEtrics")
    with pytest.raises(CorruptObjectError):
        store.objects.read_bytes(blob)
    assert len(quarantined(store)) == 1


def test_a_step_sees_a_file_as_its_object_and_a_tree_as_named_links(store, tmp_path):
    single = put_file(store, b"delta")
    tree = store.objects.put(write_tree(tmp_path / "out"))
    assert store.views.view(single, tmp_path / "inputs", "delta") == store.objects.path(single.digest)
    for _ in range(2):  # a second view of the same name replaces the first
        folder = store.views.view(tree, tmp_path / "inputs", "weights")
        assert folder == tmp_path / "inputs" / "weights"
        assert (folder / "deep" / "config.json").read_bytes() == b"{}"
        assert (folder / "model.safetensors").is_symlink()


def test_a_tree_survives_put_and_export(store, tmp_path):
    output = store.objects.put(write_tree(tmp_path / "out"))
    store.views.export(output, tmp_path / "model")
    write_tree(tmp_path / "expected")
    found = {p.relative_to(tmp_path / "model"): p for p in (tmp_path / "model").rglob("*") if p.is_file()}
    expected = {
        p.relative_to(tmp_path / "expected"): p for p in (tmp_path / "expected").rglob("*") if p.is_file()
    }
    assert found.keys() == expected.keys()
    assert all(found[name].read_bytes() == path.read_bytes() for name, path in expected.items())


def test_an_exported_file_is_the_users_and_changing_it_leaves_the_object(store, tmp_path):
    output = put_file(store, b"delta")
    store.views.export(output, tmp_path / "model.safetensors")
    exported = tmp_path / "model.safetensors"
    assert exported.stat().st_mode & 0o200
    assert exported.stat().st_ino != store.objects.path(output.digest).stat().st_ino
    with exported.open("r+b") as file:
        file.write(b"D")
    assert store.objects.path(output.digest).read_bytes() == b"delta"


def test_what_a_collection_moves_while_it_is_exported_is_put_back_and_copied(store, tmp_path, monkeypatch):
    """As where locks do nothing: then a collection sees no build, and puts back what that says it uses."""
    output, copy, moved = put_file(store, b"delta"), files.copy, []

    def copy_late(source, target):
        if not moved:
            trash = store.root / "trash" / ("0" * 16)
            trash.mkdir(parents=True)
            moved.append(source.rename(trash / trash_name("object", source)))
        copy(source, target)

    monkeypatch.setattr(files, "copy", copy_late)
    store.views.export(output, tmp_path / "model.safetensors")
    assert moved
    assert (tmp_path / "model.safetensors").read_bytes() == b"delta"
    assert store.objects.path(output.digest).read_bytes() == b"delta"


def test_an_export_replaces_a_link_and_what_was_changed_and_leaves_the_rest(store, tmp_path):
    output = store.objects.put(write_tree(tmp_path / "out"))
    target = tmp_path / "model"
    store.views.export(output, target)
    same = (target / "model.safetensors").stat().st_ino
    (target / "deep" / "config.json").unlink()
    (target / "deep" / "config.json").symlink_to(store.objects.path(output.files["deep/config.json"].digest))
    (target / "notes.txt").write_text("mine")
    store.views.export(output, target)
    assert not (target / "deep" / "config.json").is_symlink()
    assert (target / "model.safetensors").stat().st_ino == same
    assert (target / "notes.txt").read_text() == "mine"


def test_a_damaged_object_is_never_exported(store, tmp_path):
    output = put_file(store, b"delta")
    damage(store.objects.path(output.digest), b"dElta")
    with pytest.raises(CorruptObjectError):
        store.views.export(output, tmp_path / "model.safetensors")
    assert not (tmp_path / "model.safetensors").exists()


def test_a_disk_that_takes_no_more_is_told_with_what_to_do_and_nothing_half_written_stays(store, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    out = tmp_path / "out"
    out.symlink_to(tmp_path / "large")  # a link is copied, so put has to write as well
    (tmp_path / "large").write_bytes(b"x" * 100_000)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        for write in (lambda: store.objects.put_bytes(b"x" * 100_000), lambda: store.objects.put(out)):
            with pytest.raises(StoreError, match=r"no space left.*dem cache stats"):
                write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list((store.root / "tmp").iterdir())
    assert store.stats().objects.count == 0
