"""What a stranger may write: documents that are nearly right, and bytes that are nearly documents."""

from __future__ import annotations

import copy
import json
import math
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DEEP", "ODD_TEXTS", "json_bytes", "junk", "mutated", "spoiled", "toml_bytes"]

ODD_TEXTS = (
    "",
    " ",
    "\0",
    "a\0b",
    "..",
    "../../../etc/passwd",
    "/etc/passwd",
    "~nobody-at-all/x",
    "a/../../b",
    "\\..\\b",
    "\x1b[31mred\x1b]0;title\x07",
    "\u202etxt.exe",
    "\u200b",
    "\x9b31m",
    "\u2028",
    "<script>alert(1)</script>",
    "`|\\*_[x](http://x)",
    "${HOME}",
    "$(id)",
    "{{ 7 * 7 }}",
    "%s%n",
    "*" * 200,
    "[" * 200,
    "**/*",
    "A" * 20_000,
    "é" * 300,
    "\U0001f989",
    "ﬀ",
    "CON",
    "-rf",
    "--help",
    "nan",
    "1e999",
    "org/name",
    "hf://datasets/a/b/c",
    "file:///etc/passwd",
    "http://localhost:1/x",
    "tune",
    "base",
    "model",
)
NUMBERS = (
    0,
    -1,
    1,
    2,
    2**31,
    2**53,
    2**53 + 1,
    2**63,
    2**64,
    -(2**63) - 1,
    10**30,
    10**400,
    0.0,
    -0.0,
    0.5,
    1e-320,
    1e308,
    math.inf,
    -math.inf,
    math.nan,
)


def _nested(depth: int, *, table: bool = False) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = {"a": value} if table else [value]
    return value


DEEP = st.builds(_nested, st.sampled_from([30, 150, 330, 480]), table=st.booleans())
_scalars = st.one_of(
    st.sampled_from(ODD_TEXTS),
    st.sampled_from(NUMBERS),
    st.sampled_from([None, True, False]),
    st.text(max_size=20),
    st.integers(),
    st.floats(),
    st.just("\ud800"),
)
junk = st.one_of(
    _scalars,
    st.sampled_from([[], {}, [[]], [{}], {"": 0}, [None] * 50]).map(copy.deepcopy),
    st.lists(_scalars, max_size=4),
    st.dictionaries(st.one_of(st.sampled_from(ODD_TEXTS), st.text(max_size=8)), _scalars, max_size=4),
    DEEP,
)


@st.composite
def mutated(draw: st.DrawFn, document: Any, most: int = 3, values: st.SearchStrategy[Any] = junk) -> Any:
    """Return a document with a few of its parts replaced, taken away, doubled or added to."""
    wrapped = [copy.deepcopy(document)]
    for _ in range(draw(st.integers(1, most))):
        parent, key = draw(st.sampled_from(_places(wrapped)))
        change = draw(st.sampled_from(("replace", "replace", "remove", "swap", "add")))
        if change == "remove" and parent is not wrapped:
            del parent[key]
        elif change == "swap":
            other, at = draw(st.sampled_from(_places(wrapped)))
            parent[key] = _copied(other[at])
        elif change == "add" and isinstance(parent[key], dict):
            parent[key][draw(st.sampled_from(ODD_TEXTS))] = draw(values)
        else:
            parent[key] = draw(values)
    return wrapped[0]


def _copied(value: Any) -> Any:
    try:
        return copy.deepcopy(value)
    except RecursionError:
        return 0


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Return (parent, key) of each part, those near the top first."""
    found: list[tuple[Any, Any]] = []
    todo = [value]
    while todo and len(found) < 2000:
        parent = todo.pop(0)
        keys = list(parent) if isinstance(parent, dict) else range(len(parent))
        for key in keys:
            found.append((parent, key))
            if isinstance(parent[key], dict | list):
                todo.append(parent[key])
    return found


def json_bytes(document: Any) -> bytes:
    return json.dumps(document).encode()


@st.composite
def spoiled(draw: st.DrawFn, documents: st.SearchStrategy[bytes]) -> bytes:
    """Return the bytes of a document, at times cut off, changed, doubled or in another encoding."""
    data = draw(documents)
    at = draw(st.integers(0, len(data)))
    change = draw(st.sampled_from(("as it is",) * 6 + ("cut", "flip", "insert", "double", "bom", "utf-16")))
    if change == "cut":
        return data[:at]
    if change == "flip" and at < len(data):
        return data[:at] + bytes([data[at] ^ (1 << draw(st.integers(0, 7)))]) + data[at + 1 :]
    if change == "insert":
        return data[:at] + draw(st.binary(min_size=1, max_size=8)) + data[at:]
    if change == "double":
        return data + data
    if change == "bom":
        return b"\xef\xbb\xbf" + data
    return data.decode(errors="replace").encode("utf-16") if change == "utf-16" else data


def toml_bytes(document: Any) -> bytes:
    """Write tables as TOML; what TOML has no word for (null, half a surrogate pair) is written all the same."""
    try:
        return _tables(document).encode("utf-8", "surrogatepass")
    except RecursionError:
        return b"deep = " + b"[" * 400 + b"]" * 400 + b"\n"


def _tables(document: Any) -> str:
    if not isinstance(document, dict):
        return f"document = {_toml(document)}\n"
    lines = [f"{_key(k)} = {_toml(v)}" for k, v in document.items() if not isinstance(v, dict)]
    for name, value in document.items():
        if isinstance(value, dict):
            lines.append(f"[{_key(name)}]")
            lines += [f"{_key(k)} = {_toml(v)}" for k, v in value.items()]
    return "\n".join([*lines, ""])


def _key(name: object) -> str:
    return name if isinstance(name, str) and name.isidentifier() and name.isascii() else _text(str(name))


def _text(text: str) -> str:
    return '"' + "".join(c if c >= " " and c not in '"\\\x7f' else f"\\u{ord(c):04x}" for c in text) + '"'


def _toml(value: Any) -> str:
    writers: dict[type, Callable[[Any], str]] = {
        str: _text,
        bool: lambda b: str(b).lower(),
        float: str,
        int: str,
        type(None): lambda _: "null",
        list: lambda items: "[" + ", ".join(map(_toml, items)) + "]",
        dict: lambda table: "{" + ", ".join(f"{_key(k)} = {_toml(v)}" for k, v in table.items()) + "}",
    }
    return writers[type(value)](value)
