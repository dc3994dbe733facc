"""Fine-tunes the base on one dataset and writes the distribution vector ΔΘ: fine-tuned minus base."""

from __future__ import annotations

import contextlib
import gc
import math
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from dem_build.actions.checkpoints import newest_complete, step_of
from dem_build.actions.finetune.compiled import compile_layers, compiling
from dem_build.actions.finetune.lora import Adapters
from dem_build.actions.finetune.packing import Packs, refuse_mixing
from dem_build.actions.finetune.progress import RunState, Trackers, TrainingProgress
from dem_build.actions.finetune.ranks.launch import is_sharded, ranks_of, train_on_ranks
from dem_build.actions.finetune.trainer import CHECKPOINTS, TokenTrainer, TrainingEnded, Validation, arguments
from dem_build.checkpoint.delta import DeltaNorms, delta_shapes, write_delta
from dem_build.checkpoint.factors import write_factors
from dem_build.checkpoint.floats import LONGEST
from dem_build.checkpoint.reader import open_checkpoint
from dem_build.data.arrays import TokenRows
from dem_build.data.tokenise import MASKED
from dem_build.errors import InterruptedBuildError, TrainingError
from dem_build.model.batches import RowOrder, largest_divisor
from dem_build.model.context_length import has_both_sorts, refuse_longer, refuse_mixed_packs
from dem_build.model.environment import (
    allocator_name,
    device,
    is_out_of_memory,
    memory_numbers,
    memory_told,
    peak_memory,
    ran_on,
    reset_peak_memory,
)
from dem_build.model.load import load_model, quiet
from dem_build.model.weight_layout import named_weights

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from dem_build.checkpoint.reader import Checkpoint
    from dem_build.digest import JSON
    from dem_build.step import Context, Inputs, Provenance

MOST_CURVE_POINTS = 500
FACTORS = "float32"  # their type: they are small, and rounded they would be another product


def run(inputs: Inputs, params: Mapping[str, JSON], context: Context) -> Provenance:
    """Train and write the output `delta`.

    Args:
        inputs: `base/weights`, `base/config` and `data/train`; `data/validation` where `eval_steps` is set.
        params: Of the kind `finetune`.
        context: Resumes from the newest complete checkpoint in its work folder.

    Raises:
        DataError: A row is longer than the model's context.
        TrainingError: The loss became NaN or infinite, one row does not fit in memory, or training cannot start.
        CheckpointError: The weights are not those of the config's model.
        InterruptedBuildError: The user asked to stop; a checkpoint was saved.
    """
    torch.set_num_threads(context.threads)
    context.resident.clear()  # what another action left would take the room that training needs
    ranks = ranks_of(context.machine)
    # Also where one rank goes on from what several left.
    if ranks > 1 or is_sharded(newest_complete(context.work / CHECKPOINTS)):
        _free_memory()
        return train_on_ranks(inputs, params, context, ranks)
    reset_peak_memory(device())
    try:
        return _fine_tune(inputs, params, context)
    finally:
        _free_memory()  # a Trainer and its model hold each other, and the worker has more to do


def _fine_tune(inputs: Inputs, params: Mapping[str, JSON], context: Context) -> Provenance:
    rows = TokenRows.open(inputs.paths["data/train"])
    refuse_longer(rows, inputs.paths["base/config"])
    run = TrainingRun(inputs, params, context, rows)
    model, history = run.train()
    with (
        memory_told(TrainingError, "while writing the vector", "end what else takes memory, and build again"),
        open_checkpoint(inputs.paths["base/weights"]) as base,
    ):
        shapes, digest = delta_shapes(base), inputs.digests["base/weights"]
        dtype = FACTORS if run.adapters else params["vector_dtype"]
        if run.adapters:
            norm = write_factors(context.out / "delta", digest, run.adapters.factors())
            norms = DeltaNorms(norm, 0.0, sum(map(math.prod, shapes.values())))
        else:
            tensors = _differences(named_weights(model, shapes), base)
            norms = write_delta(context.out / "delta", digest, shapes, tensors, dtype)
    return provenance_of(run, model, history, norms, dtype)


def provenance_of(
    run: TrainingRun, model: PreTrainedModel, history: list[dict[str, Any]], norms: DeltaNorms, dtype: str
) -> Provenance:
    """What is worth knowing of a training and of its vector, which is stored in `dtype`.

    Raises:
        TrainingError: The vector is too large.
    """
    if not norms.norm <= LONGEST:
        raise TrainingError("training made the vector too large for float32", hint="lower learning_rate")
    if norms.norm == 0:
        run.warn(
            "nothing was learned: the vector is zero (are all steps warm-up steps, or is learning_rate 0?)"
        )
    return run.provenance(model, history) | {"vector": norms.provenance(dtype)}


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class TrainingRun:
    """One training from where it was left, over as many attempts as the memory makes necessary.

    Attributes:
        ranks: Processes that train together; this is one of them.
    """

    ranks = 1
    progress_type: type[TrainingProgress] = TrainingProgress

    def __init__(self, inputs: Inputs, params: Mapping[str, JSON], context: Context, rows: TokenRows) -> None:
        if not len(rows):
            raise TrainingError("there is no row to train on")
        self.inputs, self.params, self.context, self.rows = inputs, params, context, rows
        self.sequences: TokenRows | Packs = rows
        if params.get("packing"):
            refuse_mixed_packs(rows.lengths, inputs.paths["base/config"])
            self.sequences = Packs(rows, params["max_length"], params["seed"])
        self.order = RowOrder(self.sequences.lengths, params["global_batch_size"], params["seed"])
        self.adapters: Adapters | None = None
        self.warnings: list[str] = []
        self.micro_batch = self._first_micro_batch()
        self.resumed_from = self._take_up()
        self.validation = _validation(inputs, params, context)
        self.progress = self.progress_type(
            context, self.order, self.sequences.lengths, self.seconds, self.ranks
        )
        self.trackers = Trackers(context, params, self.progress)

    def _first_micro_batch(self) -> int:
        """The rows of a micro-batch where nothing is known of how many fit."""
        return largest_divisor(self.params["global_batch_size"], self._most_rows())

    def _most_rows(self) -> int:
        """The most sequences of a micro-batch: one, where the model would read a row by its neighbours."""
        most = self.context.machine.micro_batch
        if most == 1 or self.sequences is not self.rows:
            return most
        if not has_both_sorts(self.rows.lengths, self.inputs.paths["base/config"]):
            return most
        self.context.note(
            "rows are trained on one at a time: the model reads long ones with other rotary frequencies"
        )
        return 1

    def _take_up(self) -> int | None:
        """Go on as the run that left a checkpoint did, where there is one; return its step."""
        self.seconds = 0.0
        checkpoint = newest_complete(self.context.work / CHECKPOINTS)
        if checkpoint is None:
            return None
        left = RunState.read(checkpoint)
        self.seconds = left.seconds
        # The user may have lowered it, and then means it; and more ranks have fewer rows each.
        self.micro_batch = min(left.micro_batch, self.micro_batch)
        here = RunState.here(self.micro_batch, self.seconds, device(), self.ranks)
        if differences := left.differences(here):
            self.context.note(
                f"resumed where something differs, so the vector's last bits may: {', '.join(differences)}"
            )
        return step_of(checkpoint)

    def train(self) -> tuple[PreTrainedModel, list[dict[str, Any]]]:
        """The trained model and Trainer's history, halving the micro-batch while memory runs out."""
        try:
            while (trained := self._attempt()) is None:
                # Here and not where it was caught: the exception holds the frames that hold the memory.
                _free_memory()
                self._halve()
        finally:
            self.trackers.close()
        return trained

    def _attempt(self) -> tuple[PreTrainedModel, list[dict[str, Any]]] | None:
        """Train from the newest checkpoint to the end; None where memory ran out."""
        # A function of its own: once it has returned, nothing holds the exception any more.
        try:
            return self._train()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        self.adapters = None  # which hold the layers of a model that makes room for the next
        return None

    def _train(self) -> tuple[PreTrainedModel, list[dict[str, Any]]]:
        with quiet():
            trainer = self._trainer()
            checkpoint = newest_complete(self.context.work / CHECKPOINTS)
            if self.validation:
                self.validation.take_up(checkpoint)
            # A checkpoint has the optimizer, the schedule and the random numbers too: what comes of it is what comes of
            # a training that nobody stopped, on a CPU bit for bit.
            try:
                with contextlib.suppress(TrainingEnded), compiling(self.warn):
                    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            except (ImportError, ValueError) as error:  # an optimizer whose package is missing, say
                raise TrainingError(f"training cannot run: {error}") from error
        stopped = self.progress.stopped
        if self.validation:  # that it ended is no stop, though both end Trainer's loop
            stopped = self.validation.stopped or (stopped and not self.validation.ended)
        if stopped:
            raise InterruptedBuildError(f"stopped after step {trainer.state.global_step}, which is saved")
        model, history = cast("PreTrainedModel", trainer.model), trainer.state.log_history
        if self.validation:
            self.validation.choose(model, history)
        return model, history

    def _model(self, device: torch.device) -> tuple[PreTrainedModel, dict[str, tuple[int, ...]]]:
        """The base in float32, ready to be trained; and the shapes of its files' tensors."""
        model = load_model(
            self.inputs.paths["base/weights"],
            self.inputs.paths["base/config"],
            dtype=torch.float32,
            device=device,
            attn_implementation=self.context.machine.attn_implementation,
        )
        with open_checkpoint(self.inputs.paths["base/weights"]) as base:
            shapes = delta_shapes(base)
        named_weights(model, shapes)  # a weight without a place is told now, not after hours
        return model, shapes

    def _trainer(self) -> TokenTrainer:
        model, shapes = self._model(device())
        if isinstance(self.sequences, Packs):
            refuse_mixing(model)
        told = arguments(self.params, self.context.machine, self.micro_batch, self.context.work)
        callbacks = [c for c in (self.validation, self.progress, self.trackers) if c is not None]
        try:
            # peft, too, refuses some models with a ValueError: Mamba's, whose kernels take its layers' weights alone.
            self.adapters = Adapters(model, shapes, self.params) if self.params["method"] == "lora" else None
            if self.params.get("torch_compile"):
                compile_layers(model)
            return TokenTrainer(model, told, self.sequences, self.order, callbacks)
        except (ImportError, RuntimeError, ValueError) as error:
            if is_out_of_memory(error):
                raise
            raise TrainingError(f"training cannot start: {error}") from error

    def _halve(self) -> None:
        if self.micro_batch == 1:
            raise TrainingError(
                f"one row of {self.sequences.lengths.max()} tokens does not fit in memory: {memory_numbers()}",
                hint="set gradient_checkpointing = true in the machine file, lower max_length, or train with "
                'optim = "adafactor"',
            )
        # A divisor, so that micro-batches still make up the step: its loss is by all of its tokens, and the same.
        before, self.micro_batch = self.micro_batch, largest_divisor(self.micro_batch, self.micro_batch // 2)
        self.warn(f"out of memory with a micro-batch of {before}; going on with {self.micro_batch}")

    def warn(self, message: str) -> None:
        """Tell the user now, and keep it with the result."""
        self.warnings.append(message)
        self.context.warn(message)

    def provenance(self, model: PreTrainedModel, history: list[dict[str, Any]]) -> Provenance:
        """What is worth knowing of the training of a model."""
        entries = [entry for entry in history if "loss" in entry]
        steps = len(entries)
        validated, ran = {}, ran_on(model)
        if self.adapters:
            ran["versions"]["peft"] = version("peft")
        if self.validation:
            found = self.validation.provenance(history)
            validated = {"validation": found | {"curve": _thinned(found["curve"])}}
        return validated | {
            "rows": len(self.rows),
            "sequences": len(self.sequences),
            "steps": steps,
            "epochs": steps / self.order.steps_per_epoch,
            "tokens": self._tokens(steps),
            "curve": [
                [e["step"], e["loss"], e["learning_rate"], e.get("grad_norm")] for e in _thinned(entries)
            ],
            "device_seconds": self.progress.seconds,
            **ran,
            "threads": self.context.threads,
            "allocator": allocator_name(),
            "micro_batch": self.micro_batch,
            "gradient_accumulation_steps": self.params["global_batch_size"] // self.micro_batch,
            "peak_memory": peak_memory(model.device),
            "resumed_from": self.resumed_from,
            "warnings": self.warnings,
        }

    def _tokens(self, steps: int) -> dict[str, int]:
        """Count tokens over all steps, from the order of the rows, which an interruption does not change."""
        labels = (self.sequences[i][1] for i in range(len(self.sequences)))
        counted = np.array([np.count_nonzero(row[1:] != MASKED) for row in labels])
        times = np.zeros(len(self.sequences), np.int64)
        for step in range(steps):
            np.add.at(times, self.order.rows(step), 1)
        return {"seen": int(times @ self.sequences.lengths), "trained": int(times @ counted)}


def _validation(inputs: Inputs, params: Mapping[str, JSON], context: Context) -> Validation | None:
    """What validates while training, where the recipe says so."""
    if not params.get("eval_steps"):
        return None
    rows = TokenRows.open(inputs.paths["data/validation"])
    refuse_longer(rows, inputs.paths["base/config"])
    if not any((rows[i][1][1:] != MASKED).any() for i in range(len(rows))):
        raise TrainingError(
            "there is no validation row to take a loss on",
            hint="raise the dataset's `validation`, or set eval_steps = 0",
        )
    return Validation(rows, params, context.work / CHECKPOINTS, context.stopping)


def _thinned(entries: list[Any]) -> list[Any]:
    """Evenly spread entries, the last one among them: a record is read by every plan and must stay small."""
    # From the end backwards, so that the last one is there whatever the step is.
    every = -(-len(entries) // MOST_CURVE_POINTS) or 1
    return entries[::-every][::-1]


def _differences(
    trained: Mapping[str, torch.Tensor | None], base: Checkpoint
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield fine-tuned minus base, one tensor in memory at a time."""
    for name, tensor in trained.items():
        values = base.read(name)
        if tensor is None:
            yield name, np.zeros_like(values)
            continue
        # Of the master weights, also where the forward pass had them in bfloat16: composing rounds, once, and at ω = 1
        # gives what that pass had. Rounded here already, a weight that moved by one step would be lost at any ω below a
        # half, and there whole from a half on: the loss as a function of ω has a cliff there (decision 0048).
        difference = tensor.detach().float().cpu().numpy() - values
        if not np.isfinite(difference).all():
            raise TrainingError(f"training made {name} NaN or infinite", hint="lower learning_rate")
        yield name, difference
