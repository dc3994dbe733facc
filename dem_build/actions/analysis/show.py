"""How the vectors lie to each other, and where in the model they are."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

from dem_build.actions.analysis.read import read_analysis
from dem_build.report.html.blocks import NONE, Cell, DataTable, Fold, Section, level
from dem_build.report.quantities import decimals

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from dem_build.actions.analysis.read import Matrix, VectorAnalysis
    from dem_build.report.inputs import ReportInputs
    from dem_build.report.text import Line


def cosines(inputs: ReportInputs) -> Section | None:
    """Angles between vectors, as they are and with what they share taken out."""
    analysis = inputs.results.get(read_analysis)
    if analysis is None:
        return None
    whole = analysis.whole
    shared = (
        ""
        if whole.shared is None
        else f" The mean vector holds {100 * whole.shared:.0f} % of their squared length."
    )
    lead = (
        "1 is the same direction, 0 a right angle, −1 the opposite: vectors at right angles disturb each other least."
        + shared
    )
    blocks = [
        _matrix("Cosines of the angles between vectors", whole.cosines),
        _matrix("The same with the mean vector taken out of each", whole.centred_cosines),
    ]
    return Section("cosines", "Angles between vectors", lead, blocks)


def _matrix(caption: str, matrix: Matrix) -> DataTable:
    names = list(matrix)
    body = [
        [Cell(name, strong=True), *(_cosine(matrix[name].get(n), same=name == n) for n in names)]
        for name in names
    ]
    return DataTable(["", *names], body, len(names), heat=True, caption=caption)


def _cosine(value: float | None, *, same: bool) -> Cell:
    if value is None:
        return NONE
    return Cell("1" if same else f"{value:+.2f}", level=0 if same else level(value, 1.0))


def distances(inputs: ReportInputs) -> Section | None:
    """Distance of each fine-tuned model to what it starts from, layer by layer and by kind of module."""
    analysis = inputs.results.get(read_analysis)
    if analysis is None or not analysis.distances:
        return None
    tables = [_layers(name, layers) for name, layers in analysis.distances.items()]
    to = f"Euclidean distance to the {inputs.origin}"
    lead = f"{to} that each vector is long in each part of the model; deeper is further."
    shown = tables[:1] if len(tables) == 1 else [Fold(t.caption, [t]) for t in tables]
    return Section("distances", "Where the vectors are", lead, shown)


def _layers(name: str, layers: Mapping[str, Mapping[str, float]]) -> DataTable:
    modules: Sequence[str] = list(dict.fromkeys(m for row in layers.values() for m in row))
    most = max((v for row in layers.values() for v in row.values()), default=0.0)
    body = [
        [
            Cell(layer, strong=True),
            *(Cell(decimals(row[m]), level=level(row[m], most)) if m in row else NONE for m in modules),
        ]
        for layer, row in layers.items()
    ]
    return DataTable(["layer", *modules], body, len(modules), heat=True, caption=name)


def lines(analysis: VectorAnalysis) -> Iterator[Line]:
    """How far apart the vectors lie, in a line; the page has the rest."""
    whole = analysis.whole
    pairs = [whole.cosines[a][b] for a, b in combinations(whole.norms, 2)]
    angles = [cosine for cosine in pairs if cosine is not None]
    if not angles or whole.shared is None or whole.sign_conflict is None:
        return
    yield ()
    several = len(angles) > 1
    cosines = f"cosines {min(angles):.2f} to {max(angles):.2f}" if several else f"cosine {angles[0]:.2f}"
    shared = f"shared part {whole.shared:.0%} (at right angles {1 / len(whole.norms):.0%})"
    yield (f"vectors: {cosines}; {shared}; signs conflict on {whole.sign_conflict:.0%}",)


SECTIONS = (cosines, distances)
