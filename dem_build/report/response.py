"""What each vector does to the losses of all datasets around the model, with today's names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dem_build.errors import StoreError
from dem_build.graph import RESPONSE
from dem_build.json_text import MALFORMED, parse_json
from dem_build.report.named import grouped

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dem_build.digest import JSON
    from dem_build.graph import Graph
    from dem_build.store import Output, Record

__all__ = ["CURVES", "Loss", "Point", "Response", "read_response"]

CURVES = "curves"
"""The output that is read."""


@dataclass(frozen=True)
class Loss:
    """A loss on held-out rows, in nats per token.

    Attributes:
        loss: Mean loss.
        stderr: Its standard error over rows; None where there are too few to tell.
        change: The loss less that of the model.
        change_stderr: Standard error of the change, paired by rows.
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
    """Response curves of a model, in float32.

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


def read_response(
    graph: Graph, records: Mapping[str, Record], read: Callable[[Output], bytes]
) -> Response | None:
    """Return the response curves of a build; None where there were none, or not yet.

    Args:
        graph: The recipe's graph.
        records: Name of an action → its record.
        read: Returns the bytes of an output that is one file.

    Raises:
        StoreError: The record is not what it should be.
    """
    record = records.get(RESPONSE)
    if RESPONSE not in graph.actions or record is None:
        return None
    try:
        document = parse_json(read(record.outputs[CURVES]))
        return _response(graph, records, document)
    except MALFORMED as error:
        hint = f"`--rebuild {RESPONSE}` takes them again"
        raise StoreError("the recorded response curves cannot be read", where=RESPONSE, hint=hint) from error


def _response(graph: Graph, records: Mapping[str, Record], document: Mapping[str, JSON]) -> Response:
    action = graph.actions[RESPONSE]
    vectors = {n: document["vectors"].index(d) for n, d in grouped(action, records, "delta").items()}
    rows = [judge["rows"] for judge in document["judges"]]
    held_out = grouped(action, records, "data/validation", "data/rows")
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
