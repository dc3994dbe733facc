"""Conversations of several turns: what a row of `messages` or `sharegpt` says, and which of its turns are answers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from dem_build.errors import DataError
from dem_build.json_text import parse_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["INSTRUCTING", "Conversation", "Turn", "from_messages", "from_sharegpt"]

Turn = dict[str, Any]
"""One message, as a chat template reads it: `role`, `content`, and `tool_calls`, `name` … where it has them."""

ROLES = ("system", "developer", "user", "assistant", "tool")
# Other keys (an id, a time) say nothing to a template. `weight` 0, as OpenAI writes it, leaves a turn untrained.
KEYS = (
    "role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content", "thinking", "weight",
)  # fmt: skip
INSTRUCTING = ("system", "developer")
# The names that ShareGPT's exports, and the tools that read them, give the same roles.
SHAREGPT_ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant",
    "model": "assistant", "system": "system", "tool": "tool", "observation": "tool", "function_response": "tool",
    "function_call": "assistant",
}  # fmt: skip


@dataclass(frozen=True)
class Conversation:
    """What a row of turns teaches: the assistant's turns, each after what comes before it.

    Attributes:
        turns: Up to the last answer; what nobody answers is left out.
        answers: Places of the assistant's turns that answer something, say something and have not the weight 0.
        tools: JSON schemas of the functions that the assistant may call.
        unanswered: How many turns came after the last answer.
    """

    turns: tuple[Turn, ...]
    answers: tuple[int, ...]
    tools: tuple[dict[str, Any], ...] = ()
    unanswered: int = 0

    @property
    def split_key(self) -> str:
        """What decides the row's side of a split: what is said before the assistant's first turn, but for the system.

        A single question is so on the side that the same prompt of a `prompt-completion` row is on.
        """
        first = next((i for i, t in enumerate(self.turns) if t["role"] == "assistant"), len(self.turns))
        asked = [t["content"] for t in self.turns[:first] if t["role"] not in INSTRUCTING]
        return "\n".join(asked) or self.content

    @cached_property
    def content(self) -> str:
        """Everything the row says, as one text that equal rows share."""
        document = [list(self.turns), list(self.answers), list(self.tools)]
        return json.dumps(document, ensure_ascii=False, sort_keys=True, separators=(",", ":"))

    @property
    def texts(self) -> tuple[str, ...]:
        """The text of each turn."""
        return tuple(t["content"] for t in self.turns)

    @property
    def size(self) -> int:
        """About how many characters are in it."""
        return len(self.content)

    @property
    def empty(self) -> bool:
        """Whether it teaches nothing."""
        return not self.answers

    @property
    def oddities(self) -> tuple[str, ...]:
        """What is unusual about it, by the names that counts have."""
        found = {
            "unanswered_turns": self.unanswered > 0,
            "empty_turns": any(not _says(t) for t in self.turns),
            "unasked_answers": _spoken(self.turns)[:1] == ["assistant"],
            "repeated_roles": any(a["role"] == b["role"] != "tool" for a, b in pairwise(self.turns)),
        }
        return tuple(name for name, is_so in found.items() if is_so)


def from_messages(value: Any, tools: Any, where: str) -> Conversation:
    """Read the list of a `messages` row: `{"role": …, "content": …}` each.

    Args:
        value: The column's value.
        tools: The value of the row's tools: a list of schemas, the JSON text of one, or None.
        where: Where the row stands, for errors.

    Raises:
        DataError: It is no such list; names the turn.
    """
    turns = [_message(turn, f"turn {i}", where) for i, turn in enumerate(_turns(value, where), 1)]
    return _conversation(turns, _tools(tools, where), where)


def from_sharegpt(value: Any, system: Any, tools: Any, where: str) -> Conversation:
    """Read the list of a `sharegpt` row: `{"from": "human", "value": …}` each.

    Args:
        value: The column's value.
        system: The value of the row's system column, or None.
        tools: As for `messages`.
        where: Where the row stands, for errors.

    Raises:
        DataError: It is no such list; names the turn.
    """
    turns = [_shared(turn, f"turn {i}", where) for i, turn in enumerate(_turns(value, where), 1)]
    if system not in (None, ""):
        turns.insert(0, {"role": "system", "content": _text(system, "the system column", where)})
    return _conversation(turns, _tools(tools, where), where)


def _conversation(turns: Sequence[Turn], tools: tuple[dict[str, Any], ...], where: str) -> Conversation:
    weights = [t.pop("weight", None) for t in turns]
    asked = next((i for i, t in enumerate(turns) if t["role"] not in (*INSTRUCTING, "assistant")), len(turns))
    answers = [
        i
        for i, turn in enumerate(turns)
        if i > asked and turn["role"] == "assistant" and _says(turn) and weights[i] != 0
    ]
    # Without an answer the row is kept whole, to be counted and left out.
    end = answers[-1] + 1 if answers else len(turns)
    conversation = Conversation(tuple(turns[:end]), tuple(answers), tools, len(turns) - end)
    try:
        conversation.content.encode("utf-8")
    except UnicodeEncodeError as error:
        hint = "write the character itself, or both halves of its escape"
        raise DataError("the conversation holds half of a surrogate pair", where=where, hint=hint) from error
    except (TypeError, RecursionError) as error:  # parquet has more types than JSON
        hint = "a turn and a tool hold text, numbers, lists and objects"
        raise DataError(f"the conversation is no JSON: {error}", where=where, hint=hint) from error
    return conversation


def _spoken(turns: Sequence[Turn]) -> list[str]:
    """Return the roles of those who speak, in turn."""
    return [t["role"] for t in turns if t["role"] not in INSTRUCTING]


def _says(turn: Turn) -> bool:
    return bool(turn["content"].strip() or turn.get("tool_calls"))


def _turns(value: Any, where: str) -> list[Mapping[str, Any]]:
    if isinstance(value, str):
        value = _json(value, "the conversation", where)
    if not isinstance(value, list):
        raise DataError("a conversation is a list of turns", where=where, hint=_MESSAGES_HINT)
    if not value:
        raise DataError("the conversation has no turns", where=where, hint="take the row out")
    for number, turn in enumerate(value, 1):
        if not isinstance(turn, dict):
            raise DataError(f"turn {number} is no object", where=where, hint=_MESSAGES_HINT)
    return value


def _message(turn: Mapping[str, Any], name: str, where: str) -> Turn:
    given = {key: value for key, value in _present(turn).items() if key in KEYS}
    role = given.get("role")
    if role not in ROLES:
        found = f"the role {role!r}" if role is not None else "no role"
        raise DataError(
            f"{name} has {found}", where=where, hint=f"a role is one of {', '.join(ROLES)}; or use sharegpt"
        )
    _weight(given, name, where)
    if "content" not in given and "tool_calls" not in given:
        raise DataError(f"{name} has no content", where=where, hint=_MESSAGES_HINT)
    if "tool_calls" in given:
        given["tool_calls"] = [_call(call, name, where) for call in _calls(given["tool_calls"], name, where)]
    return given | {"content": _text(given.get("content", ""), name, where)}


def _calls(value: Any, name: str, where: str) -> list[Mapping[str, Any]]:
    if isinstance(value, list) and all(isinstance(call, dict) for call in value):
        return value
    raise DataError(f"the tool_calls of {name} are no list of objects", where=where, hint=_CALL_HINT)


def _call(call: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    """Return a call as templates take it: with its arguments as an object, which OpenAI's files write as a text."""
    function = call.get("function", call)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise DataError(f"a tool call of {name} names no function", where=where, hint=_CALL_HINT)
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        arguments = _json(arguments, f"the arguments of a tool call of {name}", where)
    function = _present(function) | ({} if arguments is None else {"arguments": arguments})
    return (_present(call) if "function" in call else {"type": "function"}) | {"function": function}


def _present(value: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what is null: parquet gives every object all keys that any has."""
    return {key: item for key, item in value.items() if item is not None}


def _shared(turn: Mapping[str, Any], name: str, where: str) -> Turn:
    role, value = turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))
    if not isinstance(role, str) or role not in SHAREGPT_ROLES:
        found = f"is from {role!r}" if role is not None else "says not who it is from"
        known = ", ".join(SHAREGPT_ROLES)
        raise DataError(f"{name} {found}", where=where, hint=f"`from` is one of {known}")
    text = _text(value, name, where)
    if role == "function_call":
        [call] = _calls([_json(text, f"{name}, a function call,", where)], name, where)
        called = {"content": "", "tool_calls": [_call(call, name, where)]}
    else:
        called = {"content": text}
    return {"role": SHAREGPT_ROLES[role], "weight": _weight(turn, name, where)} | called


def _weight(turn: Mapping[str, Any], name: str, where: str) -> int | None:
    weight: int | None = turn.get("weight")
    if weight not in (None, 0, 1):
        raise DataError(f"{name} has the weight {weight!r}", where=where, hint="a weight is 0 or 1")
    return weight


def _text(value: Any, name: str, where: str) -> str:
    """Return the text of a turn; a list of text parts, as multimodal data write it, is joined."""
    if isinstance(value, list) and all(isinstance(part, dict) for part in value):
        kinds = sorted({str(part.get("type")) for part in value} - {"text"})
        if kinds:
            hint = "dem trains text; take the row out"
            raise DataError(f"{name} holds a part of type {kinds[0]}", where=where, hint=hint)
        value = "".join(str(part.get("text") or "") for part in value)
    if not isinstance(value, str):
        found = "null" if value is None else f"of type {type(value).__name__}"
        raise DataError(f"the text of {name} is {found}, not a string", where=where, hint=_MESSAGES_HINT)
    return value


def _tools(value: Any, where: str) -> tuple[dict[str, Any], ...]:
    if value in (None, "", [], ()):
        return ()
    tools = _json(value, "the tools", where) if isinstance(value, str) else value
    if not isinstance(tools, list) or not all(map(_is_schema, tools)):
        raise DataError("the tools are no list of JSON schemas", where=where, hint='"tools": [{"type": …}]')
    return tuple(tools)


def _is_schema(tool: Any) -> bool:
    return isinstance(tool, dict) and isinstance(tool.get("function", tool), dict)


def _json(text: str, name: str, where: str) -> Any:
    try:
        return parse_json(text)
    except ValueError as error:
        raise DataError(f"{name} is no JSON: {error}", where=where, hint="write it as JSON") from error


_MESSAGES_HINT = 'a turn is {"role": "user", "content": "…"}, or in sharegpt {"from": "human", "value": "…"}'
_CALL_HINT = 'a call is {"function": {"name": "…", "arguments": {…}}}'
