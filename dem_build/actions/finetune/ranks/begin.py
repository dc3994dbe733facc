"""Begins a rank: which GPU it sees is said before a library looks, as from then on nothing changes that."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

from dem_build.actions.finetune.ranks.launch import PACKAGE
from dem_build.hardware import gpus
from dem_build.parent import die_with_parent

PARENT = "DEM_RANKS_AGENT"
"""The environment variable by which a rank knows the process that started it."""
VISIBLE = "CUDA_VISIBLE_DEVICES"


def main(folder: Path) -> None:
    """Be the rank that torchrun's variables say."""
    die_with_parent(int(os.environ[PARENT]))
    _see_one_gpu()
    importlib.import_module(f"{PACKAGE}.rank").main(folder)


def _see_one_gpu() -> None:
    # The first visible GPU is what a model runs on: of each rank it is another one.
    local = int(os.environ["LOCAL_RANK"])
    if VISIBLE not in os.environ:
        os.environ[VISIBLE] = str(local)
    elif named := gpus():
        os.environ[VISIBLE] = named[local]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
