"""Inner products and sign counts of vectors, streamed tensor by tensor: all that comparing vectors takes.

No thread count or CPU capability reaches a bit of a sum. Memory is a few chunks a thread, however large the model is.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dem_build.checkpoint.floats import FLOATS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Future

    from numpy.typing import NDArray

    from dem_build.checkpoint.header import TensorInfo
    from dem_build.checkpoint.reader import Checkpoint

CHUNK = 1 << 15  # elements: a dozen vectors of them, widened to float64, stay in a core's L2 cache
UNIT = 1 << 20  # elements that one thread does before it takes the next
AHEAD = 2  # units a thread that may be done before they are added in order


@dataclass(frozen=True)
class Sums:
    """Sums over the elements of some tensors; those of more tensors are their sums.

    Attributes:
        elements: Number of elements.
        base: Sum of squares of the base.
        gram: Inner products of the vectors, [vectors, vectors].
        both: Elements at which both vectors are other than 0, [vectors, vectors].
        opposed: Elements at which they have opposite signs, [vectors, vectors].
        several: Elements at which at least two vectors are other than 0.
        torn: Of those, the elements at which not all that are other than 0 have one sign.
    """

    elements: int
    base: float
    gram: NDArray[np.float64]
    both: NDArray[np.int64]
    opposed: NDArray[np.int64]
    several: int
    torn: int

    @classmethod
    def none(cls, vectors: int) -> Sums:
        """The sums over nothing."""
        counts = np.zeros((vectors, vectors), np.int64)
        return cls(0, 0.0, np.zeros((vectors, vectors)), counts, counts, 0, 0)

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            self.elements + other.elements,
            self.base + other.base,
            self.gram + other.gram,
            self.both + other.both,
            self.opposed + other.opposed,
            self.several + other.several,
            self.torn + other.torn,
        )


def sum_products(
    base: Checkpoint,
    vectors: Sequence[Checkpoint],
    *,
    threads: int = 1,
    on_progress: Callable[[int], None] = lambda _: None,
) -> dict[str, Sums]:
    """The sums of each float tensor of a base, in file order.

    Args:
        base: Θ, open.
        vectors: The vectors ΔΘ, open, each checked against the base.
        threads: Threads that compute.
        on_progress: Called in this thread with the elements done; what it raises stops the work.
    """
    found: dict[str, Sums] = {}
    done = 0
    with ThreadPoolExecutor(threads, thread_name_prefix="products") as pool:
        work = (
            (tensor.name, pool.submit(_sum_unit, base, vectors, tensor, start))
            for tensor in base.tensors.values()
            if tensor.dtype in FLOATS
            for start in range(0, max(tensor.size, 1), UNIT)
        )
        # Units are added in the order of the file, whichever is done first.
        for name, sums in _in_order(work, AHEAD * threads):
            found[name] = found[name] + sums if name in found else sums
            done += sums.elements
            on_progress(done)
    return found


def _in_order(work: Iterable[tuple[str, Future[Sums]]], ahead: int) -> Iterator[tuple[str, Sums]]:
    """Yield results in the order of the work, of which so much is begun ahead."""
    pending: deque[tuple[str, Future[Sums]]] = deque()
    for item in work:
        pending.append(item)
        if len(pending) > ahead:
            name, future = pending.popleft()
            yield name, future.result()
    for name, future in pending:
        yield name, future.result()


def _sum_unit(base: Checkpoint, vectors: Sequence[Checkpoint], tensor: TensorInfo, start: int) -> Sums:
    """Sum over at most UNIT elements of one tensor."""
    total = Sums.none(len(vectors))
    for begin in range(start, min(start + UNIT, tensor.size), CHUNK):
        size = min(CHUNK, min(start + UNIT, tensor.size) - begin)
        theta = base.floats(tensor, begin, size)
        rows = np.empty((len(vectors), size))
        for row, vector in zip(rows, vectors, strict=True):
            row[:] = vector.floats(vector.tensors[tensor.name], begin, size)
        total += _sum_chunk(theta.astype(np.float64), rows)
    return total


def _sum_chunk(theta: NDArray[np.float64], rows: NDArray[np.float64]) -> Sums:
    """Sum over a chunk: `theta` [elements], `rows` [vectors, elements]."""
    size, elements = rows.shape
    gram = np.zeros((size, size))
    both, opposed = np.zeros((size, size), np.int64), np.zeros((size, size), np.int64)
    negative, other_than_0 = rows < 0, rows != 0
    # A product of two float32 is exact in float64 (24 + 24 bits of 53), and numpy adds a row of float64 pairwise, in an
    # order of its own that knows no SIMD width. np.dot would leave the order to BLAS, and so to the CPU.
    products = np.empty(elements)
    for i in range(size):
        for j in range(i, size):
            gram[i, j] = gram[j, i] = np.multiply(rows[i], rows[j], out=products).sum()
            shared = other_than_0[i] & other_than_0[j]
            both[i, j] = both[j, i] = np.count_nonzero(shared)
            opposed[i, j] = opposed[j, i] = np.count_nonzero(shared & (negative[i] ^ negative[j]))
    # A zero has no sign: a vector that leaves an element alone is in conflict with none.
    several = other_than_0.sum(axis=0, dtype=np.int32) >= 2
    torn = negative.any(axis=0) & (rows > 0).any(axis=0)
    base = float(np.multiply(theta, theta, out=products).sum())
    return Sums(
        elements, base, gram, both, opposed, int(np.count_nonzero(several)), int(np.count_nonzero(torn))
    )
