"""JSON of anybody's: what cannot be read is a ValueError, however it was meant."""

from __future__ import annotations

import pytest

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
