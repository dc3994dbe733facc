"""Checkpoints: only one that is whole, byte for byte, is gone on from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dem_build.actions.checkpoints import adopt, keep, newest_complete

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    checkpoint = tmp_path / "earlier" / "checkpoint-3"
    (checkpoint / "optimizer").mkdir(parents=True)
    (checkpoint / "optimizer" / "state").write_bytes(b"state")
    (checkpoint / "dem.json").write_bytes(b"{}")
    keep(checkpoint)
    return checkpoint


def test_a_sound_checkpoint_is_copied_whole(earlier: Path, tmp_path: Path) -> None:
    copied = adopt(earlier, tmp_path / "later")
    assert copied == newest_complete(tmp_path / "later")
    assert copied is not None
    assert (copied / "optimizer" / "state").read_bytes() == b"state"


@pytest.mark.parametrize("name", ["optimizer/state", "dem.json"])
def test_a_checkpoint_with_a_flipped_bit_is_not_gone_on_from(
    earlier: Path, tmp_path: Path, name: str
) -> None:
    data = (earlier / name).read_bytes()
    (earlier / name).write_bytes(bytes([data[0] ^ 1]) + data[1:])
    assert newest_complete(earlier.parent) == earlier  # its sizes are right
    assert adopt(earlier, tmp_path / "later") is None
    assert newest_complete(tmp_path / "later") is None


def test_no_flipped_bit_in_the_marker_makes_another_checkpoint_of_it(earlier: Path, tmp_path: Path) -> None:
    marker = earlier / "complete.json"
    whole = marker.read_bytes()
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        marker.write_bytes(damaged)
        assert newest_complete(earlier.parent) is None or adopt(earlier, tmp_path / "later") is None
