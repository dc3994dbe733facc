"""A vector of low rank as an adapter's folder, in the way in which peft saves one and loads it."""

from __future__ import annotations

import errno
import json
from typing import TYPE_CHECKING

import numpy as np

from dem_build.checkpoint.factors import open_factors
from dem_build.checkpoint.filenames import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from dem_build.checkpoint.header import TensorSpec
from dem_build.checkpoint.writer import METADATA, Writer

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

PREFIX = "base_model.model."  # of the model inside of peft's


def write_adapter(vector: Path, folder: Path, base: str | None, name: str) -> None:
    """Write `adapter_model.safetensors` and `adapter_config.json`.

    Args:
        vector: The file of a vector of low rank, of one training: all of its factors have one rank and one scale.
        folder: Where to; it must hold neither.
        base: What the config names as the adapter's base: a folder or a hub id; None where it has no name.
        name: What messages call the vector.

    Raises:
        CheckpointError: It is no vector of low rank.
        FileExistsError: One of the two is there.
    """
    if taken := [file for file in (ADAPTER_CONFIG, ADAPTER_WEIGHTS) if (folder / file).exists()]:
        raise FileExistsError(
            errno.EEXIST, f"there is an {taken[0]}"
        )  # before one is written beside another's other
    tensors: dict[str, NDArray[np.float32]] = {}
    with open_factors(vector, name) as delta:
        for changed, place in delta.places.items():
            found = delta.factors(changed)
            assert found is not None
            b, a = (found.a.T, found.b.T) if place.transposed else (found.b, found.a)
            tensors |= {f"{place.module}.lora_A.weight": a, f"{place.module}.lora_B.weight": b}
            rank, alpha = len(found.a), found.scale * len(found.a)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": int(alpha) if alpha.is_integer() else alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(place.module for place in delta.places.values()),
        "fan_in_fan_out": any(place.transposed for place in delta.places.values()),
        "inference_mode": True,
    }
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ADAPTER_CONFIG).open("x", encoding="utf-8") as file:
        file.write(json.dumps(config, indent=2) + "\n")
    specs = [TensorSpec(PREFIX + n, "F32", values.shape) for n, values in tensors.items()]
    with Writer({folder / ADAPTER_WEIGHTS: specs}, METADATA) as writer:
        for n, values in tensors.items():
            writer.write(PREFIX + n, 0, np.ascontiguousarray(values).reshape(-1))
