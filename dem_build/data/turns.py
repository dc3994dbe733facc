"""One turn of a conversation: what its keys say, in the spellings of OpenAI, ShareGPT and those who follow them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from dem_build.errors import DataError
from dem_build.json_text import TwinKeyError, parse_json, unique

if TYPE_CHECKING:
    from collections.abc import Mapping

Turn = dict[str, Any]
"""One message, as a chat template reads it: `role`, `content`, and `tool_calls`, `name` … where it has them."""

ROLES = ("system", "developer", "user", "assistant", "tool")
REASONING = ("reasoning_content", "reasoning", "thinking", "tool_plan")
"""Where turns have what the assistant thinks before it answers; templates have no one name for it."""
PASSED = ("role", "content", "name", "tool_calls", "tool_call_id", *REASONING)
"""Keys that a chat template gets."""
FLAGS = ("weight", "train", "training")  # the first of OpenAI and Mistral, the others of axolotl
READ = frozenset((*PASSED, *FLAGS, "function_call"))
# The names that ShareGPT's exports, and the tools that read them, give the same roles.
SHAREGPT_ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant",
    "model": "assistant", "system": "system", "tool": "tool", "observation": "tool", "function_response": "tool",
    "function_call": "assistant",
}  # fmt: skip


class Said(NamedTuple):
    """A turn as it was read.

    Attributes:
        turn: What a chat template gets.
        trained: Whether it shall be trained, None where it does not say.
        unread: Its keys that nothing reads.
    """

    turn: Turn
    trained: bool | None
    unread: frozenset[str]


def read_message(turn: Mapping[str, Any], name: str, where: str) -> Said:
    """Read a turn of `messages`: `role`, `content`, and more; what is null in it is not there.

    Raises:
        DataError: It is no turn.
    """
    given = _present(turn)
    role = (
        "tool" if given.get("role") == "function" else given.get("role")
    )  # OpenAI's, before there were tools
    if role not in ROLES:
        found = f"the role {role!r}" if role is not None else "no role"
        raise DataError(
            f"{name} has {found}", where=where, hint=f"a role is one of {', '.join(ROLES)}; or use sharegpt"
        )
    if not given.keys() & {"content", "tool_calls", "function_call"}:
        raise DataError(f"{name} has no content", where=where, hint=MESSAGES_HINT)
    read = {key: value for key, value in given.items() if key in PASSED and key != "tool_calls"}
    read |= {"role": role, "content": text_of(given.get("content", ""), name, where)}
    read |= {key: text_of(read[key], f"{name} ({key})", where) for key in REASONING if key in read}
    if calls := _calls(given, name, where):
        read["tool_calls"] = calls
    return Said(read, _trained(given, name, where), frozenset(given) - READ)


def read_shared(turn: Mapping[str, Any], name: str, where: str) -> Said:
    """Read a turn of `sharegpt`: `from` and `value`, and whatever a turn of `messages` has.

    Raises:
        DataError: It is no turn.
    """
    rest = _present(turn)
    role = rest.pop("from") if "from" in rest else rest.pop("role", None)
    value = rest.pop("value") if "value" in rest else rest.pop("content", None)
    if not isinstance(role, str) or role not in SHAREGPT_ROLES:
        found = f"is from {role!r}" if role is not None else "says not who it is from"
        known = ", ".join(SHAREGPT_ROLES)
        raise DataError(f"{name} {found}", where=where, hint=f"`from` is one of {known}")
    if role == "function_call":
        thought, calls = _thought(value) if isinstance(value, str) else ("", value)
        calls = json_of(calls, f"{name}, a function call,", where) if isinstance(calls, str) else calls
        said: dict[str, Any] = {
            "content": thought,
            "tool_calls": [calls] if isinstance(calls, dict) else [] if calls is None else calls,
        }
    else:
        calls = rest.get("tool_calls") or rest.get("function_call")
        said = {"content": "" if value is None and calls else text_of(value, name, where)}
    # `role` and `content` beside `from` and `value` are two turns in one.
    unread = frozenset(rest) & {"role", "content"}
    read = read_message({**rest, "role": SHAREGPT_ROLES[role], **said}, name, where)
    return read._replace(unread=read.unread | unread)


def _thought(value: str) -> tuple[str, str]:
    """Part what is thought before a call, in the tags of LLaMA-Factory, from the call."""
    before, end, call = value.partition("</think>")
    return (before.lstrip() + end, call) if before.lstrip().startswith("<think>") else ("", value)


def _trained(turn: Mapping[str, Any], name: str, where: str) -> bool | None:
    """Say whether a turn shall be trained, as its `weight` or `train` says."""
    flags = {key: turn[key] for key in FLAGS if key in turn}
    for key, value in flags.items():
        if value not in (0, 1):
            takes = "0 or 1" if key == "weight" else "true or false"
            raise DataError(f"{name} has the {key} {value!r}", where=where, hint=f"{key} is {takes}")
    if len({bool(value) for value in flags.values()}) > 1:
        what = f"{name} says both that it is trained and that it is not: {flags}"
        raise DataError(what, where=where, hint=f"take one of {', '.join(flags)} out of the turn")
    return next((bool(value) for value in flags.values()), None)


def _calls(turn: Mapping[str, Any], name: str, where: str) -> list[dict[str, Any]]:
    """A turn's calls; OpenAI's older files have a single one, as `function_call`."""
    calls = turn.get("tool_calls") or []
    if isinstance(calls, str):
        found = json_of(calls, f"the text of the tool_calls of {name}", where)
        calls = [] if found is None else found  # the text `null`, as JSON writes what is not there
    single = turn.get("function_call") or None
    if single is not None and calls:
        what = f"{name} has both tool_calls and a function_call"
        raise DataError(what, where=where, hint="write the call as one of tool_calls")
    calls = calls if single is None else [single]
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise DataError(f"the tool_calls of {name} are no list of objects", where=where, hint=_CALL_HINT)
    return [_call(call, name, where) for call in calls]


def _call(call: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    """A call as templates take it: with its arguments as an object, which OpenAI's files write as a text."""
    function = call.get("function", call)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise DataError(f"a tool call of {name} names no function", where=where, hint=_CALL_HINT)
    function = _present(function)
    arguments = function.pop("arguments", None)
    if arguments is None:
        arguments = function.pop("parameters", None)  # Llama's name for them
    if isinstance(arguments, str):
        what = f"the arguments of a tool call of {name}"
        arguments = json_of(arguments, what, where) if arguments.strip() else {}
    function["arguments"] = {} if arguments is None else arguments
    return (_present(call) if "function" in call else {"type": "function"}) | {"function": function}


def as_text(turn: Turn) -> Turn:
    """A turn with what its calls are given as a text of JSON."""
    if "tool_calls" not in turn:
        return turn
    calls = []
    for call in turn["tool_calls"]:
        given = call["function"]["arguments"]
        text = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
        calls.append(call | {"function": call["function"] | {"arguments": text}})
    return turn | {"tool_calls": calls}


def _present(value: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what is null: OpenAI's answers write every key, whether there is something to it or not."""
    return {key: item for key, item in value.items() if item is not None}


def text_of(value: Any, name: str, where: str) -> str:
    """The text of a turn; a list of text parts, as multimodal data write it, is joined.

    Raises:
        DataError: It is no text.
    """
    if isinstance(value, list) and all(isinstance(part, dict) for part in value):
        kinds = sorted({str(part.get("type")) for part in value} - {"text"})
        if kinds:
            hint = "dem trains text; take the row out"
            raise DataError(f"{name} holds a part of type {kinds[0]}", where=where, hint=hint)
        value = "".join(str(part.get("text") or "") for part in value)
    if not isinstance(value, str):
        found = "null" if value is None else f"of type {type(value).__name__}"
        raise DataError(f"the text of {name} is {found}, not a string", where=where, hint=MESSAGES_HINT)
    return value


def read_tools(value: Any, where: str) -> tuple[dict[str, Any], ...]:
    """The schemas of a row's tools: a list of them, of their JSON texts, or the JSON text of a list.

    Raises:
        DataError: They are no schemas.
    """
    if value in (None, "", [], ()):
        return ()
    tools = json_of(value, "the column of tools", where, _TOOLS_HINT) if isinstance(value, str) else value
    if tools is None:  # the text `null`, as JSON writes what is not there
        return ()
    if isinstance(tools, list):
        tools = [json_of(t, "a tool", where, _TOOLS_HINT) if isinstance(t, str) else t for t in tools]
    if not isinstance(tools, list) or not all(
        isinstance(tool, dict) and isinstance(tool.get("function", tool), dict) for tool in tools
    ):
        raise DataError("the tools are no list of JSON schemas", where=where, hint=_TOOLS_HINT)
    return tuple(tools)


def json_of(text: str, name: str, where: str, hint: str = "write it as JSON") -> Any:
    """What a JSON text in a row says.

    Raises:
        DataError: It is no JSON, or has a key twice in one object.
    """
    try:
        return parse_json(text, unique)
    except TwinKeyError as error:
        hint = "rename or remove one of the two"
        raise DataError(f"in {name}, {error}", where=where, hint=hint) from error
    except ValueError as error:
        raise DataError(f"{name} is no JSON: {error}", where=where, hint=hint) from error


MESSAGES_HINT = 'a turn is {"role": "user", "content": "…"}, or in sharegpt {"from": "human", "value": "…"}'
_CALL_HINT = 'a call is {"function": {"name": "…", "arguments": {…}}}'
_TOOLS_HINT = (
    'write them as [{"type": "function", "function": {…}}], or rename the column if it is another thing'
)
