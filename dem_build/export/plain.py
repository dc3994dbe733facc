"""A base with one vector added, as an ordinary checkpoint."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING

from dem_build.actions.compose.methods import EDIT
from dem_build.checkpoint.combine import Combination, combine, result_specs
from dem_build.checkpoint.filenames import CONFIG
from dem_build.checkpoint.floats import CODES
from dem_build.checkpoint.header import kept_in
from dem_build.checkpoint.writer import weights_writer
from dem_build.hardware import cpus
from dem_build.json_text import parse_json

if TYPE_CHECKING:
    from pathlib import Path

    from dem_build.checkpoint.reader import Checkpoint


def write_sum(folder: Path, base: Checkpoint, delta: Checkpoint, omega: float, dtype: str) -> None:
    """Write the weights Θ + ω ΔΘ, by the operations that a composed model is made of.

    Args:
        folder: Where to; it must not exist.
        base: Θ, not yet open for reading.
        delta: ΔΘ, likewise, checked against it.
        omega: ω.
        dtype: Of the result's floats.

    Raises:
        CheckpointError: A sum that is not finite.
    """
    code = CODES[dtype]
    kept = kept_in(base.metadata, code)
    with ExitStack() as stack:
        opened = [stack.enter_context(checkpoint) for checkpoint in (base, delta)]
        writer = stack.enter_context(weights_writer(folder, result_specs(base, code, kept)))
        what = Combination(opened[0], opened[1:], [omega], EDIT, code, kept)
        combine(what, writer, threads=cpus())


def write_config(folder: Path, config: Path, dtype: str) -> None:
    """Write the `config.json` of weights that have another dtype than those that a config is of."""
    document = parse_json(config.read_text(encoding="utf-8")) | {"dtype": dtype}
    text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
