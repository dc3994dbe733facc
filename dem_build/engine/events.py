"""Following the event file of a running action."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from dem_build.json_text import parse_json

if TYPE_CHECKING:
    from dem_build.digest import JSON

__all__ = ["EventTail", "read_events"]


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
