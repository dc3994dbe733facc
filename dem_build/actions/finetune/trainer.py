"""Training with transformers' Trainer, made to fit dem: steps by the seed, one loss, checkpoints of plain tensors.

What Trainer is told and what it is kept from doing is here, and validation: its loss every so many steps, when to stop
for it, and the weights where it was lowest. What is trained and what becomes of it is not.
"""

# ruff: noqa: ARG002  # the signatures are Trainer's

from __future__ import annotations

import dataclasses
import math
import os
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from dem_build.actions.finetune.packing import Packs, collation_for
from dem_build.errors import InterruptedBuildError, TrainingError
from dem_build.model.batches import collate
from dem_build.model.context_length import ceilings
from dem_build.model.likelihood import row_losses, token_nll

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from transformers import PreTrainedModel, TrainerControl, TrainerState

    from dem_build.data.arrays import TokenRows
    from dem_build.digest import JSON
    from dem_build.machine import Machine
    from dem_build.model.batches import RowOrder

CHECKPOINTS = "checkpoints"
LOSS = "eval_loss"
BEST = "best.safetensors"
AS_GIVEN = (
    "optim", "adam_beta1", "adam_beta2", "adam_epsilon", "learning_rate", "lr_scheduler_type", "warmup_steps",
    "weight_decay", "max_grad_norm", "seed", "bf16",
)  # fmt: skip


@dataclass(frozen=True)
class Lowest:
    """The lowest validation loss: at which step it was first seen, and how many losses came after it."""

    step: int
    loss: float
    since: int


def lowest_of(history: Iterable[Mapping[str, Any]]) -> Lowest | None:
    """The lowest validation loss of Trainer's history; None where it has none."""
    losses = [(entry["step"], entry[LOSS]) for entry in history if LOSS in entry]
    if not losses:
        return None
    first = min(range(len(losses)), key=lambda i: losses[i][1])
    return Lowest(*losses[first], since=len(losses) - 1 - first)


class TrainingEnded(Exception):  # noqa: N818  no error: Trainer takes a step whatever its callbacks say
    """The loss that a resumed training owed was its last."""


class Validation(TrainerCallback):
    """Takes validation losses while a model is trained, and does what the recipe says about them.

    All that is decided follows from the losses in Trainer's history, which a checkpoint holds. The weights of the
    lowest loss are a file beside the checkpoints, and linked into each: a checkpoint alone is enough to go on from. A
    stop that comes while a loss is taken leaves a checkpoint without it. A resumed training takes that loss first, and
    may find that it has ended.

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
        """The mean loss per token that counts, in nats, without dropout; None where the user asked to stop."""
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
            self._best.parent.mkdir(parents=True, exist_ok=True)
            partial_file = self._best.with_suffix(".partial")
            _save(kwargs["model"], partial_file)
            partial_file.replace(self._best)  # a new file: links to the one before keep what they had
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
            # Of a model whose weights are frozen, those that are not.
            strict = all(parameter.requires_grad for parameter in model.parameters())
            safetensors.torch.load_model(model, self._best, strict=strict, device=str(model.device))

    def provenance(self, history: list[dict[str, Any]]) -> dict[str, JSON]:
        """What is worth knowing of the losses."""
        lowest = lowest_of(history)
        assert lowest is not None
        return {
            "rows": len(self._rows),
            "curve": [[entry["step"], entry[LOSS]] for entry in history if LOSS in entry],
            "lowest": {"step": lowest.step, "loss": lowest.loss},
            "kept_step": lowest.step if self._keeps_best else history[-1]["step"],
            "stopped_early": self.ended,
        }


def _save(model: PreTrainedModel, path: Path) -> None:
    """Write a model's weights; where some are frozen, the others alone."""
    trained = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    if len(trained) < sum(1 for _ in model.parameters()):
        safetensors.torch.save_file(trained, str(path))
        return
    # save_model and not save_file: of tied tensors it stores one.
    safetensors.torch.save_model(model, str(path))


def _link(source: Path, target: Path) -> None:
    """Let `target` be the same file as `source`, or a copy where the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def arguments(
    params: Mapping[str, JSON], machine: Machine, micro_batch: int, work: Path
) -> TrainingArguments:
    """What Trainer is told: the recipe's hyper-parameters, and how this machine runs them.

    Args:
        params: Of the `finetune` kind.
        machine: How this machine is to be used.
        micro_batch: Rows in one forward and backward pass; it divides `global_batch_size`.
        work: The run's private folder.
    """
    fields = {field.name for field in dataclasses.fields(TrainingArguments)}
    recompute = (
        "activation_checkpointing" if "activation_checkpointing" in fields else "gradient_checkpointing"
    )
    told: dict[str, Any] = {name: params[name] for name in AS_GIVEN if params.get(name) is not None}
    told[recompute] = machine.gradient_checkpointing
    made = TrainingArguments(
        output_dir=str(work / CHECKPOINTS),
        num_train_epochs=params.get("num_train_epochs") or 1.0,
        max_steps=params.get("max_steps") or -1,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=params["global_batch_size"] // micro_batch,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        report_to="none",  # in Trackers, which a failure does not stop
        save_strategy="no",  # by the clock, in TrainingProgress
        eval_strategy="no",
        logging_steps=1,
        logging_nan_inf_filter=False,
        log_level="error",
        disable_tqdm=True,
        **told,
    )
    made._n_gpu = min(1, made.n_gpu)  # one device: Trainer would spread over all that are visible  # noqa: SLF001
    return made


class TokenTrainer(Trainer):
    """Trainer on rows of tokens, with the loss of a step summed over its tokens and divided by their number."""

    def __init__(
        self,
        model: PreTrainedModel,
        args: TrainingArguments,
        rows: TokenRows | Packs,
        order: RowOrder,
        callbacks: Sequence[TrainerCallback],
    ) -> None:
        super().__init__(model=model, args=args, callbacks=list(callbacks))
        self.remove_callback(PrinterCallback)
        self.rows, self.order = rows, order
        # So Trainer counts the tokens of the whole step and divides by nothing: compute_loss has done so. It asks
        # what the model's own loss would do, which is not used.
        self.model_accepts_loss_kwargs = True

    def get_train_dataloader(self) -> Any:
        """The micro-batches of an epoch, in the order of the seed."""
        rows: Any = self.rows  # a length and an index is all that a data set must have
        model: Any = self.model
        longest = int(self.rows.lengths.max())  # padding does not pass it: an estimate of memory goes by it
        by_rows = partial(collate, ceilings=[*ceilings(model.config), longest])
        loader: DataLoader[Any] = DataLoader(
            rows,
            batch_size=self.args.per_device_train_batch_size,
            sampler=self.order,
            collate_fn=collation_for(model) if isinstance(self.rows, Packs) else by_rows,
            pin_memory=self.args.dataloader_pin_memory,
        )
        return self.accelerator.prepare(loader)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: Any = False, num_items_in_batch: Any = None
    ) -> Any:
        """A micro-batch's part of the step's mean loss per token."""
        del return_outputs  # asked for in Trainer's own evaluations
        # By the tokens of the whole step, not of the micro-batch: how a step is cut changes nothing but rounding. A
        # mean of the micro-batches' means would weigh a token by how few there are beside it.
        return token_nll(model, **inputs).sum() / num_items_in_batch

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Take the validation loss, in the precision of training, and tell the callbacks.

        Raises:
            TrainingEnded: It was owed by a training that a stop cut off, and nothing comes after it.
            InterruptedBuildError: The user asked to stop again while it was taken.
        """
        del args, kwargs  # Trainer's own data sets and metrics, of which there are none
        validation = next(c for c in self.callback_handler.callbacks if isinstance(c, Validation))
        model: Any = self.model
        with self.compute_loss_context_manager():
            loss = validation.loss(model, self.args.per_device_train_batch_size)
        if loss is None:
            if validation.owed:
                raise InterruptedBuildError(f"stopped at step {self.state.global_step}, which is saved")
            # A checkpoint without the loss: a resumed training begins by taking it.
            self.control.should_training_stop = self.control.should_save = True
            return {}
        metrics = {"eval_loss": loss}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        # Of a resumed training that began with the loss of its last step: Trainer's loop would take one step more.
        if validation.owed and (validation.ended or self.state.global_step >= self.state.max_steps):
            raise TrainingEnded
        validation.owed = False
        return metrics

    def floating_point_ops(self, inputs: Any) -> int:
        """No count: Trainer would add up all parameters at each micro-batch, to estimate what nobody reads."""
        del inputs
        return 0

    def save_model(self, output_dir: str | None = None, _internal_call: Any = False) -> None:
        """Write the master weights alone: no config, no pickled arguments."""
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        model: Any = self.model
        _save(model, folder / "model.safetensors")
