"""Follows a training from inside Trainer: tells how far it is, refuses divergence, saves checkpoints by the clock."""

# ruff: noqa: ARG002  # the signatures are Trainer's

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from dem_build.actions.checkpoints import keep
from dem_build.errors import TrainingError
from dem_build.json_text import parse_json
from dem_build.model.environment import device_name, peak_memory, release_memory, versions

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from dem_build.model.batches import RowOrder
    from dem_build.step import Context

__all__ = ["Progress", "RunState", "read_run_state"]

RUN_STATE = "dem.json"
RELEASED = 8
"""Steps between two releases of memory: some 30 ms."""


@dataclass(frozen=True)
class RunState:
    """What a checkpoint says of the run that wrote it.

    Attributes:
        micro_batch: Rows in one forward and backward pass.
        seconds: Device-seconds until then, over all interruptions.
        threads: CPU threads.
        device: Name of the device.
        versions: Library → version.
    """

    micro_batch: int
    seconds: float
    threads: int
    device: str
    versions: dict[str, str]

    @classmethod
    def here(cls, micro_batch: int, seconds: float, device: torch.device) -> RunState:
        """Return the state of a run of this process."""
        return cls(micro_batch, seconds, torch.get_num_threads(), device_name(device), versions())

    def differences(self, other: RunState) -> list[str]:
        """Return what differs from `other` and may change the last bits of a result."""
        mine, others = ({**s.versions, "threads": s.threads, "device": s.device} for s in (self, other))
        mine["micro-batch"], others["micro-batch"] = self.micro_batch, other.micro_batch
        return [
            f"{name} {mine.get(name)} → {others[name]}" for name in others if mine.get(name) != others[name]
        ]


def read_run_state(checkpoint: Path) -> RunState:
    """Read what `Progress` wrote into a checkpoint."""
    return RunState(**parse_json((checkpoint / RUN_STATE).read_text(encoding="utf-8")))


class Progress(TrainerCallback):
    """Tells how far a training is, refuses a loss that is no number, and saves by the clock or when asked to stop.

    Attributes:
        stopped: Whether training ended because the user asked to stop.
        speed: Tokens a second of the last step.
    """

    def __init__(self, context: Context, order: RowOrder, lengths: NDArray[np.int64], seconds: float) -> None:
        self.stopped = False
        self.speed = 0.0
        self.micro_batch = 0
        self._context = context
        self._order = order
        self._lengths = lengths
        self._before = seconds
        self._started = self._stepped = self._saved = time.monotonic()

    @property
    def seconds(self) -> float:
        """Device-seconds until now, over all interruptions."""
        return self._before + time.monotonic() - self._started

    def on_train_begin(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clocks of steps and checkpoints."""
        self.micro_batch = args.per_device_train_batch_size
        self._stepped = self._saved = time.monotonic()

    def on_epoch_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Set the epoch, which after a resume is not the next but that of the checkpoint."""
        self._order.epoch = state.global_step // self._order.steps_per_epoch

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ask for a checkpoint when one is due; not after the last step, when the vector is as near."""
        if state.global_step % RELEASED == 0:
            release_memory()
        if control.should_training_stop:
            return
        self.stopped = control.should_training_stop = self._context.stopping()
        due = time.monotonic() - self._saved >= self._context.machine.checkpoint_seconds
        control.should_save = self.stopped or due

    def on_log(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Tell of an optimizer step.

        Raises:
            TrainingError: Its loss or gradient is NaN or infinite.
        """
        entry = state.log_history[-1]
        if "loss" not in entry:
            return
        refuse_divergence(entry)
        now, before = time.monotonic(), self._stepped
        self._stepped = now
        tokens = int(self._lengths[self._order.rows(state.global_step - 1)].sum())
        self.speed = tokens / max(now - before, 1e-9)
        self._context.progress(
            state.global_step,
            state.max_steps,
            "steps",
            loss=entry["loss"],
            tokens_per_second=self.speed,
            memory=peak_memory(args.device),
        )

    def on_evaluate(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Tell the validation loss; the time that it took is not the next step's."""
        loss = kwargs["metrics"]["eval_loss"]
        self._context.progress(state.global_step, state.max_steps, "steps", validation_loss=loss)
        self._stepped = time.monotonic()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Complete the checkpoint that Trainer wrote; only then remove what it replaces."""
        checkpoint = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        run = RunState.here(self.micro_batch, self.seconds, args.device)
        (checkpoint / RUN_STATE).write_text(json.dumps(dataclasses.asdict(run)), encoding="utf-8")
        keep(checkpoint)
        self._saved = time.monotonic()


def refuse_divergence(entry: Mapping[str, Any]) -> None:
    """Check what Trainer logged of an optimizer step.

    Raises:
        TrainingError: The loss or the norm of the gradient is NaN or infinite.
    """
    for name, words in (("loss", "loss"), ("grad_norm", "norm of the gradient")):
        value = entry.get(name, 0.0)
        if not -float("inf") < value < float("inf"):
            raise TrainingError(
                f"the {words} is {value} at optimizer step {entry['step']}",
                hint="lower learning_rate, and look for odd rows with `dem data`",
            )
