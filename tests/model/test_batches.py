"""How rows become tensors."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from dem_build.model.batches import collate, few_sizes

ROWS = [(np.arange(1, n + 1, dtype=np.int32), np.arange(1, n + 1, dtype=np.int32)) for n in (3, 9)]


@given(st.integers(1, 100_000), st.lists(st.integers(1, 100_000), max_size=3))
def test_a_batch_is_little_longer_than_its_longest_row_and_passes_no_ceiling(longest, ceilings):
    length = few_sizes(longest, ceilings)
    assert longest <= length <= max(longest + 7, longest * 17 / 16)
    assert all(length <= most for most in ceilings if longest <= most)


def test_batches_have_few_lengths():
    assert len({few_sizes(longest) for longest in range(1, 2049)}) < 100
    assert len({few_sizes(longest) for longest in range(1, 225)}) == 28


def test_what_pads_a_batch_does_not_count():
    plain, padded = collate(ROWS), collate(ROWS, ceilings=[])
    assert (plain["labels"].shape, padded["labels"].shape) == ((2, 9), (2, 16))
    assert torch.equal(padded["labels"][:, :9], plain["labels"])
    assert (padded["labels"][:, 9:] == -100).all()
