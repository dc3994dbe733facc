"""How many tokens a model takes, as its config says; rows that are longer are refused before a model is loaded.

Where positions are looked up in a table, one token too many is an index out of range, which on a GPU takes the whole
process down; where they are computed, the model says something that it was never trained to.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from dem_build.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from dem_build.data.arrays import TokenRows

__all__ = ["refuse_longer"]

NAMES = ("max_position_embeddings", "n_positions", "n_ctx")  # one thing, as different models call it


def refuse_longer(rows: TokenRows, config: Path) -> None:
    """Refuse rows that are longer than the model's context.

    Args:
        rows: What the model is to read.
        config: Its `config.json`; one that names no such length takes rows of any.

    Raises:
        DataError: A row has more tokens than the model takes.
    """
    document = json.loads(config.read_text(encoding="utf-8"))
    most = next((document[name] for name in NAMES if isinstance(document.get(name), int)), None)
    longest = int(rows.lengths.max(initial=0))
    if most is not None and longest > most:
        count = int((rows.lengths > most).sum())
        raise DataError(
            f"the model takes {most} tokens at most, and {count} of {len(rows)} rows have more, up to {longest}",
            hint=f"set max_length = {most} or less for this dataset",
        )
