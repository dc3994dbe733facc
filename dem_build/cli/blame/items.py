"""Single items of a recipe: documents of a task, test rows of a dataset or probe; and what is recorded of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dem_build.action import BASE, COMPOSED
from dem_build.actions.loss.read import read_rows
from dem_build.actions.loss.spec import KIND as LOSS_KIND
from dem_build.actions.task.read import metric_names, read_documents
from dem_build.actions.task.spec import KIND as TASK_KIND
from dem_build.errors import StoreError, UsageError
from dem_build.json_text import MALFORMED, quantity
from dem_build.recipe.messages import nearest
from dem_build.report.comparison import LOSS, LOSS_TASK, falls

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from dem_build.action import Action, Kind
    from dem_build.actions.task.read import RecordedDocument
    from dem_build.digest import JSON
    from dem_build.session.session import Session

SAMPLES, ROWS = "samples", "rows"
LIKELIHOOD = "perplexity"
"""What lm-eval calls a document's log-likelihood, of which more is better; over all documents less of it is."""


@dataclass(frozen=True)
class RecordedItem:
    """What is recorded of one item and one model.

    Attributes:
        value: The metric, or the mean loss of the tokens that count, in nats.
        responses: What the model said, as lm-eval has it; nothing of a row.
        prompt: What it was asked; nothing of a row.
        margin: By how much the right choice was likelier than the best other, in nats; None where that does not tell.
        tokens: How many tokens of a row count.
    """

    value: float
    responses: tuple[Any, ...] = ()
    prompt: str = ""
    margin: float | None = None
    tokens: int = 0


@dataclass(frozen=True)
class Items:
    """The items of a task, or of a dataset's test rows.

    Attributes:
        name: As in results: `gsm8k`, `loss:math`.
        dataset: Whose rows they are; None of a task.
        lower_is_better: Whether less of the metric is better.
        models: Model → item → what is recorded.
        actions: Model → what evaluates it, recorded or not.
    """

    name: str
    dataset: str | None
    metric: str
    lower_is_better: bool
    models: Mapping[str, Mapping[int, RecordedItem]] = field(default_factory=dict)
    actions: Mapping[str, Action] = field(default_factory=dict)

    def better(self, value: float, other: float) -> float:
        """By how much a value is better than another."""
        return other - value if self.lower_is_better else value - other

    @property
    def binary(self) -> bool:
        """Whether each item is right or wrong, 1 or 0."""
        return self.dataset is None and all(
            item.value in (0.0, 1.0) for found in self.models.values() for item in found.values()
        )

    def changed(self) -> list[int]:
        """The items on which base and composed differ, most telling first."""
        base, composed = self.models.get(BASE, {}), self.models.get(COMPOSED, {})

        def telling(number: int) -> tuple[float, float]:
            old, new = base[number], composed[number]
            margins = None if old.margin is None or new.margin is None else abs(new.margin - old.margin)
            return abs(new.value - old.value), margins or 0.0

        found = [n for n in base.keys() & composed.keys() if base[n].value != composed[n].value]
        return sorted(sorted(found), key=telling, reverse=True)

    def number_of(self, item: str) -> int:
        """The number that a user gives.

        Raises:
            UsageError: It is none, or there is no such item.
        """
        known = {number for found in self.models.values() for number in found}
        hint = f"its items are 0 to {max(known)}" if known else "an item is a number, from 0"
        number = int(item) if item.isascii() and item.isdigit() and len(item) < 10 else -1
        if number < 0 or (known and number not in known):
            raise UsageError(
                f"there is no item {item!r}",
                where=self.name,
                hint=f"{hint}; `dem blame` without one lists them",
            )
        return number


def items_of(session: Session, target: str, metric: str | None) -> Items:
    """The items that a user asks for.

    Args:
        session: The recipe.
        target: A task, a dataset or a probe; `loss:NAME` is always the rows of one.
        metric: The metric; None for the first that an item has.

    Raises:
        UsageError: There is no such task, dataset or metric.
        StoreError: What is recorded cannot be read.
    """
    recipe, graph = session.recipe, session.plan.graph
    evaluations = [a for a in graph if a.evaluation is not None]
    tasks = {a.evaluation.task for a in evaluations if a.kind is TASK_KIND and a.evaluation}
    datasets = [*recipe.tested, *recipe.probes]
    if target in graph.groups:
        names = sorted(name for name in tasks if name in {*graph.groups[target].tasks})
        raise UsageError(
            f"{target} is a group of tasks", where=session.named, hint=f"name one of {', '.join(names)}"
        )
    if target in tasks:
        return _documents(session, target, metric, _evaluating(evaluations, TASK_KIND, target))
    dataset = target.removeprefix(LOSS_TASK)
    if dataset not in datasets:
        what = f"there is no task, and no dataset or probe with test rows, {target!r} in this recipe"
        raise UsageError(what, where=session.named, hint=nearest(target, [*tasks, *datasets]))
    if metric not in (None, LOSS):
        raise UsageError(
            f"rows have no metric {metric!r}", where=dataset, hint=f"leave out --metric: it is {LOSS!r}"
        )
    found = _evaluating(evaluations, LOSS_KIND, LOSS_TASK + dataset)
    models = {
        model: _of_rows(session, action)
        for model, action in found.items()
        if action.name in session.plan.records
    }
    return Items(LOSS_TASK + dataset, dataset, LOSS, lower_is_better=True, models=models, actions=found)


def _evaluating(evaluations: Iterable[Action], kind: Kind, task: str) -> dict[str, Action]:
    """Model → what evaluates it on a task."""
    having = ((a.evaluation, a) for a in evaluations if a.kind is kind)
    return {said.model: action for said, action in having if said is not None and said.task == task}


def _of_rows(session: Session, action: Action) -> dict[int, RecordedItem]:
    output = session.plan.records[action.name].outputs[ROWS]
    try:
        rows = read_rows(session.store.objects.read_bytes(output))
    except MALFORMED as error:
        raise _unreadable(action) from error
    told = enumerate(zip(rows.nll, rows.tokens, strict=True))
    return {place: RecordedItem(nll / tokens, tokens=tokens) for place, (nll, tokens) in told if tokens}


def _documents(session: Session, task: str, metric: str | None, found: Mapping[str, Action]) -> Items:
    records, read = session.plan.records, session.store.objects.read_bytes
    samples: dict[str, list[RecordedDocument]] = {}
    for model, action in found.items():
        if action.name in records:
            try:
                samples[model] = read_documents(read(records[action.name].outputs[SAMPLES]))
            except MALFORMED as error:
                raise _unreadable(action) from error
    names = {name: None for told in samples.values() for name in _of_single_items(told)}
    if not samples:
        hint = f"`dem build {session.named}` evaluates"
        raise UsageError("no model was evaluated on it yet", where=task, hint=hint)
    if not names:
        hint = "blame rows of a dataset"
        raise UsageError("none of its metrics is a number of an item alone", where=task, hint=hint)
    if metric is not None and metric not in names:
        raise UsageError(f"there is no metric {metric!r} of an item", where=task, hint=nearest(metric, names))
    chosen = metric or next(iter(names))
    plain = chosen.partition("@")[0]
    evaluated = next(records[found[model].name] for model in samples)
    lower = plain != LIKELIHOOD and falls(plain, evaluated.noted("higher_is_better", plain))
    models = {model: dict(_of_samples(told, chosen)) for model, told in samples.items()}
    return Items(task, None, chosen, lower_is_better=lower, models=models, actions=found)


def _of_single_items(documents: Sequence[RecordedDocument]) -> dict[str, tuple[str, str]]:
    """As `metric_names`, of those metrics that are a number of an item alone."""
    told = {(m, one.filtered) for one in documents for m in one.metrics if one.number(m) is not None}
    return {name: which for name, which in metric_names(documents).items() if which in told}


def _of_samples(documents: Sequence[RecordedDocument], metric: str) -> Iterable[tuple[int, RecordedItem]]:
    name, filtered = _of_single_items(documents).get(metric, (metric, ""))
    for one in documents:
        value = one.number(name)
        if one.filtered == filtered and value is not None:
            margin = _margin(one.target, one.responses)
            yield one.place, RecordedItem(value, one.responses, one.prompt, margin)


def _margin(target: JSON, responses: tuple[Any, ...]) -> float | None:
    """The margin of the right of some choices, as far as a record alone tells."""
    if not isinstance(target, int) or not 0 <= target < len(responses) or len(responses) < 2:
        return None
    found = [quantity(said[0]) if isinstance(said, list) and said else None for said in responses]
    known = [value for value in found if value is not None]
    right = found[target]
    if right is None or len(known) < len(found):
        return None
    return right - max(value for place, value in enumerate(known) if place != target)


def _unreadable(action: Action) -> StoreError:
    hint = f"`--rebuild {action.name}` evaluates again"
    return StoreError("what it recorded item by item cannot be read", where=action.name, hint=hint)
