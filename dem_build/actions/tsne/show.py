"""Where the rows of the datasets lie to the base."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.actions.tsne.read import read_tsne
from dem_build.report.html.blocks import Scatter, Section

if TYPE_CHECKING:
    from dem_build.report.inputs import ReportInputs


def datasets(inputs: ReportInputs) -> Section | None:
    """Where the validation rows of each dataset lie to the base."""
    found = {name: places for name, places in (inputs.results.get(read_tsne) or {}).items() if places}
    if not found:
        return None
    rows = sum(map(len, found.values()))
    lead = (
        "Validation rows before any training: the mean of a row's last hidden states, laid out by "
        "t\N{NON-BREAKING HYPHEN}SNE. Rows that lie together are alike to the base."
    )
    note = "Axes have no unit, and how far groups lie from each other, or how wide they are, says nothing."
    label = f"{rows} validation rows of {', '.join(found)}"
    return Section("datasets", "The datasets as the base reads them", lead, [Scatter.of(found, label, note)])


SECTIONS = (datasets,)
