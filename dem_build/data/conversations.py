"""Conversations of several turns: what a row of them says, and which of its turns are answers."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from dem_build.data.turns import (
    MESSAGES_HINT,
    REASONING,
    Said,
    Turn,
    json_of,
    read_message,
    read_shared,
    read_tools,
)
from dem_build.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

INSTRUCTING = ("system", "developer")


@dataclass(frozen=True)
class Conversation:
    """What a row of turns teaches: the assistant's turns, each after what comes before it.

    Attributes:
        turns: Up to the last answer; what nobody answers is left out.
        answers: Places of the assistant's turns that are trained: they answer something, say something, and no
            `weight` or `train` of theirs says otherwise.
        tools: JSON schemas of the functions that the assistant may call.
        unanswered: How many turns came after the last answer.
        variables: What else the row gives the chat template, by name.
        muted: Places of the assistant's turns that would be answers, if they did not say that they are not trained.
        bare: Texts, given and answered in turn, that it is trained as without a chat template; None where it cannot be.
        odd: What is unusual about how it was written, by the names that counts have.
        unread: Keys of its turns that nothing reads.
    """

    turns: tuple[Turn, ...]
    answers: tuple[int, ...]
    tools: tuple[dict[str, Any], ...] = ()
    unanswered: int = 0
    variables: Mapping[str, Any] = field(default_factory=dict)
    muted: tuple[int, ...] = ()
    bare: tuple[str, ...] | None = None
    odd: tuple[str, ...] = ()
    unread: frozenset[str] = field(default=frozenset(), compare=False)

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
        more = [dict(self.variables)] if self.variables else []
        return json.dumps(document + more, ensure_ascii=False, sort_keys=True, separators=(",", ":"))

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts of its turns."""
        return tuple(t[key] for t in self.turns for key in ("content", *REASONING) if key in t)

    @property
    def size(self) -> int:
        """About how many characters are in it."""
        return len(self.content)

    @property
    def empty(self) -> bool:
        """Whether it teaches nothing."""
        return not self.answers

    @property
    def untrained(self) -> bool:
        """Whether there are answers, and each says that it is not trained."""
        return not self.answers and bool(self.muted)

    @property
    def oddities(self) -> tuple[str, ...]:
        """What is unusual about it, by the names that counts have."""
        speakers = (turn["role"] for turn in self.turns if turn["role"] not in INSTRUCTING)
        found = {
            "unanswered_turns": self.unanswered > 0,
            "empty_turns": any(not _says(t) for t in self.turns),
            "unasked_answers": next(speakers, None) == "assistant",
            "repeated_roles": any(a["role"] == b["role"] != "tool" for a, b in pairwise(self.turns)),
        }
        return (*(name for name, is_so in found.items() if is_so), *self.odd)


@dataclass(frozen=True)
class Beside:
    """What a row has beside its turns.

    Attributes:
        system: The value of its system column, or None.
        tools: The value of its tools: a list of schemas, the JSON text of one, or None.
        functions: As `tools`, as OpenAI's older files have them.
        variables: The value of its `chat_template_kwargs`: an object, the JSON text of one, or None.
    """

    where: str
    system: Any = None
    tools: Any = None
    functions: Any = None
    variables: Any = None


def from_messages(value: Any, beside: Beside) -> Conversation:
    """Read the list of a `messages` row: `{"role": …, "content": …}` each.

    Raises:
        DataError: It is no such list; names the turn.
    """
    return _conversation(_read(value, read_message, beside.where), beside)


def from_sharegpt(value: Any, beside: Beside) -> Conversation:
    """Read the list of a `sharegpt` row: `{"from": "human", "value": …}` each.

    Raises:
        DataError: It is no such list; names the turn.
    """
    return _conversation(_read(value, read_shared, beside.where), beside)


def from_pair(prompt: Any, completion: Any, beside: Beside) -> Conversation:
    """Read a prompt and its completion, each a list of turns or a text. What answers in the prompt is given.

    Raises:
        DataError: One of them is no such list; names the turn.
    """
    given = _read(_as_turns("user", prompt), read_message, beside.where, " of the prompt")
    told = _read(_as_turns("assistant", completion), read_message, beside.where, " of the completion")
    return _conversation([*(said._replace(trained=False) for said in given), *told], beside, given=len(given))


def from_history(
    history: Any, prompt: str, answer: str, beside: Beside, bare: tuple[str, ...] | None
) -> Conversation:
    """Read a question and its answer, and the pairs of texts that came before; `bare` is trained without a template."""
    texts = [text for pair in history for text in pair]
    roles = ("user", "assistant")
    turns = [{"role": roles[i % 2], "content": text} for i, text in enumerate([*texts, prompt, answer])]
    return _conversation([Said(turn, None, frozenset()) for turn in turns], beside, bare=bare)


def _as_turns(role: str, value: Any) -> Any:
    return [{"role": role, "content": value}] if isinstance(value, str) else value


def _read(
    value: Any, read: Callable[[Mapping[str, Any], str, str], Said], where: str, whose: str = ""
) -> list[Said]:
    turns = enumerate(_turns(value, where, whose), 1)
    return [read(turn, f"turn {number}{whose}", where) for number, turn in turns]


def _turns(value: Any, where: str, whose: str) -> list[Mapping[str, Any]]:
    if isinstance(value, str):
        value = json_of(value, "the conversation", where)
    if not isinstance(value, list):
        raise DataError(f"a conversation{whose} is a list of turns", where=where, hint=MESSAGES_HINT)
    if not value:
        raise DataError(f"the conversation{whose} has no turns", where=where, hint="take the row out")
    for number, turn in enumerate(value, 1):
        if not isinstance(turn, dict):
            raise DataError(f"turn {number}{whose} is no object", where=where, hint=MESSAGES_HINT)
    return value


def _conversation(
    read: Sequence[Said], beside: Beside, *, given: int = 0, bare: tuple[str, ...] | None = None
) -> Conversation:
    """Make a conversation of what was read; the first `given` turns are a prompt, in which nothing is trained."""
    odd = set()
    if beside.system not in (None, ""):
        system = system_of(beside.system, beside.where)
        if any(said.turn["role"] in INSTRUCTING for said in read):
            odd |= {"system_twice"} if all(system != said.turn["content"] for said in read) else set()
        else:
            read = [Said({"role": "system", "content": system}, None, frozenset()), *read]
            given += given > 0
    if any(said.trained and said.turn["role"] != "assistant" for said in read):
        odd.add("trained_prompts")
    turns = [said.turn for said in read]
    asked = next((i for i, t in enumerate(turns) if t["role"] not in (*INSTRUCTING, "assistant")), len(turns))
    said = [i for i, t in enumerate(turns) if i > asked and t["role"] == "assistant" and _says(t)]
    answers = [i for i in said if read[i].trained is not False]
    # Without an answer the row is kept whole, to be counted and left out.
    end = answers[-1] + 1 if answers else len(turns)
    return _checked(
        Conversation(
            turns=tuple(turns[:end]),
            answers=tuple(answers),
            tools=_tools(beside),
            unanswered=len(turns) - end,
            variables=_variables(beside),
            muted=tuple(i for i in said if given <= i < end and i not in answers),
            bare=bare,
            odd=tuple(sorted(odd)),
            unread=frozenset().union(*(said.unread for said in read)),
        ),
        beside.where,
    )


def system_of(value: Any, where: str) -> str:
    """What a row's system column says.

    Raises:
        DataError: It is no text.
    """
    if not isinstance(value, str):
        what = f"the system column is of type {type(value).__name__}, not a text"
        raise DataError(what, where=where, hint="rename the column if it is no system prompt")
    return value


def _checked(conversation: Conversation, where: str) -> Conversation:
    try:
        conversation.content.encode("utf-8")
    except UnicodeEncodeError as error:
        hint = "write the character itself, or both halves of its escape"
        raise DataError("the conversation holds half of a surrogate pair", where=where, hint=hint) from error
    except (TypeError, RecursionError) as error:  # parquet has more types than JSON
        hint = "a turn and a tool hold text, numbers, lists and objects"
        raise DataError(f"the conversation is no JSON: {error}", where=where, hint=hint) from error
    return conversation


def _tools(beside: Beside) -> tuple[dict[str, Any], ...]:
    """The tools; templates read each as OpenAI's newer files have them, inside of `function`."""
    tools, functions = (read_tools(value, beside.where) for value in (beside.tools, beside.functions))
    if tools and functions:
        raise DataError("the row has both tools and functions", where=beside.where, hint="write all as tools")
    return tools or tuple(f if "function" in f else {"type": "function", "function": f} for f in functions)


def _variables(beside: Beside) -> dict[str, Any]:
    value, where = beside.variables, beside.where
    if value in (None, ""):
        return {}
    found = json_of(value, "chat_template_kwargs", where) if isinstance(value, str) else value
    if found is None:  # the text `null`, as JSON writes what is not there
        return {}
    if not isinstance(found, dict):
        hint = 'write it as {"enable_thinking": false}, or rename the column if it is another thing'
        raise DataError("chat_template_kwargs is no object", where=where, hint=hint)
    return found


def _says(turn: Turn) -> bool:
    return any(turn.get(key, "").strip() for key in ("content", *REASONING)) or bool(turn.get("tool_calls"))
