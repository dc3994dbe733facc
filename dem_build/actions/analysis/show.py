"""How the vectors and their data lie to each other, and where in the model the vectors are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.report.html.blocks import NONE, Cell, Fold, Scatter, Section, Table, level
from dem_build.report.quantities import decimals

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dem_build.actions.analysis.read import Matrix
    from dem_build.report.material import Material

__all__ = ["cosines", "datasets", "distances"]


def cosines(material: Material) -> Section | None:
    """Angles between vectors, as they are and with what they share taken out."""
    analysis = material.results.analysis
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


def _matrix(caption: str, matrix: Matrix) -> Table:
    names = list(matrix)
    body = [
        [Cell(name, strong=True), *(_cosine(matrix[name].get(n), same=name == n) for n in names)]
        for name in names
    ]
    return Table(["", *names], body, len(names), heat=True, caption=caption)


def _cosine(value: float | None, *, same: bool) -> Cell:
    if value is None:
        return NONE
    return Cell("1" if same else f"{value:+.2f}", level=0 if same else level(value, 1.0))


def distances(material: Material) -> Section | None:
    """Distance of each fine-tuned model to the base, layer by layer and by kind of module."""
    analysis = material.results.analysis
    if analysis is None or not analysis.distances:
        return None
    tables = [_layers(name, layers) for name, layers in analysis.distances.items()]
    lead = "Euclidean distance to the base that each vector is long in each part of the model; deeper is further."
    shown = tables[:1] if len(tables) == 1 else [Fold(t.caption, [t]) for t in tables]
    return Section("distances", "Where the vectors are", lead, shown)


def _layers(name: str, layers: Mapping[str, Mapping[str, float]]) -> Table:
    modules: Sequence[str] = list(dict.fromkeys(m for row in layers.values() for m in row))
    most = max((v for row in layers.values() for v in row.values()), default=0.0)
    body = [
        [
            Cell(layer, strong=True),
            *(Cell(decimals(row[m]), level=level(row[m], most)) if m in row else NONE for m in modules),
        ]
        for layer, row in layers.items()
    ]
    return Table(["layer", *modules], body, len(modules), heat=True, caption=name)


def datasets(material: Material) -> Section | None:
    """Where the validation rows of each dataset lie to the base."""
    found = {name: places for name, places in (material.results.tsne or {}).items() if places}
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
