"""JSON of anybody's: what cannot be read is a ValueError, however it was meant."""

from __future__ import annotations

import pytest
import rfc8785
from hypothesis import example, given
from hypothesis import strategies as st

from dem_build.digest import canonical
from dem_build.json_text import parse_json, quantity


def test_json_is_read_from_text_and_bytes():
    assert parse_json('{"a": [1]}') == parse_json(b'{"a": [1]}') == {"a": [1]}


def test_an_object_may_be_made_of_its_members():
    assert parse_json('{"a": 1, "a": 2}', lambda pairs: {"members": pairs}) == {
        "members": [("a", 1), ("a", 2)]
    }


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "9" * 5000, "{", b"\xff\xfe\xff", ""])
def test_what_cannot_be_read_is_a_value_error(text):
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)


def test_what_is_nested_too_deeply_has_no_canonical_bytes():
    value = []
    for _ in range(2000):
        value = [value]
    with pytest.raises(ValueError, match="nested too deeply"):
        canonical(value)


@pytest.mark.parametrize("value", [None, True, "3", [3], float("nan"), float("-inf"), 10**400])
def test_what_is_no_finite_number_is_no_quantity(value):
    assert quantity(value) is None
    assert quantity(-2) == -2.0


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats() | st.text(),
    lambda parts: st.lists(parts) | st.dictionaries(st.text() | st.text("az_/"), parts),
)


def _written(write, value):
    """The bytes, or that there are none."""
    try:
        return write(value)
    except ValueError:
        return None


@given(JSON_VALUES)
@example({"\U0001f600": 1, "\ufb33": 2})  # sorted in another order by code points than in UTF-16
@example({"b": [True, 1, 1.0, 1e21, 5e-324], "a": '\x00\x1f\x7f\u2028"\\/'})
@example(["\ud800"])
def test_canonical_bytes_are_those_of_the_library(value):
    assert _written(canonical, value) == _written(rfc8785.dumps, value)


@pytest.mark.parametrize("value", [{1: 2}, {"a": {None: 1}}, {2}, b"a", [2**53], [float("nan")]])
def test_what_json_cannot_hold_has_no_canonical_bytes(value):
    with pytest.raises(ValueError, match=r"."):
        canonical(value)
