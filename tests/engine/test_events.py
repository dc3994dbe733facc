"""Event files: what was added is read once, and what is damaged costs a line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.engine.protocol import EventTail, read_events

if TYPE_CHECKING:
    from pathlib import Path


def test_a_damaged_line_is_left_out_and_the_others_are_read() -> None:
    lines = b'{"event": "note", "message": "a"}\n{"evEnt": "x"}\n{"event"\n\xff\n[1]\n{"event": "note"}\n'
    assert read_events(lines) == [{"event": "note", "message": "a"}, {"event": "note"}]


def test_half_a_line_waits_for_the_rest(tmp_path: Path) -> None:
    tail = EventTail()
    tail.follow(str(tmp_path))
    assert tail.read() == []
    (tmp_path / "events.jsonl").write_bytes(b'{"event": "note"}\n{"event": "war')
    assert tail.read() == [{"event": "note"}]
    with (tmp_path / "events.jsonl").open("ab") as file:
        file.write(b'ning"}\n')
    assert tail.read() == [{"event": "warning"}]


def test_the_log_of_a_run_has_what_was_said_after_the_last_look(tmp_path: Path) -> None:
    tail = EventTail()
    tail.follow(str(tmp_path))
    told = b'{"event": "note"}\n'
    (tmp_path / "events.jsonl").write_bytes(told)
    assert tail.read() == [{"event": "note"}]
    log = told + b'{"event": "warning"}\n{"event": "output", "line": "x"}\n'
    assert tail.read_rest(log)[0] == {"event": "warning"}
    assert tail.read_rest(log) == []
