"""A base model's folder or GGUF file, judged by names and config alone: which files matter, and what dem refuses.

Torch-free and cheap: it reads `config.json` and the index of the shards, and no tensor. Weights are checked when
the base is imported.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from dem_build.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from dem_build.digest import JSON

__all__ = [
    "CHAT_TEMPLATE",
    "CONFIG",
    "GENERATION_CONFIG",
    "GGUF",
    "INDEX",
    "SINGLE",
    "TOKENIZER_FILES",
    "base_files",
    "check_config",
    "read_config",
    "shards_of",
    "weight_files",
]

CHAT_TEMPLATE = "chat_template"
"""Tag of the recipe's chat template; `chat_template.jinja` is a base's own."""
CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
GGUF = "model.gguf"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
TOKENIZER_FILES = (
    *VOCABULARIES,
    "added_tokens.json",
    "chat_template.jinja",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer_config.json",
)
"""Every file of a base folder that reaches its tokenizer."""

OTHER_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")
CAUSAL = ("ForCausalLM", "LMHeadModel")
TO_SAFETENSORS = "convert it: AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)"
AGAIN = "download the model again, all of its files"
SUPPORTED = "dem composes decoder-only text models with float weights"


def base_files(path: Path) -> list[tuple[str, Path]]:
    """Return the files of a base model that matter, each with its tag; a README is not among them.

    Args:
        path: A folder as `save_pretrained` writes it, or a `.gguf` file.

    Raises:
        UsageError: Nothing there, a file that is missing, or a kind of model that dem does not take.
        CheckpointError: An index of shards that cannot be read.
    """
    if path.is_file():
        return [(GGUF, _gguf(path))]
    if not path.is_dir():
        hint = "a path starts from the recipe's folder"
        raise UsageError("no such folder or file", where=str(path), hint=hint)
    read_config(path)
    names = [*weight_files(path), *_tokenizer(path), CONFIG]
    if (path / GENERATION_CONFIG).is_file():
        names.append(GENERATION_CONFIG)
    return [(name, path / name) for name in sorted(names)]


def shards_of(index: Path) -> dict[str, str]:
    """Return which file holds each tensor, as the index of a sharded checkpoint says.

    Raises:
        CheckpointError: No such index.
    """
    try:
        shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        if all(isinstance(file, str) and "/" not in file for file in shards.values()):
            return dict(shards)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    raise CheckpointError(
        "is no index of safetensors shards: it has no weight_map of file names",
        where=str(index),
        hint=AGAIN,
    )


def check_config(config: JSON, where: str) -> None:
    """Refuse a model that cannot be composed, by its `config.json`.

    Raises:
        UsageError: A quantised, vision or audio, encoder-decoder, adapter or non-causal model.
    """
    if not isinstance(config, dict) or "model_type" not in config:
        what = "is no config of a transformers model: it has no model_type"
        raise UsageError(what, where=where, hint="name a folder that save_pretrained wrote")
    if reason := _refusal(config):
        raise UsageError(reason, where=where, hint=SUPPORTED)


def _refusal(config: dict[str, JSON]) -> str | None:
    kind = config["model_type"]
    architectures = [str(a) for a in config.get("architectures") or []]
    if "quantization_config" in config or "compression_config" in config:
        settings = config.get("quantization_config") or config.get("compression_config") or {}
        return f"is a quantised model ({settings.get('quant_method', 'unknown method')}): take its float original"
    if other := sorted({"vision_config", "audio_config", "speech_config"} & config.keys()):
        sense = other[0].removesuffix("_config")
        return f"is {'an' if sense == 'audio' else 'a'} {sense} model ({kind})"
    if config.get("is_encoder_decoder"):
        return f"is an encoder-decoder model ({kind})"
    if architectures and not any(a.endswith(CAUSAL) for a in architectures):
        return f"is no causal language model: {', '.join(architectures)}"
    return None


def _gguf(path: Path) -> Path:
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise UsageError(
            "is neither a model's folder nor a GGUF file",
            where=str(path),
            hint="name a model's folder, or download the GGUF file again",
        )
    return path


def read_config(folder: Path) -> dict[str, JSON]:
    """Return the `config.json` of a model's folder, of a kind that dem composes.

    Raises:
        UsageError: No such file, no config, or a kind of model that dem does not take.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise _no_config(folder)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"is no JSON: {error}", where=str(path), hint=AGAIN) from error
    check_config(config, str(folder))
    return dict(config)


def weight_files(folder: Path) -> list[str]:
    """Return the names of the files that hold a model's weights, an index of shards among them.

    Raises:
        UsageError: There are none, a shard is missing, or they are of a format that dem does not open.
        CheckpointError: An index of shards that cannot be read.
    """
    if (folder / INDEX).is_file():
        shards = sorted(set(shards_of(folder / INDEX).values()))
        if missing := [name for name in shards if not (folder / name).is_file()]:
            what = f"lacks {len(missing)} of {len(shards)} shards, first {missing[0]}"
            raise UsageError(what, where=str(folder), hint=AGAIN)
        return [INDEX, *shards]
    if (folder / SINGLE).is_file():
        return [SINGLE]
    if other := sorted(p.name for pattern in OTHER_WEIGHTS for p in folder.glob(pattern)):
        raise UsageError(
            f"has its weights in {other[0]}, which dem does not open", where=str(folder), hint=TO_SAFETENSORS
        )
    raise UsageError(f"holds neither {SINGLE} nor {INDEX}", where=str(folder), hint=AGAIN)


def _no_config(folder: Path) -> UsageError:
    if (folder / "adapter_config.json").is_file():
        hint = "name the model it was trained on"
        return UsageError("is an adapter, not a model", where=str(folder), hint=hint)
    if found := sorted(folder.glob("*.gguf")):
        return UsageError("holds a GGUF file and no config.json", where=str(folder), hint=f"name {found[0]}")
    hint = "name a folder that save_pretrained wrote"
    return UsageError("holds no config.json", where=str(folder), hint=hint)


def _tokenizer(folder: Path) -> list[str]:
    names = [name for name in TOKENIZER_FILES if (folder / name).is_file()]
    if not set(names) & set(VOCABULARIES):
        hint = "save it there: AutoTokenizer.from_pretrained(MODEL).save_pretrained(FOLDER)"
        raise UsageError("holds no tokenizer", where=str(folder), hint=hint)
    return names
