"""What all tests share: a tiny base model, tiny datasets, and the order in which folders are tested."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from bucket_servers import credentials, localbucket_serving, made_bucket, moto_serving
from tiny import make_base, make_data

# Read when torch is loaded. Models this small only wait for a second thread, which spins unless it is told to sleep.
os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}

SLOW = ("test_slurm.py", "torture", "builds", "errors", "actions", "model", "engine")
"""Files and folders."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest: whoever took such a file last would keep the other workers waiting."""
    order = {name: place for place, name in enumerate(SLOW)}
    last = len(SLOW)
    items.sort(key=lambda item: min(order.get(p.name, last) for p in (item.path, item.path.parent)))


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


@pytest.fixture(scope="session")
def moto() -> Iterator[str]:
    """The endpoint of moto's S3, which has a bucket `team-models`."""
    with moto_serving() as endpoint:
        made_bucket(endpoint)
        yield endpoint


@pytest.fixture(scope="session")
def localbucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The endpoint of localbucket's S3, which has a bucket `team-models`."""
    with localbucket_serving(tmp_path_factory.mktemp("localbucket")) as endpoint:
        made_bucket(endpoint)
        yield endpoint


@pytest.fixture
def store_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a client of those servers; no profile of the user's is read."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "DEM_REMOTE"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-credentials"))
    for name, value in credentials().items():
        monkeypatch.setenv(name, value)
