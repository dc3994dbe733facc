"""The base's tokenizer as all vectors will share it: its chat template, padding token, added tokens."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jinja2
from tokenizers import AddedToken

from dem_build.checkpoint.filenames import TOKENIZER_CONFIG, TOKENIZER_FILES, is_named_template
from dem_build.data.template import ASKED, FAULTS, leaves_out
from dem_build.errors import CheckpointError, UsageError
from dem_build.json_text import parse_json
from dem_build.model.tokenizer_files import UNLOADABLE, load_tokenizer, probe, same_ids, settle, write_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from dem_build.digest import JSON

__all__ = ["MACHINE_KEYS", "Vocabulary", "Wishes", "prepare_tokenizer"]

# How transformers came by the tokenizer, which differs from machine to machine.
MACHINE_KEYS = ("is_local", "local_files_only", "name_or_path")


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
    _copy(files, folder)
    notes = tuple(settle(folder, config, where))
    tokenizer = _load(folder, where)
    known = len(tokenizer)
    if not wishes:
        return Vocabulary(known, known, notes=notes)
    added = _add(tokenizer, wishes.added)
    warning = _pad(tokenizer, wishes.pad_token, where)
    if wishes.template is not None:
        tokenizer.chat_template = wishes.template
        _check_template(tokenizer, where)
    _save(tokenizer, folder)
    settle(folder, config, where)
    _check_saved(tokenizer, _load(folder, where), where)
    pad_id = tokenizer.pad_token_id if wishes.pad_token is not None else None
    ends = [tokenizer.convert_tokens_to_ids(token) + 1 for token in added]
    return Vocabulary(known, max([known, *ends]), added, pad_id, warning, notes)


def _copy(files: Mapping[str, Path], folder: Path) -> None:
    folder.mkdir()
    for name, path in files.items():
        if name in TOKENIZER_FILES or is_named_template(name):
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(path, folder / name)


def _load(folder: Path, where: str) -> Any:
    try:
        return load_tokenizer(folder)
    except UNLOADABLE as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"the tokenizer cannot be loaded: {reason}", where=where) from error


def _add(tokenizer: Any, tokens: Sequence[str]) -> tuple[str, ...]:
    """Add tokens that are never cut and never part of a text's own; return those that are new."""
    before = tokenizer.get_vocab()
    kept = tokenizer.get_added_vocab()
    wanted = [AddedToken(t, special=True, normalized=False) for t in tokens if t not in kept]
    tokenizer.add_tokens(wanted, special_tokens=True)
    return tuple(dict.fromkeys(t for t in tokens if t not in before))


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


def _check_saved(tokenizer: Any, saved: Any, where: str) -> None:
    """Refuse a tokenizer that is another one once it is saved: what is trained with must be what is published."""
    same = same_ids(saved, tokenizer, probe(tokenizer))
    if not same or saved.get_vocab() != tokenizer.get_vocab() or saved.pad_token != tokenizer.pad_token:
        what = "transformers saves this tokenizer as another one, so it can be given no template or tokens"
        raise CheckpointError(what, where=where, hint="prepare the folder by hand, and name that")


def _save(tokenizer: Any, folder: Path) -> None:
    shutil.rmtree(folder)
    tokenizer.save_pretrained(folder)
    config = parse_json((folder / TOKENIZER_CONFIG).read_text(encoding="utf-8"))
    write_json(folder / TOKENIZER_CONFIG, {k: v for k, v in config.items() if k not in MACHINE_KEYS})
