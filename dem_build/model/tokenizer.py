"""The base's tokenizer, as `dem_build.data` asks for it: transformers behind a narrow protocol."""

from __future__ import annotations

import inspect
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

import jinja2
from transformers import PreTrainedTokenizerBase

from dem_build.data.chat import pin_date
from dem_build.data.conversations import INSTRUCTING
from dem_build.data.template import FAULTS, variables
from dem_build.data.turns import as_text
from dem_build.data.written import ONE_TOOL, cues, switches
from dem_build.errors import DataError
from dem_build.model.tokenizer_files import UNLOADABLE, load_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from dem_build.data.turns import Turn


class BaseTokenizer:
    """A tokenizer with an EOS, whose chat templates print a fixed date.

    Attributes:
        backend: The tokenizer as transformers loads it.
        eos_token: Text of the end of sequence.
        prefix_ids: What the tokenizer puts before a text by itself: BOS, or nothing.
        control_tokens: Texts of its special tokens, sorted.
        has_chat_template: Whether it has one, or several with names.

    Args:
        folder: Holds `tokenizer.json`, `tokenizer_config.json`, and the chat templates where there are any.

    Raises:
        DataError: The folder's files are no tokenizer, or it has no EOS.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.backend = load_tokenizer(folder)
        except UNLOADABLE as error:
            raise DataError(f"the base's tokenizer cannot be loaded: {error}", where=str(folder)) from error
        if self.backend.eos_token_id is None:
            raise DataError(
                "the base's tokenizer has no EOS token, so no row could be ended",
                # Not where it lies: that is a link into the store, which nobody shall edit.
                hint="set eos_token in the base's own tokenizer_config.json",
            )
        self.eos_token: str = self.backend.eos_token
        self.eos_id: int = self.backend.eos_token_id
        # What it puts before a text is asked of it: not every tokenizer that has a BOS adds it.
        plain, full = self.backend("a", add_special_tokens=False)["input_ids"], self.backend("a")["input_ids"]
        starts = [i for i in range(len(full) - len(plain) + 1) if full[i : i + len(plain)] == plain]
        self.prefix_ids = tuple(full[: starts[0]]) if starts else ()
        self.control_tokens = tuple(
            sorted(t.content for t in self.backend.added_tokens_decoder.values() if t.special)
        )
        self.has_chat_template = bool(self.backend.chat_template)
        found = self.backend.chat_template
        if found:  # one that prints today's date would give other rows tomorrow
            found = (
                pin_date(found)
                if isinstance(found, str)
                else {n: pin_date(text) for n, text in found.items()}
            )
            self.backend.chat_template = found
        templates = [found] if isinstance(found, str) else list((found or {}).values())
        self.cues, self.switches = cues(templates), switches(templates)
        self.variables = frozenset().union(*map(variables, templates))
        self.shapes: dict[str, frozenset[str]] = {}

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, without special tokens that are not in the text."""
        if not texts:
            return []
        encoded = self.backend(
            list(texts),
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        ids: list[list[int]] = encoded["input_ids"]
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens and all."""
        text: str = self.backend.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    def render(
        self,
        conversations: list[list[Turn]],
        *,
        add_generation_prompt: bool,
        tools: Sequence[dict[str, Any]] = (),
        variables: Mapping[str, Any] | None = None,
    ) -> list[str]:
        """Each conversation as text, in the base's chat template, with the same tools and variables for all.

        Of several templates it is the one called `tool_use` where there are tools, else `default`, as in transformers.

        Raises:
            DataError: The template refuses the turns, there are several and none is called `default`, or a variable is
                no name of its own.
        """
        self.require_template(tools=bool(tools))
        given = dict(variables or {})
        if taken := [name for name in given if name in _TAKEN]:
            raise DataError(
                f"chat_template_kwargs may not set `{taken[0]}`",
                hint="it holds what a template asks for beside turns and tools, such as enable_thinking",
            )

        # Some templates, as DeepSeek's, take what a call is given as a text of JSON alone.
        if any("tool_calls" in turn for turns in conversations for turn in turns) and self._takes_text:
            conversations = [[as_text(turn) for turn in turns] for turns in conversations]

        def render(turns: list[list[Turn]]) -> list[str]:
            rendered: list[str] = self.backend.apply_chat_template(
                turns,
                tools=list(tools) or None,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                **given,
            )
            return rendered

        try:
            return render(conversations)
        except (jinja2.TemplateError, *FAULTS) as error:
            # transformers renders all at once and does not say which it was.
            turns, reason = next(_refused(conversations, render), (conversations[0], error))
            roles = " → ".join(turn["role"] for turn in turns)
            what = f"the base's chat template refuses the turns {roles}: {reason}"
            raise DataError(what, hint=_mend(turns, render)) from error

    @cached_property
    def _takes_text(self) -> bool:
        """Whether the template takes what a call is given as a text of JSON alone: it is tried."""

        def takes(turn: Turn) -> bool:
            try:
                return "dem-a" in self.backend.apply_chat_template(
                    [ASKS, turn], tools=[ONE_TOOL], tokenize=False
                )
            except (jinja2.TemplateError, *FAULTS):
                return False

        return not takes(CALLS) and takes(as_text(CALLS))

    def require_template(self, *, tools: bool = False) -> None:
        """Refuse several chat templates of which none is meant for conversations with tools, or without.

        Raises:
            DataError: They are so.
        """
        named = self.backend.chat_template
        if isinstance(named, dict) and not ({"default", *(["tool_use"] if tools else [])} & named.keys()):
            raise DataError(
                f"the base has several chat templates ({', '.join(sorted(named))}), and none is called default",
                hint="name one in the recipe: chat_template in [base] takes a file of Jinja",
            )


ASKS: Turn = {"role": "user", "content": "a"}
CALLS: Turn = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {"type": "function", "id": "id0000000", "function": {"name": "f", "arguments": {"a": "dem-a"}}}
    ],
}
_APPLY = inspect.signature(PreTrainedTokenizerBase.apply_chat_template)
_TAKEN = frozenset(_APPLY.parameters) - {"documents"} | {"messages"}
"""Names that a row may not give to a template: they are somebody else's to set."""


def _refused(
    conversations: list[list[Turn]], render: Callable[[list[list[Turn]]], list[str]]
) -> Iterator[tuple[list[Turn], Exception]]:
    """Yield which of several conversations a template refuses, and how."""
    for turns in conversations:
        try:
            render([turns])
        except (jinja2.TemplateError, *FAULTS) as error:
            yield turns, error


def _mend(turns: list[Turn], render: Callable[[list[list[Turn]]], list[str]]) -> str:
    """Say how to mend a row that a template refuses: what it takes is tried."""
    spoken = [turn for turn in turns if turn["role"] not in INSTRUCTING]
    other = "give the base a chat_template in the recipe that takes such turns, or take the row out"
    if spoken and len(spoken) < len(turns):
        with suppress(jinja2.TemplateError, *FAULTS):
            render([spoken])
            return f"the template takes no such system turn: leave `system` out of the recipe or of the row, or {other}"
    return other
