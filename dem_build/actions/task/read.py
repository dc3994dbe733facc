"""What a task recorded of each document: the output `samples`, a line for each document and filter of its answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from dem_build.json_text import parse_json, quantity, text_at

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dem_build.digest import JSON


@dataclass(frozen=True)
class RecordedDocument:
    """One document that a model was asked, and one filter of its answer.

    Attributes:
        place: Its place in the task's data, lm-eval's `doc_id`.
        hashes: lm-eval's hashes of the document and of what is asked for; None in a record of before version 3 of the
            kind `task`.
        document: As the task's data have it.
        target: What is asked for; of choices the right one's number.
        prompt: What the model was given.
        filtered: The filter that its answer went through.
        responses: What it said, as lm-eval has it.
        metrics: Metric → what it is on this document.
    """

    place: int
    hashes: tuple[str, str] | None
    document: JSON
    target: JSON
    prompt: str
    filtered: str
    responses: tuple[JSON, ...]
    metrics: Mapping[str, JSON]

    def number(self, metric: str) -> float | None:
        """A metric of this document; None where it has none that is a number of it alone."""
        return as_number(self.metrics.get(metric))


def as_number(value: JSON) -> float | None:
    """A metric of one document as a number, right as 1 and wrong as 0; None where it is none of it alone."""
    return float(value) if isinstance(value, bool) else quantity(value)


def read_documents(data: bytes) -> list[RecordedDocument]:
    """The documents in the bytes of an output `samples`, in their order.

    Raises:
        ValueError, LookupError, TypeError, AttributeError: It is of another shape.
    """
    return [_document(parse_json(line)) for line in data.splitlines()]


class Filtered(Protocol):
    """What was measured of a document whose answer went through a filter."""

    @property
    def filtered(self) -> str:
        """The filter."""

    @property
    def metrics(self) -> Mapping[str, JSON]:
        """Metric → what it is on this document."""


def metric_names(documents: Iterable[Filtered]) -> dict[str, tuple[str, str]]:
    """Name of a metric in results → what documents call it, and its filter.

    Where several filters give a metric, the first has the plain name and others are `metric@filter`.
    """
    first: dict[str, str] = {}
    found: dict[str, tuple[str, str]] = {}
    for one in documents:
        for metric in one.metrics:
            plain = first.setdefault(metric, one.filtered) == one.filtered
            found[metric if plain else f"{metric}@{one.filtered}"] = (metric, one.filtered)
    return found


def _document(sample: JSON) -> RecordedDocument:
    hashes = None
    if "doc_hash" in sample:
        hashes = text_at(sample, "doc_hash"), text_at(sample, "target_hash")
    return RecordedDocument(
        int(sample["doc_id"]),
        hashes,
        sample["doc"],
        sample["target"],
        text_at(sample, "prompt"),
        text_at(sample, "filter"),
        tuple(sample.get("responses", ())),
        dict(sample["metrics"]),
    )
