"""Renders examples in the base's chat template, and finds where their answers start and end."""

from __future__ import annotations

from contextlib import suppress
from itertools import takewhile
from typing import TYPE_CHECKING, Any, NamedTuple

from dem_build.data.conversations import INSTRUCTING, Conversation
from dem_build.data.written import Marked, lost, mark, stands_in, switch_in
from dem_build.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dem_build.data.formats import AnyExample
    from dem_build.data.tokenise import Tokenizer
    from dem_build.data.turns import Turn
    from dem_build.data.written import Stretch

Pieces = tuple[str, ...]
"""Texts of one row: what is given, what is answered, what is given next …, the last an answer."""


THINKING_VARIABLES = frozenset({"enable_thinking", "thinking"})
"""What templates ask for to know whether the assistant thinks before it answers."""


OTHER_TEMPLATE = "give the base another chat_template in the recipe, or take these rows out"
SYSTEM = (
    "give the base a chat_template in the recipe that has a place for a system turn, or leave `system` out, of the "
    "recipe or of these rows"
)
BOTH = "give the base a chat_template in the recipe that writes both, or take the words out of these turns"
REASONING = (
    "give the base a chat_template in the recipe that writes the reasoning, or take it out of these rows"
)
ELSEWHERE = f"{REASONING}, or put it in the content as <think>…</think>"


class Rendered(NamedTuple):
    """One row, as a chat template writes it.

    Attributes:
        muted: Which of its answers (0 is the first) say that they are not trained.
        unwritten: What the template is given and does not write, as is meant: (the name that counts have, an example).
    """

    pieces: Pieces
    muted: frozenset[int] = frozenset()
    unwritten: frozenset[tuple[str, str]] = frozenset()


# Some templates print today's date (`strftime_now`): the data would change overnight. Fixed, and part of the
# kind's version. English names by hand, because strftime's follow the locale.
PINNED_DATE = {
    "%d": "01", "%-d": "1", "%m": "01", "%B": "January", "%b": "Jan", "%y": "25", "%Y": "2025", "%A": "Wednesday",
    "%a": "Wed", "%j": "001", "%H": "00", "%I": "12", "%M": "00", "%S": "00", "%p": "AM",
}  # fmt: skip


def pin_date(template: str) -> str:
    """A chat template whose `strftime_now` always says 1 January 2025; others come back as they are.

    transformers offers no way to pass a function to a template, so a macro of the same name goes before it.
    """
    if "strftime_now" not in template:
        return template
    filters = "".join(f"|replace('{code}', '{text}')" for code, text in PINNED_DATE.items())
    # Its own line, whose end trim_blocks eats: the template proper begins at the start of a line, as it did.
    return f"{{% macro strftime_now(format) %}}{{{{ format{filters} }}}}{{% endmacro %}}\n{template}"


def render(
    tokenizer: Tokenizer,
    examples: Sequence[AnyExample],
    system: str | None,
    *,
    last_only: bool = False,
    all_counts: bool = False,
) -> list[list[Rendered]]:
    """Each example as rows of pieces of text.

    A row's pieces are in turn what is given and what is answered, the last of them an answer. What is given ends as a
    model meets it when it is asked: with the header of the answer. What follows the end of an answer (a line break in
    ChatML) belongs to what is given next: a model is never asked to say it.

    Each answer is found by rendering the turns before it and the turns up to it. Nearly always the first is the
    beginning of the second, and of all that follows: then an example is one row. A template that writes an answer
    differently once there are later turns (without its reasoning, for instance) gives a row for each answer.

    Args:
        tokenizer: Has the chat template.
        examples: What to render.
        system: First turn of those that have no system turn of their own.
        last_only: Whether the last answer alone counts.
        all_counts: Whether what is given counts as well: then answers that say that they do not are told apart.

    Raises:
        DataError: The template cannot render the turns, leaves something of them out, or writes what comes before an
            answer differently once the answer is there.
    """
    asked = [_asked(e, system, last_only=last_only, all_counts=all_counts) for e in examples]
    before = _rendered(tokenizer, [(a, k) for a in asked for k in a.places], asks=True)
    after = _rendered(tokenizer, [(a, k + 1) for a in asked for k in a.places], asks=False)
    rows: list[list[Rendered]] = []
    at = 0
    for a in asked:
        until = at + len(a.places)
        pairs = [
            (b, _completion(tokenizer, a, k, b, w))
            for k, b, w in zip(a.places, before[at:until], after[at:until], strict=True)
        ]
        rows.append(_rows(a, pairs, _refuse_silence(tokenizer, a, after[at:until])))
        at = until
    return rows


class _Asked(NamedTuple):
    """Turns, and what is given beside them.

    Attributes:
        answers: The places of the answers that count among them.
        muted: The places of the answers that say that they do not.
        variables: What else the template is given.
        bare: Whether the row could be trained without a template.
    """

    turns: list[Turn]
    answers: tuple[int, ...]
    muted: tuple[int, ...] = ()
    tools: tuple[dict[str, Any], ...] = ()
    variables: Mapping[str, Any] = {}
    bare: bool = True

    @property
    def places(self) -> list[int]:
        """The places of all turns that are told apart from what is given."""
        return sorted((*self.answers, *self.muted))


def _asked(example: AnyExample, system: str | None, *, last_only: bool, all_counts: bool) -> _Asked:
    if isinstance(example, Conversation):
        asked = _Asked(
            list(example.turns),
            example.answers[-1:] if last_only else example.answers,
            example.muted if all_counts else (),
            example.tools,
            example.variables,
            bare=example.bare is not None,
        )
    else:
        asked = _Asked([_turn("user", example.prompt), _turn("assistant", example.completion)], (1,))
    if system is None or asked.turns[0]["role"] in INSTRUCTING:
        return asked
    return asked._replace(
        turns=[_turn("system", system), *asked.turns],
        answers=tuple(k + 1 for k in asked.answers),
        muted=tuple(k + 1 for k in asked.muted),
    )


def _turn(role: str, content: str) -> Turn:
    return {"role": role, "content": content}


def _rendered(tokenizer: Tokenizer, wanted: Sequence[tuple[_Asked, int]], *, asks: bool) -> list[str]:
    """Render so many turns of each: at once, but for those with tools or variables; a call takes one set of these."""
    plain = [a.turns[:end] for a, end in wanted if not (a.tools or a.variables)]
    texts = iter(tokenizer.render(plain, add_generation_prompt=asks) if plain else [])
    return [
        tokenizer.render([a.turns[:end]], add_generation_prompt=asks, tools=a.tools, variables=a.variables)[0]
        if a.tools or a.variables
        else next(texts)
        for a, end in wanted
    ]


def _rows(
    asked: _Asked, pairs: Sequence[tuple[str, str]], unwritten: frozenset[tuple[str, str]]
) -> list[Rendered]:
    """Join an example's answers in one row where each goes on from where the last one ended."""
    pieces: list[str] = []
    end = ""
    for before, answer in pairs:
        if not before.startswith(end):
            return [
                Rendered(pair, unwritten=unwritten)
                for place, pair in zip(asked.places, pairs, strict=True)
                if place in asked.answers
            ]
        pieces += [before[len(end) :], answer]
        end = before + answer
    muted = frozenset(i for i, place in enumerate(asked.places) if place in asked.muted)
    return [Rendered(tuple(pieces), muted, unwritten)]


def _refuse_silence(
    tokenizer: Tokenizer, asked: _Asked, written: Sequence[str]
) -> frozenset[tuple[str, str]]:
    """Refuse a template that leaves out what it is given: the row would be trained without it.

    Returns:
        What it leaves out as it is meant to: switches, and what was thought before earlier answers.
    """
    marked = mark(asked.turns[: asked.places[-1] + 1], tokenizer.cues)
    unwritten = {("unused_variables", name) for name in asked.variables if name not in tokenizer.variables}
    for place, text in zip(asked.places, written, strict=True):
        upto = Marked(marked.turns[: place + 1], [s for s in marked.stretches if s.turn <= place])
        for stretch in lost(tokenizer, text, upto, tools=bool(asked.tools), variables=asked.variables):
            meant, switch = _meant(asked, stretch, place), ""
            # What a text of anybody else sets in the template, where that is all of it that was left out.
            if not meant and stretch.key == "content" and asked.turns[stretch.turn]["role"] != "assistant":
                switch = switch_in(stretch.text, text, tokenizer.switches)
            if not meant and not switch:
                what, hint = _left_out(asked.turns[stretch.turn], stretch)
                raise DataError(f"the base's chat template leaves out {what}", hint=hint)
            unwritten.add((meant, stretch.text[:60]) if meant else ("switches", switch[:60]))
    if missing := [n for n in map(_function_of, asked.tools) if n not in written[-1]]:
        what = f"the base's chat template leaves out the tool `{missing[0]}`"
        raise DataError(what, hint=OTHER_TEMPLATE)
    partly = [tool for tool in asked.tools if not all(stands_in(t, written[-1]) for t in _texts_of(tool))]
    return frozenset(unwritten | {("unwritten_tools", _function_of(tool)) for tool in partly})


def _meant(asked: _Asked, stretch: Stretch, answer: int) -> str:
    """Say what it is that a template leaves out as it is meant to before an answer; empty where it is not."""
    if stretch.key == "switch":
        return "switches"
    if stretch.key == "name":
        return "unwritten_names"
    # What was thought before an answer that is trained stands in that answer's own row, or is refused there.
    forgotten = stretch.thought and (stretch.turn < answer or answer in asked.muted)
    return "earlier_reasoning" if forgotten else ""


def _completion(tokenizer: Tokenizer, asked: _Asked, place: int, before: str, whole: str) -> str:
    if not whole.startswith(before):
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, whole, strict=False)))
        raise DataError(
            "the base's chat template is not prefix-preserving: it writes the prompt differently once an answer "
            f"follows, so no loss mask is exact: …{before[-80:]!r} against …{whole[: len(before)][-80:]!r}",
            hint=_rewrites(tokenizer, asked, place, before, same),
        )
    completion = whole[len(before) :]
    ended = completion.rstrip()
    return ended if ended.endswith(tokenizer.eos_token) else completion


def _rewrites(tokenizer: Tokenizer, asked: _Asked, place: int, before: str, same: int) -> str:
    """Say how to mend what is written differently, from a character on, once an answer follows."""
    mend = "give the base a chat_template in the recipe that writes a prompt as before once it is answered"
    last = asked.turns[place - 1]["content"].strip() if place else ""
    if last in before[:same]:  # what differs is the end, which asks for the answer
        mend = (
            "give the base a chat_template in the recipe that begins an answer as it asks for it, with "
            f"{before[same:][:60]!r}, and writes all of the answer after that, its reasoning too"
        )
        if variable := _preserving(tokenizer, asked, place):
            mend = f'give these rows a column of chat_template_kwargs, {{"{variable}}}, or {mend}'
    elif asked.turns[0]["role"] in INSTRUCTING:
        mend += ", or leave `system` out of the recipe or of these rows if it is that which moves"
    return f"set chat = false for the dataset, or {mend}" if asked.bare else mend


def _preserving(tokenizer: Tokenizer, asked: _Asked, place: int) -> str:
    """The variable with which the template asks for an answer as it begins it, empty where there is none."""
    for name in sorted(tokenizer.variables & THINKING_VARIABLES - asked.variables.keys()):
        for value in (True, False):
            tried = asked._replace(variables={**asked.variables, name: value})
            with suppress(DataError):
                [before] = _rendered(tokenizer, [(tried, place)], asks=True)
                [whole] = _rendered(tokenizer, [(tried, place + 1)], asks=False)
                if whole.startswith(before):
                    return f'{name}": {str(value).lower()}'
    return ""


def _function_of(tool: dict[str, Any]) -> str:
    """The name of a tool, or of what is called."""
    return str(tool.get("function", tool).get("name", ""))


def _texts_of(tool: dict[str, Any]) -> list[str]:
    """What a tool's schema says of it: what it does, and the names of what it is given."""
    function = tool.get("function", tool)
    parameters = function.get("parameters")
    properties = parameters.get("properties") if isinstance(parameters, dict) else None
    said = function.get("description")
    return [
        *([said.strip()] if isinstance(said, str) else ()),
        *(properties if isinstance(properties, dict) else ()),
    ]


def _left_out(turn: Turn, stretch: Stretch) -> tuple[str, str]:
    """Which text of a turn a chat template leaves out, and a hint that fits it."""
    shown = repr(stretch.text[:60])
    if turn["role"] == "assistant":
        return _of_answer(turn, stretch, shown)
    if turn["role"] in INSTRUCTING:
        return f"or changes the {turn['role']}'s turn {shown}", SYSTEM
    what = "a tool's result," if turn["role"] == "tool" else "the user's turn"
    return f"or changes {what} {shown}", OTHER_TEMPLATE


def _of_answer(turn: Turn, stretch: Stretch, shown: str) -> tuple[str, str]:
    calls = [_function_of(call) for call in turn.get("tool_calls", ())]
    if stretch.key == "tool_calls":
        return f"the call of `{stretch.text}`", OTHER_TEMPLATE
    if stretch.key == "arguments":
        return f"{shown}, which a call of `{calls[0]}` is given", OTHER_TEMPLATE
    if stretch.thought and stretch.key == "content":
        return f"the reasoning of an answer, {shown}", REASONING
    if stretch.thought:
        return f"the reasoning (`{stretch.key}`) of an answer, {shown}", ELSEWHERE
    if calls:
        return f"the words beside a call of `{calls[0]}`, {shown}", BOTH
    return f"or changes an answer, {shown}", OTHER_TEMPLATE
