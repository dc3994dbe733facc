"""What `dem diff` prints: nothing is wider than the screen, and what a file says is shown, never obeyed."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from build_samples import make_graph
from compare_samples import Recorded, side
from rich.console import Console

from dem_build.compare import Side, compare
from dem_build.compare.weights import LayerChange, WeightsChange
from dem_build.report.gates import GateResult
from dem_build.report.results import Results
from dem_build.view.diff import diff_lines

LONG = "a-skill-with-a-very-long-name-that-nobody-would-want-to-read-twice"
DOCS = [f"document {i}" for i in range(40)]


def shown(comparison, width=80, weights=None, same=None, terminal=False):
    out = io.StringIO()
    console = Console(
        file=out, width=width, markup=False, highlight=False, emoji=False, force_terminal=terminal
    )
    diff_lines(comparison, weights, console, same=comparison.same if same is None else same)
    return out.getvalue()


def built(right, omega=0.5, name=LONG):
    docs = [(text, {"acc": float(i < right)}) for i, text in enumerate(DOCS)]
    return side(
        make_graph((name,), omega=omega), Recorded(tasks={("composed", "arc_easy"): docs}), name="r.toml"
    )


@pytest.mark.parametrize("width", [80, 100, 120])
@pytest.mark.parametrize("terminal", [True, False])
def test_tables_fit_the_screen(width, terminal):
    out = shown(compare(built(10), built(30, omega=0.25)), width, terminal=terminal)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", out).splitlines()
    # Prose is wrapped on a terminal alone; a table is cut to the screen everywhere.
    lines = plain if terminal else [line for line in plain if "±" in line and "Holm" not in line]
    assert lines
    assert max(map(len, lines)) <= width
    assert "arc_easy" in out
    assert "better" in out


def test_what_is_the_same_is_one_line():
    out = shown(compare(built(10), built(10)))
    assert "the same: every action has the key that it had" in out
    assert "Holm" not in out


def test_a_change_that_is_not_clear_is_called_nothing():
    out = shown(compare(built(10), built(12, omega=0.25)))
    (line,) = [x for x in out.splitlines() if x.startswith("arc_easy")]
    assert "better" not in line
    assert "worse" not in line


def test_names_of_others_are_shown_and_never_obeyed():
    hostile = "\x1b[31mred\x1b[0m\nsecond line"
    results = Results({hostile: {hostile: {hostile: 0.5}}}, omega={hostile: 0.5})
    gate = GateResult(hostile, hostile, 0.5, passed=False, why=hostile)
    one = Side(hostile, results=results, gates=(gate,), keyed=False)
    other = replace(
        one, results=replace(results, table={hostile: {hostile: {hostile: 0.7}}}, omega={hostile: 0.1})
    )
    layer = LayerChange(hostile, 2, 1, float("nan"), 0.0)
    out = shown(compare(one, other), 120, WeightsChange((layer,), (hostile,), (), (hostile,)), same=False)
    assert "\x1b" not in out
    assert "second line" not in [line.strip() for line in out.splitlines()]
    assert r"\x1b" in out


def test_gates_are_told_with_what_they_were():
    gates = [
        GateResult("loss:math", "loss", value, passed=value < 2.5, why="at most 2.5") for value in (2.0, 3.0)
    ]
    one, other = (Side("x", gates=(gate,), keyed=False) for gate in gates)
    assert "✗ gate loss on math: 3.000, must be at most 2.5 (before: 2.000, at most 2.5)" in shown(
        compare(one, other)
    )
    assert "- gate loss on math: no such gate (before: 2.000" in shown(compare(one, Side("y", keyed=False)))
