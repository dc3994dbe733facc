"""A project to talk to, for all tests of `dem chat` of a module."""

from __future__ import annotations

from pathlib import Path

import pytest
from project import Project
from talking import RECIPE, talking


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return talking(tmp_path_factory.mktemp("chat"))


@pytest.fixture(autouse=True)
def home(built: Project, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(built.home)
    monkeypatch.delenv("DEM_CACHE", raising=False)
    monkeypatch.setenv("DEM_HINTS", built.environment["DEM_HINTS"])
    built.write(RECIPE)
    return built.home
