"""Sealed documents: JSON whose last field is the SHA-256 of the bytes before it, so that any change of it shows.

An object's name says what its bytes are; a record has no such name. The seal is of bytes, not of values: to check it
needs no parser, and costs a build with nothing to do microseconds a record.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from dem_build import digest
from dem_build.json_text import parse_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dem_build.digest import JSON

FIELD = "seal"
_END = b'"\n}'
_SIZE = len(f',\n "{FIELD}": "') + 64 + len(_END)


def sealed(document: Mapping[str, JSON], *, escaped: bool = False) -> bytes:
    """A document as JSON, its seal last.

    Args:
        document: What to write.
        escaped: In ASCII alone: a path need not be text.

    Raises:
        ValueError: It is empty, or holds a number that JSON has not.
        TypeError: It holds what JSON cannot.
    """
    if not document:
        raise ValueError("an empty document has no seal")
    text = json.dumps(document, ensure_ascii=escaped, allow_nan=False, indent=1)
    head = text.removesuffix("\n}").encode()
    return head + _tail(head)


def read_sealed(data: bytes, version: str, *, unsealed: int) -> JSON:
    """The document in `data`.

    Args:
        data: The bytes of its file.
        version: The field that says its version.
        unsealed: The last version that had no seal; a document of it is taken as it is.

    Raises:
        ValueError: It is no JSON, or was changed since it was sealed.
    """
    document = parse_json(data)
    if isinstance(document, dict) and FIELD not in document and document.get(version) == unsealed:
        return document
    if data[-_SIZE:] != _tail(data[:-_SIZE]):
        raise ValueError("its seal is broken: it was changed since it was written")
    del document[FIELD]
    return document


def _tail(head: bytes) -> bytes:
    return f',\n "{FIELD}": "{digest.of_bytes(head)}'.encode() + _END
