"""What actions that are due will take, before they run: memory and disk from shapes, time from earlier runs.

Rough by nature: allocators, kernels and libraries are not counted. What cannot be known yet is None. Torch-free.
"""

from __future__ import annotations

from dem_build.estimate.beside import AtOnce, at_once, shared_memory
from dem_build.estimate.due import Budget, budgets, on_gpu
from dem_build.estimate.estimates import Estimate, estimates
from dem_build.estimate.fits import crowded, refuse_unfit, unfit
from dem_build.estimate.memory import (
    Rows,
    Shape,
    held_memory,
    rank_memory,
    seen_tokens,
    training_disk,
    training_memory,
)
from dem_build.estimate.transfer import Transfer, transfers

__all__ = [
    "AtOnce",
    "Budget",
    "Estimate",
    "Rows",
    "Shape",
    "Transfer",
    "at_once",
    "budgets",
    "crowded",
    "estimates",
    "held_memory",
    "on_gpu",
    "rank_memory",
    "refuse_unfit",
    "seen_tokens",
    "shared_memory",
    "training_disk",
    "training_memory",
    "transfers",
    "unfit",
]
