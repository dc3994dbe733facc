"""What evaluations recorded row by row and document by document, with what tells these apart.

A row of a held-out loss is told by its prompt's hash and the tokens that count in it: of a question whose answer was
edited, a loss is of something else. All rows of one prompt are one unit. A document of lm-eval is told by its place
(`doc_id`) as long as the task's files and data are the same, else by lm-eval's hashes of the document and of what is
asked for.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

from dem_build import digest
from dem_build.actions.loss.read import read_rows
from dem_build.actions.task.read import as_number, metric_names, read_documents
from dem_build.compare.paired import Observation
from dem_build.errors import StoreError
from dem_build.json_text import MALFORMED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from dem_build.actions.task.read import RecordedDocument
    from dem_build.compare.sides import Node, Side
    from dem_build.digest import JSON

SAMPLES = "samples"
ROWS = "rows"
TEST_ROWS = "data/rows"
PROMPT = 16
"""Bytes of a row's mark that are its prompt's hash."""
MASKED = 0
"""Labels below are of tokens that do not count."""

Found = TypeVar("Found")


@dataclass(frozen=True)
class ScoredDocument:
    """One document that a model was asked.

    Attributes:
        place: Its place in the task's data, lm-eval's `doc_id`.
        hashes: lm-eval's hashes of the document and of what is asked for; None in a record that has none.
        said: A hash of the document and of what is asked for, that is made here: what tells it apart in such a record.
        prompt: The hash of the prompt.
        filtered: The filter that its answer went through.
        metrics: Metric → what it is on this document.
    """

    place: int
    hashes: tuple[str, str] | None
    said: str
    prompt: str
    filtered: str
    metrics: Mapping[str, JSON]

    @classmethod
    def of(cls, recorded: RecordedDocument) -> ScoredDocument:
        """That of what was recorded."""
        said = json.dumps([recorded.document, recorded.target], sort_keys=True)
        prompt = digest.of_bytes(recorded.prompt.encode())
        return cls(
            recorded.place,
            recorded.hashes,
            digest.of_bytes(said.encode()),
            prompt,
            recorded.filtered,
            recorded.metrics,
        )

    def mark(self, *, hashed: bool) -> str:
        """What tells it from others, whatever its place is."""
        return "/".join(self.hashes) if hashed and self.hashes else self.said


@dataclass(frozen=True)
class ScoredDocuments:
    """All documents that a model was asked, once for each filter."""

    found: tuple[ScoredDocument, ...]

    @classmethod
    def of_samples(cls, data: bytes) -> ScoredDocuments:
        """Those that the output `samples` of a task holds.

        Raises:
            ValueError, LookupError, TypeError: It is of another shape.
        """
        return cls(tuple(map(ScoredDocument.of, read_documents(data))))

    @property
    def hashed(self) -> bool:
        """Whether all of them have lm-eval's hashes: records before version 3 of the kind `task` have none."""
        return all(one.hashes is not None for one in self.found)

    def of_metric(self, name: str) -> tuple[str, list[ScoredDocument]]:
        """The documents that a metric of the results is of, and what it is called there."""
        metric, filtered = metric_names(self.found).get(name, (name, ""))
        return metric, [one for one in self.found if metric in one.metrics and one.filtered == filtered]


def scores(
    documents: Iterable[ScoredDocument], metric: str, *, by_place: bool, hashed: bool
) -> list[Observation] | None:
    """A metric of each document; None where it is no number of a document alone.

    Args:
        documents: The documents.
        metric: The metric, as documents call it.
        by_place: Whether they are told by their places: the data are the same on both sides.
        hashed: Whether both sides have lm-eval's hashes.
    """
    found = []
    for one in documents:
        number = as_number(one.metrics[metric])
        if number is None:
            return None
        mark = one.mark(hashed=hashed)
        found.append(Observation(one.place if by_place else mark, number, 1, mark))
    return found


class RowReader:
    """Reads what a side recorded of single rows, each thing once."""

    def __init__(self, side: Side) -> None:
        self._side = side
        self._told_apart: dict[str, list[bytes]] = {}

    def rows(self, node: Node) -> list[Observation]:
        """What a model lost on each row of a held-out loss.

        Raises:
            StoreError: It cannot be read.
        """
        return _taken_apart(node, lambda: self._rows(node))

    def documents(self, node: Node) -> ScoredDocuments:
        """What a model scored on each document of a task.

        Raises:
            StoreError: It cannot be read.
        """
        outputs = self._side.build.records[node.action.name].outputs
        return _taken_apart(node, lambda: ScoredDocuments.of_samples(self._side.build.read(outputs[SAMPLES])))

    def _rows(self, node: Node) -> list[Observation]:
        records = self._side.build.records
        data = next(t.at for t in node.action.takes if t.of == TEST_ROWS)
        output = records[data.action].outputs[data.output]
        if output.digest not in self._told_apart:
            self._told_apart[output.digest] = _row_marks(self._side.build.read(output))
        rows = read_rows(self._side.build.read(records[node.action.name].outputs[ROWS]))
        told = zip(self._told_apart[output.digest], rows.nll, rows.tokens, strict=True)
        return [Observation(mark, nll, tokens, mark[:PROMPT]) for mark, nll, tokens in told]


def _taken_apart(node: Node, read: Callable[[], Found]) -> Found:
    try:
        return read()
    except MALFORMED as error:
        hint = f"`--rebuild {node.action.name}` evaluates again"
        raise StoreError(
            "what it recorded row by row cannot be read", where=node.action.name, hint=hint
        ) from error


def _row_marks(data: bytes) -> list[bytes]:
    """What tells each row of a split from others: its prompt's hash, and a hash of the tokens that count."""
    import hashlib  # noqa: PLC0415  a comparison of what is the same needs neither

    import numpy as np  # noqa: PLC0415
    from safetensors import SafetensorError  # noqa: PLC0415
    from safetensors.numpy import load  # noqa: PLC0415

    try:
        tensors = load(data)
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    offsets, prompts = tensors["offsets"].tolist(), tensors["prompts"]
    labels = np.ascontiguousarray(tensors["labels"], dtype="<i4")
    if len(prompts) != len(offsets) - 1 or offsets[-1] != len(labels):
        raise ValueError("the rows are not one after another")
    counted = (labels[start:end] for start, end in pairwise(offsets))
    return [
        prompt.tobytes() + hashlib.sha256(row[row >= MASKED].tobytes()).digest()[:16]
        for prompt, row in zip(prompts, counted, strict=True)
    ]
