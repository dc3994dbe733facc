"""Packages that dem works without, and that a recipe or a machine file may ask for."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from dem_build.errors import UsageError
from dem_build.plan import Status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dem_build.machine import Machine
    from dem_build.plan import Plan

__all__ = ["refuse_missing"]


def refuse_missing(plan: Plan, machine: Machine) -> None:
    """Refuse a build whose trainings need a package that is not installed, before any of it runs.

    Raises:
        UsageError: One is missing; the hint says what to install.
    """
    for package, wanted in _needed(plan, machine):
        if find_spec(package) is None:
            raise UsageError(
                f"{wanted} needs the package {package}, which is not installed",
                hint=f"pip install {package}",
            )


def _needed(plan: Plan, machine: Machine) -> Iterator[tuple[str, str]]:
    due = [v for v in plan.verdicts.values() if v.action.kind == "finetune" and v.status is not Status.HIT]
    for verdict in due:
        if verdict.action.params["optim"] == "adamw_8bit":
            yield "bitsandbytes", f'optim = "adamw_8bit" of {verdict.action.name}'
    if due:
        yield from ((tracker, f'report_to = ["{tracker}"]') for tracker in machine.report_to)
