"""Logits in pieces: the same losses and gradients as all at once, whatever a model does to its logits."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from dem_build.model import likelihood
from dem_build.model.likelihood import token_nll

SMALL = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 64, "initializer_range": 0.5,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


class Squared(LlamaForCausalLM):
    """Does to its logits what no config says."""

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = output.logits * output.logits.abs()
        return output


MODELS = {
    "Llama": lambda: LlamaForCausalLM(LlamaConfig(**SMALL)),
    "untied": lambda: LlamaForCausalLM(LlamaConfig(**SMALL, tie_word_embeddings=False)),
    "Gemma 2": lambda: Gemma2ForCausalLM(Gemma2Config(**SMALL, final_logit_softcapping=3.0)),
    "Granite": lambda: GraniteForCausalLM(GraniteConfig(**SMALL, logits_scaling=8.0)),
    "Cohere": lambda: CohereForCausalLM(CohereConfig(**SMALL, logit_scale=0.0625)),
    "unknown": lambda: Squared(LlamaConfig(**SMALL)),
}


@pytest.fixture(params=MODELS)
def model(request):
    torch.manual_seed(0)
    return MODELS[request.param]()


def batch():
    ids = torch.randint(3, 300, (3, 20), generator=torch.Generator().manual_seed(1))
    labels = torch.where(torch.rand(ids.shape, generator=torch.Generator().manual_seed(2)) < 0.8, ids, -100)
    return {"input_ids": ids, "labels": labels}


def losses_and_gradients(model, dtype=torch.float32):
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
        losses = token_nll(model, **batch())
    (losses.sum() / 50).backward()
    return losses.detach(), [p.grad for p in model.parameters()]


def shapes_of(model):
    """Return how many tokens the head is given, each time."""
    seen = []
    model.get_output_embeddings().register_forward_hook(lambda _, given, __: seen.append(given[0].shape[-2]))
    return seen


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pieces_give_the_losses_and_gradients_of_the_whole(model, monkeypatch, dtype):
    losses, gradients = losses_and_gradients(model, dtype)
    seen = shapes_of(model)
    monkeypatch.setattr(likelihood, "MOST_LOGITS", 5 * 300)
    again, cut = losses_and_gradients(model, dtype)
    assert min(seen) == (1 if not isinstance(model, Squared) else 2)  # 2 are the check's
    exact = {"rtol": 1e-5, "atol": 1e-5} if dtype is torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
    torch.testing.assert_close(again, losses, **exact)
    for mine, whole in zip(cut, gradients, strict=True):
        assert (mine - whole).norm() <= exact["rtol"] * whole.norm()


def test_pieces_leave_the_random_numbers_of_a_training_alone(monkeypatch):
    """Else a training that is resumed would draw others."""
    model = MODELS["Llama"]().train()
    monkeypatch.setattr(likelihood, "MOST_LOGITS", 5 * 300)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    token_nll(model, **batch())
    assert torch.equal(torch.rand(3), expected)
    assert model.training


def test_a_loss_without_gradients_is_cut_too(model, monkeypatch):
    with torch.inference_mode():
        whole = token_nll(model, **batch())
        monkeypatch.setattr(likelihood, "MOST_LOGITS", 5 * 300)
        torch.testing.assert_close(token_nll(model, **batch()), whole)
