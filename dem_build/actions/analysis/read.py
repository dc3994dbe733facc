"""How the vectors of a build lie to each other and to the base, with today's names; formulas: `run.py` beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from dem_build.actions.analysis.spec import KIND
from dem_build.report.inputs import reads

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dem_build.action import Action
    from dem_build.digest import JSON
    from dem_build.report.inputs import BuildRecords

TABLES = "tables"
"""The output that is read."""

Matrix: TypeAlias = "Mapping[str, Mapping[str, float | None]]"
"""Vector → vector → value; None where there is none, as of an angle with a vector of zeros."""


@dataclass(frozen=True)
class Compared:
    """Vectors compared over some elements: all of them, or those of one layer.

    Attributes:
        elements: Number of elements.
        base_norm: Length of the base, ‖Θ‖.
        norms: Vector → its length, ‖ΔΘ‖.
        relative_norms: Vector → ‖ΔΘ‖ / ‖Θ‖.
        cosines: Cosines of the angles between vectors.
        centred_cosines: The same with the mean vector taken out of each.
        shared: Squared length of the mean vector over the mean squared length: 1 for vectors that are all the same,
            1 / n for n vectors at right angles.
        sign_conflicts: Share of elements at which two vectors differ in sign, of those at which both are other than 0.
        sign_conflict: Share of elements at which any two do, of those at which at least two are other than 0.
    """

    elements: int
    base_norm: float
    norms: Mapping[str, float]
    relative_norms: Mapping[str, float | None]
    cosines: Matrix
    centred_cosines: Matrix
    shared: float | None
    sign_conflicts: Matrix
    sign_conflict: float | None


@dataclass(frozen=True)
class VectorAnalysis:
    """An analysis of vectors.

    Attributes:
        whole: Over all elements.
        layers: Layer (`embeddings`, `0`, `1` …, `final`) → the same over its elements.
        distances: Vector → layer → kind of module (`q_proj`, `norms` …) → Euclidean distance to the base there.
    """

    whole: Compared
    layers: Mapping[str, Compared]
    distances: Mapping[str, Mapping[str, Mapping[str, float]]]


@reads("analysis", TABLES, says="after")
def read_analysis(build: BuildRecords) -> VectorAnalysis | None:
    """What the analysis of a build found; None where there was none, or not yet.

    Raises:
        StoreError: The record is not what it should be.
    """
    return build.of(KIND.name, _analysis, "analysis", "analyses again")


def _analysis(build: BuildRecords, action: Action) -> VectorAnalysis:
    document = build.document(action, TABLES)
    # The name of each vector → its row in the tables; equal vectors have one row.
    rows = {
        at.action.removeprefix("vector:"): document["vectors"].index(
            build.records[at.action].outputs[at.output].digest
        )
        for at in (taken.at for taken in action.takes if taken.of == "delta")
        if at.action in build.records
    }
    layers, kinds = document["layers"], document["kinds"]
    return VectorAnalysis(
        whole=_compared(document["whole"], rows),
        layers={layer: _compared(one, rows) for layer, one in zip(layers, document["by_layer"], strict=True)},
        distances={
            name: {
                layer: {kind: d for kind, d in zip(kinds, cells, strict=True) if d is not None}
                for layer, cells in zip(layers, document["distances"][row], strict=True)
            }
            for name, row in rows.items()
        },
    )


def _compared(one: Mapping[str, JSON], rows: Mapping[str, int]) -> Compared:
    def matrix(values: JSON) -> Matrix:
        return {
            name: {other: values[row][column] for other, column in rows.items()} for name, row in rows.items()
        }

    return Compared(
        elements=one["elements"],
        base_norm=one["base_norm"],
        norms={name: one["norms"][row] for name, row in rows.items()},
        relative_norms={name: one["relative_norms"][row] for name, row in rows.items()},
        cosines=matrix(one["cosines"]),
        centred_cosines=matrix(one["centred_cosines"]),
        shared=one["shared"],
        sign_conflicts=matrix(one["sign_conflicts"]),
        sign_conflict=one["sign_conflict"],
    )


READERS = (read_analysis,)
