"""Training with transformers' Trainer, made to fit dem: steps by the seed, one loss, checkpoints of plain tensors.

What Trainer is told and what it is kept from doing is here; what is trained and what becomes of it is not.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainingArguments

from dem_build.actions.finetune.packing import Packs, collation_for
from dem_build.actions.finetune.validation import TrainingEnded, Validation
from dem_build.errors import InterruptedBuildError
from dem_build.model.batches import collate
from dem_build.model.context_length import ceilings
from dem_build.model.likelihood import token_nll

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from transformers import PreTrainedModel, TrainerCallback

    from dem_build.data.arrays import TokenRows
    from dem_build.digest import JSON
    from dem_build.machine import Machine
    from dem_build.model.batches import RowOrder

__all__ = ["CHECKPOINTS", "TokenTrainer", "arguments"]

CHECKPOINTS = "checkpoints"
AS_GIVEN = (
    "optim",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "max_grad_norm",
    "seed",
    "bf16",
)


def arguments(
    params: Mapping[str, JSON], machine: Machine, micro_batch: int, work: Path
) -> TrainingArguments:
    """Return what Trainer is told: the recipe's hyper-parameters, and how this machine runs them.

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
        save_strategy="no",  # by the clock, in Progress
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
        """Return the micro-batches of an epoch, in the order of the seed."""
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
        """Return a micro-batch's part of the step's mean loss per token."""
        del return_outputs  # asked for in Trainer's own evaluations
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
            return self._stop(validation)
        metrics = {"eval_loss": loss}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        if validation.owed and (validation.ended or self.state.global_step >= self.state.max_steps):
            raise TrainingEnded
        validation.owed = False
        return metrics

    def _stop(self, validation: Validation) -> dict[str, float]:
        """End without a loss, and save what it is to be taken of, unless that is where this run began."""
        if validation.owed:
            raise InterruptedBuildError(f"stopped at step {self.state.global_step}, which is saved")
        self.control.should_training_stop = self.control.should_save = True
        return {}

    def floating_point_ops(self, inputs: Any) -> int:
        """Return 0: Trainer counts all parameters at each micro-batch to estimate what nobody reads."""
        del inputs
        return 0

    def save_model(self, output_dir: str | None = None, _internal_call: Any = False) -> None:
        """Write the master weights alone: no config, no pickled arguments."""
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        model: Any = self.model
        safetensors.torch.save_model(model, str(folder / "model.safetensors"))
