"""Which columns of a row are what: each format's roles, and how a row becomes an example."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from dem_build.data.columns import OPTIONAL, REQUIRED
from dem_build.data.conversations import (
    Beside,
    Conversation,
    from_history,
    from_messages,
    from_pair,
    from_sharegpt,
    system_of,
)
from dem_build.data.turns import json_of
from dem_build.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dem_build.data.rows import Row


@dataclass(frozen=True, slots=True)
class Example:
    """What a row teaches: a completion, after a prompt.

    Attributes:
        prompt: Empty for plain text.
        completion: What is learned; of plain text, the text.
        bare: The prompt where there is no chat template, if it is another one there.
    """

    prompt: str
    completion: str
    bare: str | None = None

    @property
    def split_key(self) -> str:
        """What decides the row's side of a split: its prompt, or the text where there is no prompt."""
        return self.prompt or self.completion

    @property
    def content(self) -> str:
        """What the row says besides what it is split by: equal rows share both."""
        return self.completion

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts that it is made of."""
        return (self.prompt + self.completion,)

    @property
    def size(self) -> int:
        """Characters in it."""
        return len(self.prompt) + len(self.completion)

    @property
    def empty(self) -> bool:
        """Whether it teaches nothing."""
        return not self.completion.strip()

    @property
    def untrained(self) -> bool:
        """Whether it says that it is not trained: it never does."""
        return False

    @property
    def oddities(self) -> tuple[str, ...]:
        """What is unusual about it: nothing that is counted."""
        return ()

    @property
    def unread(self) -> frozenset[str]:
        """Keys inside of it that nothing reads: it has none."""
        return frozenset()


AnyExample = Example | Conversation


@dataclass(frozen=True, slots=True)
class Cells:
    """One row, asked by roles.

    Attributes:
        columns: Role → column.
    """

    row: Row
    columns: Mapping[str, str]

    def text(self, role: str) -> str:
        """The text of a role.

        Raises:
            DataError: The column is missing, or holds no text.
        """
        return _text(self.row, role, self.columns[role])

    def value(self, role: str) -> Any:
        """What a role holds.

        Raises:
            DataError: The column is missing.
        """
        if self.columns[role] not in self.row.values:
            raise _no_column(role, self.columns[role], tuple(self.row.values), self.row.where)
        return self.row.values[self.columns[role]]

    def given(self, role: str) -> Any:
        """What an optional role holds, None where its column is missing, or where it is not read."""
        return self.row.values.get(self.columns[role]) if role in self.columns else None

    @property
    def beside(self) -> Beside:
        """What stands beside the turns."""
        found = {name: self.given(role) for role, name in BESIDE.items()}
        return Beside(self.row.where, **found)

    @property
    def plain(self) -> bool:
        """Whether nothing stands beside the turns."""
        return all(self.given(role) in (None, "", [], {}) for role in BESIDE)


BESIDE = {
    "system": "system", "tools": "tools", "functions": "functions", "chat_template_kwargs": "variables",
}  # fmt: skip
"""Roles of what stands beside the turns, which a chat template gets as well, and their names in `Beside`."""


@dataclass(frozen=True)
class Format:
    """A shape of rows.

    Attributes:
        read: A row to an example.
        templated: Those of its optional columns that only a chat template can write.
        turns: Whether its rows have turns, which a chat template can render.
        bare: Whether its rows can be trained without a chat template.
    """

    name: str
    read: Callable[[Cells], AnyExample]
    templated: tuple[str, ...] = ()
    turns: bool = True
    bare: bool = True

    @property
    def roles(self) -> tuple[str, ...]:
        """The columns that every row must have, by their default names."""
        return REQUIRED[self.name]

    @property
    def optional(self) -> tuple[str, ...]:
        """The columns that it reads where they are there."""
        return OPTIONAL[self.name]


def _pair(cells: Cells) -> AnyExample:
    prompt, completion = cells.value("prompt"), cells.value("completion")
    if cells.plain and not isinstance(prompt, list) and not isinstance(completion, list):
        return Example(cells.text("prompt"), cells.text("completion"))
    given, told = (
        value if isinstance(value, list) else cells.text(role)
        for role, value in (("prompt", prompt), ("completion", completion))
    )
    return from_pair(given, told, cells.beside)


def _alpaca(cells: Cells) -> AnyExample:
    """Join instruction and input by a blank line; without a chat template, under the headings that Alpaca has."""
    parts = [("Instruction", cells.text("instruction"))]
    if cells.given("input") not in (None, ""):
        parts.append(("Input", cells.text("input")))
    prompt, answer = "\n\n".join(text for _, text in parts), cells.text("output")
    history = _history(cells)
    if cells.plain and not history:
        return Example(prompt, answer, _headed(parts))
    system = cells.given("system")
    opening = f"{system_of(system, cells.row.where)}\n\n" if system else ""
    bare = [piece for asked, told in history for piece in (_headed([("Instruction", asked)]), f"{told}\n\n")]
    bare = [*bare, _headed(parts), answer]
    return from_history(history, prompt, answer, cells.beside, (opening + bare[0], *bare[1:]))


def _headed(parts: Sequence[tuple[str, str]]) -> str:
    # The headings of Stanford Alpaca's own prompts (R. Taori et al., 2023), without the sentence that these begin with.
    return "".join([*(f"### {heading}:\n{text}\n\n" for heading, text in parts), "### Response:\n"])


def _history(cells: Cells) -> list[tuple[str, str]]:
    """The questions and answers before a row's own, as LLaMA-Factory has them: a list of pairs."""
    value, where = cells.given("history"), cells.row.where
    if value in (None, "", []):
        return []
    pairs = json_of(value, "the history", where) if isinstance(value, str) else value
    if isinstance(pairs, list) and all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)
        for pair in pairs
    ):
        return [(pair[0], pair[1]) for pair in pairs]
    hint = '"history": [["a question", "its answer"], …]'
    raise DataError("the history is no list of pairs of texts", where=where, hint=hint)


FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        Format("text", lambda cells: Example("", cells.text("text")), turns=False),
        Format("prompt-completion", _pair, ("system", "tools", "chat_template_kwargs")),
        Format("messages", lambda cells: from_messages(cells.value("messages"), cells.beside), bare=False),
        Format("alpaca", _alpaca, ("tools", "chat_template_kwargs")),
        Format(
            "sharegpt", lambda cells: from_sharegpt(cells.value("conversations"), cells.beside), bare=False
        ),
    )
}


@dataclass(frozen=True)
class Layout:
    """A format and the column that each of its roles is read from."""

    format: Format
    columns: Mapping[str, str]

    def example(self, row: Row) -> AnyExample:
        """What `row` teaches.

        Raises:
            DataError: A column is missing, or holds no text; names the row.
        """
        return self.format.read(Cells(row, self.columns))

    @property
    def required(self) -> tuple[str, ...]:
        """The columns that every row must have."""
        return tuple(self.columns[role] for role in self.format.roles)

    def without_template(self) -> Layout:
        """The layout of rows that no chat template writes: without the columns that only it can write."""
        kept = {r: column for r, column in self.columns.items() if r not in self.format.templated}
        return replace(self, columns=kept)


def resolve(
    name: str | None, columns: Mapping[str, str] | None, available: Sequence[str], where: str
) -> Layout:
    """Decide the layout of a dataset.

    Args:
        name: The format, or None to infer it.
        columns: Role → column, where they differ from the roles' own names.
        available: Columns of the first row.
        where: The file, for errors.

    Raises:
        DataError: No format fits, or several do, or a column is not there.
    """
    given = dict(columns or {})
    form = FORMATS.get(name) if name else _infer(given, available, where)
    if form is None:
        raise DataError(f"format `{name}` is not supported", hint=f"use one of {', '.join(FORMATS)}")
    if unknown := sorted(set(given) - {*form.roles, *form.optional}):
        roles = ", ".join((*form.roles, *form.optional))
        raise DataError(
            f"columns: `{unknown[0]}` is no role of format `{form.name}`", hint=f"its roles are: {roles}"
        )
    layout = {role: given.get(role, role) for role in (*form.roles, *form.optional)}
    for role, column in layout.items():
        # An optional column that nobody named may be in some rows, or in none.
        if column not in available and (role in form.roles or role in given):
            raise _no_column(role, column, available, where)
    return Layout(form, layout)


def _infer(given: Mapping[str, str], available: Sequence[str], where: str) -> Format:
    """Find the one format whose columns are there; the roles that the user named must all be its own."""
    for role, column in given.items():
        if column not in available:
            raise _no_column(role, column, available, where)
    fitting = [
        form
        for form in FORMATS.values()
        if set(given) <= {*form.roles, *form.optional}
        and all(given.get(role, role) in available for role in form.roles)
    ]
    if len(fitting) == 1:
        return fitting[0]
    what = "more than one format fits" if fitting else "no format fits"
    hint = (
        "say which: format = " + " or ".join(f'"{form.name}"' for form in fitting)
        if fitting
        else 'name the columns: columns = { prompt = "…", completion = "…" }, { text = "…" } or { messages = "…" }'
    )
    raise DataError(f"{what} the columns {_listed(available)}", where=where, hint=hint)


def _text(row: Row, role: str, column: str) -> str:
    if column not in row.values:
        raise _no_column(role, column, tuple(row.values), row.where)
    value = row.values[column]
    if not isinstance(value, str):
        found = "null" if value is None else f"of type {type(value).__name__}"
        raise DataError(
            f"column `{column}` ({role}) is {found}, not a string",
            where=row.where,
            hint="write it as a string, or take the row out",
        )
    if not value.isascii():
        _check_unicode(value, column, row)
    return value


def _check_unicode(value: str, column: str, row: Row) -> None:
    """Refuse half of a surrogate pair, which JSON can spell and UTF-8 cannot."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"column `{column}` holds half of a surrogate pair at character {error.start + 1}",
            where=row.where,
            hint="write the character itself, or both halves of its escape",
        ) from error


def _no_column(role: str, column: str, available: Sequence[str], where: str) -> DataError:
    return DataError(
        f"no column `{column}` for the {role}; there are {_listed(available)}",
        where=where,
        hint=f'say which it is: columns = {{ {role} = "…" }}',
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"
