"""The seam between a build and a scheduler of jobs, and how one is found by its name.

A scheduler is asked little, as what it says of a job's end is not to be relied on: a record in the store says that an
action is done, a lease that it runs. Only where there is neither does it count whether the scheduler knows the job.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Protocol, cast

from dem_build.errors import DemError, UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from dem_build.digest import JSON
    from dem_build.machine import Machine

GROUP = "dem_build.schedulers"
"""The entry-point group: name → a class whose instances are a `Scheduler`, made from the machine file's options."""
_BUILT_IN = {"slurm": ("dem_build.engine.jobs.slurm", "Slurm")}


class SchedulerError(DemError):
    """The scheduler refused a job, or does not answer."""


@dataclass(frozen=True)
class Resources:
    """What a job is given; None leaves it to the scheduler's defaults.

    Attributes:
        name: What lists of jobs show, such as `vector:math`.
        mark: By which the job is found again: the name of its folder.
        gpus: GPUs of one node.
        memory: Bytes of the node's memory.
        minutes: After which the job is stopped, saves its state and is queued again.
    """

    name: str
    mark: str
    cpus: int = 1
    gpus: int = 0
    memory: int | None = None
    minutes: int | None = None


@dataclass(frozen=True)
class Ended:
    """How a job ended that made no record, for messages: nothing is decided by it but how much memory comes next.

    Attributes:
        what: What became of it, such as `ran out of memory`.
        memory: Whether it certainly lacked memory.
    """

    what: str
    hint: str = ""
    memory: bool = False


class Scheduler(Protocol):
    """A scheduler of jobs. Calls come from one thread.

    One that can say more of a job's end than that it is not there has a method `ended(handle, printed)` too, which is
    given the end of what the job printed, and returns an `Ended`, or None where it does not know.
    """

    def submit(self, command: Sequence[str], resources: Resources, log: Path) -> str:
        """Submit a command, unless a job of its mark is there already.

        Before the time limit the command is sent SIGUSR1, SIGUSR2 or SIGTERM; what `$DEM_REQUEUE` holds, if anything,
        is the shell command by which it has itself queued again. What `$DEM_JOB` holds, which begins with the
        engine's name (`slurm job 17`), is recorded.

        Args:
            command: What a node runs, in a folder that all nodes see.
            resources: What it is given.
            log: A folder for what it prints.

        Returns:
            The job's handle, by which other processes know it too.

        Raises:
            SchedulerError: The job was refused.
        """

    def known(self, handles: Collection[str]) -> Mapping[str, str]:
        """The jobs among `handles` that wait, run or will run again, each with the scheduler's word for its state.

        Raises:
            SchedulerError: The scheduler does not answer.
        """

    def cancel(self, handle: str) -> None:
        """End a job: a running one is sent SIGTERM first. One that is not there is no error.

        Raises:
            SchedulerError: The scheduler does not answer.
        """


def open_scheduler(machine: Machine) -> Scheduler:
    """The scheduler that a machine file names.

    Raises:
        UsageError: Nothing of this name is installed, or it cannot be used here.
    """
    name = machine.engine
    options: Mapping[str, JSON] = machine.submit.options
    if name in _BUILT_IN:
        module, made = _BUILT_IN[name]
        return cast("Scheduler", getattr(importlib.import_module(module), made)(options))
    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name not in found:
        there = ", ".join(["local", *_BUILT_IN, *sorted(found)])
        hint = f"there are {there}; a package may bring others (entry point `{GROUP}`)"
        raise UsageError(f"no engine is called {name!r}", where="engine", hint=hint)
    return cast("Scheduler", found[name].load()(options))
