"""dem's own `dataclass` makes what that of the standard library makes."""

import copy
import dataclasses
import pickle

import pytest

from dem_build import values

make = {"theirs": dataclasses.dataclass, "ours": values.dataclass}


def point(dataclass, **options):
    @dataclass(frozen=True, **options)
    class Point:
        """A point."""

        x: int
        y: float = 0.5
        tags: list[str] = dataclasses.field(default_factory=list)
        told: str = dataclasses.field(default="", compare=False)
        hidden: int = dataclasses.field(default=0, repr=False, compare=False)

        @property
        def twice(self):
            return 2 * self.x

    return Point


def one(dataclass):
    @dataclass(frozen=True)
    class One:
        """A single field, and something to do once it is set."""

        names: tuple[str, ...]

        def __post_init__(self):
            object.__setattr__(self, "names", tuple(sorted(self.names)))

    return One


def none(dataclass):
    @dataclass(frozen=True)
    class Nothing:
        """No field at all."""

    return Nothing


@values.dataclass(frozen=True)
class Named:
    """A class that pickle finds."""

    name: str
    more: dict[str, int] = dataclasses.field(default_factory=dict)


@pytest.fixture(params=make, name="dataclass")
def _dataclass(request):
    return make[request.param]


def test_it_takes_values_in_order_by_name_and_by_default(dataclass):
    made = point(dataclass)
    assert (made(1).x, made(1).y, made(1).tags, made(1).told) == (1, 0.5, [], "")
    assert made(1, 2.0, ["a"], hidden=3) == made(x=1, y=2.0, tags=["a"])
    assert made(1).tags is not made(1).tags
    assert made(4).twice == 8
    for arguments in ((), (1, 2, [], "", 0, 9)):
        with pytest.raises(TypeError, match=r"__init__\(\)"):
            made(*arguments)
    with pytest.raises(TypeError, match="z"):
        made(1, z=2)


def test_it_is_frozen(dataclass):
    value = point(dataclass)(1)
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'x'"):
        value.x = 2
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'other'"):
        value.other = 2
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot delete field 'x'"):
        del value.x


def test_it_is_compared_and_hashed_by_the_fields_that_count(dataclass):
    made = point(dataclass)
    assert made(1, told="a") == made(1, told="b")
    assert made(1) != made(2)
    assert made(1) != point(dataclass)(1), "another class of the same name"
    assert made(1) != (1, 0.5, [])
    assert hash(one(dataclass)(("a",))) == hash((("a",),))
    assert hash(made(1, tags=())) == hash((1, 0.5, ()))
    with pytest.raises(TypeError, match="unhashable"):
        hash(made(1))


def test_it_is_shown_by_its_fields(dataclass):
    made = point(dataclass)
    assert repr(made(1)) == f"{made.__qualname__}(x=1, y=0.5, tags=[], told='')"
    round_and_round = made(1, tags=[])
    round_and_round.tags.append(round_and_round)
    assert "tags=[...]" in repr(round_and_round)


def test_it_is_ordered_where_that_is_asked_for(dataclass):
    made = point(dataclass, order=True)
    assert made(1) < made(2) <= made(2) < made(2, 0.6) > made(2) >= made(2)
    assert sorted([made(3), made(1)]) == [made(1), made(3)]
    assert not made(1, told="a") < made(1, told="b")
    with pytest.raises(TypeError, match="not supported"):
        assert made(1) < 2
    with pytest.raises(TypeError, match="not supported"):
        assert point(dataclass)(1) < point(dataclass)(2)


def test_what_is_done_once_the_fields_are_set_is_done(dataclass):
    assert one(dataclass)(("b", "a")).names == ("a", "b")


def test_a_class_without_fields_is_equal_to_itself(dataclass):
    made = none(dataclass)
    assert made() == made()
    assert hash(made()) == hash(())
    assert repr(made()) == f"{made.__qualname__}()"


def test_the_functions_of_dataclasses_take_it(dataclass):
    made = point(dataclass)
    assert dataclasses.is_dataclass(made)
    assert [f.name for f in dataclasses.fields(made)] == ["x", "y", "tags", "told", "hidden"]
    assert dataclasses.replace(made(1, told="a"), x=2) == made(2)
    assert dataclasses.asdict(made(1)) == {"x": 1, "y": 0.5, "tags": [], "told": "", "hidden": 0}
    match made(7):
        case object(x=7, y=y):
            assert y == 0.5
    assert made.__match_args__ == ("x", "y", "tags", "told", "hidden")
    assert vars(made(1)) == dataclasses.asdict(made(1))
    assert made.__doc__ == "A point."


def test_it_inherits_fields(dataclass):
    made = point(dataclass)

    @dataclass(frozen=True)
    class Solid(made):
        z: int = 9

    assert [f.name for f in dataclasses.fields(Solid)][-1] == "z"
    assert Solid(1, z=2) == Solid(1, 0.5, [], "", 0, 2) != Solid(1)
    assert Solid(1).twice == 2
    assert "z=9" in repr(Solid(1))


def test_methods_of_the_class_are_kept(dataclass):
    @dataclass(frozen=True)
    class Own:
        x: int

        def __repr__(self):
            return "mine"

    assert repr(Own(1)) == "mine"
    assert Own(1) == Own(1)


def test_it_is_copied_and_pickled():
    value = Named("a", {"b": 1})
    assert copy.deepcopy(value) == value == pickle.loads(pickle.dumps(value))


def test_options_of_fields_that_it_does_not_know_are_refused():
    with pytest.raises(TypeError, match="use the dataclass of dataclasses"):

        @values.dataclass(frozen=True)
        class Odd:
            x: int = dataclasses.field(default=1, init=False)
