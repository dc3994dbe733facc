"""What a build needs and may not have: packages that dem works without, adapters that are of its base."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from dem_build.actions.extract.lora import read_adapter, refuse_misfits
from dem_build.actions.finetune.ranks.launch import refuse_sharded
from dem_build.checkpoint.filenames import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from dem_build.errors import CheckpointError, TrainingError, UsageError
from dem_build.hardware import gpus, refuse_inputs
from dem_build.json_text import parse_json
from dem_build.lock import hub

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from dem_build.action import SourceFile
    from dem_build.machine import Machine
    from dem_build.plan import Plan


def refuse_too_many(plan: Plan) -> None:
    """Refuse a build with an action that takes more files than a process may have open here, before any of it runs.

    Raises:
        UsageError: There is one; the hint says how to raise the limit.
    """
    for verdict in plan.due:
        refuse_inputs(verdict.action.name, len(verdict.action.takes))


def refuse_unsharded(plan: Plan, machine: Machine) -> None:
    """Refuse a build with a training that cannot have as many processes as the machine file says.

    Raises:
        UsageError: There is one; the message names what of it does not go with several.
    """
    ranks = machine.ranks(gpu=bool(gpus()) if machine.engine == "local" else machine.submit.gpus > 0)
    for verdict in plan.due:
        if verdict.action.kind.trains:
            # A loss that is only watched is in no key, and taken all the same.
            params = {**verdict.action.params, **verdict.action.watching}
            try:
                refuse_sharded(params, ranks)
            except TrainingError as error:  # of the machine file, before anything runs
                raise UsageError(error.what, where=verdict.action.name, hint=error.hint) from error


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
    due = [verdict for verdict in plan.due if verdict.action.kind.name == "finetune"]
    for verdict in due:
        if verdict.action.params["optim"] == "adamw_8bit":
            yield "bitsandbytes", f'optim = "adamw_8bit" of {verdict.action.name}'
    if due:
        yield from ((tracker, f'report_to = ["{tracker}"]') for tracker in machine.report_to)


def refuse_unmergeable(plan: Plan) -> None:
    """Refuse a build with an adapter that its files show to be damaged or of another base; no tensor is read.

    Raises:
        CheckpointError: There is one.
    """
    due = (verdict.action for verdict in plan.due)
    adapters = [a for a in due if a.kind.name == "extract" and a.params["source"] == "adapter"]
    if not adapters:
        return
    imported = plan.graph.actions["base"]
    base, grows = _shapes(_here(imported.sources).values()), bool(imported.params["added_tokens"])
    for action in adapters:
        files = _here(action.sources)
        if {ADAPTER_CONFIG, ADAPTER_WEIGHTS} <= files.keys() and (
            shapes := _shapes([files[ADAPTER_WEIGHTS]])
        ):
            config = parse_json(files[ADAPTER_CONFIG].read_text(encoding="utf-8"))
            refuse_misfits(read_adapter(config, shapes, action.sources[0].origin), base, grows=grows)


def _here(sources: Iterable[SourceFile]) -> dict[str, Path]:
    """The files that lie on this machine, by their tags."""
    found = {s.tag: hub.here(s) for s in sources}
    return {tag: path for tag, path in found.items() if path is not None}


def _shapes(files: Iterable[Path]) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors of some files of weights; of other files none."""
    from dem_build.checkpoint.reader import open_checkpoint  # noqa: PLC0415  numpy is not on a plan's path

    weights = [path for path in files if path.suffix == ".safetensors"]
    try:
        return {n: t.shape for n, t in open_checkpoint(weights).tensors.items()} if weights else {}
    except CheckpointError:
        return {}  # who reads them says what is wrong with them, and mends what can be mended
