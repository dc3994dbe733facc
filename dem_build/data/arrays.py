"""Tokenised rows in one safetensors file: written as a stream, read without loading it.

- `input_ids`, int32 [tokens]: all rows, one after another.
- `labels`, int32 [tokens]: -100 where not trained.
- `offsets`, int64 [rows + 1]: row i is the tokens from offsets[i] to offsets[i + 1].
- `prompts`, uint8 [rows, 16]: first half of the SHA-256 of each row's normalised prompt.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from dem_build.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from types import TracebackType

    import numpy.typing as npt

# Of a digest: two of 10^12 different prompts share them by a chance of 10^24 / 2^129, 1.5e-15.
PROMPT_BYTES = 16
_PREPARE_AGAIN = "`--rebuild data:NAME` prepares them again"


class RowsWriter:
    """Collects rows on disk, then writes them as one file; equal rows give equal bytes.

    Memory: 24 bytes a row.

    Args:
        spool: An empty folder on a disk with room for the tokens; emptied again by `save`.
    """

    def __init__(self, spool: Path) -> None:
        spool.mkdir(parents=True, exist_ok=True)
        self._paths = (spool / "input_ids", spool / "labels")
        self._files = tuple(path.open("wb") for path in self._paths)
        self._lengths = array("q")
        self._prompts = bytearray()
        self.tokens = 0
        self.trained = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def __len__(self) -> int:
        return len(self._lengths)

    def append(self, input_ids: npt.NDArray[np.int32], labels: npt.NDArray[np.int32], prompt: bytes) -> None:
        """Add a row; `prompt` is the digest of its prompt, of which the first 16 bytes are kept."""
        for file, tokens in zip(self._files, (input_ids, labels), strict=True):
            file.write(tokens.astype("<i4", copy=False).tobytes())
        self._lengths.append(len(input_ids))
        self._prompts += prompt[:PROMPT_BYTES]
        self.tokens += len(input_ids)
        self.trained += int(np.count_nonzero(labels >= 0))

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row."""
        return list(self._lengths)

    @property
    def longest(self) -> int:
        """Tokens of the longest row; 0 where there is none."""
        return max(self._lengths, default=0)

    @property
    def prompts(self) -> npt.NDArray[np.uint8]:
        """The rows' prompts, uint8 [rows, 16]."""
        return np.frombuffer(bytes(self._prompts), dtype=np.uint8).reshape(-1, PROMPT_BYTES)

    def save(self, path: Path) -> None:
        """Write all rows to `path` and forget the spool."""
        for file in self._files:
            file.close()
        offsets = np.zeros(len(self._lengths) + 1, dtype=np.int64)
        np.cumsum(self._lengths, out=offsets[1:])
        # Mapped, not loaded: save_file reads the pages as it writes them. An empty file cannot be mapped.
        tensors: dict[str, npt.NDArray[Any]] = {
            p.name: np.memmap(p, dtype="<i4", mode="r") if self.tokens else np.zeros(0, dtype=np.int32)
            for p in self._paths
        }
        save_file(tensors | {"offsets": offsets, "prompts": self.prompts}, path)
        self._close()

    def _close(self) -> None:
        for file, path in zip(self._files, self._paths, strict=True):
            file.close()
            path.unlink(missing_ok=True)


class TokenRows:
    """The rows of a file that `RowsWriter` wrote; only the rows that are asked for are read.

    Can be pickled: the copy opens the file again.

    Attributes:
        offsets: int64 [rows + 1].
        prompts: uint8 [rows, 16].
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            file: Any = safe_open(path, framework="np")
            self.offsets: npt.NDArray[np.int64] = file.get_tensor("offsets")
            self.prompts: npt.NDArray[np.uint8] = file.get_tensor("prompts")
            self._input_ids = file.get_slice("input_ids")
            self._labels = file.get_slice("labels")
        except SafetensorError as error:
            raise DataError(f"are no token rows: {error}", where=str(path), hint=_PREPARE_AGAIN) from error
        if (what := self._contradiction()) is not None:
            raise DataError(f"are no token rows: {what}", where=str(path), hint=_PREPARE_AGAIN)

    @classmethod
    def open(cls, path: Path) -> TokenRows:
        """Open the file at `path`.

        Raises:
            DataError: It holds no rows, or its parts contradict each other.
        """
        return cls(path)

    def _contradiction(self) -> str | None:
        """Say how the parts contradict each other; the tokens themselves are not read."""
        ids, labels = self._input_ids, self._labels
        if (ids.get_dtype(), labels.get_dtype(), self.offsets.dtype) != ("I32", "I32", np.dtype(np.int64)):
            return "ids, labels or offsets are of another type"
        shape = ids.get_shape()
        if len(shape) != 1 or labels.get_shape() != shape:
            return "there are not as many labels as ids"
        if self.offsets.ndim != 1 or self.prompts.shape != (len(self.offsets) - 1, PROMPT_BYTES):
            return "there are not as many prompts as rows"
        if (
            self.offsets[0] != 0
            or self.offsets[-1] != shape[0]
            or (self.offsets[1:] < self.offsets[:-1]).any()
        ):
            return "the rows are not one after another"
        return None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Return row `index`'s input ids and labels, each int32 [tokens]."""
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        start, end = int(self.offsets[index]), int(self.offsets[index + 1])
        return self._input_ids[start:end], self._labels[start:end]

    def __reduce__(self) -> tuple[type[TokenRows], tuple[Path]]:
        return type(self), (self.path,)

    @property
    def prompt_numbers(self) -> npt.NDArray[np.uint64]:
        """The first 8 bytes of each row's prompt digest as one number, uint64 [rows]: to sort and compare by."""
        return np.ascontiguousarray(self.prompts[:, :8]).view(np.uint64)[:, 0]

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each row, int64 [rows]."""
        return np.diff(self.offsets)

    @property
    def tokens(self) -> int:
        """Tokens of all rows."""
        return int(self.offsets[-1])


def trained_prompts(trains: Iterable[Path]) -> npt.NDArray[np.uint64]:
    """The different prompts of train splits: the first 8 bytes of their digests, sorted."""
    # 8 bytes: two prompts of a million share them by a chance below 1 in 30 million, and then a row is left out in
    # vain.
    found = [TokenRows.open(path).prompt_numbers for path in trains]
    return np.unique(np.concatenate([np.zeros(0, np.uint64), *found]))
