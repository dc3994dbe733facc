"""Publishing beside other publishers, alive and dead."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from dem_build import kinds
from dem_build.execute.publish import Destination, publish
from dem_build.store import Record, Store


@pytest.fixture
def model(tmp_path: Path) -> tuple[Store, Record]:
    """A composed model in a store."""
    store = Store.open(tmp_path / "cache")
    document = kinds.preimage("compose", {"method": "dem", "dtype": "float32"}, ())
    outputs = {}
    for name in kinds.KINDS["compose"].outputs:
        made = tmp_path / name
        if name in ("weights", "tokenizer"):
            made.mkdir()
            (made / f"{name}.x").write_text(name)
        else:
            made.write_text("{}")
        outputs[name] = store.put(made)
    return store, store.publish(Record(kinds.key_of(document), "compose", document, outputs, {}))


def test_builds_that_end_together_publish_one_whole_model(
    tmp_path: Path, model: tuple[Store, Record]
) -> None:
    store, record = model
    to = Destination(tmp_path / "out", tmp_path / "r.toml")
    failed: list[BaseException] = []

    def run() -> None:
        try:
            publish(to, record, "d" * 64, store, {})
        except BaseException as error:  # noqa: BLE001  a thread's failure must reach the test
            failed.append(error)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert {p.name for p in to.model.iterdir()} == {"config.json", "tokenizer.x", "weights.x"}


def test_what_a_killed_publisher_left_goes(tmp_path: Path, model: tuple[Store, Record]) -> None:
    store, record = model
    to = Destination(tmp_path / "out", tmp_path / "r.toml")
    (to.folder / ".model-dead").mkdir(parents=True)
    (to.folder / ".model-dead" / "weights.x").write_text("half")
    (to.folder / ".text-1234").write_text("half")
    publish(to, record, "d" * 64, store, {})
    assert {p.name for p in to.folder.iterdir()} == {".dem.json", "model"}
