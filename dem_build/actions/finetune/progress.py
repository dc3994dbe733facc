"""Follows a training from inside Trainer: tells how far it is, refuses divergence, saves checkpoints by the clock.

The machine file's trackers (TensorBoard, Weights & Biases, Trackio) are told its figures. They write below `runs/` of
the cache, where a resumed training goes on. A run is uploaded only where the user's environment says where to.
"""

# ruff: noqa: ARG002  # the signatures are Trainer's

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import time
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from huggingface_hub import constants
from transformers import TrainerCallback

from dem_build.actions.checkpoints import keep
from dem_build.errors import TrainingError
from dem_build.json_text import parse_json
from dem_build.model.environment import device_name, peak_memory, release_memory, versions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from dem_build.digest import JSON
    from dem_build.model.batches import RowOrder
    from dem_build.step import Context

RUN_STATE = "dem.json"
RELEASED = 8  # steps between two releases of memory, of some 30 ms
PROJECT = "dem"
NAMES = {
    "loss": "train/loss",
    "learning_rate": "train/learning_rate",
    "grad_norm": "train/grad_norm",
    "eval_loss": "eval/loss",
}
"""Trainer's names of figures → the trackers', which are those of transformers' own integrations."""


@dataclass(frozen=True)
class RunState:
    """What a checkpoint says of the run that wrote it.

    Attributes:
        micro_batch: Rows in one forward and backward pass.
        seconds: Device-seconds until then, over all interruptions.
        threads: CPU threads.
        device: Name of the device.
        versions: Library → version.
        ranks: Processes that trained together.
    """

    micro_batch: int
    seconds: float
    threads: int
    device: str
    versions: dict[str, str]
    ranks: int = 1

    @classmethod
    def here(cls, micro_batch: int, seconds: float, device: torch.device, ranks: int = 1) -> RunState:
        """The state of a run of this process, and of those that train with it."""
        return cls(micro_batch, seconds, torch.get_num_threads(), device_name(device), versions(), ranks)

    @classmethod
    def read(cls, checkpoint: Path) -> RunState:
        """What `TrainingProgress` wrote into a checkpoint."""
        return cls(**parse_json((checkpoint / RUN_STATE).read_text(encoding="utf-8")))

    def differences(self, other: RunState) -> list[str]:
        """What differs from `other` and may change the last bits of a result."""
        mine, others = ({**s.versions, "threads": s.threads, "device": s.device} for s in (self, other))
        mine["micro-batch"], others["micro-batch"] = self.micro_batch, other.micro_batch
        mine["ranks"], others["ranks"] = self.ranks, other.ranks
        return [
            f"{name} {mine.get(name)} → {others[name]}" for name in others if mine.get(name) != others[name]
        ]


class TrainingProgress(TrainerCallback):
    """Tells how far a training is, refuses a loss that is no number, and saves by the clock or when asked to stop.

    Args:
        context: The run's surroundings.
        order: The rows of each step.
        lengths: Tokens of each row.
        seconds: Device-seconds of the runs before.
        ranks: Processes that train together.

    Attributes:
        stopped: Whether training ended because the user asked to stop.
        speed: Tokens a second of the last step.
    """

    def __init__(
        self, context: Context, order: RowOrder, lengths: NDArray[np.int64], seconds: float, ranks: int = 1
    ) -> None:
        self.stopped = False
        self.speed = 0.0
        self.micro_batch = 0
        self._context = context
        self._order = order
        self._lengths = lengths
        self._before = seconds  # of the runs that were interrupted
        self._ranks = ranks
        self._started = self._stepped = self._saved = time.monotonic()

    @property
    def seconds(self) -> float:
        """Device-seconds until now, over all interruptions."""
        # Of each rank's GPU; a CPU is one device, however many processes share it.
        devices = self._ranks if torch.cuda.is_available() else 1
        return self._before + devices * (time.monotonic() - self._started)

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
        for name, words in (("loss", "loss"), ("grad_norm", "norm of the gradient")):
            value = entry.get(name, 0.0)
            if not math.isfinite(value):
                raise TrainingError(
                    f"the {words} is {value} at optimizer step {entry['step']}",
                    hint="lower learning_rate, and look for odd rows with `dem data`",
                )
        now, before = time.monotonic(), self._stepped
        self._stepped = now
        # Of the rows, without what pads them.
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
        run = RunState.here(self.micro_batch, self.seconds, args.device, self._ranks)
        (checkpoint / RUN_STATE).write_text(json.dumps(dataclasses.asdict(run)), encoding="utf-8")
        keep(checkpoint)
        self._saved = time.monotonic()


class _Writer(Protocol):
    def write(self, figures: Mapping[str, float], step: int) -> None: ...

    def close(self) -> None: ...


class Trackers(TrainerCallback):
    """Tells trackers what Trainer logs.

    Args:
        context: Its machine names the trackers, `runs` is where they write.
        params: Of the kind `finetune`, told as the run's configuration.
        progress: Knows the speed of the last step; called before this.
    """

    def __init__(self, context: Context, params: Mapping[str, JSON], progress: TrainingProgress) -> None:
        self._context, self._params, self._progress = context, params, progress
        self._writers: dict[str, _Writer] = {}

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Open the trackers; a training that begins anew with a smaller micro-batch opens them again."""
        self.close()
        folder = self._context.runs
        if folder is None:
            return

        def start(name: str) -> None:
            folder.mkdir(parents=True, exist_ok=True)
            self._writers[name] = WRITERS[name](folder, self._params, state.global_step)

        for name in self._context.machine.report_to:
            self._try(name, partial(start, name))

    def on_log(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Write the newest figures."""
        entry = state.log_history[-1]
        figures = {told: float(entry[name]) for name, told in NAMES.items() if name in entry}
        if "loss" in entry:
            figures["train/tokens_per_second"] = self._progress.speed
        for name, writer in list(self._writers.items()):
            self._try(name, partial(writer.write, figures, state.global_step))

    def close(self) -> None:
        """End the runs, also after a training that failed."""
        for name, writer in list(self._writers.items()):
            self._try(name, writer.close)
        self._writers.clear()

    def _try(self, name: str, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # noqa: BLE001  a training does not fail for who watches it: dropped, and said once
            self._writers.pop(name, None)
            self._context.note(f"{name} stopped: {type(error).__name__}: {error}")


class _TensorBoard:
    """An event file of the folder; what a run that was killed wrote after its last checkpoint is hidden."""

    def __init__(self, folder: Path, params: Mapping[str, JSON], step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  an optional package

        writer: Any = SummaryWriter
        self._writer = writer(str(folder), purge_step=step + 1 if step else None)
        if not step:
            self._writer.add_text("parameters", "".join(f"    {k} = {v}\n" for k, v in params.items()))

    def write(self, figures: Mapping[str, float], step: int) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    """A run in the folder's `wandb/`, offline but where the user's environment says otherwise."""

    def __init__(self, folder: Path, params: Mapping[str, JSON], step: int) -> None:
        import wandb  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415  an optional package

        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=folder.name,
            id=folder.name,
            resume="allow",
            dir=str(folder),
            config=dict(params),
            mode=os.environ.get("WANDB_MODE", "offline"),
            settings=wandb.Settings(console="off", silent=True),
        )

    def write(self, figures: Mapping[str, float], step: int) -> None:
        self._run.log(dict(figures), step=step)

    def close(self) -> None:
        self._run.finish()


class _Trackio:
    """A run in the database that all trainings of the cache share, `trackio/` beside their folders.

    It is on this machine, but where the user's environment names a Space or a server. Of a training that was killed,
    what it wrote after its last checkpoint stands there twice, with the same figures.
    """

    def __init__(self, folder: Path, params: Mapping[str, JSON], step: int) -> None:
        os.environ.setdefault("TRACKIO_DIR", str(folder.parent / "trackio"))  # it looks when it is loaded
        with _unasked(), redirect_stdout(io.StringIO()):  # where it is and how to see it, for a person
            import trackio  # noqa: PLC0415  an optional package

            project = os.environ.get("TRACKIO_PROJECT", PROJECT)
            with suppress(ValueError):  # there is no run yet
                for run in trackio.Api().runs(project) if not step else ():
                    if run.name == folder.name:  # it was begun before, and begins anew
                        run.delete()
            self._run: Any = trackio.init(
                project=project,
                name=folder.name,
                resume="allow",
                config=dict(params),
                embed=False,
                # Of the machine, not of the training.
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

    def write(self, figures: Mapping[str, float], step: int) -> None:
        self._run.log(dict(figures), step=step)

    def close(self) -> None:
        with redirect_stdout(io.StringIO()):
            self._run.finish()


@contextmanager
def _unasked() -> Iterator[None]:
    """Ask no hub: a run on this machine would send the user's token to one, to learn whose it is."""
    if os.environ.get("TRACKIO_SPACE_ID") or os.environ.get("TRACKIO_SERVER_URL"):
        yield
        return
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


WRITERS: dict[str, Callable[[Path, Mapping[str, JSON], int], _Writer]] = {
    "tensorboard": _TensorBoard,
    "trackio": _Trackio,
    "wandb": _Wandb,
}
