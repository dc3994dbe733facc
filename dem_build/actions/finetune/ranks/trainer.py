"""Trainer as one of several ranks: it believes that it is alone, and what it does not know of the others is here."""

# ruff: noqa: ARG002  # the signatures are Trainer's

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from dem_build.actions.checkpoints import step_of
from dem_build.actions.finetune.packing import Packs, collation_for
from dem_build.actions.finetune.progress import RunState, TrainingProgress
from dem_build.actions.finetune.ranks.dealing import or_blank
from dem_build.actions.finetune.ranks.ranges import load_optimizer, load_weights, save_state
from dem_build.actions.finetune.trainer import TokenTrainer
from dem_build.errors import TrainingError
from dem_build.model.batches import collate
from dem_build.model.context_length import ceilings
from dem_build.model.likelihood import look_at_logits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

    from dem_build.actions.finetune.ranks.dealing import Dealt
    from dem_build.actions.finetune.ranks.sharding import Sharded
    from dem_build.data.arrays import TokenRows

SCHEDULER = "scheduler.pt"
STATE = "trainer_state.json"


class AgreedProgress(TrainingProgress):
    """Progress of which the first rank decides: when to stop and when to save.

    Attributes:
        sharded: The model; set before training begins.
    """

    sharded: Sharded

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Decide on the first rank, and tell all others."""
        super().on_step_end(args, state, control, **kwargs)
        ranks = self.sharded.ranks
        said = ranks.gathered([self.stopped, control.should_training_stop, control.should_save])
        self.stopped, control.should_training_stop, control.should_save = map(bool, said[0])

    def on_save(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Complete the checkpoint, once."""
        if self.sharded.ranks.first:
            super().on_save(args, state, control, **kwargs)


class ShardedTrainer(TokenTrainer):
    """Trainer on this rank's rows of each step, and its rows of each parameter."""

    def __init__(
        self,
        sharded: Sharded,
        args: TrainingArguments,
        rows: TokenRows | Packs,
        dealt: Dealt,
        callbacks: Sequence[TrainerCallback],
    ) -> None:
        args.gradient_accumulation_steps = dealt.rounds
        super().__init__(sharded.model, args, rows, dealt.order, callbacks)
        self.sharded, self.dealt = sharded, dealt
        self._seed_anew(0)

    @property
    def _stepping(self) -> Any:
        """The optimizer, without what accelerate puts around it."""
        around: Any = self.optimizer
        return around.optimizer

    def get_train_dataloader(self) -> Any:
        """This rank's micro-batches of an epoch, in the order of the seed."""
        rows: Any = self.rows
        model: Any = self.model
        longest = int(self.rows.lengths.max())
        by_rows = partial(_collated, ceilings=[*ceilings(model.config), longest])
        loader: DataLoader[Any] = DataLoader(
            rows,
            batch_sampler=self.dealt,
            collate_fn=or_blank(collation_for(model) if isinstance(self.rows, Packs) else by_rows),
            pin_memory=self.args.dataloader_pin_memory,
        )
        return self.accelerator.prepare(loader)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list[Any], Any]:
        """This rank's micro-batches of a step, and how many tokens of all ranks count in it."""
        batches, mine = super().get_batch_samples(epoch_iterator, num_batches, device)
        counts = self.sharded.ranks.gathered([0.0 if mine is None else float(mine)])
        tokens = int(sum(count for [count] in counts))
        return batches, torch.tensor(tokens, device=device)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: Any = False, num_items_in_batch: Any = None
    ) -> Any:
        """A micro-batch's part of the step's mean loss per token, times the ranks: they take the mean of gradients."""
        # In the first pass of all ranks: later, one of them alone may have so many logits that it has to know.
        look_at_logits(model)
        loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        return loss * self.sharded.ranks.count

    def _clip_grad_norm(self, model: Any) -> float:
        norm = self.sharded.norm()
        self.sharded.clip(norm, self.args.max_grad_norm)
        return norm

    def _get_grad_norm(self, model: Any, grad_norm: float | None = None) -> float:
        return self.sharded.norm() if grad_norm is None else grad_norm

    def _maybe_log_save_evaluate(self, tr_loss: Any, *args: Any, **kwargs: Any) -> None:
        if self.control.should_log and self.state.global_step > self._globalstep_last_logged:
            self.sharded.check_states(self._stepping)
            said = [loss for [loss] in self.sharded.ranks.gathered([tr_loss.item()])]
            for rank, loss in enumerate(said):
                if not math.isfinite(loss):
                    what = f"the loss is {loss} at optimizer step {self.state.global_step} on rank {rank}"
                    raise TrainingError(
                        what, hint="lower learning_rate, and look for odd rows with `dem data`"
                    )
            tr_loss.fill_(math.fsum(said) / len(said))
        super()._maybe_log_save_evaluate(tr_loss, *args, **kwargs)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        if self.sharded.ranks.first:
            folder.mkdir(parents=True, exist_ok=True)
        self.sharded.ranks.wait()
        torch.save(_random_state(), folder / _random_file(self.sharded.ranks.rank))
        save_state(self.sharded, self._stepping, folder)
        if self.sharded.ranks.first:
            schedule: Any = self.lr_scheduler
            torch.save(schedule.state_dict(), folder / SCHEDULER)
            self.state.save_to_json(str(folder / STATE))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_weights(self.sharded, Path(resume_from_checkpoint))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        load_optimizer(self.sharded, self._stepping, Path(checkpoint))
        schedule: Any = self.lr_scheduler
        schedule.load_state_dict(torch.load(Path(checkpoint) / SCHEDULER, weights_only=True))
        # The rate of the next step is the optimizer's, which the schedule sets only after it.
        for group, rate in zip(self._stepping.param_groups, schedule.get_last_lr(), strict=True):
            group["lr"] = rate

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        ranks, folder = self.sharded.ranks, Path(checkpoint)
        saved = folder / _random_file(ranks.rank)
        if saved.exists() and RunState.read(folder).ranks == ranks.count:
            _set_random_state(torch.load(saved, weights_only=True))
        else:  # of another number of ranks: there is no state that would go on
            self._seed_anew(step_of(folder))

    def _seed_anew(self, step: int) -> None:
        """Seed what dropout draws from: of each rank by itself, as each has other rows."""
        seed = int(
            np.random.SeedSequence([self.args.seed, step, self.sharded.ranks.rank]).generate_state(1)[0]
        )
        # The first rank of a training that begins has what one process has.
        torch.manual_seed(self.args.seed if not step and self.sharded.ranks.first else seed)


def _collated(rows: Sequence[Any], ceilings: Sequence[int]) -> dict[str, torch.Tensor]:
    return collate([(row[0], row[1]) for row in rows], ceilings=ceilings)  # without a blank row's positions


def _random_file(rank: int) -> str:
    return f"rng-{rank}.pt"


def _random_state() -> dict[str, Any]:
    gpu = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return {"cpu": torch.get_rng_state(), "gpu": gpu}


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if state["gpu"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["gpu"])
