"""Turns batches of examples into rows, in their order: in this process, or in several where the data are many.

The tokenizer's own threads cut up one batch at a time, but much of the time goes to the chat template and to Python
around it. So large data are cut up in processes of one thread each, where there are threads for them, and what they
make comes back in order: the result is the same.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from typing import TYPE_CHECKING

from dem_build.data.duplicates import shingles
from dem_build.data.tokenise import tokenise
from dem_build.errors import DataError
from dem_build.model.tokenizer import BaseTokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
    from concurrent.futures import Future
    from pathlib import Path
    from typing import TypeVar

    import numpy.typing as npt

    from dem_build.data.formats import AnyExample
    from dem_build.data.tokenise import Style, Tokenised

    Item = TypeVar("Item")

# Below this, the processes' start (seconds of imports) costs more than they save.
BYTES_A_PROCESS = 64 * 2**20
MOST_PROCESSES = 8  # each has the tokenizer and its libraries in memory, about 350 MB
BATCHES_AHEAD = 2  # for each process: bounds memory


@dataclass(frozen=True)
class Cut:
    """What became of one example.

    Attributes:
        rows: Its rows, None for one that is too long.
        shingles: Hashes of its word sequences, None where nobody compares them.
    """

    rows: list[Tokenised | None]
    shingles: npt.NDArray | None  # type: ignore[type-arg]


def processes_for(threads: int, size: int) -> int:
    """How many processes to cut up `size` bytes of data with; 1 is this one alone.

    One of the threads stays with this process, which reads and writes meanwhile.
    """
    return max(1, min(threads - 1, MOST_PROCESSES, size // BYTES_A_PROCESS))


class Cutter:
    """Cuts examples into rows, and into shingles too if it `compares`; in so many processes, of which 1 is this one."""

    def __init__(self, tokenizer: BaseTokenizer, style: Style, *, compares: bool, processes: int = 1) -> None:
        self._tokenizer, self._style, self._compares = tokenizer, style, compares
        self._processes = processes

    def cut(
        self, batches: Iterable[list[Item]], example: Callable[[Item], AnyExample]
    ) -> Generator[tuple[list[Item], list[Cut] | None]]:
        """Yield each batch with what became of its examples, in order; None where one of them is refused.

        Raises:
            DataError: A process died.
        """
        if self._processes == 1:
            here = _Here(self._tokenizer, self._style, self._compares)
            yield from ((batch, here.cut([example(i) for i in batch])) for batch in batches)
            return
        settings = (self._tokenizer.folder, self._style, self._compares, os.getpid())
        # Spawned: a fork of a process whose libraries have threads may hold a lock that nobody will release.
        pool = ProcessPoolExecutor(self._processes, get_context("spawn"), _begin, settings)
        try:
            yield from self._cut_apart(pool, batches, example)
        except BrokenProcessPool as error:
            raise DataError(
                "a process that cut up the text died",
                hint="if memory ran out, set jobs higher or use less at once",
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)

    def _cut_apart(
        self, pool: ProcessPoolExecutor, batches: Iterable[list[Item]], example: Callable[[Item], AnyExample]
    ) -> Iterator[tuple[list[Item], list[Cut] | None]]:
        ahead: deque[tuple[list[Item], Future[list[Cut] | None]]] = deque()
        for batch in batches:
            ahead.append((batch, pool.submit(_cut, [example(i) for i in batch])))
            if len(ahead) > BATCHES_AHEAD * self._processes:
                done, future = ahead.popleft()
                yield done, future.result()
        while ahead:
            done, future = ahead.popleft()
            yield done, future.result()


class _Here:
    """Cuts examples in the process that it is made in."""

    def __init__(self, tokenizer: BaseTokenizer, style: Style, compares: bool) -> None:
        self._tokenizer, self._style, self._compares = tokenizer, style, compares

    def cut(self, examples: Sequence[AnyExample]) -> list[Cut] | None:
        """What becomes of the examples, None where one of them is refused."""
        try:
            rows = tokenise(self._tokenizer, examples, self._style)
        except DataError:
            return None  # the caller finds out which, and says so
        hashes = [shingles(e.texts) if self._compares else None for e in examples]
        return [Cut(*pair) for pair in zip(rows, hashes, strict=True)]


_here: _Here | None = None


def _begin(folder: Path, style: Style, compares: bool, parent: int) -> None:
    """Make this process ready: it leaves Ctrl-C to its parent, and ends when its parent is gone."""
    global _here  # noqa: PLW0603  a pool has no other place for what its processes keep
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all processes of the group
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # there is a process for each core already
    _here = _Here(BaseTokenizer(folder), style, compares)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _cut(examples: Sequence[AnyExample]) -> list[Cut] | None:
    assert _here is not None
    return _here.cut(examples)
