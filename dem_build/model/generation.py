"""What follows a prompt, token by token: when it ends, what text it is, and by which settings alone it is made."""

from __future__ import annotations

import contextlib
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)
from transformers.generation.streamers import BaseStreamer

from dem_build.errors import DataError
from dem_build.json_text import parse_json
from dem_build.model.load import quiet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from transformers import PreTrainedModel

    from dem_build.data.turns import Turn
    from dem_build.model.tokenizer import BaseTokenizer

UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""What the bytes of a character are decoded to before its last one is there."""
BEFORE = 32
"""Tokens of a prompt that decide how what follows them is written: at most a space, or the rest of a character."""
_NO_TEXT = re.compile("[\ud800-\udfff]")
"""Halves of pairs, as Python reads bytes that are no UTF-8; no tokenizer takes them."""


def stops_of(tokenizer: BaseTokenizer, generation_config: Path) -> list[int]:
    """What ends an answer: the token that training ends rows with first, then the base's others."""
    said = parse_json(generation_config.read_bytes()).get("eos_token_id")
    more = said if isinstance(said, list) else [said]
    return list(dict.fromkeys([tokenizer.eos_id, *(t for t in more if isinstance(t, int))]))


def continued(tokenizer: BaseTokenizer, ids: Sequence[int], more: Sequence[int]) -> str:
    """The text that `more` adds to `ids`: alone, SentencePiece would lose the space that it begins with."""
    before, both = tokenizer.decode(ids), tokenizer.decode([*ids, *more])
    return both[len(before) :] if both.startswith(before) else tokenizer.decode(more)


@contextlib.contextmanager
def plain_generation(model: PreTrainedModel) -> Iterator[None]:
    """Have `generate` go by what it is given alone: it would take from the model's own config what that leaves open."""
    config: Any = GenerationConfig  # it has no types
    own = model.generation_config
    model.generation_config = config()
    try:
        yield
    finally:
        model.generation_config = own


def prompt_of(tokenizer: BaseTokenizer, turns: Sequence[Turn]) -> list[int]:
    """A conversation in the base's chat template, up to where the assistant answers.

    Without a template there are no turns: it is the last of them alone, which the model continues.

    Raises:
        DataError: The template refuses these turns; there is a system prompt and no template; or it is no text.
    """
    if any(_NO_TEXT.search(turn["content"]) for turn in turns):
        raise DataError("what is asked is not UTF-8", hint="convert it: `iconv -f latin1 -t utf-8`")
    if not tokenizer.has_chat_template:
        if any(turn["role"] == "system" for turn in turns):
            what = "a system prompt needs a chat template, and the base has none"
            raise DataError(what, hint="leave out --system")
        return [*tokenizer.prefix_ids, *tokenizer.encode([turns[-1]["content"]])[0]]
    [rendered] = tokenizer.render([[*turns]], add_generation_prompt=True)
    return tokenizer.encode([rendered])[0]  # the template writes BOS itself where the model wants it


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        temperature: What logits are divided by; 0 takes the likeliest token each time.
        top_p: Tokens are drawn from the fewest likeliest ones that are so probable together.
        seed: Of the draws: models that are asked with one seed draw alike, and differ by what they know.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Answered:
    """What a model answered.

    Attributes:
        text: It, without the token that ends it.
        ended: Whether the model came to an end by itself.
        seconds: How long it took.
    """

    text: str
    tokens: int
    ended: bool
    seconds: float


@torch.inference_mode()
def answer_prompt(  # noqa: PLR0913  what an answer depends on
    model: PreTrainedModel,
    tokenizer: BaseTokenizer,
    ids: Sequence[int],
    *,
    room: int,
    stops: Sequence[int],
    sampling: Sampling,
    tell: Callable[[str], None],
    stopping: Callable[[], bool] = lambda: False,
) -> Answered:
    """Answer a prompt, and tell the answer as it comes.

    Args:
        model: A causal language model.
        tokenizer: The base's.
        ids: The prompt's tokens.
        room: Most tokens of the answer.
        stops: Tokens that end an answer.
        sampling: How tokens are chosen.
        tell: Called in this thread with each piece of text; what it raises ends the answer.
        stopping: Asked after each token whether to end.
    """
    started = time.monotonic()
    heard = _Heard(tokenizer, ids, stops, tell)
    generate: Any = model.generate  # its types leave out what it takes
    given = torch.tensor([[*ids]], device=model.device)
    with quiet(), plain_generation(model):
        generate(
            input_ids=given,
            attention_mask=torch.ones_like(given),
            generation_config=likeliest(room, stops),
            logits_processor=_drawn(sampling),
            stopping_criteria=StoppingCriteriaList([_Stop(stopping)]),
            streamer=heard,
        )
    return Answered(heard.text(), len(heard.tokens), heard.ended, time.monotonic() - started)


def likeliest(room: int, stops: Sequence[int]) -> GenerationConfig:
    """Settings by which `generate` takes the likeliest token each time, until it stops or has had its room."""
    config: Any = GenerationConfig  # it has no types
    settings: GenerationConfig = config(
        max_new_tokens=room,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        eos_token_id=list(stops),
        pad_token_id=0,  # what it is does not matter: a mask leaves it out
    )
    return settings


class _Heard(BaseStreamer):
    """Hears the tokens of an answer, and tells what of its text is certain."""

    def __init__(
        self, tokenizer: BaseTokenizer, ids: Sequence[int], stops: Sequence[int], tell: Callable[[str], None]
    ) -> None:
        self._tokenizer, self._ids, self._stops, self._tell = tokenizer, ids[-BEFORE:], stops, tell
        self.tokens: list[int] = []
        self.ended = False
        self._prompted = False
        self._told = ""

    def text(self) -> str:
        """All of the text so far."""
        return continued(self._tokenizer, self._ids, self.tokens)

    def put(self, value: torch.Tensor) -> None:
        """Hear the prompt, which comes first, then a token each time."""
        if not self._prompted:
            self._prompted = True
            return
        token = int(value.view(-1)[0])
        if token in self._stops:
            self.ended = True
            return
        self.tokens.append(token)
        text = self.text()
        # A character of several tokens is none before its last, and what was told is not taken back.
        if not text.endswith(UNFINISHED) and text.startswith(self._told):
            self._tell(text[len(self._told) :])
            self._told = text

    def end(self) -> None:
        """Tell what is left."""
        text = self.text()
        if text.startswith(self._told) and text != self._told:
            self._tell(text[len(self._told) :])


class _Stop(StoppingCriteria):
    """Ends an answer where somebody asks for it."""

    def __init__(self, stopping: Callable[[], bool]) -> None:
        self._stopping = stopping

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        """Whether each answer is at its end."""
        del scores
        return torch.full((len(input_ids),), self._stopping(), dtype=torch.bool, device=input_ids.device)


def _drawn(sampling: Sampling) -> LogitsProcessorList:
    if not sampling.temperature:
        return LogitsProcessorList()
    # Their constructors carry no types.
    temperature: Any = TemperatureLogitsWarper
    top_p: Any = TopPLogitsWarper
    fewer = [top_p(sampling.top_p)] if sampling.top_p < 1 else []
    return LogitsProcessorList([temperature(sampling.temperature), *fewer, _Gumbel(sampling.seed)])


class _Gumbel(LogitsProcessor):
    """Adds Gumbel noise: the largest of log p + G is a draw from p (the Gumbel-max trick, Maddison et al. 2014).

    The noise is the same for whatever model is asked, so that two models that agree say the same, and it is of a
    generator of its own: no other thread draws from it.
    """

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The scores with noise."""
        del input_ids
        noise = torch.empty(scores.shape[-1], dtype=torch.float32).exponential_(generator=self._generator)
        return scores - noise.log().to(scores.device)
