"""Packing: documents share a sequence, and nothing else."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from finetune_samples import PLAIN, base, by_hand, context_of, progress, stop_after, train, write_rows
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from tiny import make_base
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    JambaConfig,
    JambaForCausalLM,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from dem_build.actions.finetune.packing import Packs, best_fit, collate_packs, refuse_mixing
from dem_build.data.arrays import TokenRows
from dem_build.errors import InterruptedBuildError, TrainingError
from dem_build.model.batches import RowOrder, collate
from dem_build.model.likelihood import token_nll

__all__ = ["base"]  # a fixture, used by its name

PACKED = {"packing": True, "max_length": 40}
SMALL = {
    "vocab_size": 100, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return TokenRows.open(write_rows(tmp_path_factory.mktemp("rows") / "rows", count=14))


@given(st.lists(st.integers(1, 60), max_size=80), st.integers(0, 5))
def test_each_row_is_in_one_pack_and_no_pack_is_too_long(lengths, seed):
    lengths = np.array(lengths, np.int64)
    packs = best_fit(lengths, 48, seed)
    assert sorted(row for pack in packs for row in pack) == list(range(len(lengths)))
    assert all(lengths[pack].sum() <= 48 or len(pack) == 1 for pack in packs)


@given(st.lists(st.integers(1, 48), min_size=2, max_size=80))
def test_a_pack_is_opened_only_for_what_fits_nowhere(lengths):
    """So no two packs fit in one, and their number is near the least possible."""
    lengths = np.array(lengths, np.int64)
    totals = sorted(int(lengths[pack].sum()) for pack in best_fit(lengths, 48, 0))
    assert len(totals) < 2 or totals[0] + totals[1] > 48


def test_a_row_goes_where_it_leaves_the_least_room():
    assert [sorted(pack) for pack in best_fit(np.array([30, 36, 12, 16]), 48, 0)] == [[1, 2], [0, 3]]


def test_a_pack_says_where_its_documents_begin_and_counts_no_first_token(rows):
    packs = Packs(rows, 40, 42)
    ids, labels, positions = packs[0]
    starts = np.flatnonzero(positions == 0)
    assert len(starts) == len(packs.members[0]) > 1
    assert (labels[starts] == -100).all()
    assert len(ids) == len(labels) == len(positions) == packs.lengths[0]
    assert sum(packs.lengths) == rows.tokens


def model_of(kind, config, kernel):
    torch.manual_seed(0)
    return kind._from_config(config, attn_implementation=kernel).eval()


SLIDING = MistralConfig(**SMALL, sliding_window=5)
LEARNED = GPT2Config(vocab_size=100, n_embd=32, n_layer=2, n_head=4, n_positions=64)


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize(
    ("kind", "config"),
    [(MistralForCausalLM, SLIDING), (GPT2LMHeadModel, LEARNED)],
    ids=["sliding", "learned"],
)
def test_a_packed_token_has_the_loss_that_it_has_alone(rows, kind, config, kernel):
    """With positions of any kind; two packs of different lengths in a batch."""
    model = model_of(kind, config, kernel)
    packs = Packs(rows, 40, 42)
    chosen = [0, len(packs) - 1]
    assert len({int(packs.lengths[i]) for i in chosen}) == 2
    batch = collate_packs([packs[i] for i in chosen])
    batch["input_ids"] %= 100
    batch["labels"] = torch.where(batch["labels"] == -100, -100, batch["labels"] % 100)
    together = token_nll(model, **batch)
    alone = []
    for row in (row for i in chosen for row in packs.members[i]):
        ids, labels = rows[row]
        alone.append(token_nll(model, **collate([(ids % 100, np.where(labels == -100, -100, labels % 100))])))
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-5, atol=1e-5)


def test_a_pack_may_be_longer_than_the_positions_that_a_model_has(rows):
    """Padded by more than that, beside one of few documents."""
    model = model_of(GPT2LMHeadModel, LEARNED, "sdpa")
    packs = Packs(rows, 1000, 42)
    short = rows[int(np.argmin(rows.lengths))]
    batch = collate_packs([packs[0], (*short, np.arange(len(short[0])))])
    assert batch["input_ids"].shape[1] - len(short[0]) > 64
    batch["input_ids"] %= 100
    batch["labels"] = torch.where(batch["labels"] == -100, -100, batch["labels"] % 100)
    assert token_nll(model, **batch).isfinite().all()


def test_a_packed_training_is_that_of_its_documents_one_by_one(base, tmp_path):
    """`global_batch_size` counts packs, and the loss of a step is over the tokens of all their documents."""
    provenance, delta = train(base, tmp_path, context_of(tmp_path), **PLAIN, **PACKED)
    rows = TokenRows.open(base / "train")
    packs = Packs(rows, 40, 42)
    order = RowOrder(packs.lengths, 4, 42)
    steps = 2 * order.steps_per_epoch
    documents = [[row for pack in order.rows(step) for row in packs.members[pack]] for step in range(steps)]
    expected = by_hand(base, documents, 1e-3)
    before = load_file(base / "weights" / "model.safetensors")
    for name, difference in load_file(delta).items():
        wanted = expected[name] - before[name].float()
        assert (difference - wanted).norm() < 2e-3 * wanted.norm(), name
    assert (provenance["steps"], provenance["rows"], provenance["sequences"]) == (steps, 14, len(packs))
    assert provenance["tokens"]["seen"] == 2 * rows.tokens


def test_a_packed_training_resumes_to_the_same_bytes(base, tmp_path):
    straight, before, after = tmp_path / "straight", tmp_path / "before", tmp_path / "after"
    _, delta = train(base, straight, **PACKED)
    with pytest.raises(InterruptedBuildError):
        train(base, before, context_of(before, stopping=stop_after(2, before)), **PACKED)
    shutil.copytree(before / "checkpoints", after / "checkpoints")
    resumed, again = train(base, after, context_of(after), **PACKED)
    assert resumed["resumed_from"] == 2
    assert len(progress(after)) == resumed["steps"] - 2 > 0
    assert again.read_bytes() == delta.read_bytes()


RECURRENT = MambaConfig(vocab_size=100, hidden_size=32, num_hidden_layers=2, state_size=4)
HYBRID = JambaConfig(
    **SMALL, num_experts=2, attn_layer_period=2, attn_layer_offset=1, mamba_d_state=4, initializer_range=0.2
)
WITHOUT_POSITIONS = BloomConfig(vocab_size=100, hidden_size=32, n_layer=2, n_head=4)


@pytest.mark.parametrize(
    ("kind", "config"),
    [(MambaForCausalLM, RECURRENT), (JambaForCausalLM, HYBRID), (BloomForCausalLM, WITHOUT_POSITIONS)],
)
def test_a_model_that_lets_documents_mix_is_refused(kind, config):
    with pytest.raises(TrainingError, match=f"{kind.__name__} does not keep packed documents apart"):
        refuse_mixing(model_of(kind, config, "eager"))


def test_a_model_that_keeps_documents_apart_is_left_as_it_was(tmp_path):
    model = LlamaForCausalLM.from_pretrained(make_base(tmp_path), attn_implementation="sdpa").train()
    state = torch.get_rng_state()
    refuse_mixing(model)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
