"""How many tokens a model takes, as its config says, and whether it reads long rows in another way than short ones.

A model with LongRoPE (Ding et al. 2024, arXiv 2402.13753) has two sets of rotary frequencies, for rows up to its
original length and for longer ones. transformers takes one set for a whole batch, by its longest row: a row beside
a longer one would have another loss than alone. So rows of both sorts are kept apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from transformers import AutoConfig

from dem_build.errors import DataError, TrainingError
from dem_build.json_text import parse_json

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

    from dem_build.data.arrays import TokenRows

NAMES = ("max_position_embeddings", "n_positions", "n_ctx")  # one thing, as different models call it
ORIGINAL = "original_max_position_embeddings"


def most_tokens(config: Path) -> int | None:
    """How many tokens a model takes, as its `config.json` says; None where it names no such length."""
    document = parse_json(config.read_text(encoding="utf-8"))
    return next((document[name] for name in NAMES if isinstance(document.get(name), int)), None)


def refuse_longer(rows: TokenRows, config: Path) -> None:
    """Refuse rows that are longer than the model's context.

    Args:
        rows: What the model is to read.
        config: Its `config.json`; one that names no such length takes rows of any.

    Raises:
        DataError: A row has more tokens than the model takes.
    """
    # Before the model is loaded. Where positions are looked up in a table, one token too many is an index out of range,
    # which on a GPU takes the whole process down; where they are computed, the model says what it was never trained to.
    most = most_tokens(config)
    longest = int(rows.lengths.max(initial=0))
    if most is not None and longest > most:
        count = int((rows.lengths > most).sum())
        raise DataError(
            f"the model takes {most} tokens at most, and {count} of {len(rows)} rows have more, up to {longest}",
            hint=f"set max_length = {most} or less for this dataset",
        )


def ceilings(config: Any) -> list[int]:
    """The lengths in tokens that padding must not pass: the longest that a model takes, or reads as a short row."""
    found = (longest_short(config), *(getattr(config, name, None) for name in NAMES))
    return [most for most in found if isinstance(most, int)]


def longest_short(config: Any) -> int | None:
    """The most tokens of a row that is read with the short rotary frequencies; None where there is one set."""
    parameters = getattr(config, "rope_parameters", None) or {}
    # One table, or one for each type of layer.
    sets = [parameters, *(p for p in parameters.values() if isinstance(p, dict))]
    found = [s[ORIGINAL] for s in sets if s.get("rope_type") == "longrope"]
    return min(found, default=None)


def has_both_sorts(lengths: NDArray[np.integer], config: Path) -> bool:
    """Whether a model reads rows of some of the lengths, in tokens, with its short rotary frequencies, others not."""
    if ORIGINAL.encode() not in config.read_bytes():
        return False  # without one it is the longest that the model takes at all
    most = longest_short(AutoConfig.from_pretrained(config, local_files_only=True, trust_remote_code=False))
    return most is not None and bool((lengths > most).any() and (lengths <= most).any())


def refuse_mixed_packs(lengths: NDArray[np.integer], config: Path) -> None:
    """Refuse to pack documents, of `lengths` in tokens, that a model reads in two ways.

    Raises:
        TrainingError: Some are longer than what the short rotary frequencies are for, and others are not.
    """
    if has_both_sorts(lengths, config):
        raise TrainingError(
            "some documents are so long that the model reads them, and what is packed with them, with its long "
            "rotary frequencies (LongRoPE)",
            hint=f"set packing = false, or max_length to {ORIGINAL} of the base's config.json",
        )
