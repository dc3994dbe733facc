"""Kind `import`: a base model's folder or GGUF file becomes weights, config and tokenizer in canonical form.

The same tensors give the same bytes, however the source was sharded and whatever lay beside them. Nothing is taken
on trust: the weights must be exactly those of the config's architecture.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import transformers

from dem_build.actions.base.gguf import expand_gguf
from dem_build.actions.base.vocabulary import (
    Wishes,
    enlarged,
    enlarged_specs,
    prepare_tokenizer,
    write_new_rows,
)
from dem_build.actions.compose.methods import EDIT
from dem_build.checkpoint.combine import Combination, combine, result_specs
from dem_build.checkpoint.filenames import CONFIG, GENERATION_CONFIG
from dem_build.checkpoint.floats import CODES, NAMES
from dem_build.checkpoint.header import kept_in, kept_metadata
from dem_build.checkpoint.writer import weights_writer
from dem_build.data.template import read_template
from dem_build.errors import CheckpointError
from dem_build.json_text import parse_json
from dem_build.lock.base import CHAT_TEMPLATE, GGUF, base_files, check_config
from dem_build.model.architecture import architecture, open_files, select
from dem_build.model.tokenizer_files import write_json
from dem_build.model.weight_layout import WeightLayout

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dem_build.actions.base.vocabulary import Vocabulary
    from dem_build.checkpoint.header import TensorSpec
    from dem_build.checkpoint.reader import Checkpoint
    from dem_build.digest import JSON
    from dem_build.model.architecture import Architecture
    from dem_build.step import Context, Inputs, Provenance

NARROW = ("BF16", "F16")
# Of no meaning to the model, or untrue of what is stored here; what a forward pass is to return is for its caller to
# say, and what labels and a JavaScript library are told reaches no text model's weights, training or answers.
VOLATILE = (
    "_model_name_or_path", "_name_or_path", "_commit_hash", "_from_model_config", "auto_map",
    "finetuning_task", "id2label", "label2id", "output_attentions", "output_hidden_states", "problem_type",
    "return_dict", "torch_dtype", "transformers.js_config", "transformers_version",
)  # fmt: skip
# Reaches speed alone: off in the middle of a training, and forgotten there. Always written, as most bases have it, so
# that their configs stay as they were recorded.
ALWAYS = {"use_cache": True}


def run(inputs: Inputs, params: Mapping[str, JSON], context: Context) -> Provenance:
    """Import a base model.

    Args:
        inputs: The files of the base as `sources`, each tagged with its name (`model.gguf` for a GGUF file), and the
            recipe's chat template where it has one.
        params: `source` (`directory` or `gguf`), `dtype` of the stored weights, null for as they are, `pad_token` and
            `added_tokens`.
        context: Where and how.

    Returns:
        The architecture, its parameters, and the format and bytes that are stored.

    Raises:
        CheckpointError: Damaged files, or weights that are not those of the config's architecture.
        UsageError: A kind of model that dem does not compose, or a token or template that the tokenizer cannot take.
    """
    files = {source.tag: source.path for source in inputs.sources}
    template = read_template(files[CHAT_TEMPLATE]) if CHAT_TEMPLATE in files else None
    wishes = Wishes(template, params.get("pad_token"), tuple(params.get("added_tokens") or ()))
    if params["source"] != "gguf":
        where = next(source.origin for source in inputs.sources if source.tag == CONFIG)
        return _import(files, params["dtype"], wishes, where, context)
    with tempfile.TemporaryDirectory(prefix="gguf-", dir=context.work) as folder:
        expanded = Path(folder) / "model"
        if warning := expand_gguf(files[GGUF], expanded):
            context.warn(warning)
        context.note(f"GGUF: dequantised, and stored as {params['dtype']} ([base] dtype)")
        return _import(dict(base_files(expanded)), params["dtype"], wishes, str(files[GGUF]), context)


def _import(
    files: Mapping[str, Path], dtype: str | None, wishes: Wishes, where: str, context: Context
) -> Provenance:
    config = _read_json(files[CONFIG])
    check_config(config, where)
    weights = architecture(config, where)
    checkpoint = select(weights, open_files(files), where)
    vocabulary = prepare_tokenizer(files, context.out / "tokenizer", wishes, _without_volatile(config), where)
    before = weights.vocabulary
    if vocabulary.known > before:
        what = f"the tokenizer has {vocabulary.known} tokens, and the embeddings {before} rows"
        raise CheckpointError(what, where=where, hint="tokenizer and weights must be of one model")
    if vocabulary.tokens > before:
        config, weights = enlarged(config, weights, vocabulary.tokens, where)
    _tell(vocabulary, weights.vocabulary - before, context)
    specs = _write_weights(checkpoint, weights, dtype, vocabulary.known, context)
    # Of several formats, the one that holds most parameters: transformers loads by one name for all.
    sizes: Counter[str] = Counter()
    for spec in sorted(specs, key=lambda s: s.dtype):
        if spec.dtype in NAMES:
            sizes[NAMES[spec.dtype]] += spec.size
    stored = dtype or sizes.most_common(1)[0][0]
    generation = _read_json(files[GENERATION_CONFIG]) if GENERATION_CONFIG in files else {}
    if vocabulary.pad_id is not None:
        config = config | {"pad_token_id": vocabulary.pad_id}
        # Where there is none, transformers makes one from the config, and so it stays absent.
        generation = generation and generation | {"pad_token_id": vocabulary.pad_id}
    facts = {"architectures": [weights.model], "dtype": stored, "tie_word_embeddings": weights.tied}
    write_json(context.out / "config", _without_volatile(config) | ALWAYS | facts)
    write_json(context.out / "generation_config", _without_volatile(generation))
    return {
        "architecture": weights.model,
        "parameters": sum(spec.size for spec in specs),
        "bytes": sum(spec.nbytes for spec in specs),
        "dtype": stored,
        "added_tokens": list(vocabulary.added),
        "added_rows": weights.vocabulary - before,
        "transformers": transformers.__version__,
    }


def _write_weights(
    checkpoint: Checkpoint, weights: Architecture, dtype: str | None, known: int, context: Context
) -> list[TensorSpec]:
    # A sum without vectors: it copies, converts and refuses what is not finite, as every composed model's does.
    code = CODES[dtype] if dtype else None
    layout = WeightLayout(weights.built, checkpoint.tensors)
    metadata = kept_metadata({narrow: layout.kept_in_float32(NAMES[narrow]) for narrow in NARROW})
    kept = kept_in(metadata, code)
    specs = enlarged_specs(result_specs(checkpoint, code, kept), weights, layout)
    total = sum(spec.nbytes for spec in specs)
    tell = context.teller(total, "bytes")
    with checkpoint, weights_writer(context.out / "weights", specs, metadata=metadata) as writer:
        sum_of_base = Combination(checkpoint, (), (), EDIT, code, kept)
        combine(sum_of_base, writer, threads=context.threads, on_progress=tell)
        write_new_rows(checkpoint, specs, writer, known)
        tell(total)
    return specs


def _without_volatile(document: dict[str, JSON]) -> dict[str, JSON]:
    return {key: value for key, value in document.items() if key not in VOLATILE}


def _tell(vocabulary: Vocabulary, rows: int, context: Context) -> None:
    if vocabulary.added:
        tokens = ", ".join(vocabulary.added)
        place = f"{rows} rows added to the embeddings" if rows else "in spare rows of the embeddings"
        context.note(f"{len(vocabulary.added)} tokens added ({tokens}): {place}")
    if vocabulary.warning:
        context.warn(vocabulary.warning)
    for note in vocabulary.notes:
        context.note(note)


def _read_json(path: Path) -> dict[str, JSON]:
    try:
        document = parse_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"is no JSON: {error}", where=str(path)) from error
    if not isinstance(document, dict):
        raise CheckpointError("is no JSON object", where=str(path))
    return document
