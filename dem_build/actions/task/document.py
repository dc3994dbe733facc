"""One document of an lm-eval task, asked of one model after another as the whole task was.

lm-eval's own choice of documents (`samples`) would ask something else: few-shot examples come of one generator,
document after document, so that those of document 17 depend on the 17 before it. Here their prompts are written, too.
"""

from __future__ import annotations

import contextlib
import io
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lm_eval.api.instance import Instance  # type: ignore[import-untyped]

from dem_build.actions.task.harness import ReportingLM
from dem_build.actions.task.run import as_evaluated, opened_task
from dem_build.errors import EvaluationError, UsageError
from dem_build.model.environment import memory_told
from dem_build.model.load import OUT_OF_MEMORY_HINT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from transformers import PreTrainedModel

    from dem_build.digest import JSON
    from dem_build.model.tokenizer import BaseTokenizer
    from dem_build.step import Context, Inputs

LENGTHS: dict[str, Callable[[str], int]] = {"acc_norm": len, "acc_bytes": lambda text: len(text.encode())}
"""Metric → what it divides the log-likelihood of a choice by."""
CHOICES, GENERATED = "multiple_choice", "generate_until"


@dataclass(frozen=True)
class DocumentAnswer:
    """What a model made of a document.

    Attributes:
        prompt: What it was asked.
        metrics: Filter → metric → what it is, in lm-eval's order of filters.
        responses: Filter → what the model said: log-likelihoods, or texts.
        expected: Where it says texts, the log-likelihood of the one that is expected, in nats; None where there is no
            such text.
    """

    prompt: str
    metrics: Mapping[str, Mapping[str, JSON]]
    responses: Mapping[str, Sequence[Any]]
    expected: float | None


@contextlib.contextmanager
def opened_document(
    inputs: Inputs, params: Mapping[str, JSON], context: Context, number: int
) -> Iterator[AskedDocument]:
    """Yield a document; what lm-eval raises in the block is told as an error.

    Args:
        inputs: The task's closure as `sources`, `model/tokenizer` and `model/generation_config`.
        params: As of an action of the kind `task`.
        context: Where copies of files are made; uses `machine.eval_batch_size`.
        number: The document's place in the task's data, from 0: lm-eval's `doc_id`.

    Raises:
        EvaluationError: The task cannot be loaded or run.
        UsageError: It has no such document.
    """
    with contextlib.ExitStack() as held:
        with _silent():
            task, tokenizer = held.enter_context(opened_task(inputs, params, context))
            count = len(task.eval_docs)
        if not 0 <= number < count:
            hint = f"its items are 0 to {count - 1}"
            raise UsageError(f"there is no item {number}", where=params["task"], hint=hint)
        if getattr(task, "UNSAFE_CODE", False):
            raise EvaluationError("it runs what models write", where=params["task"], hint="ask another task")
        yield AskedDocument(task, number, tokenizer, inputs, params, context)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Let neither lm-eval nor a task's code print: this is the user's own terminal, and no worker's log."""
    log = logging.getLogger("lm_eval")
    level, sink = log.level, io.StringIO()
    log.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
            yield
    finally:
        log.setLevel(level)


@dataclass
class AskedDocument:
    """A document of an opened task; attributes as the arguments of `opened_document`."""

    task: Any
    number: int
    tokenizer: BaseTokenizer
    inputs: Inputs
    params: Mapping[str, JSON]
    context: Context
    _asked: list[Any] = field(default_factory=list)

    @property
    def _doc(self) -> Any:
        return self.task.eval_docs[self.number]

    @property
    def choices(self) -> list[str]:
        """What is to be chosen from; nothing where the task is of another type."""
        if self.task.OUTPUT_TYPE != CHOICES:
            return []
        return [str(choice) for choice in self.task.doc_to_choice(self._doc)]

    def ask(self, model: PreTrainedModel) -> DocumentAnswer:
        """Ask a model.

        Raises:
            EvaluationError: Memory ran out.
        """
        task, chat = self.task, bool(self.params["apply_chat_template"])
        with _silent(), memory_told(EvaluationError, f"in {self.params['task']}", OUT_OF_MEMORY_HINT):
            lm = ReportingLM(model, self.tokenizer, self.context, chat=chat)
            with as_evaluated(lm, self.inputs):
                if not self._asked:
                    self._asked = self._requests(lm, chat=chat)
                self._answer(lm)
                task._instances = self._asked  # noqa: SLF001  filters are applied to all that it has
                task.apply_filters()
                filters = list(self._asked[0].filtered_resps)
                responses = {f: [one.filtered_resps[f] for one in self._asked] for f in filters}
                metrics = {f: task.process_results(self._doc, responses[f]) for f in filters}
            expected = self._expected(lm, chat=chat)
        return DocumentAnswer(str(self._asked[0].args[0]), metrics, responses, expected)

    def _requests(self, lm: ReportingLM, *, chat: bool) -> list[Any]:
        """The document's requests, written after those of all documents before it."""
        self.task.build_all_requests(
            limit=self.number + 1,
            apply_chat_template=chat,
            fewshot_as_multiturn=True,
            chat_template=lm.apply_chat_template if chat else None,
            tokenizer_name=lm.tokenizer_name if chat else "",
        )
        found = [one for one in self.task.instances if one.doc_id == self.number]
        return sorted(found, key=lambda one: one.idx)

    def _answer(self, lm: ReportingLM) -> None:
        kinds: dict[str, list[Any]] = {}
        for request in self._asked:
            request.resps, request.filtered_resps = [], {}
            kinds.setdefault(request.request_type, []).extend([request] * request.repeats)
        for kind, requests in kinds.items():
            for request, said in zip(requests, getattr(lm, kind)(requests), strict=True):
                request.resps.append(said)

    def _expected(self, lm: ReportingLM, *, chat: bool) -> float | None:
        if self.task.OUTPUT_TYPE != GENERATED:
            return None
        target = self.task.doc_to_target(self._doc)
        texts = [text for text in (target if isinstance(target, list) else [target]) if isinstance(text, str)]
        before = "" if chat else str(self.task.config.target_delimiter)
        asks = [
            Instance("loglikelihood", self._doc, (self._asked[0].args[0], before + text), place)
            for place, text in enumerate(texts)
            if text.strip()
        ]
        return max(found for found, _ in lm.loglikelihood(asks)) if asks else None

    def sure(self, metric: str, responses: Sequence[Any], expected: float | None) -> float | None:
        """How sure a model is of what is right, in nats; None where that is not known.

        Of choices it is by how much the log-likelihood of the right one is above that of the best other, each divided
        as the metric divides them; of a text its log-likelihood.

        Args:
            metric: Which metric is looked at.
            responses: As of `DocumentAnswer`, of the metric's filter.
            expected: Likewise.
        """
        kind = self.task.OUTPUT_TYPE
        if kind == GENERATED:
            return expected
        if kind != CHOICES:
            return float(responses[0][0] if kind == "loglikelihood" else responses[0])
        scores, right = self._scores(metric, responses), self._right()
        others = [score for place, score in enumerate(scores) if place not in right]
        if not others or not all(0 <= place < len(scores) for place in right) or not right:
            return None
        return float(max(scores[place] for place in right) - max(others))

    def said(self, metric: str, responses: Sequence[Any]) -> str:
        """What a model answered: the choice, or the text; nothing where it was only asked how likely a text is."""
        if self.task.OUTPUT_TYPE == CHOICES:
            scores = self._scores(metric, responses)
            return self.choices[scores.index(max(scores))]
        if self.task.OUTPUT_TYPE != GENERATED:
            return ""
        first = responses[0]
        return str(first[0] if isinstance(first, list) and first else first)

    def wanted(self) -> str:
        """What is right, for people."""
        if self.task.OUTPUT_TYPE == CHOICES:
            return " or ".join(
                self.choices[place] for place in self._right() if 0 <= place < len(self.choices)
            )
        target = self.task.doc_to_target(self._doc)
        return " or ".join(map(str, target)) if isinstance(target, list) else str(target)

    def _scores(self, metric: str, responses: Sequence[Any]) -> list[float]:
        choices = self.choices
        length: Callable[[str], int] = LENGTHS.get(metric.partition("@")[0], lambda _: 1)
        likelihoods = [float(response[0]) for response in responses[: len(choices)]]
        return [found / (length(text) or 1) for found, text in zip(likelihoods, choices, strict=True)]

    def _right(self) -> list[int]:
        """The places of the choices that are right, as lm-eval finds them."""
        task, choices = self.task, self.choices
        gold = task.doc_to_text(self._doc) if task.multiple_input else task.doc_to_target(self._doc)
        if isinstance(gold, str):
            gold = choices.index(gold) if gold in choices else -1
        return [int(place) for place in (gold if isinstance(gold, list) else [gold])]
