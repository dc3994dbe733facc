"""What rules are made of: a look at a recipe's tables that a value of the wrong shape does not end.

A rule takes the typed recipe and yields what is wrong. Shapes are the models' business, and one mistake hides no other:
where a value has the wrong shape, the rules that look at it are silent, and all others speak.

So a recipe is typed also where shapes are wrong, and `WRONG` stands for each value that its key does not take. Rules
would otherwise read raw tables, and could trust no type in them. As compilers do with the type of an expression that is
in error, a rule that looks at such a value is stopped: the value is told already, and all that rests on it is a guess.
Presence can be asked (`is not None`, `model_fields_set`): that a key is given is known, whatever it holds.
"""

from __future__ import annotations

from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar, Union, get_args, get_origin

from pydantic import ValidationError

from dem_build.action import HEAL, TRUNK
from dem_build.recipe.schema import Source
from dem_build.recipe.sections import Table, Train, with_one_length

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from dem_build.recipe.messages import Mistake
    from dem_build.recipe.schema import Baseline, Dataset, Heal, Mixture, Recipe, Trunk, Vector
    from dem_build.recipe.toml import Key

    Rule = Callable[[Recipe], Iterator[Mistake]]
    RuleOfOne = Callable[[Recipe, Key, Any], Iterator[Mistake]]

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

    Lists of the file are tuples in `data`.
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


def unless_wrong(mistakes: Iterator[Mistake]) -> Iterator[Mistake]:
    """What a rule yields before it looks at a value of the wrong shape."""
    try:
        yield from mistakes
    except WrongValueError:
        return


class Rules:
    """Rules in the order in which they are written: a function becomes one by its decorator, so none is forgotten."""

    def __init__(self) -> None:
        self._rules: list[Rule] = []

    def __iter__(self) -> Iterator[Rule]:
        return iter(self._rules)

    def whole(self, rule: Rule) -> Rule:
        """A rule that judges a whole recipe."""
        self._rules.append(rule)
        return rule

    def each(self, tables: Callable[[Recipe], Iterable[tuple[Key, Any]]]) -> Callable[[RuleOfOne], RuleOfOne]:
        """A rule that judges one of some tables at a time: a wrong value silences it about that table alone."""

        def add(rule: RuleOfOne) -> RuleOfOne:
            def judged(recipe: Recipe) -> Iterator[Mistake]:
                for key, table in tables(recipe):
                    yield from unless_wrong(rule(recipe, key, table))

            self._rules.append(judged)
            return rule

        return add


def is_any(value: Any, *words: str) -> bool:
    """Whether a value is one of some; one of the wrong shape is none."""
    return value is not WRONG and value in words


def names(recipe: Recipe, *sections: str) -> list[str]:
    """The names of all tables in some sections, also of those that are no tables."""
    return [name for section in sections for name in _section(recipe, section)]


def _section(recipe: Recipe, section: str) -> dict[str, Any]:
    tables = getattr(recipe, section)
    return {} if tables is WRONG else tables


def _named(recipe: Recipe, section: str) -> list[tuple[Key, Any]]:
    return [((section, name), table) for name, table in entries(_section(recipe, section))]


def datasets(recipe: Recipe) -> list[tuple[Key, Dataset]]:
    """Each dataset with its key, such as `datasets.math`."""
    return _named(recipe, "datasets")


def sources(recipe: Recipe) -> list[tuple[Key, Source]]:
    """Each dataset and probe, and the rows of a vector where they are a table."""
    rows = [
        ((*key, "rows"), vector.rows) for key, vector in vectors(recipe) if isinstance(vector.rows, Source)
    ]
    return _named(recipe, "datasets") + _named(recipe, "probes") + rows


def vectors(recipe: Recipe) -> list[tuple[Key, Vector]]:
    """Each vector from elsewhere."""
    return _named(recipe, "vectors")


def omegas(recipe: Recipe) -> list[tuple[Key, float | str]]:
    """ω of each vector that is trained here or from elsewhere, with the key of its table."""
    found: list[tuple[Key, Dataset | Vector]] = [*datasets(recipe), *vectors(recipe)]
    return [(key, recipe.omega_of(vector)) for key, vector in found]


def baselines(recipe: Recipe, *methods: str) -> list[tuple[Key, Baseline]]:
    """Each baseline; of some methods, where they are given."""
    found: list[tuple[Key, Baseline]] = _named(recipe, "baselines")
    return [(key, table) for key, table in found if not methods or is_any(table.method, *methods)]


def stages(recipe: Recipe) -> list[tuple[Key, Trunk | Heal]]:
    """`[trunk]` and `[heal]`, those that there are."""
    found: tuple[tuple[Key, Any], ...] = (((TRUNK,), recipe.trunk), ((HEAL,), recipe.heal))
    return [(key, stage) for key, stage in found if stage is not None and stage is not WRONG]


def mixed(recipe: Recipe, mixture: Mixture) -> list[str]:
    """The names of the datasets that a trunk or a healing may have rows of."""
    named = getattr(mixture, "datasets", None)
    known = names(recipe, "datasets")
    return known if named is None else [name for name in known if name in named]


def mixtures(recipe: Recipe) -> list[tuple[Key, Mixture]]:
    """All that is trained on several datasets together: trunk, healing, and baselines."""
    return [*stages(recipe), *baselines(recipe, "mixing")]


def trains(recipe: Recipe) -> list[tuple[Key, Train]]:
    """`[train]`, and the own `train` of all that is trained; one that is no table sets no key."""
    found: list[tuple[Key, Train]] = [(("train",), recipe.train)]
    found += [((*key, "train"), dataset.train) for key, dataset in datasets(recipe)]
    found += [((*key, "train"), mixture.train) for key, mixture in mixtures(recipe)]
    return [(key, Train() if train is WRONG else train) for key, train in found]


def gates(recipe: Recipe) -> list[tuple[Key, Any]]:
    """Each gate."""
    return [] if recipe.gates is WRONG else [(("gates", index), gate) for index, gate in items(recipe.gates)]


def with_rows(recipe: Recipe, part: str) -> list[tuple[Key, Dataset]]:
    """The datasets that hold out rows for a part, `validation` or `test`: those that do not say 0."""
    shares = ((key, table, getattr(table, part)) for key, table in datasets(recipe))
    return [(key, table) for key, table, share in shares if share is WRONG or share != 0]
