"""What a step is given and what it gives back.

A step's module has one entry point:

    def run(inputs: Inputs, params: Mapping[str, JSON], context: Context) -> Provenance

It writes each output of its kind to `context.out / NAME`, a file or a folder, and returns its provenance: a JSON
object of what is worth knowing and enters no key (counts, curve, tokens, seconds, library versions). It raises a
`DemError` for what a user can mend. It knows neither the store nor the graph.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

from dem_build.digest import canonical
from dem_build.errors import InterruptedBuildError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from dem_build.action import Input, SourceFile
    from dem_build.digest import JSON, Digest
    from dem_build.machine import Machine

T = TypeVar("T")
Provenance: TypeAlias = "dict[str, Any]"


@dataclass(frozen=True)
class StoredFile:
    """An output as a run reads it: a file, or a folder for outputs of several files, and its digest."""

    path: Path
    digest: Digest


@dataclass(frozen=True)
class Group:
    """Inputs that belong together, such as a dataset's vector and its validation rows.

    Attributes:
        name: What messages call it. No output may depend on it.
        params: What is said of it alone; what is left out in keys is None here.
        paths: Tag → a file, or a folder for outputs of several files.
        digests: Tag → digest.
    """

    name: str
    params: Mapping[str, JSON]
    paths: Mapping[str, Path]
    digests: Mapping[str, Digest]


@dataclass(frozen=True)
class Inputs:
    """What a step takes; every file is verified, and read-only.

    Attributes:
        paths: Tag (`base/weights`, `data/train`) → a file, or a folder for outputs of several files.
        digests: Tag → digest, to name things by.
        terms: The weighted vectors, in the order of their digests, no digest twice, no ω of 0.
        sources: Files from outside the store.
        groups: Inputs that belong together, in an order that no name reaches.
    """

    paths: Mapping[str, Path] = field(default_factory=dict)
    digests: Mapping[str, Digest] = field(default_factory=dict)
    terms: tuple[Input[StoredFile], ...] = ()
    sources: tuple[SourceFile, ...] = ()
    groups: tuple[Group, ...] = ()


class Resident:
    """Keeps the last thing made (a loaded model), so that a warm worker loads it once."""

    def __init__(self) -> None:
        self._key: str | None = None
        self._value: Any = None

    def get(self, key: str, make: Callable[[], T]) -> T:
        """What was last made under `key`, or drop that and make it."""
        if self._key != key:
            self.clear()
            self._value = make()
            self._key = key
        value: T = self._value
        return value

    def clear(self) -> None:
        """Forget what is kept, and free its memory."""
        self._key, self._value = None, None


@dataclass
class Context:
    """The surroundings of one run of one action.

    Attributes:
        work: The run's private folder. `work / "checkpoints"` holds what a successor may resume from.
        out: Where outputs are written, one file or folder each.
        machine: How this machine is to be used; never part of a key.
        threads: CPU threads that this step may use.
        stopping: Whether the user asked to stop; a long step asks at every unit of work.
        resident: The model that the worker keeps loaded between actions.
        earlier: Files in which earlier actions kept what they measured of the same base, the newest last.
        runs: Where trackers write what they are told of this action; None for nowhere.
        hashed: Files of `out` → their SHA-256, of those that were hashed as they were written (`Writer.digests`). All
            others are read again.
    """

    work: Path
    out: Path
    machine: Machine
    threads: int = 1
    stopping: Callable[[], bool] = lambda: False
    resident: Resident = field(default_factory=Resident)
    earlier: tuple[Path, ...] = ()
    runs: Path | None = None
    hashed: dict[Path, Digest] = field(default_factory=dict)

    def progress(self, done: float, total: float, unit: str, **more: JSON) -> None:
        """Tell how far the step is, with what else is known.

        Args:
            done: Units that are done.
            total: Units in all.
            unit: What is counted.
            more: `loss`, `validation_loss`, `tokens_per_second`, `memory` (bytes).
        """
        self._emit("progress", done=done, total=total, unit=unit, **more)

    def teller(self, total: float, unit: str) -> Callable[[float], None]:
        """What to call with the units that are done: it stops where the user asked to, else it tells them."""

        def tell(done: float) -> None:
            self.check_stop()
            self.progress(done, total, unit)

        return tell

    def note(self, message: str) -> None:
        """Say something worth knowing that needs no action."""
        self._emit("note", message=message)

    def warn(self, message: str) -> None:
        """Say something that the user should look at; it is shown again whenever the result is used."""
        self._emit("warning", message=message)

    def write(self, name: str, document: JSON) -> None:
        """Write an output that is one JSON document."""
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / name).write_bytes(canonical(document))

    def check_stop(self) -> None:
        """Raise where the user asked to stop.

        Raises:
            InterruptedBuildError: The user asked to stop.
        """
        if self.stopping():
            raise InterruptedBuildError("stopped on request")

    def _emit(self, event: str, **fields: JSON) -> None:
        line = json.dumps({"time": time.time(), "event": event, **fields}, allow_nan=True)
        with (self.work / "events.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")


class Step(Protocol):
    """A step's module."""

    def run(self, inputs: Inputs, params: Mapping[str, JSON], context: Context) -> Provenance:
        """Do the work of one action."""
        ...
