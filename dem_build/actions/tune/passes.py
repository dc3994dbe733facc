"""Passes over the judges' rows with one resident model: each is taken once, counted, and kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from dem_build.actions.tune.judges import BLOCKS, batches, judged_nll
from dem_build.actions.tune.pass_log import CHANGING, MEASURING, Pass, PassLog, Scope, read_passes
from dem_build.digest import of_json
from dem_build.errors import DemError, EvaluationError
from dem_build.model.environment import (
    bits_of,
    device,
    memory_told,
    peak_memory,
    ran_on,
    release_memory,
    reset_peak_memory,
)
from dem_build.search.problem import mean_losses, ratio_stderr

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from dem_build.actions.tune.candidates import Candidates
    from dem_build.actions.tune.judges import Judge
    from dem_build.step import Context, Provenance

MEMORY_HINT = "lower micro_batch and eval_batch_size in the machine file"
# Cost of a pass in forward-equivalents: backward has two products of matrices for each of the forward pass, one to the
# gradient of what went in and one to that of the weights.
FORWARD, BACKWARD = 1, 2


def begin(context: Context) -> PassLog:
    """The log of an action that takes passes, its device made ready; an interrupted run's where there is one."""
    torch.set_num_threads(context.threads)
    # What another action left loaded would take the memory of the candidates.
    context.resident.clear()
    reset_peak_memory(device())
    return PassLog(context)


class Passes:
    """Takes passes over the judges' rows with one resident model.

    A candidate is rounded to `dtype` as the composed model is, and computed with in float32. Slopes go straight through
    the rounding: they are those of the loss at the rounded weights, as if each weight moved with ω as before rounding
    (Bengio, Léonard and Courville 2013, arXiv 1308.3432).

    Args:
        candidates: The model.
        judges: Whose rows passes are taken over.
        dtype: Of the composed model.
        log: Keeps the passes.
        name: What they are kept under.

    Attributes:
        candidates: The model.
        judges: Whose rows they are taken over.
        counted: Tokens of the judges that count, [judges, blocks].
        layers: Names of the layers, in the order of ω's columns.
        scope: What they are of.
        log: Keeps them through an interruption.
        taken: All passes, in order; those of an interrupted run first.
        earlier: Passes that earlier searches took of the same vectors, over rows of the same judges: of some judges
            alone where theirs were others. They save work where they are what measuring here would give, to the last
            bit, and say nothing else: no result depends on what they are.
        taken_over: How many passes were, in whole or in part, not taken as an earlier one answered them.
        cost: Forward-equivalents of all passes: a share of the rows forward counts that share, backward twice it.
    """

    def __init__(
        self,
        candidates: Candidates,
        judges: Sequence[Judge],
        dtype: str,
        log: PassLog,
        name: str = "passes",
    ) -> None:
        self.candidates, self.judges, self._context = candidates, judges, log.context
        self.counted = np.array([judge.tokens for judge in judges])
        self.layers = candidates.layers
        self.scope = Scope(candidates.vectors, [judge.identity for judge in judges], dtype)
        self.log = log
        self.taken = log.passes(name)
        self.earlier = [p for path in log.context.earlier for p in read_passes(path, self.scope)]
        self._answers: dict[tuple[bytes, bool], Pass] = {}
        self.taken_over = 0
        machine, model = log.context.machine, candidates.model
        # Other batches, another machine or library sum in another order: passes that were so measured do not answer.
        self._under = {
            False: bits_of(model, machine.eval_batch_size),
            # Until version 7 of `tune` gradients of a block's batches were added up in float32, and taken once.
            True: of_json([bits_of(model, machine.micro_batch), "slopes of each batch"]),
        }
        self.cost = sum(self.cost_of(p) for p in self.taken)

    def take(
        self,
        omega: NDArray[np.float64],
        *,
        slopes: bool = False,
        judged: Iterable[int] | None = None,
    ) -> Pass:
        """The pass of a candidate; what was measured before, here or by an earlier search, is not measured again.

        Args:
            omega: The candidate, [vectors, layers].
            slopes: Whether derivatives are asked for.
            judged: Indices of the judges that are asked; all of them where absent.

        Raises:
            EvaluationError: A loss is not finite, or memory ran out.
            InterruptedBuildError: The user asked to stop; the passes so far are kept.
        """
        asked = self._asked(omega, judged, slopes=slopes)
        place = asked.omega.tobytes()
        # Losses alone and losses with derivatives differ in their last digits, see `Pass.answers`. Where losses are
        # asked for and this search has asked for derivatives there, those are the answer: that follows from what was
        # asked, and not from what the cache has recorded.
        for with_slopes in (slopes, True):
            answered = self._answers.get((place, with_slopes))
            if answered is not None and answered.judged[asked.judged].all():
                return answered
        if (before := self._answers.get((place, slopes))) is not None:
            asked.judged[:] |= before.judged
        known = self._known(asked)
        self.taken_over += any(p.answers(asked) and (p.judged & asked.judged).any() for p in self.earlier)
        if (lacking := asked.judged & ~known.judged).any():
            self._take(self._asked(omega, np.flatnonzero(lacking), slopes=slopes))
            known = self._known(asked)
        self._answers[place, slopes] = known
        return known

    @property
    def answers(self) -> list[Pass]:
        """All passes that were asked for, each once, whoever took them."""
        return list(self._answers.values())

    def _take(self, asked: Pass) -> None:
        try:
            with memory_told(EvaluationError, "while judging a candidate", MEMORY_HINT):
                self._measure(asked)
        except DemError:
            # What was measured of a judge without coming to its last row is taken back; the judges before it are kept.
            asked.nll[~asked.judged] = 0
            if asked.slopes is not None:
                asked.slopes[~asked.judged] = 0
            if asked.judged.any():
                self.taken.append(asked)
            self.log.keep()
            raise
        self.taken.append(asked)
        self.cost += self.cost_of(asked)
        self.log.keep_at_times()

    def _known(self, asked: Pass) -> Pass:
        """What is known of a candidate, of those judges alone that are asked."""
        known = self._asked(asked.omega, (), slopes=asked.slopes is not None)
        for one in (*self.earlier, *self.taken):
            if one.answers(asked):
                known.add(one, asked.judged)
        return known

    def losses(self, taken: Pass) -> NDArray[np.float64]:
        """A pass's mean losses per token, [judges]; 0 where a judge was not asked."""
        return mean_losses(taken.nll, self.counted)

    def _asked(self, omega: NDArray[np.float64], judged: Iterable[int] | None, *, slopes: bool) -> Pass:
        count = len(self.judges)
        mask = np.zeros(count, np.bool_)
        mask[list(range(count) if judged is None else judged)] = True
        empty = np.zeros((count, BLOCKS, *omega.shape)) if slopes else None
        under = self._under[slopes]
        return Pass(np.array(omega, np.float64), mask, np.zeros((count, BLOCKS)), empty, under)

    def _measure(self, asked: Pass) -> None:
        with self.log.timed(CHANGING):
            self.candidates.become(asked.omega, getattr(torch, self.scope.dtype))
        try:
            with self.log.timed(MEASURING):
                self._measure_judges(asked)
        finally:
            release_memory()

    def _measure_judges(self, asked: Pass) -> None:
        """Measure a pass; until the end only those judges count as judged that it has come to the end of."""
        wanted = [int(j) for j in np.flatnonzero(asked.judged)]
        asked.judged[:] = False
        for count, j in enumerate(wanted, 1):
            if asked.slopes is None:
                self._take_losses(asked, j)
            else:
                self._take_slopes(asked, asked.slopes, j)
            found = [asked.nll[j], *([] if asked.slopes is None else [asked.slopes[j]])]
            if not all(np.isfinite(values).all() for values in found):
                raise EvaluationError(
                    "the loss of a candidate, or its derivative, is not finite",
                    where=self.judges[j].group.name,
                    hint="narrow [tune] bounds: an ω in them takes the model too far from its base",
                )
            asked.judged[j] = True
            done = len(self.taken) + count / len(wanted)
            self._context.progress(round(done, 2), len(self.taken) + 1, "passes")

    @torch.no_grad()
    def _take_losses(self, asked: Pass, j: int) -> None:
        judge, model = self.judges[j], self.candidates.model
        block_of = {row: block for block, rows in enumerate(judge.blocks) for row in rows}
        for batch in batches(model, judge, None, self._context.machine.eval_batch_size):
            self._context.check_stop()
            for row, nll in zip(batch, judged_nll(model, judge, batch).tolist(), strict=True):
                asked.nll[j, block_of[row]] += nll

    def _take_slopes(self, asked: Pass, slopes: NDArray[np.float64], j: int) -> None:
        judge, model, size = self.judges[j], self.candidates.model, self._context.machine.micro_batch
        # A batch holds rows of one block: a backward pass gives the derivative of its sum, and each block needs its
        # own.
        for block in range(BLOCKS):
            for batch in batches(model, judge, block, size):
                self._context.check_stop()
                # Of the sum, not of the mean: what batches give adds up, and is taken once a block.
                nll = judged_nll(model, judge, batch).sum()
                nll.backward()  # type: ignore[no-untyped-call]
                asked.nll[j, block] += nll.item()
            if judge.blocks[block]:
                slopes[j, block] = self.candidates.take_slopes()

    def stderr(self, nll: NDArray[np.float64]) -> list[float | None]:
        """The standard errors over blocks of mean losses, or of their differences, [judges]; None of one block alone.

        Args:
            nll: Summed losses or their differences, [judges, blocks].
        """
        errors = ratio_stderr(nll, self.counted)
        return [float(error) if np.isfinite(error) else None for error in errors]

    def cost_of(self, taken: Pass) -> float:
        """A pass's forward-equivalents."""
        rows = np.array([judge.used for judge in self.judges], np.float64)
        share = float(rows[taken.judged].sum() / rows.sum())
        return share * (FORWARD + (BACKWARD if taken.slopes is not None else 0))

    @property
    def tokens(self) -> int:
        """Tokens that all passes read, prompts included; a backward pass reads none anew."""
        read = np.array([sum(int(j.rows.lengths[i]) for b in j.blocks for i in b) for j in self.judges])
        return int(sum(read[p.judged].sum() for p in self.taken))

    def recorded(self) -> Provenance:
        """What is recorded of the passes: their cost, and where they were taken."""
        machine = self._context.machine
        return {
            "forward_equivalents": round(self.cost, 3),
            "passes": len(self.taken),
            "earlier_passes": self.taken_over,
            "candidate_seconds": round(self.log.seconds(CHANGING), 3),
            "measuring_seconds": round(self.log.seconds(MEASURING), 3),
            # Of the whole action: what it reckons between two passes holds the device, too.
            "device_seconds": round(self.log.elapsed, 3),
            "peak_memory": peak_memory(device()),
            "micro_batch": machine.micro_batch,
            "batch_size": machine.eval_batch_size,
            **ran_on(self.candidates.model),
            "rows": int(np.sum([judge.used for judge in self.judges])),
            "tokens": {"seen": self.tokens},
        }
