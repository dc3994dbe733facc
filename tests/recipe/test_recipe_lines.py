"""Keys are found on their lines, whatever TOML stands around them."""

from __future__ import annotations

import json
import tomllib

from hypothesis import given, settings
from hypothesis import strategies as st

from dem_build.recipe.toml import line_of, locate, parsed

NASTY = '''# c [x]
a.b = 1 # = [
"q.r"."s\\u00e9" = "x # [no]"
'l' = """
[not.a.table]
k = "v" \\""" ""
"""
dt = 1979-05-27 07:32:00 # hi
lit = \'\'\'
it's = \'\'\'\'\'
after = [ 1, # one
  [2, 3], { x = 1, y.z = [ "]" , ',' ] },
  """m
m""",
]
empty = []
none = {}
[ t . "u v" ]
k=1
[[g]]
min=1
[g.sub]
deep = true
[[g]]
[[g.arr]]
z={ w = "}" }
[t]
last = -inf
'''


def keys_of(value, key=()):
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for part, inner in pairs:
        yield (*key, part)
        yield from keys_of(inner, (*key, part))


def test_every_key_of_a_nasty_file_is_found_on_its_line():
    lines = locate(NASTY)
    assert set(lines) == set(keys_of(tomllib.loads(NASTY)))
    expected = {
        "a.b": 2, '"q.r"."sé"': 3, "l": 4, "dt": 8, "lit": 9, "after[1][0]": 12, "after[2].y.z[1]": 12,
        "after[3]": 13, 't."u v".k': 19, "g[0].min": 21, "g[0].sub.deep": 23, "g[1]": 24, "g[1].arr[0].z.w": 26,
        "t": 27,
    }  # fmt: skip
    assert {key: line_of(lines, parsed(key)) for key in expected} == expected


def test_a_key_that_is_not_there_has_the_line_of_its_table():
    lines = locate('[base]\nmodel = "base"\n\n[datasets.math]\nomega = 1\n')
    assert line_of(lines, ("datasets", "math", "train", "seed")) == 4
    assert line_of(lines, ("compose", "dtype")) == 0


TRICKY = st.text(alphabet="ab\"'\\[]{}#=,. \n\té", max_size=12)
VALUES = st.recursive(
    TRICKY | st.integers(-9, 9) | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TRICKY, inner, max_size=3),
    max_leaves=6,
)


def toml(value):
    """Write a value as TOML, texts in one of its four ways."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[\n" + ",\n# ]\n".join(toml(v) for v in value) + "]"
    if not isinstance(value, str) or len(value) % 2:
        return json.dumps(value)
    if "'" not in value and "\n" not in value:
        return f"'{value}'"
    if "'''" not in value and not value.endswith("'"):
        return f"'''\n{value}'''"
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"""\n{escaped}"""'


@settings(deadline=None)
@given(st.dictionaries(TRICKY, VALUES, max_size=4), st.dictionaries(TRICKY, VALUES, max_size=3))
def test_the_scanner_finds_just_the_keys_that_tomllib_reads(top, table):
    top.pop("a b", None)
    text = "".join(f"{json.dumps(k)} = {toml(v)}\n" for k, v in top.items())
    text += '["a b"] # [c]\n' + "".join(f"{json.dumps(k)}={toml(v)} # x\n" for k, v in table.items())
    lines = locate(text)
    assert tomllib.loads(text) == top | {"a b": table}
    assert set(lines) == set(keys_of(tomllib.loads(text)))
    rows = text.split("\n")
    for key in ("a b", *table):
        place = lines[("a b",) if key == "a b" and key not in table else ("a b", key)]
        assert json.dumps(key) in rows[place - 1]
