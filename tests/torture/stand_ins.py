"""Steps without torch, for builds that are killed a thousand times: what comes before and after them is the real thing.

`import` and `prepare` write files of the right shape. `finetune` is a chain of hashes that checkpoints as a training
does: each step depends on the one before, and the vector on the last. `compose` has no stand-in.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dem_build.actions.checkpoints import keep, newest_complete, step_of
from dem_build.checkpoint.delta import delta_shapes, write_delta
from dem_build.checkpoint.header import TensorSpec
from dem_build.checkpoint.reader import open_checkpoint
from dem_build.checkpoint.writer import weights_writer
from dem_build.data.arrays import RowsWriter
from dem_build.errors import ActionError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from dem_build.digest import JSON
    from dem_build.step import Context, Inputs, Provenance

STEPS_A_CHECKPOINT = 2
TENSORS = (TensorSpec("embed", "F32", (16, 8)), TensorSpec("head", "F32", (8, 16)))
TRAINED = "DEM_TORTURE_TRAINED"
"""Names the file that each step of a training is written down in, outside of what is killed."""
LUCK = "DEM_TORTURE_LUCK"
"""What a training comes to depends on it, as it does on the GPU: no key knows of it."""

FAILING = "DEM_TORTURE_FAILING"
"""A word that no dataset may have: one that does cannot be prepared."""


def import_base(inputs: Inputs, params: Mapping[str, JSON], context: Context) -> Provenance:
    """Write weights, and the files of the source as config and tokenizer."""
    del params
    files = {source.tag: source.path for source in inputs.sources}
    with weights_writer(context.out / "weights", TENSORS) as writer:
        for number, spec in enumerate(TENSORS):
            writer.write(spec.name, 0, np.arange(spec.size, dtype=np.float32) / (number + 7))
    (context.out / "config").write_bytes(files["config.json"].read_bytes())
    (context.out / "generation_config").write_text("{}\n")
    (context.out / "tokenizer").mkdir()
    (context.out / "tokenizer" / "tokenizer.json").write_bytes(files["tokenizer.json"].read_bytes())
    return {"architecture": "StandIn", "parameters": sum(spec.size for spec in TENSORS)}


def prepare(inputs: Inputs, params: Mapping[str, JSON], context: Context) -> Provenance:
    """Write each line of a dataset as a row of its bytes; none is held out."""
    del params
    lines = [line for source in inputs.sources for line in source.path.read_bytes().splitlines()]
    if (word := os.environ.get(FAILING)) and any(word.encode() in line for line in lines):
        raise ActionError(f"has {word!r}", where="a stand-in", hint="leave it out")
    for name in ("train", "validation", "test", "sample"):
        with RowsWriter(context.work / "spool" / name) as writer:
            for line in lines if name == "train" else ():
                ids = np.frombuffer(line, np.uint8).astype(np.int32)
                writer.append(ids, ids, hashlib.sha256(line).digest())
            writer.save(context.out / name)
    return {"rows": len(lines)}


def finetune(inputs: Inputs, params: Mapping[str, JSON], context: Context) -> Provenance:
    """Go from the newest checkpoint, or from what the inputs hash to, to the last step."""
    folder = context.work / "checkpoints"
    checkpoint = newest_complete(folder)
    begun = step_of(checkpoint) if checkpoint else 0
    state = (
        (checkpoint / "optimizer" / "state").read_bytes() if checkpoint else _hash(inputs.paths["data/train"])
    )
    luck = os.environ.get(LUCK, "").encode()
    for step in range(begun + 1, params["max_steps"] + 1):
        state = hashlib.sha256(state + str(params["seed"]).encode() + luck).digest()
        _tell(context.work.parent.name, step)
        context.progress(step, params["max_steps"], "steps", loss=1.0)
        if step % STEPS_A_CHECKPOINT == 0:
            _save(folder / f"checkpoint-{step}", state)
    with open_checkpoint(inputs.paths["base/weights"]) as base:
        shapes = delta_shapes(base)
    write_delta(
        context.out / "delta",
        inputs.digests["base/weights"],
        shapes,
        _values(shapes, state),
        params["vector_dtype"],
    )
    return {"resumed_from": begun or None}


def stand_in() -> None:
    """Let this process run these steps instead of those that import torch."""
    for name, run in (("base", import_base), ("prepare", prepare), ("finetune", finetune)):
        module = types.ModuleType(f"dem_build.actions.{name}.run")
        module.run = run  # type: ignore[attr-defined]
        sys.modules[module.__name__] = module


def _save(checkpoint: Path, state: bytes) -> None:
    (checkpoint / "optimizer").mkdir(parents=True)  # of several files in several folders, as Trainer's are
    (checkpoint / "optimizer" / "state").write_bytes(state)
    (checkpoint / "dem.json").write_text(json.dumps({"seconds": 0.0}))
    keep(checkpoint)


def _values(shapes: Mapping[str, tuple[int, ...]], state: bytes) -> Iterator[tuple[str, NDArray[np.float32]]]:
    drawn = np.random.default_rng(list(state))
    for name, shape in shapes.items():
        yield name, drawn.standard_normal(shape, dtype=np.float32)


def _hash(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def _tell(key: str, step: int) -> None:
    if path := os.environ.get(TRAINED):
        with Path(path).open("a") as file:
            file.write(f"{key} {step}\n")
