"""A base model's folder, repository or GGUF file, judged by names and config: what matters, and what dem refuses.

Torch-free and cheap: it reads `config.json` and the index of the shards, and no tensor. Weights are checked when
the base is imported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dem_build.errors import CheckpointError, UsageError
from dem_build.json_text import parse_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dem_build.digest import JSON

__all__ = [
    "CHAT_TEMPLATE",
    "CONFIG",
    "GENERATION_CONFIG",
    "GGUF",
    "INDEX",
    "NAMED_TEMPLATES",
    "SINGLE",
    "TOKENIZER_CONFIG",
    "TOKENIZER_FILES",
    "TOKENIZER_JSON",
    "Listing",
    "base_files",
    "check_config",
    "is_named_template",
    "listed",
    "model_files",
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
TOKENIZER_JSON = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
VOCABULARIES = (TOKENIZER_JSON, "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
TOKENIZER_FILES = (
    *VOCABULARIES,
    "added_tokens.json",
    "chat_template.jinja",
    "merges.txt",
    "special_tokens_map.json",
    TOKENIZER_CONFIG,
)
"""Every file of a base folder that reaches its tokenizer, but for `NAMED_TEMPLATES`."""
NAMED_TEMPLATES = "additional_chat_templates"
"""Folder of the chat templates beside the default one, `NAME.jinja` each."""

OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack")
CAUSAL = ("ForCausalLM", "LMHeadModel")
TO_SAFETENSORS = "convert it: AutoModelForCausalLM.from_pretrained({}).save_pretrained(NEW_FOLDER)"
AGAIN = "download the model again, all of its files"
SUPPORTED = "dem composes decoder-only text models with float weights"


@dataclass(frozen=True)
class Listing:
    """The files of a model, wherever they lie.

    Attributes:
        names: The names of its files, those of its named chat templates after their folder's.
        text: Returns the text of one of them; a ValueError where it is no UTF-8.
        place: Returns what messages call one of them.
        where: What messages call the model.
        given: How it is named to `from_pretrained`.
        again: What to do where a file is missing or damaged.
        other: What to do where it is no model.
    """

    names: frozenset[str]
    text: Callable[[str], str]
    place: Callable[[str], str]
    where: str
    given: str = "FOLDER"
    again: str = AGAIN
    other: str = "name a folder that save_pretrained wrote"


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
    return [(name, path / name) for name in model_files(listed(path))]


def model_files(files: Listing) -> list[str]:
    """Return the names of a model's files that matter, in order; a README is not among them.

    Raises:
        UsageError: A file that is missing, or a kind of model that dem does not take.
        CheckpointError: An index of shards that cannot be read.
    """
    read_config(files)
    return sorted([*weight_files(files), *_tokenizer(files), CONFIG, *({GENERATION_CONFIG} & files.names)])


def shards_of(index: Path) -> dict[str, str]:
    """Return which file holds each tensor, as the index of a sharded checkpoint says.

    Raises:
        CheckpointError: No such index.
    """
    return _shards(lambda: index.read_text(encoding="utf-8"), str(index), AGAIN)


def _shards(read: Callable[[], str], where: str, again: str) -> dict[str, str]:
    try:
        shards = parse_json(read())["weight_map"]
        if all(isinstance(file, str) and "/" not in file for file in shards.values()):
            return dict(shards)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    what = "is no index of safetensors shards: it has no weight_map of file names"
    raise CheckpointError(what, where=where, hint=again)


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
    named = config.get("architectures") or []
    architectures = [str(a) for a in named] if isinstance(named, list) else [str(named)]
    if "quantization_config" in config or "compression_config" in config:
        settings = config.get("quantization_config") or config.get("compression_config")
        method = settings.get("quant_method") if isinstance(settings, dict) else None
        return f"is a quantised model ({method or 'unknown method'}): take its float original"
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


def read_config(model: Path | Listing) -> dict[str, JSON]:
    """Return the `config.json` of a model's folder or repository, of a kind that dem composes.

    Raises:
        UsageError: No such file, no config, or a kind of model that dem does not take.
    """
    files = model if isinstance(model, Listing) else listed(model)
    if CONFIG not in files.names:
        raise _no_config(files)
    try:
        config = parse_json(files.text(CONFIG))
    except ValueError as error:
        raise UsageError(f"is no JSON: {error}", where=files.place(CONFIG), hint=files.again) from error
    check_config(config, files.where)
    return dict(config)


def weight_files(model: Path | Listing) -> list[str]:
    """Return the names of the files that hold a model's weights, an index of shards among them.

    Raises:
        UsageError: There are none, a shard is missing, or they are of a format that dem does not open.
        CheckpointError: An index of shards that cannot be read.
    """
    files = model if isinstance(model, Listing) else listed(model)
    if SINGLE in files.names:  # whatever else lies there: as transformers decides
        return [SINGLE]
    if INDEX in files.names:
        shards = sorted(set(_shards(lambda: files.text(INDEX), files.place(INDEX), files.again).values()))
        if missing := [name for name in shards if name not in files.names]:
            what = f"lacks {len(missing)} of {len(shards)} shards, first {missing[0]}"
            raise UsageError(what, where=files.where, hint=files.again)
        return [INDEX, *shards]
    if other := sorted(name for name in files.names if name.endswith(OTHER_WEIGHTS)):
        what = f"has its weights in {other[0]}, which dem does not open"
        raise UsageError(what, where=files.where, hint=TO_SAFETENSORS.format(files.given))
    raise UsageError(f"holds neither {SINGLE} nor {INDEX}", where=files.where, hint=files.again)


def is_named_template(name: str) -> bool:
    """Tell whether a file of a model is a chat template that has a name."""
    folder, _, file = name.rpartition("/")
    return folder == NAMED_TEMPLATES and file.endswith(".jinja")


def listed(folder: Path) -> Listing:
    """Return the files of a folder, and those of the folder of named chat templates in it."""
    found = [*folder.iterdir(), *(folder / NAMED_TEMPLATES).glob("*")]
    return Listing(
        names=frozenset(p.relative_to(folder).as_posix() for p in found if p.is_file()),
        text=lambda name: (folder / name).read_text(encoding="utf-8"),
        place=lambda name: str(folder / name),
        where=str(folder),
    )


def _no_config(files: Listing) -> UsageError:
    if "adapter_config.json" in files.names:
        hint = "name the model it was trained on"
        return UsageError("is an adapter, not a model", where=files.where, hint=hint)
    if found := sorted(name for name in files.names if name.endswith(".gguf")):
        hint = f"name {files.place(found[0])}"
        return UsageError("holds a GGUF file and no config.json", where=files.where, hint=hint)
    return UsageError("holds no config.json", where=files.where, hint=files.other)


def _tokenizer(files: Listing) -> list[str]:
    names = [name for name in TOKENIZER_FILES if name in files.names]
    names += sorted(name for name in files.names if is_named_template(name))
    if not set(names) & set(VOCABULARIES):
        hint = "save it there: AutoTokenizer.from_pretrained(MODEL).save_pretrained(FOLDER)"
        raise UsageError("holds no tokenizer", where=files.where, hint=hint)
    return names
