"""What was measured of candidates, in files: the output `passes`, and what an interrupted action goes on from."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from dem_build.actions.checkpoints import keep, newest_complete
from dem_build.json_text import parse_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from dem_build.step import Context

CHANGING, MEASURING = "changing", "measuring"
ELAPSED = "elapsed"
EXACT = "float32"
TIMES = "times.json"
SUFFIX = ".safetensors"
KEEP_SECONDS = 20.0  # between two checkpoints: passes cost much and hold little


@dataclass(frozen=True)
class Pass:
    """What was measured of one candidate.

    Attributes:
        omega: The candidate, [vectors, layers].
        judged: Which judges were asked, [judges].
        nll: Summed losses, [judges, blocks]; 0 where a judge was not asked.
        slopes: Their derivatives to ω, [judges, blocks, vectors, layers]; None where none were taken.
        under: What it was measured under, see `environment.bits_of`; empty where nobody said.
    """

    omega: NDArray[np.float64]
    judged: NDArray[np.bool_]
    nll: NDArray[np.float64]
    slopes: NDArray[np.float64] | None = None
    under: str = ""

    def answers(self, asked: Pass) -> bool:
        """Whether this is, of its judges, bit for bit what measuring another pass here would give."""
        # A pass without derivatives reads the rows in other batches than one with them, and their sums differ in their
        # last digits: enough for a search to go another way, and then its result would depend on what a cache holds.
        return (
            self.under == asked.under
            and (self.slopes is None) == (asked.slopes is None)
            and np.array_equal(self.omega, asked.omega)
        )

    def add(self, other: Pass, wanted: NDArray[np.bool_]) -> None:
        """Take over what another pass says of those judges that are wanted and lacking."""
        new = other.judged & wanted & ~self.judged
        self.nll[new] = other.nll[new]
        if self.slopes is not None and other.slopes is not None:
            self.slopes[new] = other.slopes[new]
        self.judged[new] = True


@dataclass(frozen=True)
class Scope:
    """What passes are of.

    Attributes:
        vectors: Digests of the vectors, in the order of ω's rows.
        judges: Identities of the judges, in their order.
        dtype: What candidates are rounded to.
    """

    vectors: Sequence[str]
    judges: Sequence[str]
    dtype: str


def write_passes(path: Path, passes: Sequence[Pass], scope: Scope | None = None) -> None:
    """Write passes as safetensors, stacked; `slopes` holds those of the passes that `sloped` names.

    Args:
        path: The file.
        passes: What is written.
        scope: What they are of, for searches of another scope.
    """
    sloped = [p.slopes for p in passes if p.slopes is not None]
    arrays = {
        "omega": np.array([p.omega for p in passes]),
        "judged": np.array([p.judged for p in passes]),
        "nll": np.array([p.nll for p in passes]),
        "sloped": np.array([p.slopes is not None for p in passes]),
    }
    # One entry: safetensors writes several in no fixed order, and equal passes are to be equal bytes.
    of = {"vectors": [*scope.vectors], "judges": [*scope.judges], "dtype": scope.dtype} if scope else {}
    about = {"scope": json.dumps({**of, "under": [p.under for p in passes]})}
    save_file(arrays | ({"slopes": np.array(sloped)} if sloped else {}), path, about)


def read_passes(path: Path, scope: Scope | None = None) -> list[Pass]:
    """The passes of a file that `write_passes` wrote.

    Args:
        path: The file.
        scope: What passes are wanted of. Those of other vectors, or rounded to another dtype, are left out; of the
            others what they say of its judges and vectors is returned. None for all as they are.
    """
    with safe_open(path, framework="numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
        about = parse_json((file.metadata() or {}).get("scope", "{}"))
    slopes = iter(arrays.get("slopes", ()))
    # Passes of an earlier version do not say what they were measured under, and so answer nothing.
    under = about.get("under", [""] * len(arrays["omega"]))
    found = [
        Pass(omega, judged, nll, next(slopes) if sloped else None, str(said))
        for omega, judged, nll, sloped, said in zip(
            *(arrays[name] for name in ("omega", "judged", "nll", "sloped")), under, strict=True
        )
    ]
    if scope is None:
        return found
    if "vectors" not in about:
        return []
    # Before version 7 of `tune` passes were in float32, but for one at the end that is marked.
    theirs = Scope(about["vectors"], about["judges"], about.get("dtype", EXACT))
    if theirs.dtype != scope.dtype:
        return []
    rounded = arrays.get("rounded", np.zeros(len(found), np.bool_))
    return list(_translated([p for p, other in zip(found, rounded, strict=True) if not other], theirs, scope))


def _translated(passes: Iterable[Pass], theirs: Scope, ours: Scope) -> Iterator[Pass]:
    """Yield what passes of another scope say in ours; none of a vector that we have not, or of none of our judges."""
    moved = [theirs.vectors.index(v) for v in ours.vectors if v in theirs.vectors]
    have = np.array([v in theirs.vectors for v in ours.vectors], np.bool_)
    others = [i for i, v in enumerate(theirs.vectors) if v not in ours.vectors]
    asked = [theirs.judges.index(j) if j in theirs.judges else None for j in ours.judges]
    for one in passes:
        judged = np.array([j is not None and one.judged[j] for j in asked], np.bool_)
        if one.omega[others].any() or not judged.any():
            continue
        omega = np.zeros((len(have), one.omega.shape[1]))
        omega[have] = one.omega[moved]
        nll = np.array([np.zeros(one.nll.shape[1]) if j is None else one.nll[j] for j in asked])
        slopes = None
        if one.slopes is not None and have.all():
            empty = np.zeros_like(one.slopes[0])
            slopes = np.array([empty if j is None else one.slopes[j] for j in asked])[:, :, moved]
        if slopes is not None or one.slopes is None:
            yield Pass(omega, judged, nll, slopes, under=one.under)


class PassLog:
    """Passes of an action and the seconds they took, kept in checkpoints; an interrupted run's are there again.

    Attributes:
        context: The action's.
    """

    def __init__(self, context: Context) -> None:
        """Begin to count the action's seconds."""
        self.context = context
        self._begun = self._written = time.monotonic()
        self._folder = context.work / "checkpoints"
        found = newest_complete(self._folder)
        self._times = {} if found is None else _times(found)
        self._earlier = self._times.pop(ELAPSED, 0.0)
        self._passes = {} if found is None else {p.stem: read_passes(p) for p in found.glob(f"*{SUFFIX}")}
        self._written_count = self._count

    def passes(self, name: str) -> list[Pass]:
        """The passes that are kept under a name; what is added to the list is kept with them."""
        return self._passes.setdefault(name, [])

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Count the seconds of a block."""
        started = time.monotonic()
        try:
            yield
        finally:
            self._times[what] = self.seconds(what) + time.monotonic() - started

    def seconds(self, what: str) -> float:
        """The seconds of all blocks of a name, those until an interrupted run's last checkpoint among them."""
        return self._times.get(what, 0.0)

    @property
    def elapsed(self) -> float:
        """Seconds that the action has taken, those until an interrupted run's last checkpoint among them."""
        return self._earlier + time.monotonic() - self._begun

    def keep_at_times(self) -> None:
        """Write a checkpoint where the last one is some time ago."""
        if time.monotonic() - self._written > KEEP_SECONDS:
            self.keep()

    def keep(self) -> None:
        """Write a checkpoint, unless the last one has all passes: that would be written over."""
        if self._count == self._written_count:
            return
        checkpoint = self._folder / f"checkpoint-{self._count}"
        checkpoint.mkdir(parents=True, exist_ok=True)
        for name, passes in self._passes.items():
            if passes:
                write_passes(checkpoint / f"{name}{SUFFIX}", passes)
        times = self._times | {ELAPSED: self.elapsed}
        (checkpoint / TIMES).write_text(json.dumps(times), encoding="utf-8")
        keep(checkpoint)
        self._written_count, self._written = self._count, time.monotonic()

    @property
    def _count(self) -> int:
        return sum(map(len, self._passes.values()))


def _times(checkpoint: Path) -> dict[str, float]:
    """The seconds until a checkpoint; one of an earlier dem says less of them, or nothing."""
    if not (checkpoint / TIMES).exists():
        return {}
    told = parse_json((checkpoint / TIMES).read_text(encoding="utf-8"))
    return {str(name): float(seconds) for name, seconds in told.items()}
