"""Low-rank adapters are trained alone, and become a vector that is what peft itself makes of them."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch
from finetune_samples import (
    BASE_DIGEST,
    PARAMS,
    PLAIN,
    base,
    context_of,
    events,
    inputs_of,
    out_of_memory_at,
    prepare,
    progress,
    stop_after,
    train,
)
from safetensors import safe_open
from tiny import make_base
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    MambaForCausalLM,
)

from dem_build.actions.finetune import run as finetune
from dem_build.actions.finetune.lora import Adapters
from dem_build.checkpoint.delta import delta_shapes, open_delta
from dem_build.checkpoint.floats import to_bfloat16
from dem_build.checkpoint.reader import open_checkpoint
from dem_build.errors import InterruptedBuildError, TrainingError
from dem_build.model.load import load_model

__all__ = ["base"]

LORA = {
    "method": "lora",
    "lora_r": 4,
    "lora_alpha": 8.0,
    "lora_dropout": 0.0,
    "lora_target_modules": "all-linear",
    "learning_rate": 1e-2,
    "vector_dtype": None,
}
CPU = torch.device("cpu")


def opened(base, delta):
    return open_delta(delta, open_checkpoint(base / "weights"), BASE_DIGEST, "vector")


def losses(provenance):
    return [loss for _, loss, *_ in provenance["curve"]]


@pytest.fixture(scope="module")
def trained(base, tmp_path_factory):
    """A trained vector, and what was recorded."""
    return train(base, tmp_path_factory.mktemp("trained"), **LORA)


def test_the_loss_falls_and_the_linear_layers_alone_have_moved(base, trained):
    provenance, path = trained
    assert losses(provenance)[-1] < losses(provenance)[0] - 0.05
    with opened(base, path) as delta:
        moved = {name for name in delta.tensors if delta.read(name).any()}
        squares = sum(float((delta.read(name).astype(float) ** 2).sum()) for name in moved)
    shapes = delta_shapes(open_checkpoint(base / "weights"))
    assert moved == {name for name in shapes if name.endswith("_proj.weight")}
    told = provenance["vector"]
    assert told["norm"] == pytest.approx(squares**0.5, rel=1e-4)
    assert (told["dtype"], told["rounding_error"]) == ("float32", 0.0)
    assert provenance["versions"]["peft"]  # which makes the adapters' first values


def test_the_record_holds_factors_and_nothing_of_the_size_of_a_matrix(base, trained):
    shapes = delta_shapes(open_checkpoint(base / "weights"))
    rows = sum(sum(shape) for name, shape in shapes.items() if name.endswith("_proj.weight"))
    with safe_open(trained[1], framework="np") as file:
        stored = sum(file.get_tensor(name).size for name in file.keys())  # noqa: SIM118  # not a dict
    assert stored == LORA["lora_r"] * rows
    assert trained[1].stat().st_size < 4 * stored + 8192


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_base_plus_vector_is_pefts_merge_within_one_rounding(base, architecture, tmp_path):
    """GPT-2 keeps the weights of its layers as [inputs, outputs]."""
    if architecture == "gpt2":
        sizes = {"n_embd": 32, "n_layer": 1, "n_head": 2, "vocab_size": 260, "n_positions": 64}
        GPT2LMHeadModel(GPT2Config(**sizes)).save_pretrained(tmp_path / "gpt2")
        base = prepare(tmp_path / "base", tmp_path / "gpt2")
    seen = []
    made = Adapters.factors

    def look(self):
        seen.append({path: layer for path, layer in self._layers.items()})  # noqa: C416  as they are now
        return made(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Adapters, "factors", look)
        _, path = train(base, tmp_path / "run", **LORA)
    [layers] = seen
    with opened(base, path) as delta, open_checkpoint(base / "weights") as weights:
        for name, place in delta.places.items():
            ours = weights.read(name) + delta.read(name)
            layer = layers[place.module]
            layer.merge()
            merged = layer.base_layer.weight.detach().numpy()
            # Each of both rounds r products, their sums and the scale in float32, in its own order; and the sum once.
            halves = delta.factors(name)
            products = halves.scale * (np.abs(halves.b).astype(float) @ np.abs(halves.a))
            bound = 2 * (LORA["lora_r"] + 2) * np.finfo(np.float32).eps * products + np.spacing(
                np.abs(merged)
            )
            assert (np.abs(ours - merged) <= bound).all(), name
            # As a model is published, in bfloat16, the two are the same but where they lie about a middle.
            first, second = (to_bfloat16(values).astype(int) for values in (ours, merged))
            assert np.abs(first - second).max() <= 1
            assert (first == second).mean() > 0.999
            assert not np.array_equal(merged, weights.read(name))


def test_a_training_that_was_stopped_goes_on_to_the_same_bytes(base, tmp_path):
    """Dropout draws random numbers in every step; a checkpoint holds no weight that is frozen."""
    params = LORA | {"lora_dropout": 0.2}
    _, whole = train(base, tmp_path / "whole", **params)
    work = tmp_path / "stopped"
    with pytest.raises(InterruptedBuildError):
        train(base, work, context_of(work, stopping=stop_after(3, work)), **params)
    [saved] = work.rglob("checkpoint-*/model.safetensors")
    with safe_open(saved, framework="pt") as file:
        assert all(".lora_" in name for name in file.keys())  # noqa: SIM118  # not a dict
    provenance, resumed = train(base, work, **params)
    assert provenance["resumed_from"]
    assert resumed.read_bytes() == whole.read_bytes()
    assert not [e for e in events(work) if e["event"] == "warning"]


def test_a_model_that_did_not_fit_is_gone_before_the_next_is_loaded(base, tmp_path, monkeypatch):
    load, weights, left = finetune.load_model, [], []

    def look(*where, **how):
        left.append(sum(weight() is not None for weight in weights))
        model = load(*where, **how)
        weights.extend(weakref.ref(weight) for weight in model.parameters())
        return model

    monkeypatch.setattr(finetune, "load_model", look)
    context = context_of(tmp_path, micro_batch=4, checkpoint_seconds=0, stopping=out_of_memory_at(3))
    provenance, _ = train(base, tmp_path, context, **PLAIN | LORA)
    assert provenance["micro_batch"] == 2
    assert [e["done"] for e in progress(tmp_path)] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert left == [0, 0]


def test_layers_that_are_computed_again_learn_the_same(base, trained, tmp_path):
    """Frozen embeddings give no gradient, and a layer's input so has none."""
    work = tmp_path / "again"
    provenance, _ = train(base, work, context_of(work, gradient_checkpointing=True), **LORA)
    assert losses(provenance) == pytest.approx(losses(trained[0]), abs=2e-3)


def test_the_weights_of_the_lowest_validation_loss_are_kept(base, tmp_path):
    choosing = {
        "eval_steps": 2,
        "load_best_model_at_end": True,
        "learning_rate": 0.5,
        "lr_scheduler_type": "constant",
    }
    inputs = inputs_of(base)
    inputs.paths["data/validation"] = base / "train"
    work = tmp_path / "best"
    provenance = finetune.run(inputs, PARAMS | LORA | choosing, context_of(work))
    told = provenance["validation"]
    assert told["kept_step"] == told["lowest"]["step"] < provenance["steps"]
    del choosing["eval_steps"], choosing["load_best_model_at_end"]
    _, first = train(
        base, tmp_path / "short", **LORA | choosing, max_steps=told["kept_step"], num_train_epochs=None
    )
    assert (work / "out" / "delta").read_bytes() == first.read_bytes()


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (["q_proj", "wq"], "names wq, and the base has no linear layer of that name"),
        (["lm_head"], "names lm_head, which the base ties to its embeddings"),
        (["embed_tokens"], "names embed_tokens, and the base has no linear layer"),
    ],
)
def test_targets_that_cannot_be_are_refused_by_name(base, targets, said):
    model = load_model(base / "weights", base / "config", dtype=torch.float32, device=CPU)
    names = delta_shapes(open_checkpoint(base / "weights"))
    with pytest.raises(TrainingError, match=said):
        Adapters(model, names, LORA | {"lora_target_modules": targets, "seed": 1})


def test_a_model_that_peft_gives_no_adapters_is_told_by_its_words(tmp_path):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "state_size": 4, "vocab_size": 260}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    MambaForCausalLM(MambaConfig(**sizes, **special)).save_pretrained(tmp_path / "mamba")
    folder = prepare(tmp_path / "base", tmp_path / "mamba")
    with pytest.raises(TrainingError, match=r"cannot start: .*'out_proj' is incompatible with Mamba"):
        train(folder, tmp_path / "run", **LORA)


@pytest.mark.parametrize(
    ("architecture", "leaves"),
    [
        ("falcon", {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"}),
        ("phimoe", {"q_proj", "k_proj", "v_proj", "o_proj"}),
    ],
)
def test_what_is_derived_from_a_linear_layer_is_one_if_it_computes_as_one(architecture, leaves, tmp_path):
    """Falcon's layers do. Phi-MoE's routers return a choice of experts, and get no adapter."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 260}
    if architecture == "phimoe":
        sizes |= {"num_key_value_heads": 2, "intermediate_size": 16, "num_local_experts": 4}
    config = AutoConfig.for_model(architecture, **sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "made")
    folder = prepare(tmp_path / "base", tmp_path / "made")
    _, path = train(folder, tmp_path / "run", **LORA | {"max_steps": 2, "num_train_epochs": None})
    with opened(folder, path) as delta:
        assert {place.module.rpartition(".")[2] for place in delta.places.values()} == leaves
        assert all(delta.read(name).any() for name in delta.places)


def test_a_head_by_itself_may_have_an_adapter_if_it_is_named(tmp_path):
    folder = prepare(tmp_path / "untied", make_base(tmp_path / "base", tied=False))
    names = delta_shapes(open_checkpoint(folder / "weights"))
    found = []
    for targets in (["lm_head", "v_proj"], "all-linear"):
        model = load_model(folder / "weights", folder / "config", dtype=torch.float32, device=CPU)
        adapters = Adapters(model, names, LORA | {"lora_target_modules": targets, "seed": 1})
        found.append(set(adapters.places))
        assert {n for n, p in model.named_parameters() if p.requires_grad} == {
            f"{place.module}.lora_{half}.default.weight"
            for place in adapters.places.values()
            for half in "AB"
        }
    assert found[0] == {"lm_head.weight", *(f"model.layers.{i}.self_attn.v_proj.weight" for i in (0, 1))}
    assert "lm_head.weight" not in found[1]
