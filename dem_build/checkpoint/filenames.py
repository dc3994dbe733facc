"""What the files of a model are called, in a folder or a repository, and which of them hold its weights.

Torch-free and cheap: of the files only `config.json` and the index of the shards are ever read, and no tensor.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dem_build.errors import CheckpointError, UsageError
from dem_build.json_text import parse_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors|" + re.escape(INDEX))
"""The files of a model's weights, of which a loader takes one set whatever else lies there."""
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
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
"""Every file of a model's folder that reaches its tokenizer, but for `NAMED_TEMPLATES`."""
NAMED_TEMPLATES = "additional_chat_templates"
"""Folder of the chat templates beside the default one, `NAME.jinja` each."""

_OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack")
_TO_SAFETENSORS = "convert it: AutoModelForCausalLM.from_pretrained({}).save_pretrained(NEW_FOLDER)"
_AGAIN = "download the model again, all of its files"


@dataclass(frozen=True)
class Listing:
    """The files of a model, wherever they lie.

    Attributes:
        names: The names of its files, those of its named chat templates after their folder's.
        text: The text of one of them; a ValueError where it is no UTF-8.
        place: What messages call one of them.
        where: What messages call the model.
        given: How it is named to `from_pretrained`.
        again: What to do where a file is missing or damaged.
        other: What to do where it is no model.
        locked: The names that a lock has, of which only some may be here.
        absent: Those of `locked` that are not here, and have no text.
    """

    names: frozenset[str]
    text: Callable[[str], str]
    place: Callable[[str], str]
    where: str
    given: str = "FOLDER"
    again: str = _AGAIN
    other: str = "name a folder that save_pretrained wrote"
    locked: frozenset[str] = frozenset()
    absent: frozenset[str] = frozenset()


def listed(folder: Path, locked: Iterable[str] = (), *, alone: bool = False) -> Listing:
    """The files of a folder, and those of the folder of named chat templates in it.

    Args:
        folder: The folder; it has to be there where no lock tells of it.
        locked: The names that a lock has in it, which count as there.
        alone: Whether they alone count, and nothing is looked at.
    """
    told = frozenset(locked)
    looked = not alone and (not told or folder.is_dir())
    found = [*folder.iterdir(), *(folder / NAMED_TEMPLATES).glob("*")] if looked else []
    here = frozenset(p.relative_to(folder).as_posix() for p in found if p.is_file())
    return Listing(
        names=here | told,
        text=lambda name: (folder / name).read_text(encoding="utf-8"),
        place=lambda name: str(folder / name),
        where=str(folder),
        locked=told,
        absent=told - here,
    )


def is_named_template(name: str) -> bool:
    """Whether a file of a model is a chat template that has a name."""
    folder, _, file = name.rpartition("/")
    return folder == NAMED_TEMPLATES and file.endswith(".jinja")


def weight_files(files: Listing) -> list[str]:
    """The names of the files that hold a model's weights, an index of shards among them.

    Raises:
        UsageError: There are none, a shard is missing, or they are of a format that dem does not open.
        CheckpointError: An index of shards that cannot be read.
    """
    # Whatever else lies there: as transformers decides.
    if SINGLE in files.names:
        return [SINGLE]
    if INDEX in files.absent:  # what it names was locked with it
        return [INDEX, *sorted(name for name in files.locked if name.endswith(".safetensors"))]
    if INDEX in files.names:
        shards = sorted(set(_shards(lambda: files.text(INDEX), files.place(INDEX), files.again).values()))
        if missing := [name for name in shards if name not in files.names]:
            what = f"lacks {len(missing)} of {len(shards)} shards, first {missing[0]}"
            raise UsageError(what, where=files.where, hint=files.again)
        return [INDEX, *shards]
    if other := sorted(name for name in files.names if name.endswith(_OTHER_WEIGHTS)):
        what = f"has its weights in {other[0]}, which dem does not open"
        raise UsageError(what, where=files.where, hint=_TO_SAFETENSORS.format(files.given))
    raise UsageError(f"holds neither {SINGLE} nor {INDEX}", where=files.where, hint=files.again)


def shards_of(index: Path) -> dict[str, str]:
    """Which file holds each tensor, as the index of a sharded checkpoint says.

    Raises:
        CheckpointError: No such index.
    """
    return _shards(lambda: index.read_text(encoding="utf-8"), str(index), _AGAIN)


def _shards(read: Callable[[], str], where: str, again: str) -> dict[str, str]:
    try:
        shards = parse_json(read())["weight_map"]
        # A file in another folder is none of this model's.
        if all(isinstance(file, str) and "/" not in file for file in shards.values()):
            return dict(shards)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    what = "is no index of safetensors shards: it has no weight_map of file names"
    raise CheckpointError(what, where=where, hint=again)
