"""`dataclass(frozen=True)` in a fifth of the time: a build with nothing to do defines some sixty of them as it starts.

`dataclasses` compiles up to ten methods for every class, which takes longer than all else in the module around it. Here
only `__init__` is compiled; the other methods are the same functions for all classes, and go by the fields. What comes
out is a dataclass: `fields`, `replace`, `asdict` and patterns take it. `tests/test_values.py` compares the two.
"""

from __future__ import annotations

import dataclasses
from operator import attrgetter
from reprlib import recursive_repr
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from dataclasses import dataclass

__all__ = ["dataclass"]

VALUES = "__dem_values__"
"""The attribute of a class that takes an object to the tuple of the values that it is compared by."""


def _frozen(cls: type, *, order: bool) -> type:
    """Make a class a frozen dataclass.

    Raises:
        TypeError: A field has options that are left to `dataclasses`.
    """
    made: Any = dataclasses.dataclass(init=False, repr=False, eq=False)(cls)
    fields = dataclasses.fields(made)
    for f in fields:
        if not f.init or f.hash is not None or f.kw_only:
            raise TypeError(f"{cls.__name__}.{f.name}: use the dataclass of dataclasses")
    setattr(made, VALUES, _taken([f.name for f in fields if f.compare]))
    for method in _METHODS + (_ORDER if order else ()):
        if method.__name__ not in cls.__dict__:
            setattr(made, method.__name__, method)
    made.__init__ = _init(fields, post=hasattr(made, "__post_init__"))
    return cls


def _taken(names: list[str]) -> Callable[[object], tuple[Any, ...]]:
    """Return what takes an object to the tuple of its values; `attrgetter` makes none of fewer than two."""
    if len(names) > 1:
        return attrgetter(*names)
    return lambda value: tuple(getattr(value, name) for name in names)


def _init(fields: tuple[dataclasses.Field[Any], ...], *, post: bool) -> Callable[..., None]:
    """Compile the method that takes the values of the fields, in order."""
    known: dict[str, Any] = {"_absent": dataclasses.MISSING}
    parameters, lines = ["self"], ["_own = self.__dict__"]
    for f in fields:
        parameter, value = f.name, f.name
        if f.default_factory is not dataclasses.MISSING:
            known[f"_make_{f.name}"] = f.default_factory
            parameter, value = f"{f.name}=_absent", f"_make_{f.name}() if {f.name} is _absent else {f.name}"
        elif f.default is not dataclasses.MISSING:
            known[f"_default_{f.name}"] = f.default
            parameter = f"{f.name}=_default_{f.name}"
        parameters.append(parameter)
        lines.append(f"_own[{f.name!r}] = {value}")
    if post:
        lines.append("self.__post_init__()")
    exec(f"def __init__({', '.join(parameters)}): {'; '.join(lines)}", known)  # noqa: S102  as dataclasses does
    init: Callable[..., None] = known["__init__"]
    return init


@recursive_repr()
def __repr__(self: Any) -> str:  # noqa: N807  these are methods of every class
    shown = (f"{f.name}={getattr(self, f.name)!r}" for f in dataclasses.fields(self) if f.repr)
    return f"{type(self).__qualname__}({', '.join(shown)})"


def _values(value: Any) -> tuple[Any, ...]:
    found: tuple[Any, ...] = getattr(type(value), VALUES)(value)
    return found


def __eq__(self: object, other: object) -> bool:  # noqa: N807
    return _values(self) == _values(other) if type(other) is type(self) else NotImplemented


def __hash__(self: object) -> int:  # noqa: N807
    return hash(_values(self))


def __setattr__(self: object, name: str, value: object) -> None:  # noqa: ARG001, N807
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")


def __delattr__(self: object, name: str) -> None:  # noqa: ARG001, N807
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")


def __lt__(self: object, other: object) -> bool:  # noqa: N807
    return _values(self) < _values(other) if type(other) is type(self) else NotImplemented


def __le__(self: object, other: object) -> bool:  # noqa: N807
    return _values(self) <= _values(other) if type(other) is type(self) else NotImplemented


def __gt__(self: object, other: object) -> bool:  # noqa: N807
    return _values(self) > _values(other) if type(other) is type(self) else NotImplemented


def __ge__(self: object, other: object) -> bool:  # noqa: N807
    return _values(self) >= _values(other) if type(other) is type(self) else NotImplemented


_METHODS: tuple[Callable[..., Any], ...] = (__repr__, __eq__, __hash__, __setattr__, __delattr__)
_ORDER: tuple[Callable[..., Any], ...] = (__lt__, __le__, __gt__, __ge__)

if not TYPE_CHECKING:

    def dataclass(*, frozen: bool, order: bool = False) -> Callable[[type], type]:
        """Return what makes a class a dataclass, as `dataclasses.dataclass` does; this one makes only frozen ones."""
        assert frozen
        return lambda cls: _frozen(cls, order=order)
