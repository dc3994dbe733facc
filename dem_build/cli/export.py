"""`dem export`: a vector of low rank leaves the store as an adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.action import BASE
from dem_build.checkpoint.adapter import write_adapter
from dem_build.cli.inspect import recorded
from dem_build.cli.session import open_session
from dem_build.cli.view_text import clean, make_console
from dem_build.errors import UsageError
from dem_build.report.inputs import base_name

if TYPE_CHECKING:
    from pathlib import Path

    from dem_build.cli.session import Call

__all__ = ["export"]


def export(recipe: str, action: str, folder: Path, call: Call) -> int:
    """Write a vector of low rank as an adapter's folder, which peft loads.

    Raises:
        UsageError: The action makes no such vector or has not been built, or the folder holds an adapter.
        StoreError: The vector is damaged or gone.
    """
    session = open_session(recipe, call)
    session.plan.graph.require([action])
    found = session.plan.graph.actions[action]
    if "delta" not in found.kind.outputs or found.params.get("method") != "lora":
        what, hint = f"{action} makes no vector of low rank", 'name one that is trained with method = "lora"'
        raise UsageError(what, where=session.named, hint=hint)
    output = recorded(session, action).outputs["delta"]
    session.store.objects.bring(output.blobs())
    [origin] = {taken.at.action for taken in found.takes if taken.of == "base/weights"}
    base = base_name(session.recipe, session.plan.graph) if origin == BASE else None
    try:
        write_adapter(session.store.objects.open(output), folder, base, action)
    except OSError as error:
        what, hint = f"{folder}: {error.strerror}", "name a new folder"
        raise UsageError(what, where=session.named, hint=hint) from error
    whose = f"of {base}" if base is not None else f"of the model that {origin} makes"
    make_console().print(clean(f"{folder}: an adapter {whose}"), soft_wrap=True)
    return 0
