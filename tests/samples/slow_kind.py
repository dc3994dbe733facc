"""A kind of action whose steps take as long as a test wants: with checkpoints as a training has them, and no torch."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from dem_build import actions
from dem_build.action import Action, Kind, key_of, preimage
from dem_build.actions.checkpoints import keep, newest_complete, step_of
from dem_build.engine import protocol
from dem_build.engine.protocol import Request
from dem_build.errors import ActionError
from dem_build.machine import Machine
from dem_build.store import records

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dem_build.step import Context

SLOW = Kind(
    name="slow",
    module="slow_kind",
    family="slow",
    version=1,
    params=("name", "steps", "way"),
    outputs=("out",),
    resumes=True,
)
TRAINS = replace(SLOW, name="slow-training", trains=True, device=True)
STEP_SECONDS = 0.1
LOOK_UP = (protocol, records)
"""The modules that look a kind up by its name, as a job does."""
SITE = "import slow_kind\nslow_kind.know()\n"
"""A `sitecustomize.py` by which every Python process knows these kinds."""


def kinds() -> Mapping[str, Kind]:
    """All kinds, and these."""
    return MappingProxyType(dict(actions.KINDS) | {kind.name: kind for kind in (SLOW, TRAINS)})


def know() -> None:
    """Have this process know these kinds."""
    for module in LOOK_UP:
        module.KINDS = kinds()


def slow_request(name: str, steps: int, way: str = "", *, trains: bool = True) -> Request:
    """An action of so many steps.

    `way` says how it goes wrong: it `fails`, is `deaf` to signals, `killed` in the middle, or `forgets` its steps.
    """
    params = {"name": name, "steps": steps, "way": way}
    document = preimage(Action(name, TRAINS if trains else SLOW, params), ())
    return Request(name, key_of(document), document, (), (), Machine(), threads=1)


def run(_inputs: object, params: dict[str, object], context: Context) -> dict[str, object]:
    """Count the steps, with a checkpoint after each; what comes out names where it began."""
    folder = context.work / "checkpoints"
    found = newest_complete(folder)
    began = step_of(found) if found is not None else 0
    if params["way"] == "fails":
        raise ActionError("goes wrong, as it was told", where="slow", hint="tell it otherwise")
    for step in range(began + 1, int(str(params["steps"])) + 1):
        if params["way"] != "deaf":
            context.check_stop()
        context.progress(step, 1.0, "steps")
        time.sleep(STEP_SECONDS)
        if params["way"] == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if params["way"] == "forgets":
            continue
        made = folder / f"checkpoint-{step}"
        made.mkdir()
        (made / "step").write_text(str(step))
        keep(made)
    context.out.mkdir(exist_ok=True)
    context.write("out", {"steps": params["steps"]})
    return {"began": began}
