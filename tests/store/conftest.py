"""A store of its own for each test, with hints of its own."""

from __future__ import annotations

import pytest

from dem_build.store import Hints, Store


@pytest.fixture
def store(tmp_path):
    return Store.open(tmp_path / "cache", hints=Hints(tmp_path / "hints"))


@pytest.fixture(autouse=True)
def _hints_of_this_test(tmp_path, monkeypatch):
    """No test writes to the hints of the user who runs it."""
    monkeypatch.setenv("DEM_HINTS", str(tmp_path / "hints"))
