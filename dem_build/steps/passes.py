"""Passes over the judges' rows: each taken once, kept through an interruption, and counted."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

from dem_build.errors import EvaluationError, InterruptedBuildError
from dem_build.json_text import parse_json
from dem_build.steps.checkpoints import keep, newest_complete
from dem_build.steps.environment import release_memory
from dem_build.steps.judges import BLOCKS, batches, judged_nll
from dem_build.steps.memory import memory_told
from dem_build.tuning.problem import mean_losses

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from dem_build.steps.api import Context
    from dem_build.steps.candidates import Candidates
    from dem_build.steps.judges import Judge

__all__ = ["Pass", "Passes", "Scope", "read_passes", "write_passes"]

FILE = "passes.safetensors"
TIMES = "times.json"
MEMORY_HINT = "lower micro_batch and eval_batch_size in the machine file"
KEEP_SECONDS = 20.0  # between two checkpoints: passes cost much and hold little
FORWARD, BACKWARD = 1, 2  # cost of a pass in forward-equivalents


@dataclass(frozen=True)
class Pass:
    """What was measured of one candidate.

    Attributes:
        omega: The candidate, [vectors, layers].
        judged: Which judges were asked, [judges].
        nll: Summed losses, [judges, blocks]; 0 where a judge was not asked.
        slopes: Their derivatives to ω, [judges, blocks, vectors, layers]; None where none were taken.
        rounded: Whether the candidate was rounded to the composed model's dtype.
    """

    omega: NDArray[np.float64]
    judged: NDArray[np.bool_]
    nll: NDArray[np.float64]
    slopes: NDArray[np.float64] | None = None
    rounded: bool = False

    def add(self, other: Pass) -> None:
        """Take over what another pass of this candidate says of judges that were not asked yet."""
        if self.slopes is not None and other.slopes is None:
            return
        new = other.judged & ~self.judged
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
    """

    vectors: Sequence[str]
    judges: Sequence[str]


class Passes:
    """Takes passes over the judges' rows with one resident model.

    Attributes:
        judges: Whose rows they are taken over.
        counted: Tokens of the judges that count, [judges, blocks].
        layers: Names of the layers, in the order of ω's columns.
        scope: What they are of.
        taken: All passes, in order; those of an interrupted run first.
        earlier: Passes that earlier searches took of the same vectors, over rows of the same judges: of some judges
            alone where theirs were others, and without derivatives where they had not all of our vectors.
        cost: Forward-equivalents of all passes: a share of the rows forward counts that share, backward twice it.
        changing: Seconds spent on turning the model into candidates, over all interruptions.
        measuring: Seconds spent on their losses and derivatives, likewise.
    """

    def __init__(
        self,
        candidates: Candidates,
        judges: Sequence[Judge],
        dtype: torch.dtype,
        context: Context,
        *,
        keeps: bool = True,
    ) -> None:
        self._candidates, self.judges, self._dtype, self._context = candidates, judges, dtype, context
        self.counted = np.array([judge.tokens for judge in judges])
        self.layers = candidates.layers
        self.scope = Scope(candidates.vectors, [judge.identity for judge in judges])
        self._folder = context.work / "checkpoints"
        self._keeps = keeps
        checkpoint = newest_complete(self._folder) if keeps else None
        self.taken: list[Pass] = [] if checkpoint is None else read_passes(checkpoint / FILE)
        self.earlier = [p for path in context.earlier for p in read_passes(path, self.scope)]
        self._answers: dict[tuple[bytes, bool, bool], Pass] = {}
        self.cost = sum(self.cost_of(p) for p in self.taken)
        self.changing, self.measuring = (0.0, 0.0) if checkpoint is None else _times(checkpoint)
        self._kept = time.monotonic()

    def take(
        self,
        omega: NDArray[np.float64],
        *,
        slopes: bool = False,
        judged: Iterable[int] | None = None,
        rounded: bool = False,
    ) -> Pass:
        """Return a pass; one that was taken before, here or by an earlier search, is not taken again.

        Args:
            omega: The candidate, [vectors, layers].
            slopes: Whether derivatives are asked for.
            judged: Indices of the judges that are asked; all of them where absent.
            rounded: Round the candidate to the composed model's dtype; to float32 is not to round it.

        Raises:
            EvaluationError: A loss is not finite, or memory ran out.
            InterruptedBuildError: The user asked to stop; the passes so far are kept.
        """
        rounded = rounded and self._dtype is not torch.float32
        asked = self._asked(omega, judged, slopes=slopes, rounded=rounded)
        known = self._known(asked)
        if (lacking := asked.judged & ~known.judged).any():
            self._take(self._asked(omega, np.flatnonzero(lacking), slopes=slopes, rounded=rounded))
            known = self._known(asked)
        self._answers[asked.omega.tobytes(), slopes, rounded] = known
        return known

    @property
    def answers(self) -> list[Pass]:
        """All passes that were asked for, each once, whoever took them."""
        return list(self._answers.values())

    def _take(self, asked: Pass) -> None:
        try:
            with memory_told(EvaluationError, "while judging a candidate", MEMORY_HINT):
                taken = self._measure(asked)
        except InterruptedBuildError:
            self._keep()
            raise
        self.taken.append(taken)
        self.cost += self.cost_of(taken)
        if time.monotonic() - self._kept > KEEP_SECONDS:
            self._keep()

    def _known(self, asked: Pass) -> Pass:
        """Return what is known of a candidate, of each judge what was measured first.

        The earlier passes first: so a resumed search, which has more of its own, gets the answers that it got before.
        """
        known = self._asked(asked.omega, (), slopes=asked.slopes is not None, rounded=asked.rounded)
        for one in (*self.earlier, *self.taken):
            if one.rounded == asked.rounded and np.array_equal(one.omega, asked.omega):
                known.add(one)
        return known

    def losses(self, taken: Pass) -> NDArray[np.float64]:
        """Return a pass's mean losses per token, [judges]; 0 where a judge was not asked."""
        return mean_losses(taken.nll, self.counted)

    def _asked(
        self, omega: NDArray[np.float64], judged: Iterable[int] | None, *, slopes: bool, rounded: bool
    ) -> Pass:
        count = len(self.judges)
        mask = np.zeros(count, np.bool_)
        mask[list(range(count) if judged is None else judged)] = True
        empty = np.zeros((count, BLOCKS, *omega.shape)) if slopes else None
        return Pass(np.array(omega, np.float64), mask, np.zeros((count, BLOCKS)), empty, rounded)

    def _measure(self, asked: Pass) -> Pass:
        started = time.monotonic()
        self._candidates.become(asked.omega, self._dtype if asked.rounded else None)
        changed = time.monotonic()
        self.changing += changed - started
        try:
            self._judge(asked)
        finally:
            self.measuring += time.monotonic() - changed
            release_memory()
        return asked

    def _judge(self, asked: Pass) -> None:
        for j in np.flatnonzero(asked.judged):
            if asked.slopes is None:
                self._take_losses(asked, int(j))
            else:
                self._take_slopes(asked, asked.slopes, int(j))
            self._check(asked, int(j))
            done = len(self.taken) + float(asked.judged[: j + 1].sum() / asked.judged.sum())
            self._context.progress(round(done, 2), len(self.taken) + 1, "passes")

    @torch.no_grad()
    def _take_losses(self, asked: Pass, j: int) -> None:
        judge, model = self.judges[j], self._candidates.model
        block_of = {row: block for block, rows in enumerate(judge.blocks) for row in rows}
        for batch in batches(model, judge, None, self._context.machine.eval_batch_size):
            self._context.check_stop()
            for row, nll in zip(batch, judged_nll(model, judge, batch).tolist(), strict=True):
                asked.nll[j, block_of[row]] += nll

    def _take_slopes(self, asked: Pass, slopes: NDArray[np.float64], j: int) -> None:
        judge, model, size = self.judges[j], self._candidates.model, self._context.machine.micro_batch
        for block in range(BLOCKS):
            for batch in batches(model, judge, block, size):
                self._context.check_stop()
                nll = judged_nll(model, judge, batch).sum()
                nll.backward()  # type: ignore[no-untyped-call]
                asked.nll[j, block] += nll.item()
            if judge.blocks[block]:
                slopes[j, block] = self._candidates.take_slopes()

    def _check(self, asked: Pass, j: int) -> None:
        finite = np.isfinite(asked.nll[j]).all() and (
            asked.slopes is None or np.isfinite(asked.slopes[j]).all()
        )
        if not finite:
            raise EvaluationError(
                "the loss of a candidate, or its derivative, is not finite",
                where=self.judges[j].group.name,
                hint="narrow [tune] bounds: an ω in them takes the model too far from its base",
            )

    def cost_of(self, taken: Pass) -> float:
        """Return a pass's forward-equivalents."""
        rows = np.array([judge.used for judge in self.judges], np.float64)
        share = float(rows[taken.judged].sum() / rows.sum())
        return share * (FORWARD + (BACKWARD if taken.slopes is not None else 0))

    @property
    def tokens(self) -> int:
        """Tokens that all passes read, prompts included; a backward pass reads none anew."""
        read = np.array([sum(int(j.rows.lengths[i]) for b in j.blocks for i in b) for j in self.judges])
        return int(sum(read[p.judged].sum() for p in self.taken))

    def _keep(self) -> None:
        """Keep all passes so far as a checkpoint."""
        self._kept = time.monotonic()
        if not self.taken or not self._keeps:
            return
        checkpoint = self._folder / f"checkpoint-{len(self.taken)}"
        checkpoint.mkdir(parents=True, exist_ok=True)
        write_passes(checkpoint / FILE, self.taken)
        times = {"changing": self.changing, "measuring": self.measuring}
        (checkpoint / TIMES).write_text(json.dumps(times), encoding="utf-8")
        keep(checkpoint)


def _times(checkpoint: Path) -> tuple[float, float]:
    """Return the seconds until a checkpoint; one of an earlier dem says nothing of them."""
    if not (checkpoint / TIMES).exists():
        return 0.0, 0.0
    told = parse_json((checkpoint / TIMES).read_text(encoding="utf-8"))
    return float(told["changing"]), float(told["measuring"])


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
        "rounded": np.array([p.rounded for p in passes]),
        "sloped": np.array([p.slopes is not None for p in passes]),
    }
    # One entry: safetensors writes several in no fixed order.
    about = {"scope": json.dumps({"vectors": [*scope.vectors], "judges": [*scope.judges]})} if scope else None
    save_file(arrays | ({"slopes": np.array(sloped)} if sloped else {}), path, about)


def read_passes(path: Path, scope: Scope | None = None) -> list[Pass]:
    """Return the passes of a file that `write_passes` wrote.

    Args:
        path: The file.
        scope: What passes are wanted of. Those of other vectors, or rounded to what may be another dtype, are left out;
            of the others what they say of its judges and vectors is returned. None for all as they are.
    """
    with safe_open(path, framework="numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
        about = (file.metadata() or {}).get("scope")
    slopes = iter(arrays.get("slopes", ()))
    found = [
        Pass(omega, judged, nll, next(slopes) if sloped else None, bool(rounded))
        for omega, judged, nll, sloped, rounded in zip(
            *(arrays[name] for name in ("omega", "judged", "nll", "sloped", "rounded")), strict=True
        )
    ]
    if scope is None:
        return found
    if about is None:  # of an earlier version, which did not say
        return []
    return list(_translated([one for one in found if not one.rounded], Scope(**parse_json(about)), scope))


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
        yield Pass(omega, judged, nll, slopes)
