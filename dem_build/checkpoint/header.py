"""The safetensors format: headers, read with every check that needs no tensor, written in one canonical way.

    8 bytes: N, the header's length, little-endian
    N bytes: JSON: name → dtype, shape, data_offsets
    the tensors

A canonical header has the metadata first, then the tensors in the order of their data: larger elements first,
so that each tensor is aligned, then by name; it is padded with spaces to a multiple of 8 bytes.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dem_build.errors import CheckpointError
from dem_build.json_text import parse_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from dem_build.digest import JSON

ITEM_SIZES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip
FLOAT32 = "float32"  # of the metadata
MAX_HEADER = 100_000_000
MAX_DIMENSIONS = 16
MAX_NUMBER = 2**63 - 1
DOWNLOAD_AGAIN = "the file is damaged or incomplete: fetch it again"


@dataclass(frozen=True)
class TensorSpec:
    """What a tensor is: its name, its format in safetensors' words (`BF16`) and its shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes that it takes in a file."""
        return self.size * ITEM_SIZES[self.dtype]


@dataclass(frozen=True)
class TensorInfo(TensorSpec):
    """A tensor in a file: `offset` is where its first byte lies in `path`."""

    path: Path
    offset: int


@dataclass(frozen=True)
class Header:
    """What a file's header says: its tensors in the order of their data, and its metadata."""

    tensors: tuple[TensorInfo, ...]
    metadata: Mapping[str, str]


def canonical_order(specs: Iterable[TensorSpec]) -> list[TensorSpec]:
    """Tensors in the order in which dem writes them."""
    return sorted(specs, key=lambda s: (-ITEM_SIZES[s.dtype], s.name))


def header_bytes(specs: Iterable[TensorSpec], metadata: Mapping[str, str]) -> bytes:
    """The first bytes of a file whose tensors are `specs`, in this order."""
    document: dict[str, JSON] = {"__metadata__": dict(sorted(metadata.items()))}
    end = 0
    for spec in specs:
        begin, end = end, end + spec.nbytes
        document[spec.name] = {"dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": [begin, end]}
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # so that the first tensor is aligned too: readers map the file
    return len(text).to_bytes(8, "little") + text


def read_header(path: Path) -> Header:
    """Read and check a file's header, without its tensors.

    Raises:
        CheckpointError: No safetensors file, a damaged header, or a file of another length than it says.
    """
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            # A length that no file could hold would be read into memory.
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(MAX_HEADER, size - 8):
                raise _damaged(path, "is no safetensors file, or is cut off inside its header")
            text = file.read(length)
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror}", where=str(path)) from error
    document = _parse(path, text)
    metadata = document.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise _damaged(path, "has metadata that is no table")
    tensors = [_tensor(path, name, entry, 8 + length) for name, entry in document.items()]
    # By size too: an empty tensor shares its place with the one that begins there.
    tensors.sort(key=lambda t: (t.offset, t.nbytes))
    _check_extent(path, tensors, 8 + length, size)
    return Header(tuple(tensors), {str(k): str(v) for k, v in metadata.items()})


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    # JSON itself would take the last of two tensors of one name, without a word.
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(document := dict(pairs)) != len(pairs):
            raise ValueError("a name occurs twice")
        return document

    try:
        document = parse_json(text, unique)
    except ValueError as error:
        raise _damaged(path, f"has a header that is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise _damaged(path, "has a header that is no table")
    return document


def _tensor(path: Path, name: str, entry: Any, data: int) -> TensorInfo:
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        info = TensorInfo(name, dtype, shape, path, data + begin)
        numbers = (*shape, begin, end)
        # Bounded before they are multiplied: a header has room for numbers whose product takes hours.
        valid = (
            len(shape) <= MAX_DIMENSIONS
            and all(type(n) is int and 0 <= n <= MAX_NUMBER for n in numbers)
            and dtype in ITEM_SIZES
            and end - begin == info.nbytes
        )
    except (KeyError, TypeError, ValueError):
        valid = False
    if not valid:
        raise _damaged(path, f"describes {name} in a way that cannot be: {json.dumps(entry)[:200]}")
    return info


def _check_extent(path: Path, tensors: list[TensorInfo], data: int, size: int) -> None:
    end = data
    for tensor in tensors:
        if tensor.offset != end:
            raise _damaged(path, f"has a hole or an overlap before {tensor.name}")
        end += tensor.nbytes
        if end > size:
            raise _damaged(
                path, f"is cut off inside {tensor.name}: {size} bytes, and it should end after more"
            )
    if end != size:
        raise _damaged(path, f"is {size} bytes, but its header describes {end}")


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(what, where=str(path), hint=DOWNLOAD_AGAIN)


def kept_metadata(kept: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """The metadata that say which tensors of a base stay in float32 whatever format a model gets.

    Some models compute with a few tensors in float32 though all else is bfloat16 or float16, and transformers so loads
    them. Which these are is found when a base is imported; composing needs to know, and loads no model. The metadata
    have it only where there are any: `{"float32": {"BF16": [NAME, …], "F16": [NAME, …]}}`, as JSON.

    Args:
        kept: Format in safetensors' words → names of tensors that stay in float32 in a model of this format.
    """
    named = {code: sorted(names) for code, names in sorted(kept.items())}
    return {FLOAT32: json.dumps(named)} if any(named.values()) else {}


def kept_in(metadata: Mapping[str, str], code: str | None) -> frozenset[str]:
    """The names of the tensors that stay in float32 in a model of the format `code`; None is each as it is."""
    if code is None or FLOAT32 not in metadata:
        return frozenset()
    return frozenset(parse_json(metadata[FLOAT32]).get(code, ()))
