"""Validation while training: what is chosen by it is chosen again after any interruption."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from finetune_samples import (
    PLAIN,
    base,
    context_of,
    dropout_base,
    events,
    out_of_memory_at,
    progress,
    rows,
    run,
    stop_after,
    train,
    write_rows,
)
from safetensors.torch import load_file

from dem_build.actions.finetune import run as finetune
from dem_build.actions.finetune.trainer import lowest_of
from dem_build.data.arrays import RowsWriter, TokenRows
from dem_build.errors import DataError, InterruptedBuildError, TrainingError
from dem_build.model.batches import collate
from dem_build.model.likelihood import token_nll
from dem_build.model.load import load_model

__all__ = ["base", "dropout_base", "rows", "run"]  # fixtures, used by their names

# Random rows cannot be learned but by heart: validation on others grows worse, and the lowest loss comes early.
LEARNS_BY_HEART = {"learning_rate": 3e-2, "lr_scheduler_type": "constant", "num_train_epochs": 3}
CHOOSES = {"eval_steps": 2, "load_best_model_at_end": True} | LEARNS_BY_HEART


def restart(before, after):
    """Go on in another folder from the newest checkpoint alone, as a build does after a crash."""
    newest = max((before / "checkpoints").glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    shutil.copytree(newest, after / "checkpoints" / newest.name)
    return after


def stop_in_step(step, work, every=2):
    """A stop request that comes while a step runs, and not while the loss before it is taken."""

    def stopping():
        losses = [e for e in events(work) if "validation_loss" in e]
        return len(progress(work)) >= step - 1 and len(losses) >= (step - 1) // every

    return stopping


def test_the_lowest_loss_is_the_first_of_equals():
    losses = [3.0, 2.0, 2.5, 2.0, 2.1]
    history = [{"step": 5 * i, "eval_loss": loss} for i, loss in enumerate(losses)] + [
        {"step": 20, "loss": 1.0}
    ]
    lowest = lowest_of(history)
    assert (lowest.step, lowest.loss, lowest.since) == (5, 2.0, 3)
    assert lowest_of([{"step": 1, "loss": 1.0}]) is None


def test_looking_on_changes_no_bit(run, dropout_base, tmp_path):
    """Also where dropout draws random numbers while training."""
    _, alone = train(dropout_base, tmp_path / "alone")
    provenance, watched = run(tmp_path / "watched", eval_steps=3)
    assert watched.read_bytes() == alone.read_bytes()
    assert [step for step, _ in provenance["validation"]["curve"]] == [3, 6, 8]
    assert provenance["validation"]["kept_step"] == 8
    told = [e for e in events(tmp_path / "watched") if "validation_loss" in e]
    assert [[e["done"], e["validation_loss"]] for e in told] == provenance["validation"]["curve"]


def test_the_validation_loss_is_the_mean_over_the_tokens_that_count(run, dropout_base, rows, tmp_path):
    provenance, delta = run(tmp_path, eval_steps=100, **PLAIN)
    model = load_model(
        dropout_base / "weights", dropout_base / "config", dtype=torch.float32, device=torch.device("cpu")
    ).train(False)
    with torch.no_grad():
        for name, difference in load_file(delta).items():
            model.get_parameter(name).add_(difference)
        opened = TokenRows.open(rows)
        losses = torch.cat([token_nll(model, **collate([opened[i]])) for i in range(len(opened))])
    assert provenance["validation"]["curve"] == [[8, pytest.approx(losses.mean().item(), rel=1e-5)]]


def test_the_weights_of_the_lowest_loss_become_the_vector(run, tmp_path):
    """The training ends at step 12; stopping it at its best step gives the same bytes."""
    provenance, best = run(tmp_path / "best", **CHOOSES)
    validation = provenance["validation"]
    assert provenance["steps"] == 12
    assert validation["lowest"]["loss"] == min(loss for _, loss in validation["curve"])
    assert validation["lowest"]["step"] == validation["kept_step"] < 12
    short = LEARNS_BY_HEART | {"num_train_epochs": None, "max_steps": validation["kept_step"]}
    # The warm-up is a share of the steps, so it is given as a number.
    _, stopped = run(tmp_path / "short", **short, warmup_steps=2)
    _, best = run(tmp_path / "again", **CHOOSES, warmup_steps=2)
    assert best.read_bytes() == stopped.read_bytes()


@pytest.mark.parametrize("steps", [3, 8])
def test_a_choosing_training_resumes_to_the_same_bytes(run, tmp_path, steps):
    """From one checkpoint alone, with the lowest loss before it."""
    straight, delta = run(tmp_path / "straight", **CHOOSES)
    before, after = tmp_path / "before", tmp_path / "after"
    with pytest.raises(InterruptedBuildError):
        run(before, context_of(before, stopping=stop_in_step(steps, before)), **CHOOSES)
    resumed, again = run(after, context_of(restart(before, after)), **CHOOSES)
    assert resumed["resumed_from"] == steps
    assert resumed["validation"] == straight["validation"]
    assert again.read_bytes() == delta.read_bytes()


def test_a_better_loss_after_the_checkpoint_is_forgotten_with_the_rest(run, tmp_path):
    """Killed after it found better weights than its checkpoint knows of, and resumed in the same folder."""
    _, delta = run(tmp_path / "straight", **CHOOSES)
    work = tmp_path / "killed"
    with pytest.raises(InterruptedBuildError):
        run(work, context_of(work, stopping=stop_after(3, work)), **CHOOSES)
    (work / "checkpoints" / "best.safetensors").write_bytes(b"weights of a step that never was")
    _, again = run(work, context_of(work), **CHOOSES)
    assert again.read_bytes() == delta.read_bytes()


def test_a_checkpoint_that_a_kill_left_half_written_is_written_anew(run, tmp_path):
    """Killed between the link to the best weights and the marker, and resumed to the same step."""
    _, delta = run(tmp_path / "straight", **CHOOSES)
    work = tmp_path / "killed"
    for step in (7, 8):
        with pytest.raises(InterruptedBuildError):
            run(work, context_of(work, stopping=stop_in_step(step, work)), **CHOOSES)
    (work / "checkpoints" / "checkpoint-8" / "complete.json").unlink()
    with pytest.raises(InterruptedBuildError):
        run(work, context_of(work, stopping=stop_in_step(8, work)), **CHOOSES)
    resumed, again = run(work, context_of(work), **CHOOSES)
    assert resumed["resumed_from"] == 8
    assert again.read_bytes() == delta.read_bytes()


def test_training_stops_when_the_loss_falls_no_further(run, tmp_path):
    provenance, _ = run(tmp_path, eval_steps=1, early_stopping_patience=2, **LEARNS_BY_HEART)
    validation = provenance["validation"]
    losses = [loss for _, loss in validation["curve"]]
    assert validation["stopped_early"]
    assert provenance["steps"] == validation["lowest"]["step"] + 2 == len(losses) < 12
    assert losses.index(min(losses)) == len(losses) - 3
    assert validation["kept_step"] == provenance["steps"]


def test_early_stopping_resumes_to_the_same_bytes(run, tmp_path):
    """The count of losses without a new lowest goes on where it was."""
    stops = CHOOSES | {"eval_steps": 1, "early_stopping_patience": 2}
    straight, delta = run(tmp_path / "straight", **stops)
    before, after = tmp_path / "before", tmp_path / "after"
    with pytest.raises(InterruptedBuildError):
        run(before, context_of(before, stopping=stop_after(straight["steps"] - 1, before)), **stops)
    resumed, again = run(after, context_of(restart(before, after)), **stops)
    assert resumed["steps"] == straight["steps"]
    assert again.read_bytes() == delta.read_bytes()


def test_a_stop_that_comes_with_the_end_ends_the_training(run, tmp_path):
    """Asked to stop at the step where the loss ends it, which one batch gives: no half checkpoint of an end."""
    stops = CHOOSES | {"eval_steps": 1, "early_stopping_patience": 2, "global_batch_size": 8}
    context = context_of(tmp_path / "straight", micro_batch=8)
    straight, delta = run(tmp_path / "straight", context, **stops)
    assert straight["validation"]["stopped_early"]
    work = tmp_path / "stopped"
    context = context_of(work, micro_batch=8, stopping=stop_after(straight["steps"], work))
    provenance, again = run(work, context, **stops)
    assert provenance["validation"] == straight["validation"]
    assert again.read_bytes() == delta.read_bytes()


def stop_inside_validation(work, step):
    """A stop request that comes while a validation loss of several batches is taken, after the given step."""
    asked = iter(range(1, 100))
    return lambda: len(progress(work)) == step and next(asked) > 1


@pytest.mark.parametrize(
    ("step", "more"),
    [(4, {}), (4, {"early_stopping_patience": 1}), (8, {})],
    ids=["on-the-way", "where-the-loss-ends-it", "last"],
)
def test_a_stop_inside_a_validation_pass_does_not_wait_for_its_end(run, tmp_path, step, more):
    """The loss that was cut off is taken when the training goes on, and decides what it would have decided."""
    stops = CHOOSES | {"num_train_epochs": None, "max_steps": 8} | more
    straight, delta = run(tmp_path / "straight", **stops)
    assert straight["steps"] == (4 if more else 8)
    work, after = tmp_path / "stopped", tmp_path / "after"
    with pytest.raises(InterruptedBuildError):
        run(work, context_of(work, stopping=stop_inside_validation(work, step)), **stops)
    taken = [e["done"] for e in events(work) if "validation_loss" in e]
    assert taken == list(range(2, step, 2))
    again = context_of(restart(work, after), stopping=lambda: True)
    with pytest.raises(InterruptedBuildError, match="which is saved"):
        run(after, again, **stops)
    resumed, same = run(after, context_of(after), **stops)
    assert resumed["validation"] == straight["validation"]
    assert same.read_bytes() == delta.read_bytes()


def test_out_of_memory_keeps_the_choice(run, tmp_path):
    plain = CHOOSES | {k: v for k, v in PLAIN.items() if k != "lr_scheduler_type"}
    straight, _ = run(tmp_path / "straight", context_of(tmp_path / "straight", micro_batch=4), **plain)
    work = tmp_path / "halved"
    context = context_of(work, micro_batch=4, checkpoint_seconds=0, stopping=out_of_memory_at(7))
    provenance, _ = run(work, context, **plain)
    assert provenance["micro_batch"] == 2
    assert provenance["validation"]["kept_step"] == straight["validation"]["kept_step"]


def test_a_folder_keeps_one_best_beside_its_checkpoints(run, tmp_path):
    run(tmp_path, context_of(tmp_path, checkpoint_seconds=0), **CHOOSES)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == [
        "best.safetensors", "checkpoint-10", "checkpoint-11",
    ]  # fmt: skip


def empty(path):
    with RowsWriter(path.parent / "spool") as writer:
        writer.save(path)
    return path


def masked(path):
    with RowsWriter(path.parent / "spool") as writer:
        writer.append(np.arange(5, dtype=np.int32), np.full(5, -100, np.int32), bytes(16))
        writer.save(path)
    return path


@pytest.mark.parametrize("given", [empty, masked])
def test_validation_without_a_token_that_counts_is_refused(run, tmp_path, given):
    with pytest.raises(TrainingError, match="no validation row to take a loss on") as caught:
        run(tmp_path / "work", context_of(tmp_path / "work"), given(tmp_path / "rows"), eval_steps=1)
    assert "eval_steps = 0" in caught.value.hint


def test_validation_rows_beyond_the_models_context_are_refused(run, tmp_path):
    long = write_rows(tmp_path / "long", longest=2000)
    with pytest.raises(DataError, match="the model takes 256 tokens at most"):
        run(tmp_path / "work", context_of(tmp_path / "work"), long, eval_steps=1)


def test_a_long_curve_of_validation_losses_is_thinned(run, tmp_path, monkeypatch):
    monkeypatch.setattr(finetune, "MOST_CURVE_POINTS", 3)
    provenance, _ = run(tmp_path, eval_steps=1, num_train_epochs=None, max_steps=7)
    assert [step for step, _ in provenance["validation"]["curve"]] == [1, 4, 7]
