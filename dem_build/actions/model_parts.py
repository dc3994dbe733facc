"""What a composed model has beside its weights: torch-free."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

from dem_build.json_text import parse_json

if TYPE_CHECKING:
    from dem_build.step import Context, Inputs


def write_parts(inputs: Inputs, dtype: str, context: Context) -> None:
    """Write the outputs `config`, `tokenizer` and `generation_config` of a model on the base."""
    config = parse_json(inputs.paths["base/config"].read_text(encoding="utf-8")) | {"dtype": dtype}
    text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False)
    (context.out / "config").write_text(text + "\n", encoding="utf-8")
    # Every vector was trained with the base's tokenizer: it is copied, byte for byte.
    shutil.copytree(inputs.paths["base/tokenizer"], context.out / "tokenizer", copy_function=shutil.copyfile)
    shutil.copyfile(inputs.paths["base/generation_config"], context.out / "generation_config")
