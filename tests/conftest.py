"""What the tests share: a tiny base model and tiny datasets."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
from tiny import make_base, make_data

# Read when torch is loaded. Models this small only wait for a second thread, which spins unless it is told to sleep.
os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


@pytest.fixture(scope="module", autouse=True)
def spared() -> None:
    """Spare what is loaded from collections: a training asks for two, which took longer than its steps."""
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tied, unsharded bf16 base. Read-only by agreement: copy it to change it."""
    return make_base(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture
def tiny_data(tmp_path: Path) -> Path:
    return make_data(tmp_path / "data")
