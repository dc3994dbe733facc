"""Inputs that go while a step reads them: the action is not at fault, and the build goes on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from dem_build import digest
from dem_build.checkpoint.reader import open_checkpoint
from dem_build.engine.protocol import Answer
from dem_build.engine.run import Runner, is_lost
from dem_build.errors import CheckpointError, StoreError
from dem_build.store import Hints, Record, Store


def test_a_step_that_finds_an_input_gone_lost_it(tmp_path):
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(tmp_path / "in" / "0-delta")
    assert is_lost(caught.value, {tmp_path / "in"})
    assert is_lost(caught.value, {tmp_path / "in" / "0-delta"})


def test_a_step_that_misses_another_file_or_fails_otherwise_lost_no_input(tmp_path):
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(tmp_path / "of the user")
    assert not is_lost(caught.value, {tmp_path / "in"})
    assert not is_lost(CheckpointError("not finite"), {tmp_path / "in"})


@pytest.mark.parametrize("made", [True, False])
def test_what_another_process_made_while_this_one_was_stopped_is_found(tmp_path, monkeypatch, made):
    """It was given for dead; who took over removes all work on the action, a folder in the making too."""
    store = Store.open(tmp_path / "cache", hints=Hints(tmp_path / "hints"))
    preimage = {"kind": "made up"}
    request: Any = SimpleNamespace(key=digest.of_json(preimage), force=False)

    def new(key: str) -> None:
        if made:
            store.records.publish(Record(key, "made up", preimage, {}, {}))
        raise StoreError("cannot be read or written: No such file or directory")

    monkeypatch.setattr(store.work, "new", new)
    reply = Runner(store, stopping=lambda: False, started=lambda _: None).run(request)
    assert reply.answer is (Answer.FOUND if made else Answer.FAILED)
