"""What the tests share: a tiny base model and tiny datasets."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import make_base, make_data


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tied, unsharded bf16 base. Read-only by agreement: copy it to change it."""
    return make_base(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture
def tiny_data(tmp_path: Path) -> Path:
    return make_data(tmp_path / "data")
