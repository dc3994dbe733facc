"""What the commands were called with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["Call"]


@dataclass(frozen=True)
class Call:
    """Options that the commands share.

    Attributes:
        cache: `--cache`.
        machine: `--machine`.
        overrides: `--set KEY=VALUE`, in order.
        targets: Actions named after `--`; none means all of them.
        rebuild: `--rebuild`.
        upgrade: `dem lock --upgrade`.
        locked: `--locked`: what no lock pins is an error, and no hub is asked for it.
    """

    cache: str | None = None
    machine: Path | None = None
    overrides: Sequence[str] = ()
    targets: Sequence[str] = ()
    rebuild: Sequence[str] = ()
    upgrade: bool = False
    locked: bool = False
