"""Somebody's fine-tune, a checkpoint or a LoRA adapter, here or on a hub, judged by names and config: its files.

Torch-free and cheap: no tensor is read. Whether it is a fine-tune of the recipe's base is seen when its vector is
extracted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.checkpoint.filenames import ADAPTER_CONFIG, ADAPTER_WEIGHTS, CONFIG, listed, weight_files
from dem_build.errors import UsageError
from dem_build.json_text import parse_json
from dem_build.lock.base import read_config

if TYPE_CHECKING:
    from pathlib import Path

    from dem_build.checkpoint.filenames import Listing
    from dem_build.digest import JSON

_PICKLE = "adapter_model.bin"

ADAPTER_KEYS = (
    "r",
    "lora_alpha",
    "target_modules",
    "exclude_modules",
    "target_parameters",
    "layers_to_transform",
    "layers_pattern",
    "rank_pattern",
    "alpha_pattern",
    "fan_in_fan_out",
    "bias",
    "lora_bias",
    "use_rslora",
    "use_dora",
    "modules_to_save",
    "ensure_weight_tying",
)
"""Keys of an adapter's config that say what it adds to the weights."""

# Keys that only matter while training, and those that peft writes into every config.
_WITHOUT_EFFECT = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "corda_config",
        "eva_config",
        "inference_mode",
        "init_lora_weights",  # looked at by itself
        "loftq_config",
        "lora_dropout",
        "megatron_core",
        "peft_type",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
        "task_type",
    }
)
# How adapters begin that leave the base as it is; others (pissa, olora, loftq) train on another base than the recipe's.
_PLAIN_STARTS = (None, True, False, "gaussian", "orthogonal", "eva")


def local_files(source: str, folder: Path) -> list[tuple[str, Path]]:
    """The files of a fine-tune on this machine that matter, each with its name.

    Args:
        source: `checkpoint` or `adapter`.
        folder: As `save_pretrained` writes it.

    Raises:
        UsageError: No folder, a file that is missing, or a kind of model or adapter that dem does not take.
        CheckpointError: An index of shards that cannot be read.
    """
    if folder.suffix == ".gguf":
        hint = "name a folder of safetensors, as save_pretrained writes it"
        raise UsageError("is a GGUF file: no vector is extracted from one", where=str(folder), hint=hint)
    if folder.is_file():
        raise UsageError("is a file", where=str(folder), hint="name the folder that it lies in")
    if not folder.is_dir():
        hint = "a path starts from the recipe's folder"
        raise UsageError("no such folder", where=str(folder), hint=hint)
    choose = adapter_files if source == "adapter" else checkpoint_files
    return [(name, folder / name) for name in choose(listed(folder))]


def checkpoint_files(files: Listing) -> list[str]:
    """The names of a fine-tuned model's files that matter: config and weights; a tokenizer is not looked for.

    Raises:
        UsageError: A file that is missing, or a kind of model that dem does not take.
        CheckpointError: An index of shards that cannot be read.
    """
    if ADAPTER_CONFIG in files.names and CONFIG not in files.names:
        hint = "name it in `adapter`, not in `checkpoint`"
        raise UsageError("is an adapter, not a whole model", where=files.where, hint=hint)
    read_config(files)
    return sorted([*weight_files(files), CONFIG])


def adapter_files(files: Listing) -> list[str]:
    """The names of the two files of a LoRA adapter, as peft's `save_pretrained` writes it.

    Raises:
        UsageError: A file that is missing, or an adapter that dem does not merge.
    """
    if ADAPTER_CONFIG not in files.names:
        whole = CONFIG in files.names
        hint = "name it in `checkpoint`" if whole else "name an adapter that peft's save_pretrained wrote"
        what = "is a whole model, not an adapter" if whole else f"holds no {ADAPTER_CONFIG}"
        raise UsageError(what, where=files.where, hint=hint)
    if ADAPTER_CONFIG in files.absent and ADAPTER_WEIGHTS in files.names:
        return [ADAPTER_CONFIG, ADAPTER_WEIGHTS]  # it was judged when it was locked
    try:
        config = parse_json(files.text(ADAPTER_CONFIG))
    except ValueError as error:
        what = f"is no JSON: {error}"
        raise UsageError(what, where=files.place(ADAPTER_CONFIG), hint=files.again) from error
    if (reason := _refusal(config)) is not None:
        hint = "merge it with peft, save the model, and name that folder in `checkpoint`"
        raise UsageError(reason, where=files.where, hint=hint)
    if ADAPTER_WEIGHTS in files.names:
        return [ADAPTER_CONFIG, ADAPTER_WEIGHTS]
    if _PICKLE in files.names:
        what = f"has its weights in {_PICKLE}, a pickle, which dem does not open"
        hint = f"convert it: PeftModel.from_pretrained(BASE, {files.given}).save_pretrained(NEW_FOLDER)"
        raise UsageError(what, where=files.where, hint=hint)
    raise UsageError(f"holds no {ADAPTER_WEIGHTS}", where=files.where, hint=files.again)


def _refusal(config: JSON) -> str | None:
    """Why an adapter of this config cannot become a vector; None where it can."""
    if not isinstance(config, dict) or not isinstance(config.get("peft_type"), str):
        return "is no adapter of peft: its config has no peft_type"
    if config["peft_type"] != "LORA":
        return f"is an adapter of type {config['peft_type']}, and dem merges LORA alone"
    if config.get("init_lora_weights") not in _PLAIN_STARTS:
        return f"was started by {config['init_lora_weights']!r}, which changes the base it adds to"
    known = {*ADAPTER_KEYS, *_WITHOUT_EFFECT}
    if odd := sorted(key for key, value in config.items() if value and key not in known):
        return f"is a LoRA with {', '.join(odd)}, which dem does not merge"
    return None
