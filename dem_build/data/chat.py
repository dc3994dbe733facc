"""Renders examples in the base's chat template, and finds where their answers start and end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from dem_build.data.conversations import INSTRUCTING, Conversation
from dem_build.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dem_build.data.conversations import Turn
    from dem_build.data.formats import AnyExample
    from dem_build.data.tokenise import Tokenizer

__all__ = ["PINNED_DATE", "Pieces", "pin_date", "render"]

Pieces = tuple[str, ...]
"""Texts of one row: what is given, what is answered, what is given next …, the last an answer."""

# Some templates print today's date (`strftime_now`): the data would change overnight. Fixed, and part of the
# kind's version. English names by hand, because strftime's follow the locale.
PINNED_DATE = {
    "%d": "01", "%-d": "1", "%m": "01", "%B": "January", "%b": "Jan", "%y": "25", "%Y": "2025", "%A": "Wednesday",
    "%a": "Wed", "%j": "001", "%H": "00", "%I": "12", "%M": "00", "%S": "00", "%p": "AM",
}  # fmt: skip


def pin_date(template: str) -> str:
    """Return a chat template whose `strftime_now` always says 1 January 2025; others come back as they are.

    transformers offers no way to pass a function to a template, so a macro of the same name goes before it.
    """
    if "strftime_now" not in template:
        return template
    filters = "".join(f"|replace('{code}', '{text}')" for code, text in PINNED_DATE.items())
    # Its own line, whose end trim_blocks eats: the template proper begins at the start of a line, as it did.
    return f"{{% macro strftime_now(format) %}}{{{{ format{filters} }}}}{{% endmacro %}}\n{template}"


def render(
    tokenizer: Tokenizer, examples: Sequence[AnyExample], system: str | None, *, last_only: bool = False
) -> list[list[Pieces]]:
    """Return each example as rows of pieces of text.

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

    Raises:
        DataError: The template cannot render the turns, leaves one of them out, or writes what comes before an answer
            differently once the answer is there.
    """
    asked = [_asked(e, system, last_only=last_only) for e in examples]
    before = _rendered(tokenizer, [(a.turns[:k], a.tools) for a in asked for k in a.answers], asks=True)
    after = _rendered(tokenizer, [(a.turns[: k + 1], a.tools) for a in asked for k in a.answers], asks=False)
    rows: list[list[Pieces]] = []
    at = 0
    for a in asked:
        until = at + len(a.answers)
        pairs = [
            (b, _completion(b, w, tokenizer.eos_token))
            for b, w in zip(before[at:until], after[at:until], strict=True)
        ]
        _refuse_silence(a, pairs)
        rows.append(_rows(pairs))
        at = until
    return rows


class _Asked(NamedTuple):
    """Turns, the places of the answers that count among them, and the tools."""

    turns: list[Turn]
    answers: tuple[int, ...]
    tools: tuple[dict[str, Any], ...]


def _asked(example: AnyExample, system: str | None, *, last_only: bool) -> _Asked:
    if isinstance(example, Conversation):
        turns, answers, tools = list(example.turns), example.answers, example.tools
    else:
        turns, answers, tools = (
            [_turn("user", example.prompt), _turn("assistant", example.completion)],
            (1,),
            (),
        )
    if system is not None and turns[0]["role"] not in INSTRUCTING:
        turns, answers = [_turn("system", system), *turns], tuple(k + 1 for k in answers)
    return _Asked(turns, answers[-1:] if last_only else answers, tools)


def _turn(role: str, content: str) -> Turn:
    return {"role": role, "content": content}


def _rendered(
    tokenizer: Tokenizer, wanted: Sequence[tuple[list[Turn], tuple[dict[str, Any], ...]]], *, asks: bool
) -> list[str]:
    """Render all at once, but for those with tools: a call takes one set of them."""
    plain = [turns for turns, tools in wanted if not tools]
    texts = iter(tokenizer.render(plain, add_generation_prompt=asks) if plain else [])
    return [
        tokenizer.render([turns], add_generation_prompt=asks, tools=tools)[0] if tools else next(texts)
        for turns, tools in wanted
    ]


def _rows(pairs: Sequence[tuple[str, str]]) -> list[Pieces]:
    """Join an example's answers in one row where each goes on from where the last one ended."""
    pieces: list[str] = []
    end = ""
    for before, answer in pairs:
        if not before.startswith(end):
            return list(pairs)
        pieces += [before[len(end) :], answer]
        end = before + answer
    return [tuple(pieces)]


def _refuse_silence(asked: _Asked, pairs: Sequence[tuple[str, str]]) -> None:
    """Refuse a template that leaves out what it is given: the row would be trained without it."""
    given = pairs[-1][0]
    for turn in asked.turns[: asked.answers[-1]]:
        if turn["role"] in ("system", "developer", "user") and turn["content"].strip() not in given:
            raise DataError(
                f"the base's chat template leaves out or changes the {turn['role']}'s turn "
                f"{turn['content'].strip()[:60]!r}",
                hint=_OTHER_TEMPLATE,
            )
    if missing := [n for n in map(_function, asked.tools) if n not in given]:
        raise DataError(f"the base's chat template leaves out the tool `{missing[0]}`", hint=_OTHER_TEMPLATE)
    for place, (_, answer) in zip(asked.answers, pairs, strict=True):
        calls = [_function(call) for call in asked.turns[place].get("tool_calls", ())]
        if missing := [n for n in calls if n not in answer]:
            raise DataError(
                f"the base's chat template leaves out the call of `{missing[0]}`", hint=_OTHER_TEMPLATE
            )


def _function(tool: dict[str, Any]) -> str:
    return str(tool.get("function", tool).get("name", ""))


_OTHER_TEMPLATE = "give the base another chat_template in the recipe, or take these rows out"


def _completion(before: str, whole: str, eos_token: str) -> str:
    if not whole.startswith(before):
        raise DataError(
            "the base's chat template is not prefix-preserving: it writes the prompt differently once an answer "
            f"follows, so no loss mask is exact: …{before[-80:]!r} against …{whole[: len(before)][-80:]!r}",
            hint="set chat = false for the dataset, or give the base another chat_template in the recipe",
        )
    completion = whole[len(before) :]
    ended = completion.rstrip()
    return ended if ended.endswith(eos_token) else completion
