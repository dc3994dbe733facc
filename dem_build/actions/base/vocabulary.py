"""The base's tokenizer as all vectors will share it: chat template, padding token, added tokens and their rows."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
from tokenizers import AddedToken

from dem_build.checkpoint.filenames import TOKENIZER_CONFIG, TOKENIZER_FILES, is_named_template
from dem_build.checkpoint.floats import FLOATS, narrow, widen
from dem_build.data.template import ASKED, FAULTS, leaves_out
from dem_build.errors import CheckpointError, UsageError
from dem_build.json_text import parse_json
from dem_build.model.architecture import architecture
from dem_build.model.tokenizer_files import UNLOADABLE, load_tokenizer, probe, same_ids, settle, write_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from dem_build.checkpoint.header import TensorSpec
    from dem_build.checkpoint.reader import Checkpoint
    from dem_build.checkpoint.writer import Writer
    from dem_build.digest import JSON
    from dem_build.model.architecture import Architecture
    from dem_build.model.weight_layout import WeightLayout

# How transformers came by the tokenizer, which differs from machine to machine.
MACHINE_KEYS = ("is_local", "local_files_only", "name_or_path")
CHUNK_ROWS = 4096  # of embeddings that are in memory at once


@dataclass(frozen=True)
class Wishes:
    """What the recipe asks of the tokenizer.

    Attributes:
        template: Text of the chat template that takes the place of the base's own.
        pad_token: The padding token.
        added: Special tokens that it shall have, in the order of their ids.
    """

    template: str | None = None
    pad_token: str | None = None
    added: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self != Wishes()


@dataclass(frozen=True)
class Vocabulary:
    """What the model must know of its tokenizer.

    Attributes:
        known: Tokens before any was added.
        tokens: Tokens now: the embeddings need as many rows.
        added: Tokens that are new, in the order of their ids.
        pad_id: Id of the padding token that the recipe names.
        warning: What the user should look at, or empty.
        notes: What the user should know.
    """

    known: int
    tokens: int
    added: tuple[str, ...] = ()
    pad_id: int | None = None
    warning: str = ""
    notes: tuple[str, ...] = ()


def prepare_tokenizer(
    files: Mapping[str, Path], folder: Path, wishes: Wishes, config: Mapping[str, JSON], where: str
) -> Vocabulary:
    """Write the tokenizer to a new folder: file by file where nothing is wished, else as transformers saves it.

    Either way the folder gives the ids of its tokenizer.json, with the model's config.json beside it and without.

    Args:
        files: The base's files by their names.
        folder: Where to write.
        wishes: What the recipe asks.
        config: What config.json says in the model that will be published.
        where: What messages call the base.

    Raises:
        CheckpointError: The files are no tokenizer, or transformers gives other ids than tokenizer.json's.
        UsageError: A wish that this tokenizer cannot fulfil.
    """
    folder.mkdir()
    for name, path in files.items():
        if name in TOKENIZER_FILES or is_named_template(name):
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(path, folder / name)
    notes = tuple(settle(folder, config, where))
    tokenizer = _load(folder, where)
    known = len(tokenizer)
    if not wishes:
        return Vocabulary(known, known, notes=notes)
    # A word of the vocabulary becomes special without a new id; what was added before stays as it is.
    before, kept = tokenizer.get_vocab(), tokenizer.get_added_vocab()
    # Special, so that they are never cut and never part of a text's own words.
    new = [AddedToken(t, special=True, normalized=False) for t in wishes.added if t not in kept]
    tokenizer.add_tokens(new, special_tokens=True)
    added = tuple(dict.fromkeys(t for t in wishes.added if t not in before))
    warning = _pad(tokenizer, wishes.pad_token, where)
    if wishes.template is not None:
        tokenizer.chat_template = wishes.template
        _check_template(tokenizer, where)
    shutil.rmtree(folder)
    tokenizer.save_pretrained(folder)
    saved = parse_json((folder / TOKENIZER_CONFIG).read_text(encoding="utf-8"))
    write_json(folder / TOKENIZER_CONFIG, {k: v for k, v in saved.items() if k not in MACHINE_KEYS})
    settle(folder, config, where)
    # What is trained with must be what is published.
    again = _load(folder, where)
    same = same_ids(again, tokenizer, probe(tokenizer))
    if not same or again.get_vocab() != tokenizer.get_vocab() or again.pad_token != tokenizer.pad_token:
        what = "transformers saves this tokenizer as another one, so it can be given no template or tokens"
        raise CheckpointError(what, where=where, hint="prepare the folder by hand, and name that")
    pad_id = tokenizer.pad_token_id if wishes.pad_token is not None else None
    ends = [tokenizer.convert_tokens_to_ids(token) + 1 for token in added]
    return Vocabulary(known, max([known, *ends]), added, pad_id, warning, notes)


def _load(folder: Path, where: str) -> Any:
    try:
        return load_tokenizer(folder)
    except UNLOADABLE as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"the tokenizer cannot be loaded: {reason}", where=where) from error


def _pad(tokenizer: Any, token: str | None, where: str) -> str:
    """Set the padding token; return what the user should know of it."""
    if token is None:
        return ""
    if token not in tokenizer.get_vocab():
        hint = f'add it: added_tokens = ["{token}"]'
        raise UsageError(f"pad_token {token!r} is no token of the base's tokenizer", where=where, hint=hint)
    if token not in tokenizer.get_added_vocab() and len(tokenizer.tokenize(token)) == 1:
        hint = 'add one of its own: pad_token = "<pad>" and added_tokens = ["<pad>"]'
        raise UsageError(f"pad_token {token!r} is a piece of ordinary text", where=where, hint=hint)
    tokenizer.pad_token = token
    if token != tokenizer.eos_token:
        return ""
    return (
        f"pad_token is the end token {token!r}: dem trains the end all the same, other trainers may mask it, and a "
        "model's input embedding of a padding token gets no gradient: added_tokens makes one of its own"
    )


def _check_template(tokenizer: Any, where: str) -> None:
    try:
        written: str = tokenizer.apply_chat_template([*ASKED], tokenize=False, add_generation_prompt=True)
    except (jinja2.TemplateError, *FAULTS) as error:
        what = f"the recipe's chat_template cannot be rendered with this tokenizer: {error}"
        raise UsageError(what, where=where, hint="mend the template") from error
    if missing := leaves_out(written):
        raise UsageError(f"the recipe's chat_template {missing}", where=where, hint="mend the template")


def enlarged(
    config: dict[str, JSON], weights: Architecture, rows: int, where: str
) -> tuple[dict[str, JSON], Architecture]:
    """Config and architecture of the same model with more rows for tokens.

    Raises:
        CheckpointError: A model whose vocabulary does not follow from `vocab_size`, or alone.
    """
    wanted = config | {"vocab_size": rows}
    larger = architecture(wanted, where)
    before, after = weights.shapes, larger.shapes
    grown = {n: s for n, s in after.items() if s != before.get(n)}
    fits = all(
        before.get(name, ())[:1] == (weights.vocabulary,) and (rows, *before[name][1:]) == shape
        for name, shape in grown.items()
    )
    if larger.vocabulary != rows or not fits or after.keys() != before.keys():
        raise CheckpointError(
            f"{weights.model} has {weights.vocabulary} rows for tokens, and no more can be added",
            where=where,
            hint="name tokens that the tokenizer has already, such as its reserved ones",
        )
    return wanted, larger


def enlarged_specs(specs: list[TensorSpec], weights: Architecture, layout: WeightLayout) -> list[TensorSpec]:
    """The tensors to write, in the shapes of an enlarged architecture."""
    # Embeddings and head are one tensor in files and model, if under two names.
    own = {group.files[0]: group.own[0] for group in layout.groups if group.converter is None}
    shapes = {name: weights.shapes[of] for name, of in own.items()}
    return [replace(spec, shape=shapes.get(spec.name, spec.shape)) for spec in specs]


def write_new_rows(checkpoint: Checkpoint, specs: list[TensorSpec], writer: Writer, known: int) -> None:
    """Write the rows that the checkpoint has not, each the mean of its first `known` ones.

    The mean is taken in float64, rounded to float32 as all weights are computed in, and once more to what is stored.

    Args:
        checkpoint: The base, open.
        specs: The tensors that are written.
        writer: Takes them; all that the checkpoint has is written.
        known: Rows of tokens that the base's tokenizer has.
    """
    for spec in specs:
        old = checkpoint.tensors[spec.name]
        if spec.shape == old.shape:
            continue
        row = _mean_row(checkpoint, spec.name, known)
        stored = np.empty(row.size, FLOATS[spec.dtype])
        narrow(row, spec.dtype, stored)
        more = spec.shape[0] - old.shape[0]
        writer.write(spec.name, old.size, np.tile(stored, more))


def _mean_row(checkpoint: Checkpoint, name: str, rows: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    # A random row, or one of zeros, would get a logit that has nothing to do with the others', and where these are
    # negative takes much of the probability from them before anything is trained; the mean's logit is the mean of
    # theirs (J. Hewitt, "Initializing new word embeddings for pretrained language models", 2021). It also makes the
    # same bytes wherever it is computed, and takes no seed.
    tensor = checkpoint.tensors[name]
    width = tensor.size // tensor.shape[0]
    total = np.zeros(width, np.float64)
    for first in range(0, rows, CHUNK_ROWS):
        count = min(CHUNK_ROWS, rows - first)
        stored = np.empty(count * width, FLOATS[tensor.dtype])
        checkpoint.read_into(tensor, first * width, stored)
        values = np.empty(count * width, np.float32)
        widen(stored, tensor.dtype, values)
        # Row after row: whole rows are added, so neither the chunks nor the CPU decide the order of the sum.
        for row in values.reshape(count, width):
            total += row
    return (total / rows).astype(np.float32)
