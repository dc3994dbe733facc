"""What is said of a chat template that leaves out something of what it is given, with a hint that fits it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dem_build.data.conversations import INSTRUCTING
from dem_build.errors import DataError

if TYPE_CHECKING:
    from dem_build.data.turns import Turn
    from dem_build.data.written import Stretch

__all__ = ["function_of", "of_stretch", "of_tool", "texts_of"]

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


def function_of(tool: dict[str, Any]) -> str:
    """Return the name of a tool, or of what is called."""
    return str(tool.get("function", tool).get("name", ""))


def texts_of(tool: dict[str, Any]) -> list[str]:
    """Return what a tool's schema says of it: what it does, and the names of what it is given."""
    function = tool.get("function", tool)
    parameters = function.get("parameters")
    properties = parameters.get("properties") if isinstance(parameters, dict) else None
    said = function.get("description")
    return [
        *([said.strip()] if isinstance(said, str) else ()),
        *(properties if isinstance(properties, dict) else ()),
    ]


def of_tool(name: str) -> DataError:
    """Return the refusal of a template that leaves out a tool."""
    return DataError(f"the base's chat template leaves out the tool `{name}`", hint=OTHER_TEMPLATE)


def of_stretch(turn: Turn, stretch: Stretch) -> DataError:
    """Return the refusal of a template that leaves out a text of a turn.

    Args:
        turn: The turn.
        stretch: The text.
    """
    what, hint = _told(turn, stretch, repr(stretch.text[:60]))
    return DataError(f"the base's chat template leaves out {what}", hint=hint)


def _told(turn: Turn, stretch: Stretch, shown: str) -> tuple[str, str]:
    if turn["role"] == "assistant":
        return _of_answer(turn, stretch, shown)
    if turn["role"] in INSTRUCTING:
        return f"or changes the {turn['role']}'s turn {shown}", SYSTEM
    what = "a tool's result," if turn["role"] == "tool" else "the user's turn"
    return f"or changes {what} {shown}", OTHER_TEMPLATE


def _of_answer(turn: Turn, stretch: Stretch, shown: str) -> tuple[str, str]:
    calls = [function_of(call) for call in turn.get("tool_calls", ())]
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
