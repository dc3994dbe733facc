"""Publishing beside other publishers, alive and dead."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from dem_build.action import Action, key_of, preimage
from dem_build.actions import KINDS
from dem_build.engine.publish import Destination, destination, publish
from dem_build.errors import StoreError
from dem_build.store import Record, Store


@pytest.fixture
def model(tmp_path: Path) -> tuple[Store, Record]:
    """A composed model in a store."""
    store = Store.open(tmp_path / "cache")
    document = preimage(Action("model", KINDS["compose"], {"method": "dem", "dtype": "float32"}), ())
    outputs = {}
    for name in KINDS["compose"].outputs:
        made = tmp_path / name
        if name in ("weights", "tokenizer"):
            made.mkdir()
            (made / f"{name}.x").write_text(name)
            (made / f"more-{name}").mkdir()
            (made / f"more-{name}" / "y").write_text(name)
        else:
            made.write_text("{}")
        outputs[name] = store.objects.put(made)
    return store, store.records.publish(Record(key_of(document), "compose", document, outputs, {}))


def test_builds_that_end_together_publish_one_whole_model(
    tmp_path: Path, model: tuple[Store, Record]
) -> None:
    store, record = model
    to = Destination(tmp_path / "out", tmp_path / "r.toml")
    failed: list[BaseException] = []

    def run() -> None:
        try:
            publish(to, record, "d" * 64, store, dict)
        except BaseException as error:  # noqa: BLE001  a thread's failure must reach the test
            failed.append(error)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    files = {p.relative_to(to.model).as_posix() for p in to.model.rglob("*") if p.is_file()}
    assert files == {"config.json", "tokenizer.x", "weights.x", "more-tokenizer/y", "more-weights/y"}


def test_a_file_in_a_folder_of_the_model_that_was_changed_is_published_again(
    tmp_path: Path, model: tuple[Store, Record]
) -> None:
    store, record = model
    to = Destination(tmp_path / "out", tmp_path / "r.toml")
    publish(to, record, "d" * 64, store, dict)
    changed = to.model / "more-tokenizer" / "y"
    changed.write_text("mine")
    kept = publish(to, record, "d" * 64, store, dict)
    assert changed.read_text() == "tokenizer"
    assert kept is not None
    assert (kept / "more-tokenizer" / "y").read_text() == "mine"


def test_what_somebody_put_into_the_folder_of_a_model_outlives_the_next_one(
    tmp_path: Path, model: tuple[Store, Record]
) -> None:
    store, record = model
    to = Destination(tmp_path / "out", tmp_path / "r.toml")
    (to.model / "notes").mkdir(parents=True)  # a folder that was no model's: nobody has published here
    (to.model / "notes" / "mine").write_text("1")
    kept = publish(to, record, "d" * 64, store, lambda: {"model/README.md": "card"})
    assert kept == to.folder / "model.kept"
    assert (kept / "notes" / "mine").read_text() == "1"
    (to.model / "q8.gguf").write_text("2")
    (to.model / "link").symlink_to(tmp_path)
    (to.model / "config.json").write_text("[]")  # as large as what was there
    kept = publish(to, record, "d" * 64, store, lambda: {"model/README.md": "another card"})
    assert kept == to.folder / "model.kept-2"
    assert {p.name: p.is_symlink() or p.read_text() for p in kept.iterdir()} == {
        "q8.gguf": "2",
        "link": True,
        "config.json": "[]",
    }
    assert {p.name for p in to.model.iterdir()} >= {"config.json", "weights.x", "README.md"}
    assert not (to.model / "q8.gguf").exists()


def test_of_a_project_that_was_copied_nothing_is_kept(tmp_path: Path, model: tuple[Store, Record]) -> None:
    store, record = model
    to = Destination(tmp_path / "out", tmp_path / "r.toml")
    assert publish(to, record, "d" * 64, store, dict) is None
    for path in to.model.rglob("*"):
        os.utime(path, (1, 1))
    assert publish(to, record, "d" * 64, store, dict) is None
    assert publish(to, record, "e" * 64, store, dict) is None
    assert {p.name for p in to.folder.iterdir()} == {".dem.json", "model"}


@pytest.mark.parametrize("stamp", [None, '{"recipe": "../r.toml", "files": {"config.json": [1, 2]}}'])
def test_of_a_model_whose_stamp_was_not_written_any_more_nothing_is_kept(
    tmp_path: Path, model: tuple[Store, Record], stamp: str | None
) -> None:
    store, record = model
    to = Destination(tmp_path / "out", tmp_path / "r.toml")
    publish(to, record, "d" * 64, store, dict)
    (to.folder / ".dem.json").unlink()
    if stamp is not None:
        (to.folder / ".dem.json").write_text(stamp)
    assert publish(to, record, "d" * 64, store, dict) is None


def test_what_a_killed_publisher_left_goes(tmp_path: Path, model: tuple[Store, Record]) -> None:
    store, record = model
    to = Destination(tmp_path / "out", tmp_path / "r.toml")
    (to.folder / ".model-dead").mkdir(parents=True)
    (to.folder / ".model-dead" / "weights.x").write_text("half")
    (to.folder / ".text-1234").write_text("half")
    publish(to, record, "d" * 64, store, dict)
    assert {p.name for p in to.folder.iterdir()} == {".dem.json", "model"}


@pytest.mark.parametrize("link", ["out", "out/r", "out/r-012345"])
def test_a_link_in_the_place_of_a_folder_to_publish_into_is_refused(tmp_path: Path, link: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    if link == "out/r-012345":  # another recipe of the name has the plain folder
        (tmp_path / "out" / "r").mkdir(parents=True)
        (tmp_path / "other.toml").write_text("")
        (tmp_path / "out" / "r" / ".dem.json").write_text('{"recipe": "../../other.toml"}')
    (tmp_path / link).parent.mkdir(exist_ok=True)
    (tmp_path / link).symlink_to(outside)
    with pytest.raises(StoreError, match="is a link") as caught:
        destination(tmp_path / "out", "r", tmp_path / "r.toml", "0123456789")
    assert caught.value.where == str(tmp_path / link)


def test_links_inside_a_published_folder_are_replaced_and_not_followed(
    tmp_path: Path, model: tuple[Store, Record]
) -> None:
    store, record = model
    to = Destination(tmp_path / "out", tmp_path / "r.toml")
    outside = tmp_path / "outside"
    outside.mkdir()
    to.folder.mkdir()
    for name in ("model", f".text-{os.getpid()}", "results.json"):
        (to.folder / name).symlink_to(outside if name == "model" else outside / name)
    (to.folder / ".dem.json").write_text(json.dumps({"model_digest": "d" * 64, "files": {}}))
    publish(to, record, "d" * 64, store, lambda: {"model/README.md": "card", "results.json": "{}"})
    assert list(outside.iterdir()) == []
    assert not to.model.is_symlink()
    assert (to.model / "weights.x").read_text() == "weights"
