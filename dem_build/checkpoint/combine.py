"""Weighted sums of whole models, streamed: Θ + Σ ω ΔΘ (Eq. 2) and Σ ω (Θ + ΔΘ) (Eq. 3).

Each element is computed alone, in float32, by the operations of its method (`actions/compose/methods/`), with ω
rounded to float32, and the result is rounded once. Hence no thread count, chunk size or CPU capability reaches a bit of
it. Memory is a few chunks a thread, however large the model is.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from dem_build.checkpoint.floats import FLOATS, NAMES, STORED, is_finite, narrow_planes
from dem_build.checkpoint.header import ITEM_SIZES, TensorSpec
from dem_build.checkpoint.layers import layer_of
from dem_build.errors import CheckpointError
from dem_build.wording import vector_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from dem_build.actions.compose.methods import Method
    from dem_build.checkpoint.header import TensorInfo
    from dem_build.checkpoint.reader import Checkpoint

# Elements: 7 MB a thread, mostly. With a quarter of them, which fit into a core's L2 cache, two threads take half as
# long again: between any two of numpy's calls they wait for Python's lock.
CHUNK = 1 << 19
UNIT = 1 << 20  # elements that one thread does before it takes the next and tells what is done
ROW = 1 << 13  # elements of one dot product
POLL_SECONDS = 0.2

_LARGEST = {"BF16": 3.3895314e38, "F16": 65504.0, "F32": float(np.finfo(np.float32).max)}
"""Code of a float format → the largest number in it."""


@dataclass(frozen=True)
class Combination:
    """What is summed.

    Attributes:
        base: Θ, open.
        deltas: The vectors ΔΘ, open, each checked against the base, in the order of their digests.
        omegas: ω of each: a number, or one for each layer (`layers.layer_of`). A layer without one has 0: the model
            does not use it.
        method: How they are combined.
        code: Format of the result's floats in safetensors' words; None for each as the base has it.
        kept: Names of the tensors that stay in float32 where `code` is a narrower format.
        params: The method's keys of `[compose]` and their values.
        digests: Of each vector, in their order.
    """

    base: Checkpoint
    deltas: Sequence[Checkpoint]
    omegas: Sequence[float | Mapping[str, float]]
    method: Method
    code: str | None
    kept: frozenset[str] = frozenset()
    params: Mapping[str, Any] = field(default_factory=dict)
    digests: Sequence[str] = ()

    def omegas_of(self, tensor: str) -> list[np.float32]:
        """ω of each vector for a tensor, rounded to float32."""
        layer = layer_of(tensor)
        # Rounded before it is used, so that a sum in float32 is all that there is.
        return [np.float32(w.get(layer, 0.0) if isinstance(w, Mapping) else w) for w in self.omegas]

    def named(self, index: int) -> str:
        """What messages call a vector: by the digest of it where that is known, for who knows names to put in."""
        return vector_name(self.digests[index]) if self.digests else f"vector {index + 1}"

    def code_of(self, tensor: TensorSpec) -> str:
        """The format of the result of one of the base's float tensors."""
        return _code(tensor, self.code, self.kept)


class Sink(Protocol):
    """Takes a result: files (`writer.Writer`), or the memory of a model."""

    def write(self, name: str, start: int, stored: NDArray[np.generic]) -> None:
        """Take stored elements of a tensor, from the `start`-th on; each element once, from any thread."""
        ...


@dataclass(frozen=True)
class Norms:
    """Lengths over all elements.

    Attributes:
        edit: ‖result - Θ‖, before rounding to the result's format.
        rounding_error: ‖rounded result - result‖.
        deltas: ‖ΔΘ‖ of each vector as stored.
    """

    edit: float
    rounding_error: float
    deltas: tuple[float, ...]


@dataclass(frozen=True)
class _Unit:
    """Some elements of one tensor: the work that one thread takes at a time."""

    index: int
    tensor: TensorInfo
    start: int
    stop: int


def combine(
    what: Combination,
    writer: Sink,
    *,
    threads: int = 1,
    chunk: int = CHUNK,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Norms:
    """Write a weighted sum of models.

    Args:
        what: What is summed.
        writer: Takes the result: the base's names and shapes, floats in the format of `what`.
        threads: Threads that compute.
        chunk: Elements that are in work at once in a thread.
        on_progress: Called in this thread with the bytes of output done; what it raises stops the work.

    Raises:
        CheckpointError: A result that is not finite; the message names the tensor.
    """
    units = _Units(what.base)
    tally = _Tally(2 + len(what.deltas))
    preparation = _Preparation(what, threads)
    with ThreadPoolExecutor(threads, thread_name_prefix="combine") as pool:
        kernels = [_Kernel(what, writer, preparation, chunk) for _ in range(threads)]
        pending = {pool.submit(_work, what, kernel, units, tally) for kernel in kernels}
        try:
            while pending:
                finished, pending = wait(pending, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
                for task in finished:
                    task.result()
                on_progress(tally.bytes)
        finally:
            units.stop()
    return tally.norms()


def result_specs(base: Checkpoint, code: str | None, kept: frozenset[str] = frozenset()) -> list[TensorSpec]:
    """The tensors of a model composed on `base`: its names and shapes.

    Floats are in the format `code`, None for that of the base; those `kept` are float32.
    """
    return [
        TensorSpec(name, _code(tensor, code, kept) if tensor.dtype in FLOATS else tensor.dtype, tensor.shape)
        for name, tensor in base.tensors.items()
    ]


def _code(tensor: TensorSpec, code: str | None, kept: frozenset[str]) -> str:
    return (code or tensor.dtype) if tensor.name not in kept else "F32"


class _Units:
    """Hands out units in file order, to any thread, until it is stopped."""

    def __init__(self, base: Checkpoint) -> None:
        pieces = ((t, start) for t in base.tensors.values() for start in range(0, t.size, UNIT))
        self._units = (_Unit(i, t, s, min(s + UNIT, t.size)) for i, (t, s) in enumerate(pieces))
        self._lock = threading.Lock()
        self._stopped = False

    def __iter__(self) -> Iterator[_Unit]:
        while True:
            with self._lock:
                unit = None if self._stopped else next(self._units, None)
            if unit is None:
                return
            yield unit

    def stop(self) -> None:
        self._stopped = True


def _work(what: Combination, kernel: _Kernel, units: _Units, tally: _Tally) -> None:
    """Do units until there are none."""
    try:
        for unit in units:
            if unit.tensor.dtype in FLOATS:
                tally.add(unit, kernel.sum_unit(unit), ITEM_SIZES[what.code_of(unit.tensor)])
            else:
                tally.add(unit, kernel.copy_unit(unit), ITEM_SIZES[unit.tensor.dtype])
    except BaseException:
        units.stop()
        raise


class _Tally:
    """What the threads have done: bytes, and the squared norms of each unit."""

    def __init__(self, columns: int) -> None:
        self.bytes = 0
        self._columns = columns
        self._squares: dict[int, NDArray[np.float64]] = {}
        self._lock = threading.Lock()

    def add(self, unit: _Unit, squares: NDArray[np.float64], item_size: int) -> None:
        with self._lock:
            self._squares[unit.index] = squares
            self.bytes += (unit.stop - unit.start) * item_size

    def norms(self) -> Norms:
        # In the order of the units, so that threads do not reach the last digit.
        rows = np.array([self._squares[i] for i in sorted(self._squares)]).reshape(-1, self._columns)
        edit, error, *deltas = (math.sqrt(math.fsum(column)) for column in rows.T)
        return Norms(edit, error, tuple(deltas))


@dataclass(frozen=True)
class _Tensor:
    """A whole tensor, as a method prepares it: a `methods.Tensor`."""

    what: Combination
    tensor: TensorInfo

    @property
    def name(self) -> str:
        return self.tensor.name

    @property
    def size(self) -> int:
        return self.tensor.size

    @property
    def params(self) -> Mapping[str, Any]:
        return self.what.params

    @cached_property
    def terms(self) -> Sequence[tuple[str, np.float32]]:
        omegas = self.what.omegas_of(self.name)
        return [(self.what.digests[i], omegas[i]) for i in self._places]

    def base(self, start: int, stop: int) -> NDArray[np.float32]:
        return self.what.base.floats(self.tensor, start, stop - start)

    def vector(self, term: int, start: int, stop: int) -> NDArray[np.float32]:
        delta = self.what.deltas[self._places[term]]
        return delta.floats(delta.tensors[self.name], start, stop - start)

    @cached_property
    def _places(self) -> list[int]:
        # As in `_Chunk.terms`: what is prepared of each is told by its place.
        return [i for i, omega in enumerate(self.what.omegas_of(self.name)) if omega != 0]


class _Preparation:
    """What the method makes of whole tensors: once for each, whichever threads work on it."""

    def __init__(self, what: Combination, threads: int) -> None:
        self._what = what
        self._threads = threads
        self._made: dict[str, Future[Any]] = {}
        self._lock = threading.Lock()

    def of(self, tensor: TensorInfo) -> Any:
        """What was made of a tensor, or is now; while another thread makes it, that is waited for."""
        prepare = self._what.method.prepare
        if prepare is None:
            return None
        with self._lock:
            due = tensor.name not in self._made
            made = self._made.setdefault(tensor.name, Future())
            while (
                len(self._made) > self._threads
            ):  # units are in file order: the oldest is done with, or held there
                del self._made[next(iter(self._made))]
        if due:
            try:
                made.set_result(prepare(_Tensor(self._what, tensor)))
            except BaseException as error:
                made.set_exception(error)
                raise
        return made.result()


@dataclass
class _Chunk:
    """Some elements of a tensor, as a method combines them: a `methods.Chunk`.

    Attributes:
        kernel: Whose buffers they lie in.
        buffers: Θ, the result, and the vector that is at work.
        omegas: ω of each vector for the tensor.
        squares: ‖ΔΘ‖² of each vector over the elements, once `terms` has been gone through.
    """

    kernel: _Kernel
    tensor: TensorInfo
    elements: slice
    buffers: tuple[NDArray[np.float32], ...]
    omegas: Sequence[np.float32]
    prepared: Any

    def __post_init__(self) -> None:
        self.base, self._total, self._term = self.buffers
        self.params = self.kernel.params
        self.squares = np.zeros(len(self.omegas))

    def terms(self) -> Iterator[tuple[NDArray[np.float32], np.float32]]:
        start, n = self.elements.start, self.elements.stop - self.elements.start
        for i, (delta, omega) in enumerate(zip(self.kernel.deltas, self.omegas, strict=True)):
            self.kernel.load(delta, delta.tensors[self.tensor.name], start, n, self._term)
            self.squares[i] = _square(self._term)
            if omega != 0:  # 0 of this layer alone: a vector that is 0 everywhere is no term
                yield self._term, omega

    def placed(self, values: NDArray[Any]) -> NDArray[Any]:
        even = np.pad(values, (0, self.base.size - values.size))
        return np.concatenate((even[0::2], even[1::2]))  # two planes: see floats.py

    def zeros(self) -> NDArray[np.float32]:
        self._total.fill(0)
        return self._total

    def add(
        self, so_far: NDArray[np.float32], term: NDArray[np.float32], omega: float | np.float32
    ) -> NDArray[np.float32]:
        # Rounded twice, product and sum, on every CPU: where one has a fused multiply-add, that would give other bits.
        np.multiply(term, omega, out=term)
        return np.add(so_far, term, out=self._total)


class _Kernel:
    """One thread's arithmetic and its buffers."""

    def __init__(self, what: Combination, writer: Sink, preparation: _Preparation, chunk: int) -> None:
        if what.method.combine is None:
            raise ValueError(f"{what.method.name} is no sum: another kind of action makes it")
        self._combine = what.method.combine
        self._what = what
        self.deltas, self.params = what.deltas, what.params
        self._preparation = preparation
        self._writer = writer
        self._chunk = chunk
        self._even = chunk + chunk % 2
        self._buffers = [np.empty(self._even, np.float32) for _ in range(3)]
        self._stored: dict[str, NDArray[np.generic]] = {}
        self._prepared: tuple[TensorInfo | None, Any] = (None, None)

    def copy_unit(self, unit: _Unit) -> NDArray[np.float64]:
        """Copy a unit that holds no floats."""
        stored = np.empty((unit.stop - unit.start) * ITEM_SIZES[unit.tensor.dtype], np.uint8)
        self._what.base.read_into(unit.tensor, unit.start, stored)
        self._writer.write(unit.tensor.name, unit.start, stored)
        return np.zeros(2 + len(self._what.deltas))

    def sum_unit(self, unit: _Unit) -> NDArray[np.float64]:
        """Compute and write a unit; return the squares of edit, rounding error and each vector."""
        squares = np.zeros(2 + len(self._what.deltas))
        omegas = self._what.omegas_of(unit.tensor.name)
        with np.errstate(all="ignore"):  # what is not finite is found in the result, and named
            for start in range(unit.start, unit.stop, self._chunk):
                self._sum_chunk(unit.tensor, start, min(start + self._chunk, unit.stop), omegas, squares)
        return squares

    def _sum_chunk(
        self,
        tensor: TensorInfo,
        start: int,
        stop: int,
        omegas: Sequence[np.float32],
        squares: NDArray[np.float64],
    ) -> None:
        n = stop - start
        # Two planes (see floats.py): of an odd number of elements, the last of the second is a zero that is not stored.
        base, total, term = (buffer[: n + n % 2] for buffer in self._buffers)
        self.load(self._what.base, tensor, start, n, base)
        summed = _Chunk(self, tensor, slice(start, stop), (base, total, term), omegas, self._prepare(tensor))
        so_far = self._combine(summed)
        squares[2:] += summed.squares
        code = self._what.code_of(tensor)
        stored = self._buffer(code)[: total.size]
        narrow_planes(so_far, code, stored, term)
        # What was stored minus what was meant: the rounding error, in the buffer that no vector needs any more.
        np.subtract(term, so_far, out=term)
        error = _square(term)
        # So it is where a sum or what is stored of it is not.
        if not math.isfinite(error) and not (np.isfinite(so_far).all() and is_finite(stored, code)):
            raise self._not_finite(tensor, code, start, n, omegas)
        self._writer.write(tensor.name, start, stored[:n])
        squares[1] += error
        if so_far is not base:  # without a vector it is the base's own buffer, and the edit is 0
            np.subtract(so_far, base, out=term)
            squares[0] += _square(term)

    def _not_finite(
        self, tensor: TensorInfo, code: str, start: int, n: int, omegas: Sequence[np.float32]
    ) -> CheckpointError:
        """What to say of elements whose sum is not finite: which vector's part in one of them is the largest."""
        what = f"{tensor.name} is not finite in {NAMES[code]}"
        # Read again, in their own order: in the buffers they lie in two planes.
        base = self._what.base.floats(tensor, start, n)
        parts = [delta.floats(delta.tensors[tensor.name], start, n) for delta in self.deltas]
        edits = [np.float64(w) * part for w, part in zip(omegas, parts, strict=True)]
        largest = _LARGEST[code]
        bad = ~(np.abs(base + sum(edits)) <= largest)
        if not edits or not bad.any() or not (np.abs(base[bad]) <= largest).all():
            return CheckpointError(what, hint="the base is damaged, or the format too narrow for it")
        shares = np.abs(edits) * bad
        worst, place = (int(i) for i in np.unravel_index(shares.argmax(), shares.shape))
        vector = self._what.named(worst)
        return CheckpointError(
            f"{what}: element {start + place} is {base[place]:.3g} in the base and {parts[worst][place]:.3g} in "
            f"{vector}, of ω {omegas[worst]:.4g}",
            hint=f"lower `omega` of {vector} in the recipe, or make it again: such a weight is damage, or its "
            "training diverged; a wider dtype in [compose] holds more",
        )

    def _prepare(self, tensor: TensorInfo) -> Any:
        """What the method makes of a whole tensor, held while this thread is at it."""
        if self._prepared[0] is not tensor:
            self._prepared = (tensor, self._preparation.of(tensor))
        return self._prepared[1]

    def load(
        self, source: Checkpoint, tensor: TensorInfo, start: int, n: int, out: NDArray[np.float32]
    ) -> None:
        source.planes_into(tensor, start, n, self._buffer(tensor.dtype)[: out.size], out)

    def _buffer(self, code: str) -> NDArray[np.generic]:
        if code not in self._stored:
            self._stored[code] = np.empty(self._even, STORED[code])
        return self._stored[code]


def _square(values: NDArray[np.float32]) -> float:
    found = _short_square(values)
    # Of a length from 1.8e19 on the square is beyond float32, and the length is not.
    return found if math.isfinite(found) else float(np.square(values, dtype=np.float64).sum())


def _short_square(values: NDArray[np.float32]) -> float:
    # In rows, since BLAS would start threads of its own for a longer product, inside each of ours. BLAS adds in the
    # order of its CPU's kernels: the last digits of norms may differ between machines. They are told of, and enter no
    # output.
    whole = values.size - values.size % ROW
    rows, rest = values[:whole].reshape(-1, ROW), values[whole:]
    return float(np.vecdot(rows, rows).sum(dtype=np.float64) + np.dot(rest, rest))
