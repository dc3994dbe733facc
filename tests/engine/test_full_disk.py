"""A write that a disk has no room for is told as that, whichever library writes."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from dem_build.engine.run import _is_full

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def _no_room() -> Iterator[None]:
    """No file may grow beyond 20 kB, which libraries meet as they do a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


WRITERS: dict[str, Callable[[Path], object]] = {
    "python": lambda path: path.write_bytes(bytes(50_000)),
    "numpy": lambda path: np.save(path, np.zeros(50_000)),
    "safetensors": lambda path: save_file({"a": np.zeros(50_000)}, path),
    "torch": lambda path: torch.save({"a": torch.zeros(50_000)}, path),
    "torch, little": lambda path: torch.save({"a": torch.zeros(5_000)}, path),
}


@pytest.mark.usefixtures("_no_room")
@pytest.mark.parametrize("name", WRITERS)
def test_a_write_without_room_is_known_as_one(name: str, tmp_path: Path) -> None:
    with pytest.raises(Exception) as raised:  # noqa: PT011  each library has its own
        WRITERS[name](tmp_path / "file")
    assert _is_full(raised.value), repr(raised.value)


@pytest.mark.parametrize(
    "error", [RuntimeError("size mismatch"), OSError(2, "No such file"), ValueError("x")]
)
def test_other_errors_are_not_a_full_disk(error: Exception) -> None:
    assert not _is_full(error)
