"""How a build is run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dem_build.machine import Machine

__all__ = ["Options"]


@dataclass(frozen=True)
class Options:
    """How a build is run.

    Attributes:
        machine: How to use this machine: the machine file, and what the call says in its place.
        keep_going: After a failure, go on with what does not depend on it.
        no_train: Fail where a vector would have to be trained.
        rebuild: Actions that run whatever is recorded.
    """

    machine: Machine
    keep_going: bool = False
    no_train: bool = False
    rebuild: frozenset[str] = frozenset()
