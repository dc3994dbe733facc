"""Float formats of stored tensors as numpy sees them: widen to float32, round once to what is stored.

bfloat16 is the upper half of a float32 (sign, 8 bits of exponent, 7 of the mantissa's 23), so both directions are
integer operations and give the same bits on every CPU. safetensors files are little-endian, and so is every machine
that numpy's views here assume.

For sums of many elements there is a faster layout than the file's: two planes, the elements of even index and
then those of odd index. Two stored bfloat16 are one 32-bit integer, whose halves become the planes by a shift and a
mask, and nothing moves from one SIMD lane to another.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

CODES: Mapping[str, str] = MappingProxyType({"bfloat16": "BF16", "float16": "F16", "float32": "F32"})
"""dtype as a recipe names it → its code in a safetensors header."""

NAMES: Mapping[str, str] = MappingProxyType({code: name for name, code in CODES.items()})

FLOATS: Mapping[str, np.dtype[np.generic]] = MappingProxyType(
    {"BF16": np.dtype(np.uint16), "F16": np.dtype(np.float16), "F32": np.dtype(np.float32)}
)
"""Code of a float format that weights may have → the numpy dtype that holds its bits."""

STORED: Mapping[str, np.dtype[np.generic]] = MappingProxyType({**FLOATS, "I8": np.dtype(np.int8)})
"""The same, with the integers of a vector's blocks (blocks.py)."""

QUIET_NAN = np.uint16(0x7FC0)
UPPER = np.uint32(0xFFFF0000)
INFINITY = MappingProxyType({"BF16": 0x7F80, "F16": 0x7C00, "F32": 0x7F800000})


def to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round float32 values to bfloat16, to nearest with ties to even; return the bits, in the same shape."""
    out = np.empty(values.shape, np.uint16)
    flat = np.ascontiguousarray(values, dtype=np.float32).reshape(-1)
    narrow(flat, "BF16", out.reshape(-1))
    return out


def from_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The float32 values of bfloat16 bits, exactly, in the same shape."""
    out = np.empty(bits.shape, np.float32)
    widen(bits.reshape(-1), "BF16", out.reshape(-1))
    return out


def widen(stored: NDArray[np.generic], code: str, out: NDArray[np.float32]) -> None:
    """Convert stored bits to float32, exactly.

    Args:
        stored: One dimension, of the dtype that `FLOATS` gives for `code`.
        code: Its format in safetensors' words.
        out: Contiguous, of the same length.
    """
    if code == "BF16":
        # Strided halves are faster than a shift of 32-bit lanes; the low halves are mantissa to clear.
        out.fill(0)
        out.view(np.uint16)[1::2] = stored
    else:
        np.copyto(out, stored, casting="same_kind")


def narrow(values: NDArray[np.float32], code: str, out: NDArray[np.generic]) -> None:
    """Round float32 values to a stored format, to nearest with ties to even; a NaN stays a NaN.

    Args:
        values: One dimension, contiguous.
        code: The format to store, in safetensors' words.
        out: Of the dtype that `FLOATS` gives for `code` and of the same length.
    """
    if code != "BF16":
        with np.errstate(over="ignore"):  # beyond float16 is infinity, which callers look for and name
            np.copyto(out, values, casting="same_kind")
        return
    bits = values.view(np.uint32)
    work = np.empty_like(bits)
    _round(bits, work)
    out[...] = work.view(np.uint16)[1::2]
    # A NaN's exponent is all ones: cut off or carried, its mantissa may end as that of an infinity, or the sign change.
    if (nan := np.isnan(values)).any():
        out[nan] = QUIET_NAN


def widen_planes(stored: NDArray[np.generic], code: str, out: NDArray[np.float32]) -> None:
    """Convert stored bits to float32, exactly, as two planes.

    Args:
        stored: One dimension of even length, contiguous, of the dtype that `FLOATS` gives for `code`.
        code: Its format in safetensors' words.
        out: Of the same length: the elements of even index, then those of odd index.
    """
    half = out.size // 2
    if code == "BF16":
        pairs = stored.view(np.uint32)  # little-endian: the element of even index is the lower half
        bits = out.view(np.uint32)
        np.left_shift(pairs, 16, out=bits[:half])
        np.bitwise_and(pairs, UPPER, out=bits[half:])
    else:
        np.copyto(out[:half], stored[0::2], casting="same_kind")
        np.copyto(out[half:], stored[1::2], casting="same_kind")


def narrow_planes(
    values: NDArray[np.float32], code: str, out: NDArray[np.generic], rounded: NDArray[np.float32]
) -> None:
    """Round two planes of float32 values to a stored format, to nearest with ties to even; a NaN may become anything.

    Args:
        values: The elements of even index, then those of odd index.
        code: The format to store, in safetensors' words.
        out: What is stored, in the order of the file; of the dtype that `FLOATS` gives for `code`, contiguous.
        rounded: The stored values as float32, as two planes.
    """
    half = values.size // 2
    if code != "BF16":
        np.copyto(out[0::2], values[:half], casting="same_kind")
        np.copyto(out[1::2], values[half:], casting="same_kind")
        widen_planes(out, code, rounded)
        return
    bits, work, pairs = values.view(np.uint32), rounded.view(np.uint32), out.view(np.uint32)
    _round(bits, work)
    np.bitwise_and(work, UPPER, out=work)
    np.right_shift(work[:half], 16, out=pairs)
    np.bitwise_or(pairs, work[half:], out=pairs)


def _round(bits: NDArray[np.uint32], out: NDArray[np.uint32]) -> None:
    """Round to the upper half of each element, to nearest with ties to even; the lower half of `out` is left over."""
    # Half of the last kept bit is 0x8000. Adding 0x7FFF carries into the upper half where the lower one is above its
    # middle, and adding the last kept bit too where it is at its middle below an odd one: ties to even (IEEE 754,
    # 4.3.1). A carry that runs into the exponent is right: it is the next power of two, or infinity.
    np.right_shift(bits, 16, out=out)
    np.bitwise_and(out, 1, out=out)
    np.add(out, 0x7FFF, out=out)
    np.add(out, bits, out=out)


LONGEST = float(np.sqrt(np.finfo(np.float32).max))
"""The length of which float32 holds the square, 1.8e19: a model computes nothing with what is longer."""


def squared_sum(values: NDArray[np.float32]) -> float:
    """Σ x², which may be beyond float32 where all values are in it: of lengths from 1.8e19 on."""
    found = float(np.vdot(values, values))
    return found if np.isfinite(found) else float(np.square(values, dtype=np.float64).sum())


def is_finite(stored: NDArray[np.generic], code: str) -> bool:
    """Whether no stored value is an infinity or a NaN."""
    if not stored.size:
        return True
    infinity = INFINITY[code]
    # Without its sign a float is an integer in the order of its size: infinity is above all numbers, NaN above that.
    bits: NDArray[np.unsignedinteger] = stored.view(np.uint16 if stored.itemsize == 2 else np.uint32)
    sign = 1 << (8 * stored.itemsize - 1)
    return bool((bits & (sign - 1)).max() < infinity)
