"""Progress as the output of a notebook's cell: one display, drawn anew."""

from __future__ import annotations

import time

import pytest
from build_samples import Made, make_graph

from dem_build.engine.outcome import Done, Result
from dem_build.view import notebook
from dem_build.view.notebook import NotebookListener

pytest.importorskip("IPython")


class Shown:
    """Stands in for a notebook: keeps what it is given to show."""

    def __init__(self) -> None:
        self.drawn: list[dict[str, str]] = []

    def display(self, data, *, raw, display_id):
        assert (raw, display_id) == (True, True)
        self.drawn.append(data)
        return self

    def update(self, data, *, raw):
        assert raw
        self.drawn.append(data)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Shown:
    made = Shown()
    monkeypatch.setattr("IPython.display.display", made.display)
    monkeypatch.setattr(notebook, "SECONDS", 0.01)
    return made


def test_what_runs_is_drawn_while_it_runs_and_what_ended_stays(shown):
    made = Made()
    plan = made.plan(make_graph())
    verdict = next(iter(plan.verdicts.values()))
    with NotebookListener() as listener:
        listener.build_started(plan)
        listener.action_started(verdict)
        listener.action_event(verdict.action, {"event": "warning", "message": "<b>\x1b[2J"})
        listener.action_event(verdict.action, {"event": "progress", "done": 1, "total": 4, "unit": "steps"})
        wait_for(lambda: "25%" in shown.drawn[-1]["text/plain"])
        listener.action_ended(Result(verdict.action, Done.RAN, 2.0))
    last = shown.drawn[-1]
    assert "25%" not in last["text/plain"]
    assert f"✓ {verdict.action.name}" in last["text/plain"]
    assert "&lt;b&gt;" in last["text/html"]
    assert "\x1b" not in last["text/html"] + last["text/plain"]


def test_of_very_many_lines_the_last_are_shown(shown, monkeypatch):
    monkeypatch.setattr(notebook, "MOST_LINES", 3)
    with NotebookListener() as listener:
        for number in range(4):
            listener.tell(f"line {number}")
    listener.tell("line 4")  # of what is pushed, after the build
    lines = shown.drawn[-1]["text/plain"].splitlines()
    assert lines == ["… 2 lines before", "line 2", "line 3", "line 4"]


def wait_for(condition) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
