"""A GGUF file as a model's folder: dequantised to float32 by transformers, then imported like any other.

The whole model is in memory while it is dequantised, four bytes a parameter.
"""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from dem_build.basemodel import CONFIG, GENERATION_CONFIG
from dem_build.checkpoint import TensorSpec, weights_writer
from dem_build.errors import CheckpointError
from dem_build.steps.models import quiet

__all__ = ["expand_gguf"]

# How transformers came by the tokenizer, which differs from machine to machine.
MACHINE_KEYS = ("is_local", "local_files_only", "name_or_path")
UNREADABLE = (
    ValueError,
    KeyError,
    TypeError,
    IndexError,
    NotImplementedError,
    ImportError,
    OSError,
    RuntimeError,
)


def expand_gguf(path: Path, folder: Path) -> None:
    """Write a GGUF file's model in float32, its config and its tokenizer to a new folder.

    Raises:
        CheckpointError: transformers cannot read the file or does not know its architecture.
    """
    model, tokenizer = _load(path)
    _write_weights(model, folder)
    tokenizer.save_pretrained(folder)
    _drop(folder / "tokenizer_config.json", MACHINE_KEYS)
    config = model.config.to_diff_dict()
    config.pop("quantization_config", None)
    (folder / CONFIG).write_text(json.dumps(config), encoding="utf-8")
    (folder / GENERATION_CONFIG).write_text(model.generation_config.to_json_string(), encoding="utf-8")


def _load(path: Path) -> tuple[Any, Any]:
    """Load the model and the tokenizer, in a folder of the file's own: transformers reads what lies beside it."""
    arguments: Any = {"gguf_file": path.name, "local_files_only": True, "trust_remote_code": False}
    bars = contextlib.redirect_stderr(io.StringIO())  # a progress bar that transformers cannot switch off
    with tempfile.TemporaryDirectory(prefix="dem-gguf-") as alone, quiet(), bars:
        (Path(alone) / path.name).symlink_to(path.resolve())
        try:
            model = AutoModelForCausalLM.from_pretrained(alone, dtype=torch.float32, **arguments)
            return model, AutoTokenizer.from_pretrained(alone, **arguments)
        except UNREADABLE as error:
            reason = str(error).partition("\n")[0]
            hint = "transformers reads the GGUF of common architectures alone; take the original's folder"
            raise CheckpointError(f"cannot be dequantised: {reason}", where=str(path), hint=hint) from error


def _write_weights(model: Any, folder: Path) -> None:
    ties = model.all_tied_weights_keys
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name not in ties}
    with weights_writer(folder, [TensorSpec(n, "F32", tuple(t.shape)) for n, t in tensors.items()]) as writer:
        for name, tensor in tensors.items():
            writer.write(name, 0, tensor.contiguous().numpy().reshape(-1))


def _drop(path: Path, keys: tuple[str, ...]) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    kept = {key: value for key, value in document.items() if key not in keys}
    path.write_text(json.dumps(kept, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
