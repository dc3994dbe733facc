"""Which columns of a row are what: each format's roles, and how a row becomes an example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dem_build.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dem_build.data.rows import Row

__all__ = ["FORMATS", "Example", "Format", "Layout", "resolve"]


@dataclass(frozen=True, slots=True)
class Example:
    """What a row teaches: a completion, after a prompt.

    Attributes:
        prompt: Empty for plain text.
        completion: What is learned; of plain text, the text.
    """

    prompt: str
    completion: str

    @property
    def split_key(self) -> str:
        """What decides the row's side of a split: its prompt, or the text where there is no prompt."""
        return self.prompt or self.completion

    @property
    def size(self) -> int:
        """Characters in it."""
        return len(self.prompt) + len(self.completion)


@dataclass(frozen=True)
class Format:
    """A shape of rows.

    Attributes:
        name: As the recipe says it.
        roles: The columns it needs, by their default names.
        turns: Whether its rows have turns, which a chat template can render.
        example: Role → text of a row, to an example.
    """

    name: str
    roles: tuple[str, ...]
    turns: bool
    example: Callable[[Mapping[str, str]], Example]


# `messages`, `alpaca` and `sharegpt` go here: roles, and a function from a row to an example.
FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        Format("text", ("text",), turns=False, example=lambda row: Example("", row["text"])),
        Format(
            "prompt-completion",
            ("prompt", "completion"),
            turns=True,
            example=lambda row: Example(row["prompt"], row["completion"]),
        ),
    )
}


@dataclass(frozen=True)
class Layout:
    """A format and the column that each of its roles is read from."""

    format: Format
    columns: Mapping[str, str]

    def example(self, row: Row) -> Example:
        """Return what `row` teaches.

        Raises:
            DataError: A column is missing, or holds no text; names the row.
        """
        return self.format.example({role: _text(row, role, column) for role, column in self.columns.items()})


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
    if unknown := sorted(set(given) - set(form.roles)):
        roles = ", ".join(form.roles)
        raise DataError(
            f"columns: `{unknown[0]}` is no role of format `{form.name}`", hint=f"its roles are: {roles}"
        )
    layout = {role: given.get(role, role) for role in form.roles}
    for role, column in layout.items():
        if column not in available:
            raise _no_column(role, column, available, where)
    return Layout(form, layout)


def _infer(given: Mapping[str, str], available: Sequence[str], where: str) -> Format:
    """Find the one format whose columns are there; the roles that the user named must all be its own."""
    fitting = [
        form
        for form in FORMATS.values()
        if set(given) <= set(form.roles) and all(given.get(role, role) in available for role in form.roles)
    ]
    if len(fitting) == 1:
        return fitting[0]
    what = "more than one format fits" if fitting else "no format fits"
    hint = (
        "say which: format = " + " or ".join(f'"{form.name}"' for form in fitting)
        if fitting
        else 'name the columns: columns = { prompt = "…", completion = "…" } or columns = { text = "…" }'
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
