"""A typed recipe also where shapes are wrong: `WRONG` stands for each value that its key does not take.

Rules would otherwise read raw tables, and could trust no type in them. As compilers do with the type of an expression
that is in error, a rule that looks at such a value is stopped: the value is told already, and all that rests on it is
a guess. Presence can be asked (`is not None`, `model_fields_set`): that a key is given is known, whatever it holds.
"""

from __future__ import annotations

from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar, Union, get_args, get_origin

from pydantic import ValidationError

from dem_build.recipe.sections import Table, Train, with_one_length

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["WRONG", "WrongValueError", "entries", "items", "recovered"]

T = TypeVar("T")
M = TypeVar("M", bound=Table)


class WrongValueError(Exception):
    """A value was looked at that has the wrong shape."""


class _Wrong:
    """A value that no rule can look at. Code takes it for the type that its key has, so it answers to what any has."""

    def _stop(self, *_: object) -> NoReturn:
        raise WrongValueError

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __hash__ = _stop
    __bool__ = __len__ = __iter__ = __contains__ = __getitem__ = __getattr__ = _stop


WRONG: Any = _Wrong()


def recovered(table: type[M], data: Mapping[str, Any]) -> M:
    """A table as its model has it, with `WRONG` for what has another shape or is missing; unknown keys are left out.

    Args:
        table: The model.
        data: What stands in the file, with tuples for lists.
    """
    if table is Train:
        data = with_one_length(data)  # as the model itself does, before it looks at its keys
    try:
        table.model_validate(data)
        refused = set()
    except ValidationError as error:
        refused = {details["loc"][0] for details in error.errors(include_url=False)}
    values = {name: WRONG for name, field in table.model_fields.items() if field.is_required()}
    for name, field in table.model_fields.items():
        if name in data:
            judge = _recovered_parts if name in refused else _recovered_value
            values[name] = judge(field.annotation, data[name])
    return table.model_construct(_fields_set=data.keys() & table.model_fields.keys(), **values)


def _recovered_value(kind: Any, value: Any) -> Any:
    from pydantic import TypeAdapter  # noqa: PLC0415  a good recipe needs none

    try:
        return TypeAdapter(kind).validate_python(value, strict=True)
    except ValidationError:
        return _recovered_parts(kind, value)


def _recovered_parts(kind: Any, value: Any) -> Any:
    """A value that its type refuses: of a table or a list what is right, all else is `WRONG`."""
    origin, args = get_origin(kind), get_args(kind)
    if origin in {Annotated, Union, UnionType}:
        parts = (_recovered_parts(arm, value) for arm in (args[:1] if origin is Annotated else args))
        return next((part for part in parts if part is not WRONG), WRONG)
    if isinstance(value, dict) and isinstance(kind, type) and issubclass(kind, Table):
        return recovered(kind, value)
    if isinstance(value, dict) and origin is dict:
        return {name: _recovered_value(args[1], item) for name, item in value.items()}
    if isinstance(value, tuple) and origin is tuple:
        kinds = args[:1] * len(value) if args[-1] is Ellipsis else args
        if len(kinds) == len(value):
            return tuple(map(_recovered_value, kinds, value))
    return WRONG


def entries(table: Mapping[str, T]) -> list[tuple[str, T]]:
    """The entries of a table whose values have the right shape."""
    return [(name, value) for name, value in table.items() if value is not WRONG]


def items(values: tuple[T, ...]) -> list[tuple[int, T]]:
    """The items of a list that have the right shape, each with its place in it."""
    return [(index, value) for index, value in enumerate(values) if value is not WRONG]
