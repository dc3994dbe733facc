"""Which way to compose was best on validation rows, and by how much."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.actions.choose.read import read_choice
from dem_build.actions.tune.read import OBJECTIVES, shown_score
from dem_build.report.html.blocks import NONE, Cell, DataTable, Section, level
from dem_build.report.quantities import decimals, signed
from dem_build.report.text import joined

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dem_build.actions.choose.read import Candidate, Choice
    from dem_build.report.inputs import ReportInputs
    from dem_build.report.text import Line

WAYS = {
    "sum": "Θ + Σ ωᵢ ΔΘᵢ",
    "layers": "the same with one ω a layer",
    "match": "layers matched",
}


def choice(inputs: ReportInputs) -> Section | None:
    """The models side by side."""
    found = inputs.results.get(read_choice)
    if found is None:
        return None
    lead = (
        f"{_sentence(found)} Every model was measured on the same {sum(found.rows.values())} validation rows, of which "
        "ω were searched on some and nothing else was made from any. Gain recovered: 0 is the base, 1 each dataset's "
        "own vector alone."
    )
    names = list(next(iter(found.candidates.values())).gains)
    body = [_row(name, one, found, names) for name, one in found.candidates.items()]
    header = ["model", OBJECTIVES[found.objective], "behind", *names]
    return Section(
        "choice", "Which way to compose", lead, [DataTable(header, body, len(names) + 2, heat=True)]
    )


def _row(name: str, one: Candidate, found: Choice, names: list[str]) -> list[Cell]:
    kept = name == found.chosen
    score = Cell(
        decimals(shown_score(found.objective, one.score)), "" if one.keeps_limits else "passes a limit"
    )
    behind = NONE if kept else Cell(decimals(one.lead), _interval(one))
    gains = [Cell(decimals(one.gains[n]), level=level(one.gains[n], 1.0)) for n in names]
    return [Cell(name, "kept" if kept else WAYS.get(name, ""), strong=kept), score, behind, *gains]


def _sentence(found: Choice) -> str:
    name, other = found.second
    what = OBJECTIVES[found.objective]
    if not other.keeps_limits and found.candidates[found.chosen].keeps_limits:
        return f"{found.chosen} is kept: {name} passes the limit of a probe."
    clear = other.low is not None and other.low > 0
    lead = f"{decimals(other.lead)}{_error(other)}{'' if clear else ', which is no clear lead'}"
    return f"{found.chosen} is kept: its {what} is better than that of {name} by {lead}."


def _error(one: Candidate) -> str:
    interval = _interval(one)
    return f" ({interval})" if interval else ""


def _interval(one: Candidate) -> str:
    if one.low is None or one.high is None:
        return ""
    return f"95 % interval {signed(one.low)} to {signed(one.high)}"


def lines(found: Choice) -> Iterator[Line]:
    """What is kept, in a line."""
    yield ()
    yield (joined(_sentence(found)),)


SECTIONS = (choice,)
