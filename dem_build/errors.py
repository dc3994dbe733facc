"""The errors that dem raises, and the exit status of each.

    DemError                      1   anything that stops a build
    ├── UsageError                2   the call is wrong
    │   └── RecipeError           2   a recipe, machine or lock file is wrong: all of its mistakes at once
    ├── NotUpToDateError          4   --check or --locked found something due
    ├── GateError                 3   a gate of the recipe failed
    ├── InterruptedBuildError   130   Ctrl-C: state was saved, the next build goes on from it
    ├── StoreError                1   the cache cannot be read or written
    │   ├── CorruptObjectError    1   bytes in the cache are not what their name says
    │   ├── RemoteError           1   a remote cannot be reached, or does not do what was asked
    │   └── LeaseHeldError        1   another process is running this action
    └── ActionError               1   an action failed
        ├── DataError             1   a dataset cannot be prepared
        ├── CheckpointError       1   weights cannot be read, or do not belong together
        ├── TrainingError         1   a fine-tuning diverged or cannot run
        └── EvaluationError       1   an evaluation cannot run

Library code raises these and never prints. Each says what is wrong, where, and how to mend it; the
command line renders them, without a traceback.
"""

from __future__ import annotations

from typing import NamedTuple

GRAVITY = (130, 2, 1, 4, 3, 0)
"""Exit statuses, of which the gravest counts: interrupted, wrong, failed, not up to date, a gate, none."""


class DemError(Exception):
    """What went wrong, where, and how to mend it.

    Args:
        what: One sentence, in words of the user's files and commands.
        where: A file (with a line), an action or a command; None where `what` says it.
        hint: How to mend it.
    """

    exit_status = 1

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    @property
    def located(self) -> str:
        """What went wrong, after where it did."""
        return f"{self.where}: {self.what}" if self.where else self.what

    def __str__(self) -> str:
        return f"{self.located} ({self.hint})" if self.hint else self.located


class UsageError(DemError):
    """The call is wrong."""

    exit_status = 2


class Problem(NamedTuple):
    """One mistake in a file that a person wrote.

    Attributes:
        file: The file, as the user named it.
        line: 1-based line, 0 when it has none.
        key: Dotted key (`datasets.math.columns`), empty for the whole file.
        hint: How to mend it, or empty.
    """

    file: str
    line: int
    key: str
    what: str
    hint: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        key = f"{self.key}: " if self.key else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{place}: {key}{self.what}{hint}"


class RecipeError(UsageError):
    """All the mistakes of the files that a call reads, in the order of their lines."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = sorted(set(problems))  # one folder may be missing for several tasks
        super().__init__("\n".join(str(p) for p in self.problems))


class NotUpToDateError(DemError):
    """Something is due, and the call asked that nothing be."""

    exit_status = 4


class GateError(DemError):
    """A gate of the recipe failed."""

    exit_status = 3


class InterruptedBuildError(DemError):
    """The user stopped the build; what was done is saved."""

    exit_status = 130


class StoreError(DemError):
    """The cache cannot be read or written."""


class CorruptObjectError(StoreError):
    """Bytes in the cache are not what their name says; they are in quarantine now."""


class RemoteError(StoreError):
    """A remote cannot be reached, forbids what was asked, or does not do it."""


class LeaseHeldError(StoreError):
    """Another process is running this action; `what` names it."""


class ActionError(DemError):
    """An action failed."""


class DataError(ActionError):
    """A dataset cannot be prepared."""


class CheckpointError(ActionError):
    """Weights cannot be read, or do not belong together."""


class TrainingError(ActionError):
    """A fine-tuning diverged or cannot run."""


class EvaluationError(ActionError):
    """An evaluation cannot run."""
