"""How the model was matched: importances, rows, and how far it is from each vector's own model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.actions.match.read import read_match
from dem_build.report.html.blocks import NONE, Cell, DataTable, Section
from dem_build.report.quantities import count, duration
from dem_build.report.text import joined

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dem_build.actions.match.read import MatchedModel
    from dem_build.report.inputs import ReportInputs
    from dem_build.report.text import Line

__all__ = ["SECTIONS", "lines"]


def matching(inputs: ReportInputs) -> Section | None:
    """Each vector's importance, its rows, and what is left of its model's distance."""
    found = inputs.results.get(read_match)
    if found is None:
        return None
    lead = (
        f"{_sentence(found)} The error is what the composed model's last hidden states on these rows differ by from "
        "those of the dataset's own model, as a share of their squared length; on rows that were fitted, so that small "
        "ones say less than a test loss does."
    )
    body = [
        [
            Cell(name, strong=True),
            Cell(f"{vector.importance:g}"),
            Cell(f"{vector.rows}") if vector.rows else Cell("none", "only the prior has it"),
            Cell(count(vector.tokens)) if vector.rows else NONE,
            NONE if vector.residual is None else Cell(_percent(vector.residual)),
        ]
        for name, vector in found.vectors.items()
    ]
    table = DataTable(["vector", "importance", "rows", "tokens", "error"], body, 4)
    return Section("matching", "Layers matched", lead, [table])


def _sentence(found: MatchedModel) -> str:
    ridge, prior = found.params["ridge"], found.params["prior"]
    took = "" if found.seconds is None else f", in {duration(found.seconds)}"
    return (
        f"Each linear layer was fitted, first to last, to what each dataset's own model puts out there, on "
        f"{count(found.tokens)} tokens of training rows{took}; ridge {ridge:g} towards the base "
        f"and {prior:g} times the mean vector."
    )


def lines(found: MatchedModel) -> Iterator[Line]:
    """How far the model is from each vector's own, in a line."""
    yield ()
    took = "" if found.seconds is None else f" in {duration(found.seconds)}"
    errors = ", ".join(
        f"{joined(name)} {_percent(vector.residual)}"
        for name, vector in found.vectors.items()
        if vector.residual is not None
    )
    yield (f"matched on {count(found.tokens)} tokens of training rows{took}; error {errors or 'unknown'}",)
    if found.rowless:
        yield (f"without rows, and only in the prior: {', '.join(map(joined, found.rowless))}",)


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"


SECTIONS = (matching,)
