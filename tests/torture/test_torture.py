"""The short form of the torture: every chapter tries a sample of its faults, and nothing is lost."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

import pytest
from tally import Scale
from torture import present

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("name", present())
def test_nothing_is_lost(name: str, tmp_path: Path) -> None:
    tallies = list(importlib.import_module(name).run(Scale(short=True), tmp_path))

    assert tallies
    assert all(tally.tried for tally in tallies), "a fault that was never tried shows nothing"
    assert [loss for tally in tallies for loss in tally.losses] == []
    assert all(tally.recovered == tally.tried for tally in tallies)
