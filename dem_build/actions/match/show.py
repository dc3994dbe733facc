"""How the model was matched: importances, rows, and how far it is from each vector's own model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.actions.match.read import read_match
from dem_build.actions.tune.read import OBJECTIVES, shown_score
from dem_build.report.html.blocks import NONE, Block, Cell, DataTable, Section
from dem_build.report.quantities import count, decimals, duration
from dem_build.report.text import joined

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dem_build.actions.match.read import MatchedModel, WeighedSearch
    from dem_build.report.inputs import ReportInputs
    from dem_build.report.text import Line


SALIENT = (
    " Where a layer is fitted, a token weighs by its saliency: by how much what the layer puts out of it moves the "
    "loss of the dataset's own model."
)


def matching(inputs: ReportInputs) -> Section | None:
    """Each vector's importance, its rows, and what is left of its model's distance."""
    found = inputs.results.get(read_match)
    if found is None:
        return None
    lead = (
        f"{_sentence(found)} The error is what the matched model's last hidden states on these rows differ by from "
        "those of the dataset's own model: their squared distance, as a share of the squared length. These rows were "
        "fitted, so that a small error says less than a test loss does."
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
    blocks: list[Block] = [DataTable(["vector", "importance", "rows", "tokens", "error"], body, 4)]
    if found.search is not None:
        blocks.append(_search(found.search))
    return Section("matching", "Layers matched", lead, blocks)


def _search(search: WeighedSearch) -> DataTable:
    names = list(search.passes[0].importances)
    body = []
    for place, one in enumerate(search.passes):
        kept = place == search.kept
        error = "" if one.stderr is None or kept else f"±{decimals(one.stderr)}"
        behind = Cell("kept", strong=True) if kept else Cell(decimals(one.lead), error)
        shares = [Cell(f"{one.importances[name]:g}") for name in names]
        body.append(
            [Cell(str(place + 1)), *shares, Cell(decimals(shown_score(search.objective, one.score))), behind]
        )
    note = (
        "Importances were searched: each matching was measured on validation rows that no vector was trained on, and "
        "a change was kept where its lead was more than two standard errors. Importances count by their shares alone."
    )
    header = ["matching", *names, OBJECTIVES[search.objective], "behind"]
    return DataTable(header, body, len(names) + 2, caption="Importances that were tried", note=note)


def _sentence(found: MatchedModel) -> str:
    ridge, prior = found.params["ridge"], found.params["prior"]
    mean = "the mean of the vectors"
    mean = f"{mean}, made as long as rows say" if isinstance(prior, str) else f"{prior:g} times {mean}"
    took = "" if found.seconds is None or found.search else f", in {duration(found.seconds)}"
    return (
        f"Each linear layer was fitted, first to last, to what each dataset's own model puts out there, on "
        f"{count(found.tokens)} tokens of training rows{took}; with a ridge of {ridge} towards the base plus {mean}."
        + (SALIENT if found.saliency else "")
    )


def lines(found: MatchedModel) -> Iterator[Line]:
    """How far the model's last hidden states are from those of each vector's own model, in a line."""
    yield ()
    took = "" if found.seconds is None else f" in {duration(found.seconds)}"
    searched = found.search is not None  # then most of the time went into choosing
    errors = ", ".join(
        f"{joined(name)} {_percent(vector.residual)}"
        for name, vector in found.vectors.items()
        if vector.residual is not None
    )
    rows = f"{count(found.tokens)} tokens of training rows{'' if searched else took}"
    yield (f"matched on {rows}; distance from each vector's own model: {errors or 'unknown'}",)
    if (search := found.search) is not None:
        kept = ", ".join(f"{joined(n)} {a:g}" for n, a in search.passes[search.kept].importances.items())
        yield (
            f"importances {kept}: the best of {len(search.passes)} matchings on validation rows{took and ','}{took}",
        )
    if found.rowless:
        yield (f"without rows, and only in the prior: {', '.join(map(joined, found.rowless))}",)


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"


SECTIONS = (matching,)
