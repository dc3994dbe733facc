"""A model with two sets of rotary frequencies: no row's loss depends on its neighbours in a batch."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from finetune_samples import PLAIN, assert_trained_plainly, context_of, events, prepare, train
from transformers import Phi3Config, Phi3ForCausalLM

from dem_build.actions.tune.candidates import Candidates
from dem_build.actions.tune.judges import judges
from dem_build.actions.tune.pass_log import PassLog
from dem_build.actions.tune.passes import Passes
from dem_build.data.arrays import TokenRows, trained_prompts
from dem_build.errors import TrainingError
from dem_build.model.batches import collate
from dem_build.model.context_length import has_both_sorts
from dem_build.model.likelihood import row_losses, token_nll
from dem_build.model.load import load_model
from dem_build.step import Group

SHORT = 12


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """With rows of 4 to 23 tokens."""
    folder = tmp_path_factory.mktemp("phi")
    rope = {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [9.0] * 8, "rope_theta": 1e4}
    config = Phi3Config(
        vocab_size=260, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=64, original_max_position_embeddings=SHORT,
        rope_parameters=rope, initializer_range=0.3, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    Phi3ForCausalLM(config).save_pretrained(folder / "model")
    return prepare(folder / "base", folder / "model")


def opened(base):
    model = load_model(base / "weights", base / "config", dtype=torch.float32, device=torch.device("cpu"))
    return model.train(False), TokenRows.open(base / "train")


def alone(model, rows, i):
    with torch.no_grad():
        return token_nll(model, **collate([rows[i]])).sum().item()


def test_a_short_row_beside_a_long_one_would_have_another_loss(base):
    """What the rest of this file is about: should transformers mend it, all of it can go."""
    model, rows = opened(base)
    short, long = rows.lengths.argmin(), rows.lengths.argmax()
    with torch.no_grad():
        both = token_nll(model, **collate([rows[short], rows[long]]))
    counted = len(token_nll(model, **collate([rows[short]])))
    assert abs(both[:counted].sum().item() - alone(model, rows, short)) > 1e-3


def test_the_loss_of_a_row_is_that_of_it_alone(base):
    model, rows = opened(base)
    with torch.no_grad():
        found = {i: x for batch in row_losses(model, rows, 5) for i, (x, _) in batch.items()}
    assert found == {i: pytest.approx(alone(model, rows, i), rel=1e-5) for i in range(len(rows))}


def test_the_loss_of_a_row_that_judges_a_candidate_is_that_of_it_alone(base, tmp_path):
    model, rows = opened(base)
    group = Group("chat", {}, {"data/rows": base / "train"}, {"data/rows": "d" * 64})
    judged = judges({"chat": group}, {"chat": "data/rows"}, trained_prompts([]), most=64)
    expected = [sum(alone(model, rows, i) for i in block) for block in judged[0].blocks]
    candidates = Candidates(model, base / "weights", "b" * 64, {})
    passes = Passes(candidates, judged, "float32", PassLog(context_of(tmp_path, eval_batch_size=32)))
    taken = passes.take(np.zeros((0, len(passes.layers))))
    assert taken.nll[0].tolist() == pytest.approx(expected, rel=1e-5)


def test_rows_of_both_sorts_are_trained_on_one_at_a_time(base, tmp_path):
    provenance, delta = train(base, tmp_path, context_of(tmp_path, micro_batch=4), **PLAIN)
    assert provenance["micro_batch"] == 1
    assert any("rotary frequencies" in e["message"] for e in events(tmp_path) if e["event"] == "note")
    assert_trained_plainly(base, delta)


def test_documents_of_both_sorts_are_not_packed(base, tmp_path):
    with pytest.raises(TrainingError, match="LongRoPE") as caught:
        train(base, tmp_path, packing=True, max_length=48)
    assert "packing = false" in caught.value.hint


@pytest.mark.parametrize(("original", "both"), [(3, False), (SHORT, True), (30, False)])
def test_rows_of_one_sort_need_no_care(base, tmp_path, original, both):
    config = json.loads((base / "config").read_text()) | {"original_max_position_embeddings": original}
    config["rope_parameters"]["original_max_position_embeddings"] = original
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert has_both_sorts(TokenRows.open(base / "train").lengths, tmp_path / "config.json") is both
