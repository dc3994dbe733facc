"""Validation while training: its loss every so many steps, when to stop for it, and the weights where it was lowest.

All that is decided follows from the losses in Trainer's history, which a checkpoint holds. The weights of the lowest
loss are a file beside the checkpoints, and linked into each: a checkpoint alone is enough to go on from.

A stop that comes while a loss is taken leaves a checkpoint without it. A resumed training takes that loss first, and
may find that it has ended.
"""

# ruff: noqa: ARG002  # the signatures are Trainer's

from __future__ import annotations

import math
import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from transformers import TrainerCallback

from dem_build.errors import TrainingError
from dem_build.model.row_losses import row_losses

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from transformers import PreTrainedModel, TrainerControl, TrainerState

    from dem_build.data.arrays import TokenRows
    from dem_build.digest import JSON

__all__ = ["Lowest", "TrainingEnded", "Validation", "lowest_of"]

LOSS = "eval_loss"
BEST = "best.safetensors"


@dataclass(frozen=True)
class Lowest:
    """The lowest validation loss: at which step it was first seen, and how many losses came after it."""

    step: int
    loss: float
    since: int


def lowest_of(history: Iterable[Mapping[str, Any]]) -> Lowest | None:
    """Return the lowest validation loss of Trainer's history; None where it has none."""
    losses = [(entry["step"], entry[LOSS]) for entry in history if LOSS in entry]
    if not losses:
        return None
    first = min(range(len(losses)), key=lambda i: losses[i][1])
    return Lowest(*losses[first], since=len(losses) - 1 - first)


class TrainingEnded(Exception):  # noqa: N818  no error: Trainer takes a step whatever its callbacks say
    """The loss that a resumed training owed was its last."""


class Validation(TrainerCallback):
    """Takes validation losses while a model is trained, and does what the recipe says about them.

    Attributes:
        ended: Whether training ended because the loss fell no further.
        stopped: Whether the user asked to stop while a loss was taken.
        owed: Whether a resumed training begins with the loss that a stop cut off.
    """

    def __init__(
        self, rows: TokenRows, params: Mapping[str, JSON], checkpoints: Path, stopping: Callable[[], bool]
    ) -> None:
        self.ended = self.stopped = self.owed = False
        self._rows = rows
        self._stopping = stopping
        self._every: int = params["eval_steps"]
        self._keeps_best = bool(params.get("load_best_model_at_end"))
        self._patience: int | None = params.get("early_stopping_patience")
        self._best = checkpoints / BEST

    @torch.no_grad()
    def loss(self, model: PreTrainedModel, batch_size: int) -> float | None:
        """Return the mean loss per token that counts, in nats, without dropout; None where the user asked to stop."""
        training = model.training
        model.train(False)
        found: list[tuple[float, int]] = []
        for batch in row_losses(model, self._rows, batch_size):
            found += batch.values()
            if len(found) < len(self._rows) and self._stopping():
                self.stopped = True
                break
        model.train(training)
        return None if self.stopped else math.fsum(x for x, _ in found) / sum(n for _, n in found)

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Take the loss that a stop cut off, before the first step."""
        taken = any(LOSS in entry and entry["step"] == state.global_step for entry in state.log_history)
        args.eval_on_start = self.owed = self._is_due(state) and not taken

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ask for a loss every so many steps, and after the last."""
        control.should_evaluate = self._is_due(state)

    def _is_due(self, state: TrainerState) -> bool:
        steps = state.global_step
        return steps > 0 and (steps % self._every == 0 or steps >= state.max_steps)

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Keep the weights of a new lowest loss; stop where there was none for long enough.

        Raises:
            TrainingError: The loss is NaN or infinite.
        """
        lowest = lowest_of(state.log_history)
        assert lowest is not None
        if not math.isfinite(state.log_history[-1][LOSS]):
            raise TrainingError(
                f"the validation loss is {state.log_history[-1][LOSS]} at optimizer step {state.global_step}",
                hint="lower learning_rate",
            )
        if self._keeps_best and lowest.step == state.global_step < state.max_steps:
            self._save(kwargs["model"])
        if self._patience is not None and lowest.since >= self._patience:
            # Nothing is left to go on with, so no checkpoint: the vector is as near.
            self.ended, control.should_training_stop, control.should_save = True, True, False

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Put the best weights so far into the checkpoint that Trainer wrote, where they are not its own."""
        lowest = lowest_of(state.log_history)
        kept = self._best.parent / f"checkpoint-{state.global_step}" / BEST
        kept.unlink(missing_ok=True)  # of a run that was killed while it wrote the same checkpoint
        if self._keeps_best and lowest is not None and lowest.step < state.global_step:
            _link(self._best, kept)

    def take_up(self, checkpoint: Path | None) -> None:
        """Go back to the best weights as of a checkpoint, or to none at all."""
        self._best.unlink(missing_ok=True)
        if self._keeps_best and checkpoint is not None:
            kept = checkpoint / BEST
            _link(kept if kept.exists() else checkpoint / "model.safetensors", self._best)

    def choose(self, model: PreTrainedModel, history: list[dict[str, Any]]) -> None:
        """Give the trained model the weights of the lowest loss, where the recipe wants them."""
        lowest = lowest_of(history)
        if self._keeps_best and lowest is not None and lowest.step < history[-1]["step"]:
            safetensors.torch.load_model(model, self._best, device=str(model.device))

    def provenance(self, history: list[dict[str, Any]]) -> dict[str, JSON]:
        """Return what is worth knowing of the losses."""
        lowest = lowest_of(history)
        assert lowest is not None
        return {
            "rows": len(self._rows),
            "curve": [[entry["step"], entry[LOSS]] for entry in history if LOSS in entry],
            "lowest": {"step": lowest.step, "loss": lowest.loss},
            "kept_step": lowest.step if self._keeps_best else history[-1]["step"],
            "stopped_early": self.ended,
        }

    def _save(self, model: PreTrainedModel) -> None:
        self._best.parent.mkdir(parents=True, exist_ok=True)
        partial = self._best.with_suffix(".partial")
        safetensors.torch.save_model(model, str(partial))
        partial.replace(self._best)  # a new file: links to the one before keep what they had


def _link(source: Path, target: Path) -> None:
    """Let `target` be the same file as `source`, or a copy where the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
