"""dem's model as lm-eval's: it says how far it is, stops when asked to, and keeps sums of log-likelihoods precise.

It also says when lm-eval cut prompts, which it does without a word in its results.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lm_eval.models.huggingface import HFLM  # type: ignore[import-untyped]

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from dem_build.steps.api import Context

__all__ = ["ReportingLM"]


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
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, context: Context, *, chat: bool
    ) -> None:
        # A softmax in bfloat16 keeps three digits of a log-likelihood: too few to tell two answers apart.
        super().__init__(
            pretrained=model,
            tokenizer=tokenizer,
            batch_size=context.machine.eval_batch_size,
            softmax_dtype="float32",
            add_bos_token=False if chat else None,
        )
        self._context = context
        self._done = 0
        self._total = 0
        self._cut = 0

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Return the log-likelihood of each continuation, and whether it is the greedy one."""
        self._begin(requests)
        answers: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        self._end()
        return answers

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:
        """Return the log-likelihood of each whole text."""
        self._begin(requests)
        answers: list[float] = super().loglikelihood_rolling(requests, disable_tqdm=disable_tqdm)
        self._end()
        return answers

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        """Return each prompt's continuation."""
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

    def tok_batch_encode(
        self, strings: list[str], *args: Any, left_truncate_len: int | None = None, **kwargs: Any
    ) -> Any:
        """Return the prompts' ids and attention mask, cut on the left to `left_truncate_len` tokens."""
        ids, mask = super().tok_batch_encode(strings, *args, left_truncate_len=None, **kwargs)
        if left_truncate_len is None or ids.shape[1] <= left_truncate_len:
            return ids, mask
        self._cut += int((mask.sum(dim=1) > left_truncate_len).sum())
        return ids[:, -left_truncate_len:], mask[:, -left_truncate_len:]

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
