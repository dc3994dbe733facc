"""dem's model as lm-eval's: it says how far it is, stops when asked to, and keeps sums of log-likelihoods precise.

It gives every kind of request the special tokens of training: before a text what the tokenizer puts there, once and
never scored; after it nothing, for a prompt goes on. It also says when prompts were cut, or lack the task's
description, of which lm-eval's results have no word.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jinja2
import torch
from lm_eval.models.huggingface import HFLM  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel

    from dem_build.model.tokenizer import BaseTokenizer
    from dem_build.step import Context


class ReportingLM(HFLM):  # type: ignore[misc]  # lm-eval has no types
    """A loaded model for lm-eval's `evaluate`.

    Args:
        model: In evaluation mode, its tied weights tied: lm-eval ties and switches again, which then changes nothing.
        tokenizer: This evaluation's own, for lm-eval may give it a pad token.
        context: Told of every batch, and asked before each whether to stop.
        chat: Whether prompts come in the chat template. It writes BOS where the model wants it, and then the
            tokenizer adds none, as in training and wherever else the model is chatted with; lm-eval's default adds it.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: BaseTokenizer, context: Context, *, chat: bool
    ) -> None:
        # A softmax in bfloat16 keeps three digits of a log-likelihood: too few to tell two answers apart.
        super().__init__(
            pretrained=model,
            tokenizer=tokenizer.backend,
            batch_size=context.machine.eval_batch_size,
            softmax_dtype="float32",
        )
        # lm-eval leaves special tokens to the tokenizer, which may end each text with EOS, and puts BOS before a
        # rolling log-likelihood's text that has one already.
        self._words = tokenizer
        self._prefix = () if chat else tokenizer.prefix_ids
        self._context = context
        self._done = 0
        self._total = 0
        self._cut = 0
        self._undescribed = 0

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """The log-likelihood of each continuation, and whether it is the greedy one."""
        self._begin(requests)
        pairs = [(one.args, *self._pair(*one.args)) for one in requests]
        answers: list[tuple[float, bool]] = self._loglikelihood_tokens(pairs, disable_tqdm=disable_tqdm)
        self._end()
        return answers

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:
        """The log-likelihood of each whole text."""
        self._begin(requests)
        del disable_tqdm  # as below
        windows = [list(self._windows(*one.args)) for one in requests]
        scored = self._loglikelihood_tokens([(None, *w) for of_text in windows for w in of_text])
        left = iter(scored)
        answers = [sum(next(left)[0] for _ in of_text) for of_text in windows]
        self._end()
        return answers

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        """Each prompt's continuation."""
        self._begin(requests)
        answers: list[str] = super().generate_until(requests, disable_tqdm=disable_tqdm)
        self._end()
        return answers

    def _loglikelihood_tokens(
        self, requests: list[Any], disable_tqdm: bool = True, override_bs: int | None = None
    ) -> Any:
        del disable_tqdm  # the rolling kind asks for a bar of its own for every batch
        self._cut += sum(len(before) + len(after) > self.max_length + 1 for _, before, after in requests)
        return super()._loglikelihood_tokens(requests, disable_tqdm=True, override_bs=override_bs)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """A text's ids, after what training puts before a text unless `add_special_tokens` is False."""
        return self._begun(string) if add_special_tokens is not False else self._words.encode([string])[0]

    def tok_batch_encode(
        self, strings: list[str], *_: Any, left_truncate_len: int | None = None, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Prompts' ids, of their last `left_truncate_len` tokens, padded on the left, and their mask."""
        rows = [self._begun(string) or [self.prefix_token_id] for string in strings]
        if left_truncate_len is not None:
            self._cut += sum(len(row) > left_truncate_len for row in rows)
            rows = [row[-left_truncate_len:] for row in rows]
        longest = max(map(len, rows))
        ids = torch.full((len(rows), longest), self.tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, longest - len(row) :] = torch.tensor(row)
            mask[i, longest - len(row) :] = 1
        return ids, mask

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Turns as text; without the task's description where the template refuses it, which is then said."""
        described = [turn["content"].strip() for turn in chat_history if turn["role"] == "system"]
        try:
            text = self._rendered(chat_history, add_generation_prompt)
        except jinja2.TemplateError:
            if not described:
                raise
            text = self._rendered([t for t in chat_history if t["role"] != "system"], add_generation_prompt)
        self._undescribed += any(words not in text for words in described)
        return text

    def tell_of_descriptions(self) -> None:
        """Warn of a task's description that the chat template wrote into no prompt, or not into all of them."""
        if self._undescribed:
            self._context.warn(
                f"the base's chat template leaves the task's description out of {self._undescribed} prompts: it takes "
                "no system turn, so the model is asked without it"
            )

    def _rendered(self, turns: list[dict[str, str]], asks: bool) -> str:
        text: str = self.tokenizer.apply_chat_template(
            turns,
            tokenize=False,
            add_generation_prompt=asks,
            continue_final_message=not asks,
            **self.chat_template_args,
        )
        return text

    def _begun(self, string: str) -> list[int]:
        """A text's ids as a row of training begins: after BOS where the tokenizer adds it, once."""
        ids = self._words.encode([string])[0]
        return ids if tuple(ids[: len(self._prefix)]) == self._prefix else [*self._prefix, *ids]

    def _pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """The ids of what is given, never none, and of what is scored."""
        if context.strip():
            before, after = self._encode_pair(context, continuation)
            return before, after
        return self._opened(self._words.encode([context + continuation])[0])

    def _opened(self, ids: list[int]) -> tuple[list[int], list[int]]:
        """What stands before a text that has no context, in no template, and the text's ids without it."""
        first = list(self._words.prefix_ids) or [self.prefix_token_id]
        return first, ids[len(first) :] if ids[: len(first)] == first else ids

    def _windows(self, string: str) -> Iterator[tuple[list[int], list[int]]]:
        """Yield pieces of a text, each after as much as fits: every token is scored once, as lm-eval's windows do."""
        first, ids = self._opened(self._words.encode([string])[0])
        end = min(len(ids), self.max_length + 1 - len(first))
        if ids:
            yield first, ids[:end]
        while end < len(ids):
            start, end = end, min(len(ids), end + self.max_length)
            yield ids[max(0, end - self.max_length - 1) : start], ids[start:end]

    def _model_call(self, inps: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        self._context.check_stop()
        logits = super()._model_call(inps, *args, **kwargs)
        self._advance(len(inps))
        return logits

    def _model_generate(self, context: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        self._context.check_stop()
        tokens = super()._model_generate(context, *args, **kwargs)
        self._advance(len(context))
        return tokens

    def _begin(self, requests: list[Any]) -> None:
        self._done, self._total, self._cut = 0, len(requests), 0
        self._context.progress(0, self._total, "requests")

    def _advance(self, rows: int) -> None:
        # Answers of one token share a row and long texts have several, so rows are not quite requests.
        self._done = min(self._done + rows, self._total)
        self._context.progress(self._done, self._total, "requests")

    def _end(self) -> None:
        self._context.progress(self._total, self._total, "requests")
        if self._cut:
            self._context.warn(
                f"{self._cut} of {self._total} requests do not fit in the {self.max_length} tokens that the "
                "model takes: lm-eval cut off their beginnings"
            )
