"""Finds what a chat template leaves out of the turns that it is given, so that nothing of them disappears unseen.

Each text of each turn is looked for in what the template wrote. As a short text may stand there by chance, the turns
are also written once more with a mark in the place of each text, once for all conversations of one shape.
A template may look for texts of its own inside of a turn: what it cuts off at (`</think>`), or takes as a switch
(`/no_think`). Those stay as they are, and texts are looked for stretch by stretch between them.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from dem_build.data.template import constants, sought
from dem_build.data.turns import PASSED, REASONING, ROLES
from dem_build.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from dem_build.data.tokenise import Tokenizer
    from dem_build.data.turns import Turn

THINKING = r"</?(?:\w+:)?(?:think|thinking|thought|reasoning)>|\[/?THINK\]|◁/?think▷"
CLOSES = re.compile(rf"{THINKING}|</[^<>/]+>|\[/\w+\]")
MOST_SHAPES = 4096  # that are remembered
NAMES = {
    *ROLES,
    *PASSED,
    "function",
    "arguments",
    "parameters",
    "tools",
}  # that templates ask for, not in texts
SHORTEST_CUE, LONGEST_CUE = 4, 40
NO_PARAMETERS = {"type": "object", "properties": {}}
FUNCTION = {"name": "f", "description": "d", "parameters": NO_PARAMETERS}
ONE_TOOL: dict[str, Any] = {"type": "function", "function": FUNCTION}
"""Stands for whatever tools there are."""


class Stretch(NamedTuple):
    """A text, or a part of one, that shall be in what a template writes.

    Attributes:
        turn: The place of its turn.
        key: Of the turn: `content`, `reasoning_content` …; `tool_calls` of a call's function, `arguments` of what it
            is called with, `switch` of a word that the template looks for.
        text: What it says, without white space around it.
        thought: Whether the assistant thinks it before it answers.
        mark: What stands for it in the marked turns; empty where nothing does.
    """

    turn: int
    key: str
    text: str
    thought: bool = False
    mark: str = ""


class Marked(NamedTuple):
    """Turns with marks for texts, and what the marks stand for."""

    turns: list[Turn]
    stretches: list[Stretch]


def cues(templates: Sequence[str]) -> re.Pattern[str]:
    """A pattern of what templates look for inside of a turn's text.

    That is any text in their code that looks like a tag or a switch; and tags around what the assistant thinks.
    """
    found = {text.strip() for template in templates for text in constants(template)}
    return re.compile("(" + "|".join([*_longest_first(filter(_is_cue, found)), THINKING]) + ")")


def switches(templates: Sequence[str]) -> re.Pattern[str]:
    """A pattern of what templates compare a turn's text with, or take out of it."""
    found = {text.strip() for template in templates for text in sought(template)}
    words = (text for text in found - NAMES if len(text) >= SHORTEST_CUE and any(map(str.isalpha, text)))
    return re.compile("|".join(_longest_first(words)) or r"(?!)")


def _longest_first(texts: Iterable[str]) -> list[str]:
    return [re.escape(text) for text in sorted(texts, key=lambda text: (-len(text), text))]


def _is_cue(text: str) -> bool:
    """Whether a text of a template's code may be one that it looks for, and no word or line that it writes."""
    short = 4 <= len(text) <= LONGEST_CUE
    return short and not text[0].isalnum() and any(map(str.isalpha, text)) and not re.search(r"\s", text)


def mark(turns: Sequence[Turn], cues: re.Pattern[str]) -> Marked:
    """Turns with a mark in the place of each text but its `cues`; turns of one shape have the same marks."""
    marked = Marked([], [])
    names: dict[str, str] = {}
    for place, turn in enumerate(turns):
        marker = _Marker(place, turn["role"], marked.stretches, cues)
        copy: Turn = {"role": turn["role"]}
        thoughts: dict[str, str] = {}  # by what they say: some write them under two names
        for key in ("content", *REASONING):
            if key in turn:
                said = thoughts.get(turn[key]) if key in REASONING else None
                copy[key] = marker.text(key, turn[key]) if said is None else said
                thoughts |= {turn[key]: copy[key]} if key in REASONING else {}
        if "name" in turn:
            copy["name"] = turn["name"] if turn["role"] == "tool" else marker.mark("name", str(turn["name"]))
        if "tool_calls" in turn:
            calls = [marker.call(call) for call in turn["tool_calls"]]
            copy["tool_calls"] = [
                call | {"id": _alias(str(call["id"]), names)} if "id" in call else call for call in calls
            ]
        if "tool_call_id" in turn:
            copy["tool_call_id"] = _alias(str(turn["tool_call_id"]), names)
        marked.turns.append(copy)
    return marked


class _Marker:
    """Puts marks in the place of a turn's texts, and keeps what they stand for."""

    def __init__(self, turn: int, role: str, stretches: list[Stretch], cues: re.Pattern[str]) -> None:
        self._turn, self._answers, self._stretches, self._cues = turn, role == "assistant", stretches, cues

    def text(self, key: str, text: str) -> str:
        """A text with marks between the cues in it."""
        parts = self._cues.split(text)
        # Tags that end what is thought; of those that a template looks for, all but those of tools.
        tags = [(i, parts[i]) for i in range(1, len(parts), 2)]
        ends = [i for i, tag in tags if "/" in tag and "tool" not in tag.lower() and CLOSES.fullmatch(tag)]
        thought = max(ends, default=0) if self._answers and key == "content" else 0
        for i, part in enumerate(parts):
            if i % 2 and not self._answers:  # a tag of what is thought is none, and others set no switches
                self._stretches.append(Stretch(self._turn, "switch", part))
            elif i % 2 == 0 and part.strip():
                parts[i] = self.mark(key, part, thought=i < thought or key in REASONING)
        return "".join(parts)

    def mark(self, key: str, text: str, *, thought: bool = False) -> str:
        """A mark for a text."""
        # No word of a template, and whole once white space or signs around it are taken off.
        made = f"qz{len(self._stretches):04}zq"
        self._stretches.append(Stretch(self._turn, key, text.strip(), thought, made))
        return made

    def call(self, call: Mapping[str, Any]) -> dict[str, Any]:
        """A call with marks for its function's name and what it is called with."""
        function = call["function"]
        leaves = [leaf for leaf in _leaves(function["arguments"]) if leaf.strip()]
        marked = {"name": self.mark("tool_calls", function["name"]), "arguments": {}}
        if leaves:
            marked["arguments"] = {"a": self.mark("arguments", leaves[0])}
            self._stretches.extend(Stretch(self._turn, "arguments", leaf.strip()) for leaf in leaves[1:])
        return {**{key: call[key] for key in ("type", "id") if key in call}, "function": marked}


def _leaves(value: Any) -> Iterator[str]:
    """Yield the keys, texts and numbers inside of JSON."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield str(key)
            yield from _leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, str | int | float) and not isinstance(value, bool):
        yield str(value)


def _alias(name: str, names: dict[str, str]) -> str:
    """Another id for one, the same every time: of nine letters and digits, as Mistral's templates want them."""
    return names.setdefault(name, f"id{len(names):07}")


def lost(
    tokenizer: Tokenizer,
    written: str,
    marked: Marked,
    *,
    tools: bool,
    variables: Mapping[str, Any],
) -> list[Stretch]:
    """What of the turns that are `marked` is not in what a template, given tools and `variables`, wrote of them."""
    unmarked = _unmarked(tokenizer, marked, tools=tools, variables=variables)
    return [s for s in marked.stretches if s.mark in unmarked or not stands_in(s.text, written)]


def _unmarked(
    tokenizer: Tokenizer, marked: Marked, *, tools: bool, variables: Mapping[str, Any]
) -> frozenset[str]:
    """The marks that the template leaves out."""
    shape = json.dumps([marked.turns, tools, dict(variables)], sort_keys=True)
    if shape not in tokenizer.shapes:
        try:
            [text] = tokenizer.render(
                [marked.turns],
                add_generation_prompt=False,
                tools=[ONE_TOOL] if tools else (),
                variables=variables,
            )
        except DataError:  # it takes texts of some other kind alone: what it wrote of the true ones must do
            missing = frozenset[str]()
        else:
            missing = frozenset(s.mark for s in marked.stretches if s.mark and s.mark not in text)
        if len(tokenizer.shapes) >= MOST_SHAPES:
            tokenizer.shapes.clear()
        tokenizer.shapes[shape] = missing
    return tokenizer.shapes[shape]


def switch_in(text: str, written: str, switches: re.Pattern[str]) -> str:
    """What a text, not written as it is, sets in a template; empty where the template did not write all else of it."""
    found = switches.search(text)
    rest = (part.strip() for part in switches.split(text))
    return found[0] if found and all(stands_in(part, written) for part in rest if part) else ""


def stands_in(text: str, written: str) -> bool:
    """Whether a text is written: as it is, or as JSON or Python write it, as some templates do with a tool's answer."""
    return text in written or any(
        spelled[1:-1] in written
        for spelled in (json.dumps(text, ensure_ascii=False), json.dumps(text), repr(text))
    )
