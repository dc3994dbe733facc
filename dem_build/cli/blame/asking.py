"""One item, asked of one model after another: a document of a task, or a row of a dataset."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dem_build.action import BASE
from dem_build.actions.task.spec import KIND as TASK_KIND
from dem_build.cli.blame.findings import Asked
from dem_build.errors import EvaluationError, UsageError
from dem_build.hardware import cpus
from dem_build.session.summed import recorded_outputs
from dem_build.step import Context, Inputs
from dem_build.wording import overflow_hint

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from dem_build.actions.task.document import AskedDocument, DocumentAnswer
    from dem_build.cli.blame.items import Items, RecordedItem
    from dem_build.model.live import LiveModel
    from dem_build.session.session import Session

TOLERANCES = {"float32": 1e-3}
"""By how much a row's loss may differ from what is recorded, as a share of it and at least of a nat: alone it is
computed in another order than among others."""
TOLERANCE = 0.03
"""Likewise, where parameters have fewer digits."""


class AskedItem(ABC):
    """An item that can be asked.

    Attributes:
        asks: What is asked, for people; known when a model was asked.
        wanted: What is right, for people.
        measure: What `Asked.sure` is; empty where the value says it.
    """

    asks = wanted = measure = ""

    def __init__(self, items: Items, number: int) -> None:
        self.items, self.number = items, number

    @abstractmethod
    def ask(self, name: str, without: Sequence[str], model: LiveModel) -> Asked:
        """What a model makes of it."""

    @abstractmethod
    def recorded(self, name: str) -> Asked | None:
        """What a model made of it when it was evaluated; None where that is not recorded, or not all of it."""

    @abstractmethod
    def differs(self, now: Asked, before: RecordedItem) -> str:
        """In what an answer differs from what is recorded of it, more than its last digits; empty for nothing."""

    def require_recorded(self, whole: Asked) -> None:
        """Refuse to blame anybody where the whole model does not answer as is recorded.

        Raises:
            EvaluationError: It does not.
        """
        before = self.items.models.get(whole.name, {}).get(self.number)
        if before is not None and (how := self.differs(whole, before)):
            hint = (
                f"`--rebuild {self.items.actions[whole.name].name}` evaluates again here; a near tie may go either way "
                "on another machine, or in another batch"
            )
            what = f"asked now, {whole.name} does not answer item {self.number} as is recorded: {how}"
            raise EvaluationError(f"{what}. Nobody is blamed", where=self.items.name, hint=hint)


@contextmanager
def opened_item(session: Session, items: Items, number: int, work: Path) -> Iterator[AskedItem]:
    """Yield an item of a planned recipe, all of whose model is built; copies and links for it go into `work`.

    Raises:
        UsageError: There is no such item.
        EvaluationError: Its task cannot be run.
    """
    if items.dataset is not None:
        yield _Row(session, items, number, work)
        return
    from dem_build.actions.task.document import opened_document  # noqa: PLC0415  torch: only when it is needed

    known, graph = recorded_outputs(session.plan), session.plan.graph
    parts = known[graph.composing]
    paths = {
        f"model/{n}": session.store.views.view(parts[n], work, n) for n in ("tokenizer", "generation_config")
    }
    action = next(iter(items.actions.values()))
    assert action.kind is TASK_KIND
    place = work / "asked"
    place.mkdir(exist_ok=True)
    context = Context(place, place, session.machine, threads=cpus())
    with opened_document(
        Inputs(paths=paths, sources=action.sources), action.params, context, number
    ) as document:
        yield _Document(items, number, document)


class _Document(AskedItem):
    def __init__(self, items: Items, number: int, document: AskedDocument) -> None:
        super().__init__(items, number)
        self._document = document
        self.wanted = document.wanted()
        self.measure = "margin" if document.choices else "log-likelihood"

    def ask(self, name: str, without: Sequence[str], model: LiveModel) -> Asked:
        found = self._document.ask(model.model)
        self.asks = found.prompt
        metric, filtered = self._place(found)
        responses = found.responses[filtered]
        return Asked(
            name,
            tuple(without),
            float(found.metrics[filtered][metric]),
            self._document.sure(self.items.metric, responses, found.expected),
            self._document.said(self.items.metric, responses),
        )

    def _place(self, found: DocumentAnswer) -> tuple[str, str]:
        """What the metric is called in answers, and its filter."""
        metric, at, filtered = self.items.metric.partition("@")
        return metric, filtered if at else next(
            f for f, metrics in found.metrics.items() if metric in metrics
        )

    def recorded(self, name: str) -> Asked | None:
        found = self.items.models.get(name, {}).get(self.number)
        if found is None:
            return None
        sure = self._document.sure(self.items.metric, found.responses, None)
        said = self._document.said(self.items.metric, found.responses)
        return None if sure is None else Asked(name, (), found.value, sure, said, recorded=True)

    def differs(self, now: Asked, before: RecordedItem) -> str:
        if self.asks != before.prompt:
            return "lm-eval asks it with another prompt"
        if now.value != before.value:
            sure = "" if now.sure is None else f" ({self.measure} {now.sure:.3g})"
            return f"{self.items.metric} is {now.value:g}{sure} and was {before.value:g}"
        return ""


class _Row(AskedItem):
    def __init__(self, session: Session, items: Items, number: int, work: Path) -> None:
        super().__init__(items, number)
        assert items.dataset is not None
        self._rows = _split(session, items.dataset)
        self._dtype = session.recipe.compose.dtype
        self._tolerance = TOLERANCES.get(self._dtype, TOLERANCE)
        texts = row_texts(session, items.dataset, [number], work)
        if number not in texts:
            raise UsageError(
                f"there is no item {number}", where=items.name, hint="`dem data` shows rows of --split test"
            )
        self.asks, self.wanted = texts[number]

    def ask(self, name: str, without: Sequence[str], model: LiveModel) -> Asked:
        from dem_build.actions.loss.run import row_loss  # noqa: PLC0415  torch: only when it is needed

        nll, tokens = row_loss(model.model, self._rows, self.number)
        if not tokens:
            raise UsageError(
                f"no token of item {self.number} counts", where=self.items.name, hint="name another item"
            )
        found = Asked(name, tuple(without), nll / tokens)
        if not math.isfinite(found.value):  # of which nobody can say how far it is from another
            raise EvaluationError(
                f"the loss of item {self.number} is not finite: {found.label}",
                where=self.items.name,
                hint=overflow_hint(self._dtype),
            )
        return found

    def recorded(self, name: str) -> Asked | None:
        found = self.items.models.get(name, {}).get(self.number)
        return None if found is None else Asked(name, (), found.value, recorded=True)

    def differs(self, now: Asked, before: RecordedItem) -> str:
        if abs(now.value - before.value) <= self._tolerance * max(1.0, abs(before.value)):
            return ""
        return f"its loss is {now.value:.4g} and was {before.value:.4g}"


def row_texts(
    session: Session, dataset: str, numbers: Sequence[int], work: Path
) -> dict[int, tuple[str, str]]:
    """What test rows of a dataset ask, and what they answer; of those that it has not, nothing.

    Raises:
        UsageError: They are not prepared.
    """
    from dem_build.actions.prepare.run import examples  # noqa: PLC0415  it brings the tokenizer's library along

    tokenizer = session.store.views.view(recorded_outputs(session.plan)[BASE]["tokenizer"], work, "tokenizer")
    found = examples(tokenizer, _split(session, dataset), numbers)
    sides = {
        number: ["".join(text for text, on in row.segments if on is trained) for trained in (False, True)]
        for number, row in zip(numbers, found, strict=False)
    }
    return {number: (asks, answers) for number, (asks, answers) in sides.items()}


def _split(session: Session, dataset: str) -> Path:
    known = recorded_outputs(session.plan)
    if f"data:{dataset}" not in known:
        hint = f"`dem build {session.named}` prepares them"
        raise UsageError("its rows are not prepared", where=dataset, hint=hint)
    return session.store.objects.open(known[f"data:{dataset}"]["test"])
