"""Sends the figures of a training to the trackers of the machine file: TensorBoard, Weights & Biases.

Both write into a folder of the action, where a resumed training goes on. A run is uploaded only where the user
sets WANDB_MODE. A tracker that fails is dropped and said once: a training does not fail for who watches it.
"""

# ruff: noqa: ARG002  # the signatures are Trainer's

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from transformers import TrainerCallback

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from transformers import TrainerState

    from dem_build.actions.finetune.progress import Progress
    from dem_build.digest import JSON
    from dem_build.step import Context

__all__ = ["Trackers"]

PROJECT = "dem"
NAMES = {
    "loss": "train/loss",
    "learning_rate": "train/learning_rate",
    "grad_norm": "train/grad_norm",
    "eval_loss": "eval/loss",
}
"""Trainer's names of figures → the trackers', which are those of transformers' own integrations."""


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

    def __init__(self, context: Context, params: Mapping[str, JSON], progress: Progress) -> None:
        self._context, self._params, self._progress = context, params, progress
        self._writers: dict[str, _Writer] = {}

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Open the trackers; a training that begins anew with a smaller micro-batch opens them again."""
        self.close()
        folder = self._context.runs
        if folder is None:
            return
        for name in self._context.machine.report_to:
            self._try(name, partial(self._open, name, folder, state.global_step))

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

    def _open(self, name: str, folder: Path, step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._writers[name] = WRITERS[name](folder, self._params, step)

    def _try(self, name: str, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # noqa: BLE001  whatever a tracker raises is none of the training's business
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


WRITERS: dict[str, Callable[[Path, Mapping[str, JSON], int], _Writer]] = {
    "tensorboard": _TensorBoard,
    "wandb": _Wandb,
}
