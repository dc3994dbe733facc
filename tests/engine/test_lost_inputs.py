"""Inputs that go while a step reads them: the action is not at fault, and the build goes on."""

from __future__ import annotations

import pytest

from dem_build.checkpoint.reader import open_checkpoint
from dem_build.engine.run import is_lost
from dem_build.errors import CheckpointError


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
