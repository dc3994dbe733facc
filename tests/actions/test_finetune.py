"""Fine-tuning: the vector is what the recipe's numbers say, however the machine and the user cut the work."""

from __future__ import annotations

import json
import pickle
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import warm
from finetune_samples import (
    BASE_DIGEST,
    PLAIN,
    assert_trained_plainly,
    base,
    context_of,
    dropout_base,
    events,
    out_of_memory_at,
    prepare,
    progress,
    stop_after,
    train,
    train_with_checkpoints,
)
from safetensors import safe_open
from safetensors.torch import load_file
from tiny import make_base
from transformers import MixtralConfig, MixtralForCausalLM
from weight_samples import run_compose

from dem_build.actions.checkpoints import mark_complete
from dem_build.actions.finetune import run as finetune
from dem_build.data.arrays import TokenRows
from dem_build.errors import DataError, InterruptedBuildError, TrainingError
from dem_build.model.batches import RowOrder, collate
from dem_build.model.likelihood import token_nll
from dem_build.model.load import load_model
from dem_build.model.weight_layout import named_weights

__all__ = ["base", "dropout_base"]  # fixtures, used by their names


@pytest.fixture(scope="module")
def straight(dropout_base, tmp_path_factory):
    """An uninterrupted training: 14 rows by 4 are 4 steps an epoch, so 8 steps."""
    return train(dropout_base, tmp_path_factory.mktemp("straight"))


def test_the_vector_has_the_bases_tensors_and_names_its_base(straight, base):
    _, delta = straight
    with safe_open(delta, "np") as vector, safe_open(base / "weights" / "model.safetensors", "np") as weights:
        assert set(vector.keys()) == set(weights.keys())
        assert vector.metadata()["base"] == BASE_DIGEST


def test_provenance_tells_what_was_trained(straight, base):
    provenance, _ = straight
    rows = TokenRows.open(base / "train")
    assert (provenance["rows"], provenance["steps"], provenance["epochs"]) == (14, 8, 2.0)
    assert provenance["tokens"]["seen"] == 2 * sum(len(rows[i][0]) for i in range(14))
    assert provenance["tokens"]["trained"] == 2 * sum((rows[i][1] != -100).sum() for i in range(14))
    assert [step for step, *_ in provenance["curve"]] == list(range(1, 9))
    assert provenance["curve"][-1][1] < provenance["curve"][0][1]
    assert provenance["vector"]["norm"] > 0
    assert (provenance["micro_batch"], provenance["gradient_accumulation_steps"]) == (2, 2)
    assert provenance["attn_implementation"] == "sdpa"
    json.dumps(provenance, allow_nan=False)


# --- interruptions ---------------------------------------------------------------------------------------------


def resume(base, before, after, **machine):
    """Go on in a new work folder from what an interrupted run left, as a worker does."""
    shutil.copytree(before / "checkpoints", after / "checkpoints")
    return train(base, after, context_of(after, **machine))


@pytest.mark.parametrize("optim", ["adafactor", "adamw_8bit"])
def test_every_optimizer_resumes_to_the_same_bytes(dropout_base, tmp_path, optim):
    """Its state is plain tensors: a checkpoint that could run code would not load."""
    if optim == "adamw_8bit":
        pytest.importorskip("bitsandbytes")
    adam = dict.fromkeys(("adam_beta1", "adam_beta2", "adam_epsilon")) if optim == "adafactor" else {}
    params = {"optim": optim, "num_train_epochs": 1} | adam
    provenance, delta = train(dropout_base, tmp_path / "straight", **params)
    assert provenance["curve"][-1][1] < provenance["curve"][0][1]
    before, after = tmp_path / "before", tmp_path / "after"
    with pytest.raises(InterruptedBuildError):
        train(dropout_base, before, context_of(before, stopping=stop_after(2, before)), **params)
    state = torch.load(before / "checkpoints" / "checkpoint-2" / "optimizer.pt", weights_only=True)["state"]
    octets = sum(t.nbytes for t in tensors_of(state))
    elements = sum(t.numel() for t in load_file(dropout_base / "weights" / "model.safetensors").values())
    assert octets < {"adafactor": 0.2, "adamw_8bit": 6}[optim] * elements
    shutil.copytree(before / "checkpoints", after / "checkpoints")
    resumed, again = train(dropout_base, after, context_of(after), **params)
    assert resumed["resumed_from"] == 2
    assert again.read_bytes() == delta.read_bytes()


def tensors_of(state):
    values = state.values() if isinstance(state, dict) else [state]
    return [t for v in values for t in (tensors_of(v) if isinstance(v, dict) else [v]) if torch.is_tensor(t)]


@pytest.mark.parametrize("steps", [3, 4, 6])
def test_a_stopped_training_resumes_to_the_same_bytes(straight, dropout_base, tmp_path, steps):
    """Inside an epoch, and at the end of one."""
    provenance, delta = straight
    before, after = tmp_path / "before", tmp_path / "after"
    with pytest.raises(InterruptedBuildError):
        train(dropout_base, before, context_of(before, stopping=stop_after(steps, before)))
    resumed, again = resume(dropout_base, before, after)
    assert again.read_bytes() == delta.read_bytes()
    assert resumed["resumed_from"] == steps
    assert resumed["curve"] == provenance["curve"]
    assert resumed["tokens"] == provenance["tokens"]
    assert len(progress(after)) == 8 - steps


def test_a_killed_training_resumes_to_the_same_bytes(straight, dropout_base, tmp_path):
    """Killed at any moment, also while a checkpoint is written: whichever was the newest complete one."""
    before, after = tmp_path / "before", tmp_path / "after"
    child = warm.start(train_with_checkpoints, dropout_base, before)
    while len(progress(before)) < 5 and child.exitcode is None:
        time.sleep(0.001)
    child.kill()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    resumed, again = resume(dropout_base, before, after)
    assert resumed["resumed_from"] >= 3
    assert again.read_bytes() == straight[1].read_bytes()


def test_a_checkpoint_that_is_half_written_is_not_resumed_from(straight, dropout_base, tmp_path):
    before, after = tmp_path / "before", tmp_path / "after"
    context = context_of(before, stopping=stop_after(5, before), checkpoint_seconds=0)
    with pytest.raises(InterruptedBuildError):
        train(dropout_base, before, context)
    assert {p.name for p in (before / "checkpoints").iterdir()} == {"checkpoint-4", "checkpoint-5"}
    with (before / "checkpoints" / "checkpoint-5" / "optimizer.pt").open("r+b") as file:
        file.truncate(1000)
    resumed, again = resume(dropout_base, before, after)
    assert resumed["resumed_from"] == 4
    assert again.read_bytes() == straight[1].read_bytes()


def test_a_resumed_training_keeps_its_micro_batch_and_its_seconds(base, tmp_path):
    before, after = tmp_path / "before", tmp_path / "after"
    with pytest.raises(InterruptedBuildError):
        train(base, before, context_of(before, stopping=stop_after(2, before)))
    provenance, _ = resume(base, before, after, micro_batch=8)
    spent = json.loads((before / "checkpoints" / "checkpoint-2" / "dem.json").read_text())["seconds"]
    assert provenance["micro_batch"] == 2
    assert provenance["device_seconds"] > spent > 0


def test_a_resume_with_other_threads_says_so(base, tmp_path):
    before, after = tmp_path / "before", tmp_path / "after"
    with pytest.raises(InterruptedBuildError):
        train(base, before, context_of(before, stopping=stop_after(2, before)))
    resume(base, before, after, threads=2)
    assert ["threads 1 → 2" in e["message"] for e in events(after) if e["event"] == "note"] == [True]


def test_a_checkpoint_cannot_run_code(base, tmp_path):
    before, after = tmp_path / "before", tmp_path / "after"
    with pytest.raises(InterruptedBuildError):
        train(base, before, context_of(before, stopping=stop_after(2, before)))
    for file in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        checkpoint = before / "checkpoints" / "checkpoint-2"
        good = (checkpoint / file).read_bytes()
        torch.save(Evil(tmp_path / "ran"), checkpoint / file)
        mark_complete(checkpoint)
        with pytest.raises(pickle.UnpicklingError):
            resume(base, before, after / file)
        (checkpoint / file).write_bytes(good)
    assert not (tmp_path / "ran").exists()


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


# --- numerics --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("micro_batch", [1, 2, 4])
def test_any_micro_batch_gives_the_vector_of_a_plain_loop(base, tmp_path, micro_batch):
    """The loss of a step is summed over its tokens and divided by their number, however it is cut."""
    _, delta = train(base, tmp_path, context_of(tmp_path, micro_batch=micro_batch), **PLAIN)
    assert_trained_plainly(base, delta)


def test_each_row_is_in_one_step_of_each_epoch():
    order = RowOrder(np.arange(1, 15), 4, 7)
    epochs = [
        np.concatenate([order.rows(step) for step in steps]).tolist() for steps in (range(4), range(4, 8))
    ]
    assert [sorted(rows) for rows in epochs] == [list(range(14))] * 2
    assert epochs[0] != epochs[1]
    order.epoch = 1
    assert list(order) == epochs[1]


def test_padding_does_not_change_the_likelihood_of_a_token(base):
    model = load_model(base / "weights", base / "config", dtype=torch.float32, device=torch.device("cpu"))
    rows = TokenRows.open(base / "train")
    alone = [token_nll(model, **collate([rows[i]])) for i in range(6)]
    together = token_nll(model, **collate([rows[i] for i in range(6)]))
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-5, atol=1e-5)


def test_at_an_omega_of_one_a_training_composes_to_the_weights_that_its_forward_pass_had(base, tmp_path):
    """To the last step of bfloat16, but where a master lies as near to the middle of two as float32 can tell."""
    masters = {}

    def named(model, names):
        found = named_weights(model, names)
        masters.update({name: tensor.detach().clone() for name, tensor in found.items()})
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetune, "named_weights", named)
        _, delta = train(base, tmp_path / "trained")
    folder = tmp_path / "imported"
    shutil.copytree(base / "weights", folder / "weights")
    shutil.copy(base / "config", folder / "config")
    (folder / "tokenizer").mkdir()
    (folder / "generation_config").write_text("{}")
    made = run_compose(folder, tmp_path / "composed", [(delta, 1.0)], digest=BASE_DIGEST)
    composed = load_file(made.out / "weights" / "model.safetensors")
    other = sum(int((composed[name] != masters[name].bfloat16()).sum()) for name in composed)
    assert other < 1e-3 * sum(tensor.numel() for tensor in composed.values())
    assert not any(e["event"] == "warning" for e in made.events)


def test_a_bfloat16_vector_is_the_float32_one_rounded(base, tmp_path):
    _, exact = train(base, tmp_path / "exact")
    provenance, rounded = train(base, tmp_path / "rounded", vector_dtype="bfloat16")
    exact, rounded = load_file(exact), load_file(rounded)
    assert all(torch.equal(rounded[name], exact[name].bfloat16()) for name in exact)
    squares = sum(float((rounded[n].double() - exact[n].double()).square().sum()) for n in exact)
    assert provenance["vector"]["rounding_error"] == pytest.approx(squares**0.5, rel=1e-3)


def test_recomputed_activations_change_nothing(base, tmp_path):
    _, plain = train(base, tmp_path / "plain", max_steps=2)
    work = tmp_path / "recomputed"
    _, recomputed = train(base, work, context_of(work, gradient_checkpointing=True), max_steps=2)
    for name, difference in load_file(plain).items():
        torch.testing.assert_close(load_file(recomputed)[name], difference, rtol=1e-4, atol=1e-6)


# --- lengths ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "steps"),
    [
        ({"num_train_epochs": 0.5}, 2),
        ({"num_train_epochs": 1.25}, 5),
        ({"num_train_epochs": None, "max_steps": 6}, 6),
        ({"num_train_epochs": 1, "global_batch_size": 64}, 1),
    ],
)
def test_the_number_of_steps_is_the_recipes(base, tmp_path, params, steps):
    provenance, _ = train(base, tmp_path, **params)
    assert provenance["steps"] == steps == len(progress(tmp_path))


# --- bases -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tied", "shards"), [(True, 2), (False, 1), (False, 2)])
def test_a_base_in_any_layout_gets_a_vector(tmp_path, tied, shards):
    folder = prepare(tmp_path / "base", make_base(tmp_path / "model", tied=tied, shards=shards))
    _, delta = train(folder, tmp_path / "work", max_steps=1, warmup_steps=0)
    differences = load_file(delta)
    assert ("lm_head.weight" in differences) is not tied
    assert all(difference.abs().max() > 0 for difference in differences.values())


def test_a_mixture_of_experts_gets_a_vector_by_the_names_of_its_file(tmp_path):
    """transformers makes one tensor of a layer's experts; the file has one for each."""
    config = MixtralConfig(
        vocab_size=260, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=2, max_position_embeddings=64,
    )  # fmt: skip
    MixtralForCausalLM(config).save_pretrained(tmp_path / "model")
    folder = prepare(tmp_path / "base", tmp_path / "model")
    _, delta = train(folder, tmp_path / "work", max_steps=1, warmup_steps=0)
    differences, weights = load_file(delta), load_file(folder / "weights" / "model.safetensors")
    assert {n: d.shape for n, d in differences.items()} == {n: w.shape for n, w in weights.items()}
    assert any("experts.1" in name and d.abs().max() > 0 for name, d in differences.items())


def test_a_vector_of_zero_length_is_said(base, tmp_path):
    """One step, and it is the warm-up's, whose learning rate is 0."""
    provenance, _ = train(base, tmp_path, max_steps=1)
    assert provenance["vector"]["norm"] == 0
    assert any("nothing was learned" in e["message"] for e in events(tmp_path) if e["event"] == "warning")


# --- failures --------------------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_names_its_step(base, tmp_path):
    with pytest.raises(TrainingError, match="at optimizer step 2") as caught:
        train(base, tmp_path, learning_rate=1e30, lr_scheduler_type="constant", warmup_steps=0)
    assert "learning_rate" in caught.value.hint
    assert not (tmp_path / "out" / "delta").exists()


def test_an_optimizer_that_is_not_installed_is_said(base, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.trainer_optimizer.is_bitsandbytes_available", lambda: False)
    with pytest.raises(TrainingError, match="bitsandbytes"):
        train(base, tmp_path, optim="adamw_8bit")


def test_out_of_memory_halves_the_micro_batch_and_goes_on_from_the_last_checkpoint(base, tmp_path):
    _, delta = train(base, tmp_path / "straight", context_of(tmp_path / "straight", micro_batch=4), **PLAIN)
    work = tmp_path / "halved"
    context = context_of(work, micro_batch=4, checkpoint_seconds=0, stopping=out_of_memory_at(3))
    provenance, halved = train(base, work, context, **PLAIN)
    assert provenance["warnings"] == ["out of memory with a micro-batch of 4; going on with 2"]
    assert provenance["gradient_accumulation_steps"] == 2
    assert [e["message"] for e in events(work) if e["event"] == "warning"] == provenance["warnings"]
    assert provenance["micro_batch"] == 2
    assert [e["done"] for e in progress(work)] == [1, 2, 3, 4, 5, 6, 7, 8]
    expected = load_file(delta)
    for name, difference in load_file(halved).items():
        assert (difference - expected[name]).norm() < 2e-3 * expected[name].norm(), name


def test_a_row_that_does_not_fit_in_memory_fails_with_a_hint(base, tmp_path):
    with pytest.raises(TrainingError, match="one row of 23 tokens does not fit") as caught:
        train(base, tmp_path, context_of(tmp_path, stopping=out_of_memory_at(1, 2)))
    assert "max_length" in caught.value.hint


def test_rows_beyond_the_models_context_are_refused_before_it_is_loaded(base, tmp_path):
    known = json.loads((base / "config").read_text())
    short = shutil.copytree(base, tmp_path / "short")
    (short / "config").write_text(json.dumps(known | {"max_position_embeddings": 8}))
    (short / "weights" / "model.safetensors").unlink()
    with pytest.raises(DataError, match="the model takes 8 tokens at most"):
        train(short, tmp_path)


def test_a_long_curve_is_thinned_and_keeps_its_last_step(base, tmp_path, monkeypatch):
    monkeypatch.setattr(finetune, "MOST_CURVE_POINTS", 3)
    provenance, _ = train(base, tmp_path, max_steps=7, num_train_epochs=None)
    assert [point[0] for point in provenance["curve"]] == [1, 4, 7]
    assert provenance["steps"] == 7


def test_a_vector_too_large_for_its_norm_fails(base, tmp_path):
    with pytest.raises(TrainingError, match=r"lower learning_rate|step"):
        train(base, tmp_path, learning_rate=1e30, max_steps=2, num_train_epochs=None, warmup_steps=0.0)
