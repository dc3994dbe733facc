"""Kind `import`: a base model's folder or GGUF file becomes weights, config and tokenizer in canonical form.

The same tensors give the same bytes, however the source was sharded and whatever lay beside them. Nothing is taken
on trust: the weights must be exactly those of the config's architecture.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transformers
from transformers import AutoTokenizer

from dem_build.basemodel import (
    CONFIG,
    GENERATION_CONFIG,
    GGUF,
    TOKENIZER_FILES,
    base_files,
    check_config,
)
from dem_build.checkpoint import (
    CODES,
    NAMES,
    Combination,
    combine,
    result_specs,
    weights_writer,
)
from dem_build.errors import CheckpointError
from dem_build.steps.architecture import architecture
from dem_build.steps.gguf import expand_gguf
from dem_build.steps.models import quiet
from dem_build.steps.selection import open_files, select

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dem_build.checkpoint import Checkpoint, TensorSpec
    from dem_build.digest import JSON
    from dem_build.steps.api import Context, Inputs, Provenance
    from dem_build.steps.architecture import Architecture

__all__ = ["run"]

# Of no meaning to the model, or untrue of what is stored here.
VOLATILE = (
    "_model_name_or_path",
    "_name_or_path",
    "_commit_hash",
    "_from_model_config",
    "auto_map",
    "torch_dtype",
    "transformers_version",
)


def run(inputs: Inputs, params: Mapping[str, JSON], context: Context) -> Provenance:
    """Import a base model.

    Args:
        inputs: The files of the base as `sources`, each tagged with its name (`model.gguf` for a GGUF file).
        params: `source` (`directory` or `gguf`) and `dtype` of the stored weights, null for as they are.
        context: Where and how.

    Returns:
        The architecture, its parameters, and the format and bytes that are stored.

    Raises:
        CheckpointError: Damaged files, or weights that are not those of the config's architecture.
        UsageError: A kind of model that dem does not compose.
    """
    files = {source.tag: source.path for source in inputs.sources}
    if params["source"] != "gguf":
        return _import(files, params["dtype"], str(files[CONFIG].parent), context)
    with tempfile.TemporaryDirectory(prefix="gguf-", dir=context.work) as folder:
        expanded = Path(folder) / "model"
        expand_gguf(files[GGUF], expanded)
        return _import(dict(base_files(expanded)), params["dtype"], str(files[GGUF]), context)


def _import(files: Mapping[str, Path], dtype: str | None, where: str, context: Context) -> Provenance:
    config = _read_json(files[CONFIG])
    check_config(config, where)
    weights = architecture(config, where)
    checkpoint = select(weights, open_files(files), where)
    specs = _write_weights(checkpoint, dtype, context)
    stored = dtype or _main_dtype(specs)
    _write_json(context.out / "config", _config(config, stored, weights))
    generation = _read_json(files[GENERATION_CONFIG]) if GENERATION_CONFIG in files else {}
    _write_json(context.out / "generation_config", _without_volatile(generation))
    _copy_tokenizer(files, context.out / "tokenizer", weights.vocabulary, where)
    return {
        "architecture": weights.model,
        "parameters": sum(spec.size for spec in specs),
        "bytes": sum(spec.nbytes for spec in specs),
        "dtype": stored,
        "transformers": transformers.__version__,
    }


def _write_weights(checkpoint: Checkpoint, dtype: str | None, context: Context) -> list[TensorSpec]:
    """Write the weights: a sum without vectors, which copies, converts and refuses what is not finite."""
    code = CODES[dtype] if dtype else None
    specs = result_specs(checkpoint, code)
    total = sum(spec.nbytes for spec in specs)

    def progress(done: int) -> None:
        context.check_stop()
        context.progress(done, total, "bytes")

    with checkpoint, weights_writer(context.out / "weights", specs) as writer:
        sum_of_base = Combination(checkpoint, (), (), "dem", code)
        combine(sum_of_base, writer, threads=context.threads, on_progress=progress)
    return specs


def _main_dtype(specs: list[TensorSpec]) -> str:
    """Return the float format that holds most parameters."""
    sizes: Counter[str] = Counter()
    for spec in sorted(specs, key=lambda s: s.dtype):
        if spec.dtype in NAMES:
            sizes[NAMES[spec.dtype]] += spec.size
    return sizes.most_common(1)[0][0]


def _config(config: dict[str, JSON], dtype: str, weights: Architecture) -> dict[str, JSON]:
    facts = {"architectures": [weights.model], "dtype": dtype, "tie_word_embeddings": weights.tied}
    return _without_volatile(config) | facts


def _without_volatile(document: dict[str, JSON]) -> dict[str, JSON]:
    return {key: value for key, value in document.items() if key not in VOLATILE}


def _copy_tokenizer(files: Mapping[str, Path], folder: Path, vocabulary: int, where: str) -> None:
    folder.mkdir()
    for name in TOKENIZER_FILES:
        if name in files:
            shutil.copyfile(files[name], folder / name)
    with quiet():
        try:
            tokenizer: Any = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        except (ValueError, KeyError, TypeError, ImportError, OSError) as error:
            reason = str(error).partition("\n")[0]
            raise CheckpointError(f"the tokenizer cannot be loaded: {reason}", where=where) from error
    if len(tokenizer) > vocabulary:
        what = f"the tokenizer has {len(tokenizer)} tokens, and the embeddings {vocabulary} rows"
        raise CheckpointError(what, where=where, hint="tokenizer and weights must be of one model")


def _read_json(path: Path) -> dict[str, JSON]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"is no JSON: {error}", where=str(path)) from error
    if not isinstance(document, dict):
        raise CheckpointError("is no JSON object", where=str(path))
    return document


def _write_json(path: Path, document: JSON) -> None:
    text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
