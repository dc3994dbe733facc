"""What driver and worker tell each other, as JSON lines: requests, replies, and the events of a running action."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from dem_build.action import HubFile, Input, SourceFile
from dem_build.actions import KINDS
from dem_build.digest import Blob, Output
from dem_build.json_text import parse_json
from dem_build.machine import Machine

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dem_build.action import Kind
    from dem_build.digest import JSON, Digest
    from dem_build.plan import Verdict


class Answer(StrEnum):
    """How a worker's run of one action ended, or that it began. That it died the driver says for it.

    `TOLD` and `QUEUED` are no ends: something is to be said of it, and how the job stands in which it has not begun.
    """

    STARTED = "started"
    DONE = "done"
    FOUND = "found"
    HELD = "held"
    CORRUPT = "corrupt"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    DIED = "died"
    TOLD = "told"
    QUEUED = "queued"


@dataclass(frozen=True)
class Request:
    """Everything that a worker needs to run one action, but the store.

    Attributes:
        preimage: What the key is the hash of; kind and parameters are read from it.
        sources: The files from outside that it reads.
        threads: CPU threads that the step may use.
        force: Run even though a record is there (`--rebuild`).
        watching: Parameters that are in no key, as nothing follows from them.
        groups: Inputs that belong together: name → what is said of them alone.
    """

    name: str
    key: Digest
    preimage: JSON
    inputs: tuple[Input[Output], ...]
    sources: tuple[SourceFile, ...]
    machine: Machine
    threads: int
    force: bool = False
    watching: Mapping[str, JSON] = field(default_factory=dict)
    groups: Mapping[str, Mapping[str, JSON]] = field(default_factory=dict)

    @property
    def kind(self) -> Kind:
        """The action's kind."""
        return KINDS[self.preimage["kind"]]

    @property
    def params(self) -> dict[str, JSON]:
        """The action's parameters; optional ones that the preimage leaves out are None, added ones neutral."""
        return {
            **dict.fromkeys(self.kind.params),
            **self.kind.added,
            **self.preimage["params"],
            **self.watching,
        }

    def document(self) -> dict[str, JSON]:
        """The request as JSON."""
        return vars(self) | {
            "inputs": [asdict(i) | {"at": i.at.document()} for i in self.inputs],
            "sources": [_source(s) for s in self.sources],
            "machine": self.machine.model_dump(),
            "watching": dict(self.watching),
            "groups": {name: dict(params) for name, params in self.groups.items()},
        }

    @classmethod
    def parse(cls, document: Mapping[str, JSON]) -> Request:
        """The request that `document` describes."""
        made = {
            "inputs": tuple(Input(**i | {"at": Output.parse(i["at"])}) for i in document["inputs"]),
            "sources": tuple(_parsed_source(s) for s in document["sources"]),
            "machine": Machine.model_validate(document["machine"]),
        }
        return cls(**{**document, **made})


@dataclass(frozen=True)
class Reply:
    """A worker's answer: what happened, and what belongs to it (work folder, seconds, error, log of a whole run)."""

    answer: Answer
    seconds: float = 0.0
    work: str = ""
    what: str = ""
    hint: str | None = None
    note: str = ""
    log: Blob | None = None

    @classmethod
    def parse(cls, document: Mapping[str, JSON]) -> Reply:
        """The reply that `document` describes."""
        log = Blob(**document["log"]) if document["log"] else None
        return cls(**{**document, "answer": Answer(document["answer"]), "log": log})


def request_for(
    verdict: Verdict, known: Mapping[str, Mapping[str, Output]], machine: Machine, threads: int
) -> Request:
    """The request that runs the action of a verdict whose inputs are all known."""
    action = verdict.action
    assert verdict.key is not None
    inputs = tuple(taken.moved(known[taken.at.action][taken.at.output]) for taken in action.takes)
    return Request(
        name=action.name,
        key=verdict.key,
        preimage=verdict.preimage,
        inputs=inputs,
        sources=action.sources,
        machine=machine,
        threads=threads,
        force=verdict.record is not None,
        watching=action.watching,
        groups=action.groups,
    )


def _source(source: SourceFile) -> JSON:
    hub = asdict(source.hub) if source.hub is not None else None
    return {"tag": source.tag, "digest": source.digest, "path": str(source.path), "hub": hub}


def _parsed_source(document: Mapping[str, JSON]) -> SourceFile:
    hub = HubFile(**document["hub"]) if document["hub"] is not None else None
    return SourceFile(document["tag"], document["digest"], Path(document["path"]), hub)


# Events.


def read_events(lines: bytes) -> list[dict[str, JSON]]:
    """The events of a log's lines; one that is damaged is left out: it costs a line, not a build."""
    events = []
    for line in lines.splitlines():
        with suppress(ValueError):
            event = parse_json(line)
            if isinstance(event, dict) and isinstance(event.get("event"), str):
                events.append(event)
    return events


class EventTail:
    """Reads what was added to `events.jsonl` since it last looked; a half-written last line waits for the next look."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._offset = 0

    def follow(self, work: str) -> None:
        """Follow the events of the run in folder `work`."""
        self._path, self._offset = Path(work) / "events.jsonl", 0

    def read(self) -> list[dict[str, JSON]]:
        """The events that are new."""
        if self._path is None:
            return []
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                new = file.read()
        except FileNotFoundError:
            return []
        whole = new[: new.rfind(b"\n") + 1]
        self._offset += len(whole)
        return read_events(whole)

    def read_rest(self, log: bytes) -> list[dict[str, JSON]]:
        """The events that are new in a run's whole log, which begins as the run's event file did."""
        new, self._offset = log[self._offset :], len(log)
        return read_events(new)
