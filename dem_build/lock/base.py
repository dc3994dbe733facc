"""What a recipe's `[base]` names: a model's folder, repository or GGUF file, and the chat template that it brings.

A model is judged by names and config; its weights are checked when the base is imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.checkpoint.filenames import (
    ADAPTER_CONFIG,
    CONFIG,
    GENERATION_CONFIG,
    TOKENIZER_FILES,
    VOCABULARIES,
    Listing,
    is_named_template,
    listed,
    weight_files,
)
from dem_build.errors import RecipeError, UsageError
from dem_build.json_text import parse_json

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from dem_build.action import SourceFile
    from dem_build.digest import JSON
    from dem_build.recipe import Recipe

CHAT_TEMPLATE = "chat_template"
"""Tag of the recipe's chat template; `chat_template.jinja` is a base's own."""
GGUF = "model.gguf"
"""Tag of a GGUF file, whatever it is called."""

_CAUSAL = ("ForCausalLM", "LMHeadModel")


def locate_template(recipe: Recipe) -> tuple[tuple[str, Path], ...]:
    """The chat template that the recipe brings, with its tag; nothing where it brings none.

    Raises:
        UsageError: There is no such file.
    """
    if recipe.base.chat_template is None:
        return ()
    path = recipe.resolve(recipe.base.chat_template)
    if not path.is_file():
        hint = "name a file of Jinja; a path starts from the recipe's folder"
        raise UsageError("no such file", where=str(path), hint=hint)
    return ((CHAT_TEMPLATE, path),)


def template_is_new(files: Iterable[SourceFile], old: JSON | None) -> bool:
    """Whether the recipe's chat template is none that a lock has: one that is locked was judged before."""
    known = [f["sha256"] for f in old["base"]["files"] if f["tag"] == CHAT_TEMPLATE] if old else []
    return any(f.tag == CHAT_TEMPLATE and f.digest not in known for f in files)


def refuse_template(recipe: Recipe) -> None:
    """Refuse a chat template that cannot write a question and its answer, before anything is built with it.

    Raises:
        RecipeError: It cannot.
    """
    named = recipe.base.chat_template
    if named is None:
        return
    from dem_build.data.template import check_template, read_template  # noqa: PLC0415  few recipes have one

    try:
        check_template(read_template(recipe.resolve(named)), named)
    except UsageError as error:
        problem = recipe.problem("base.chat_template", error.located, error.hint or "")
        raise RecipeError([problem]) from error


def base_files(path: Path) -> list[tuple[str, Path]]:
    """The files of a base model that matter, each with its tag; a README is not among them.

    Args:
        path: A folder as `save_pretrained` writes it, or a `.gguf` file.

    Raises:
        UsageError: Nothing there, a file that is missing, or a kind of model that dem does not take.
        CheckpointError: An index of shards that cannot be read.
    """
    if path.is_file():
        with path.open("rb") as file:
            magic = file.read(4)
        if magic != b"GGUF":
            hint = "name a model's folder, or download the GGUF file again"
            raise UsageError("is neither a model's folder nor a GGUF file", where=str(path), hint=hint)
        return [(GGUF, path)]
    if not path.is_dir():
        hint = "a path starts from the recipe's folder"
        raise UsageError("no such folder or file", where=str(path), hint=hint)
    return [(name, path / name) for name in model_files(listed(path))]


def model_files(files: Listing) -> list[str]:
    """The names of a model's files that matter, in order; a README is not among them.

    Raises:
        UsageError: A file that is missing, or a kind of model that dem does not take.
        CheckpointError: An index of shards that cannot be read.
    """
    read_config(files)
    weights = weight_files(files)
    tokenizer = [name for name in files.names if name in TOKENIZER_FILES or is_named_template(name)]
    if not set(tokenizer) & set(VOCABULARIES):
        hint = "save it there: AutoTokenizer.from_pretrained(MODEL).save_pretrained(FOLDER)"
        raise UsageError("holds no tokenizer", where=files.where, hint=hint)
    return sorted([*weights, *tokenizer, CONFIG, *({GENERATION_CONFIG} & files.names)])


def read_config(files: Listing) -> dict[str, JSON]:
    """The `config.json` of a model, of a kind that dem composes; nothing of one that a lock alone tells of.

    Raises:
        UsageError: No such file, no config, or a kind of model that dem does not take.
    """
    if CONFIG in files.absent:
        return {}  # it was judged when it was locked
    if CONFIG not in files.names:
        if ADAPTER_CONFIG in files.names:
            hint = "name the model it was trained on"
            raise UsageError("is an adapter, not a model", where=files.where, hint=hint)
        if found := sorted(name for name in files.names if name.endswith(".gguf")):
            hint = f"name {files.place(found[0])}"
            raise UsageError("holds a GGUF file and no config.json", where=files.where, hint=hint)
        raise UsageError("holds no config.json", where=files.where, hint=files.other)
    try:
        config = parse_json(files.text(CONFIG))
    except ValueError as error:
        raise UsageError(f"is no JSON: {error}", where=files.place(CONFIG), hint=files.again) from error
    check_config(config, files.where)
    return dict(config)


def check_config(config: JSON, where: str) -> None:
    """Refuse a model that cannot be composed, by its `config.json`.

    Raises:
        UsageError: A quantised, vision or audio, encoder-decoder, adapter or non-causal model.
    """
    if not isinstance(config, dict) or "model_type" not in config:
        what = "is no config of a transformers model: it has no model_type"
        raise UsageError(what, where=where, hint="name a folder that save_pretrained wrote")
    if reason := _refusal(config):
        hint = "dem composes decoder-only text models with float weights"
        raise UsageError(reason, where=where, hint=hint)


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
    # Where `architectures` is missing, transformers chooses the class by model_type.
    if architectures and not any(a.endswith(_CAUSAL) for a in architectures):
        return f"is no causal language model: {', '.join(architectures)}"
    return None
