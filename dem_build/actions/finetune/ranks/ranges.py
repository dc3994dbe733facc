"""What ranks write and read without a gather: each its rows of a tensor, which are one range of a file's bytes."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dem_build.actions.finetune.ranks.launch import SINGLE
from dem_build.actions.finetune.ranks.sharding import first_row
from dem_build.checkpoint.delta import DeltaNorms, delta_shapes, delta_writer
from dem_build.checkpoint.header import TensorSpec
from dem_build.checkpoint.reader import open_checkpoint
from dem_build.checkpoint.writer import Writer
from dem_build.errors import CheckpointError, TrainingError
from dem_build.json_text import parse_json
from dem_build.model.weight_layout import WeightLayout

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from dem_build.actions.finetune.ranks.sharding import Ranks, Sharded
    from dem_build.checkpoint.delta import DeltaWriter
    from dem_build.checkpoint.reader import Checkpoint
    from dem_build.digest import Digest

WEIGHTS = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"
ALONE = "optimizer.pt"
"""Of a checkpoint of one process."""
STEP = "step"
STEPS = "steps"
"""Name → steps of the parameters that have taken others: where nothing reached one, it took none."""
MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's states of a parameter, as torch calls them."""


def refuse_regrouped(model: Any, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse a model whose tensors are not those of its files, one by one: rows of them are no ranges there.

    It must not be sharded yet.

    Raises:
        TrainingError: It is one.
    """
    state = model.state_dict()
    for name, group in WeightLayout(model, shapes).of_file.items():
        if group.converter is not None or state[group.own[0]].shape != shapes[name]:
            what = f"a base whose files hold {name} otherwise than its model does cannot be trained over several ranks"
            raise TrainingError(what, hint=SINGLE)


def write_rows(sharded: Sharded, weights: Path, path: Path, digest: Digest, dtype: str) -> DeltaNorms:
    """Write this rank's rows of each tensor, and return the vector's norms. All ranks must call this.

    Args:
        sharded: The trained model.
        weights: The base's folder.
        path: The vector's file; it must not exist.
        digest: The base's.
        dtype: Stored format, as of `write_delta`.

    Raises:
        TrainingError: A value is not finite, or not all bytes were written.
    """
    with open_checkpoint(weights) as base:
        shapes = delta_shapes(base)
        writer = delta_writer(path, digest, shapes, dtype)
        if sharded.ranks.first:
            path.unlink(missing_ok=True)  # of an attempt for which memory ran out
        _share(writer, sharded.ranks)
        layout, state = WeightLayout(sharded.model, shapes), sharded.model.state_dict()
        squares = [(0.0, 0.0)]
        with writer:
            for name in shapes:
                group = layout.of_file.get(name)
                if group is not None:
                    squares += _write_tensor(writer, base, name, state[group.own[0]])
                elif sharded.ranks.first:  # a tensor that the model does not use stays as it is
                    squares += _write_piecewise(
                        writer, name, 0, np.zeros(math.prod(shapes[name]), np.float32)
                    )
    mine = [*(math.fsum(column) for column in zip(*squares, strict=True)), float(writer.written)]
    norm, error, written = (math.fsum(column) for column in zip(*sharded.ranks.gathered(mine), strict=True))
    if written != writer.nbytes:
        what = f"the ranks wrote {written:.0f} of the vector's {writer.nbytes} bytes"
        raise TrainingError(what, hint="a bug in dem: train with one process an action")
    return DeltaNorms(math.sqrt(norm), math.sqrt(error), sum(map(math.prod, shapes.values())))


def _write_tensor(
    writer: DeltaWriter, base: Checkpoint, name: str, trained: Any
) -> list[tuple[float, float]]:
    """Write this rank's rows of a tensor, trained minus base, as `_differences` of one process are."""
    flat, start = _rows(trained)
    values = base.floats(base.tensors[name], start, flat.size)
    np.subtract(flat, values, out=values)
    if not np.isfinite(values).all():
        raise TrainingError(f"training made {name} NaN or infinite", hint="lower learning_rate")
    return _write_piecewise(writer, name, start, values)


def _write_piecewise(
    writer: DeltaWriter, name: str, start: int, values: NDArray[np.float32]
) -> list[tuple[float, float]]:
    piece = writer.piece(name)
    return [
        writer.write_floats(name, start + at, values[at : at + piece]) for at in range(0, values.size, piece)
    ]


def _rows(tensor: Any) -> tuple[NDArray[np.float32], int]:
    """This rank's elements of a sharded tensor in a row, and where in the tensor they begin."""
    local = tensor.detach().to_local().float().cpu().contiguous().numpy().reshape(-1)
    return local, first_row(tensor) * math.prod(tensor.shape[1:])


def _share(writer: Writer, ranks: Ranks) -> None:
    """Let the first rank make the files, and all of them write."""
    writer.shared = True
    if ranks.first:
        writer.reserve()
    ranks.wait()


def save_state(sharded: Sharded, optimizer: Any, folder: Path) -> None:
    """Write weights and the optimizer's states into a checkpoint's folder. All ranks must call this."""
    named = dict(sharded.parameters())
    steps = {n: int(optimizer.state[p][STEP]) if p in optimizer.state else 0 for n, p in named.items()}
    step = max(steps.values())
    stepped = {n: p for n, p in named.items() if steps[n]}
    tensors = {
        WEIGHTS: named,
        OPTIMIZER: {f"{m}.{n}": optimizer.state[p][m] for n, p in stepped.items() for m in MOMENTS},
    }
    others = {n: count for n, count in steps.items() if count != step}
    told = {STEP: json.dumps(step)} | ({STEPS: json.dumps(others)} if others else {})
    if sharded.ranks.first:
        for name in tensors:  # of a run that was killed while it wrote the same checkpoint
            (folder / name).unlink(missing_ok=True)
    for file, held in tensors.items():
        specs = [TensorSpec(name, "F32", tuple(tensor.shape)) for name, tensor in held.items()]
        writer = Writer({folder / file: specs}, told)
        _share(writer, sharded.ranks)
        with writer:
            for name, tensor in held.items():
                flat, start = _rows(tensor)
                writer.write(name, start, flat)
    sharded.ranks.wait()


def load_weights(sharded: Sharded, checkpoint: Path) -> None:
    """Read this rank's rows of a checkpoint's weights, of whatever number of ranks it is."""
    ties: Mapping[str, str] = sharded.model.all_tied_weights_keys
    with open_checkpoint(checkpoint / WEIGHTS) as saved:
        for name, parameter in sharded.parameters():
            # Of tied tensors, one process keeps one under either name.
            known = (name, *(first for second, first in ties.items() if second == name))
            known += tuple(second for second, first in ties.items() if first == name)
            found = next((n for n in known if n in saved.tensors), name)
            _fill(parameter, saved, found)


def load_optimizer(sharded: Sharded, optimizer: Any, checkpoint: Path) -> None:
    """Read this rank's rows of the optimizer's states from a checkpoint of several ranks, or of one process."""
    if not (checkpoint / OPTIMIZER).exists():
        _load_of_one_process(optimizer, checkpoint / ALONE)
        return
    with open_checkpoint(checkpoint / OPTIMIZER) as saved:
        step, others = parse_json(saved.metadata[STEP]), parse_json(saved.metadata.get(STEPS, "{}"))
        for name, parameter in sharded.parameters():
            if not (taken := others.get(name, step)):
                continue
            moments = {moment: torch.zeros_like(parameter) for moment in MOMENTS}
            for moment, tensor in moments.items():
                _fill(tensor, saved, f"{moment}.{name}")
            optimizer.state[parameter] = {STEP: _step(taken, parameter), **moments}


def _load_of_one_process(optimizer: Any, path: Path) -> None:
    """Take this rank's rows out of what torch saved; the file is mapped, and what is not taken is not read."""
    saved = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["state"]
    # torch numbers parameters in the order of their groups, which is the same for every number of ranks.
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number, parameter in enumerate(parameters):
        if number not in saved:
            continue  # nothing has reached it yet
        moments: dict[str, Any] = {moment: torch.zeros_like(parameter) for moment in MOMENTS}
        for moment, tensor in moments.items():
            local, start = tensor.to_local(), first_row(tensor)
            local.copy_(saved[number][moment][start : start + len(local)])
        optimizer.state[parameter] = {STEP: _step(saved[number][STEP], parameter), **moments}


def _step(count: Any, parameter: torch.Tensor) -> torch.Tensor:
    # In float32 beside the parameter, as torch's fused optimizers count.
    return torch.tensor(float(count), dtype=torch.float32, device=parameter.device)


@torch.no_grad()
def _fill(tensor: Any, saved: Checkpoint, name: str) -> None:
    """Read this rank's rows of a saved tensor."""
    if name not in saved.tensors or saved.tensors[name].shape != tuple(tensor.shape):
        raise CheckpointError(f"a checkpoint lacks {name} of shape {tuple(tensor.shape)}")
    local = tensor.to_local()
    start = first_row(tensor) * math.prod(tensor.shape[1:])
    values = saved.floats(saved.tensors[name], start, local.numel())
    local.copy_(torch.from_numpy(values).view(local.shape))
