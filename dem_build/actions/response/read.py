"""What each vector does to the losses of all datasets around the model, with today's names."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from dem_build.actions.response.spec import KIND
from dem_build.report.inputs import reads

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dem_build.action import Action
    from dem_build.digest import JSON
    from dem_build.report.inputs import BuildRecords

CURVES = "curves"
"""The output that is read."""


@dataclass(frozen=True)
class Loss:
    """A loss on held-out rows, in nats per token.

    Attributes:
        loss: Mean loss.
        stderr: Its standard error over blocks of rows; None where there are too few to tell.
        change: The loss less that of the model.
        change_stderr: Standard error of the change, paired by blocks of rows.
    """

    loss: float
    stderr: float | None
    change: float
    change_stderr: float | None


@dataclass(frozen=True)
class Point:
    """One candidate: the ω of one vector has a value, the others are as in the model."""

    omega: float
    losses: Mapping[str, Loss]


@dataclass(frozen=True)
class Response:
    """Response curves of a model, rounded as it is published.

    Attributes:
        omega: Vector → its ω in the model; where each layer has its own, their mean.
        model: Dataset or probe → loss of the model.
        curves: Vector → its points, ω rising; ω = 0 leaves the vector out.
        slopes: Dataset or probe → vector → derivative of the loss to the vector's ω, at the model: who hurts whom.
        rows: Dataset or probe → rows that were used.
    """

    omega: Mapping[str, float]
    model: Mapping[str, Loss]
    curves: Mapping[str, tuple[Point, ...]]
    slopes: Mapping[str, Mapping[str, float]]
    rows: Mapping[str, int]

    @property
    def without(self) -> Mapping[str, Mapping[str, Loss]]:
        """Vector → dataset or probe → loss of the model without the vector: leave-one-out."""
        return {name: next(p.losses for p in points if p.omega == 0) for name, points in self.curves.items()}

    def document(self) -> dict[str, JSON]:
        """The same as JSON."""
        without = {n: {judge: asdict(one) for judge, one in ls.items()} for n, ls in self.without.items()}
        return asdict(self) | {"without": without}


@reads("response", CURVES, document=Response.document)
def read_response(build: BuildRecords) -> Response | None:
    """The response curves of a build; None where there are none, or not yet, or nothing judged them.

    Raises:
        StoreError: The record is not what it should be.
    """
    return build.of(KIND.name, _response, "response curves", "takes them again")


def _response(build: BuildRecords, action: Action) -> Response | None:
    document = build.document(action, CURVES)
    if not document["judges"]:
        return None
    vectors = {n: document["vectors"].index(d) for n, d in build.grouped(action, "delta").items()}
    rows = [judge["rows"] for judge in document["judges"]]
    held_out = build.grouped(action, "data/validation", "data/rows")
    judges = {name: rows.index(digest) for name, digest in held_out.items() if digest in rows}
    model = document["model"]["losses"]

    def losses(one: Mapping[str, JSON]) -> dict[str, Loss]:
        return {
            name: Loss(
                one["losses"][j], one["stderr"][j], one["losses"][j] - model[j], one["change_stderr"][j]
            )
            for name, j in judges.items()
        }

    return Response(
        omega={name: document["omega"][v] for name, v in vectors.items()},
        model=losses(document["model"]),
        curves={
            name: tuple(Point(p["omega"], losses(p)) for p in document["points"] if p["vector"] == v)
            for name, v in vectors.items()
        },
        slopes={
            name: {vector: document["slopes"][j][v] for vector, v in vectors.items()}
            for name, j in judges.items()
        },
        rows={name: document["judges"][j]["used"] for name, j in judges.items()},
    )


READERS = (read_response,)
