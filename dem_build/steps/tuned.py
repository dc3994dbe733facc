"""The space in which ω is searched: which vectors are free, what judges them, and what is known before a search."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from dem_build.steps.judges import BLOCKS
from dem_build.steps.measuring import vectors_of
from dem_build.tuning import Objective, Problem, Sample, gain_scale, search, softmax_start
from dem_build.tuning.problem import ratio_stderr

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from dem_build.digest import JSON, Digest
    from dem_build.steps.api import Group
    from dem_build.steps.judges import Judge
    from dem_build.steps.omega import Omega
    from dem_build.steps.passes import Pass, Passes
    from dem_build.tuning import Found

__all__ = ["Chosen", "Refined", "Space", "layerwise"]

MOST_SINGLES = (
    8  # vectors of which each is judged on every dataset before the search; of more, on its own alone
)
HELD_BACK = 4  # where layers are tuned: one block in so many judges whether that was worth it
LAYER_RADIUS = 0.5  # how far a layer's ω may go from its vector's


@dataclass(frozen=True)
class Chosen:
    """The candidate that tuning ends with.

    Attributes:
        omega: [vectors, layers].
        nll: Its summed losses over all rows, [judges, blocks].
        score: Over all rows.
        rounded_score: The same of the candidate rounded to the composed model's dtype.
    """

    omega: NDArray[np.float64]
    nll: NDArray[np.float64]
    score: float
    rounded_score: float


@dataclass(frozen=True)
class Refined:
    """What tuning layer by layer came to.

    Attributes:
        omega: The candidate, [vectors, layers].
        accepted: Whether it won on rows that its search did not see, and keeps the limits on all rows.
        score: Its score on those rows.
        global_score: The score there of one ω a vector.
        found: The search.
    """

    omega: NDArray[np.float64]
    accepted: bool
    score: float
    global_score: float
    found: Found


class Space:
    """The free ω of a recipe and what they are judged by.

    A vector that several groups have is one: its ω is the sum of theirs, and free where any of them is. One that is a
    reference in all its groups is no part of any candidate: it is the measure of its dataset's gain.

    Args:
        groups: The inputs' groups.
        judged: The datasets' judges, then the probes'.
        params: Of the kind `tune`.

    Attributes:
        deltas: Digest → file of each vector, in the order of digests.
        references: Indices of the vectors that are references.
        free: Indices of the vectors whose ω is searched.
        judges: As given.
        problem: What is searched; there once `begin` was called.
        objective: What counts, over all rows; there once `begin` was called, like `problem`.
        uniform: The sample of equal ω; None where it was not asked for.
        base, singles: Losses of the base and of each dataset's own vector alone, over all rows, [judges].
        base_nll: The base's summed losses, [judges, blocks].
    """

    def __init__(self, groups: Sequence[Group], judged: Sequence[Judge], params: Mapping[str, JSON]) -> None:
        with_delta = [g for g in groups if "delta" in g.digests]
        self.deltas = vectors_of(groups)
        names = list(self.deltas)
        self.vector_of = {g.name: names.index(g.digests["delta"]) for g in with_delta}
        self.fixed = np.zeros(len(names))
        for group in with_delta:
            self.fixed[self.vector_of[group.name]] += group.params.get("omega") or 0.0
        self.free = sorted({self.vector_of[g.name] for g in with_delta if g.params.get("omega") is None})
        taking_part = {self.vector_of[g.name] for g in with_delta if not g.params.get("reference")}
        self.references = {*range(len(names))} - taking_part
        self.judges = judged
        self.params = params
        self._seen = np.ones(BLOCKS, np.bool_)
        if params["granularity"] == "layer":
            self._seen[HELD_BACK - 1 :: HELD_BACK] = False
        self.tokens = np.array([judge.tokens for judge in judged])

    def begin(
        self, passes: Passes, layers: Sequence[str], known: Sequence[Pass] | None = None
    ) -> list[Sample]:
        """Take the passes that every search starts from: base, singles, equal ω, softmax, and what is known already.

        Args:
            passes: Takes them.
            layers: Names of the layers.
            known: Passes to begin with, in place of equal ω, softmax and what `passes` has of earlier searches.

        Returns:
            Samples, none twice.
        """
        self._passes, self.layers = passes, list(layers)
        nothing = np.zeros((len(self.deltas), len(layers)))
        base = passes.take(nothing)
        singles = self._singles(passes, nothing)
        self.base_nll, self.base = base.nll, self._losses(base)
        self.singles = self._single_losses(singles)
        self.objective = self._objective(singles)
        self.problem = self._problem()
        starts = self._starts(singles) if known is None else []
        points = [self.problem.clip(start) for start in starts]
        earlier = sorted(
            passes.earlier if known is None else known, key=lambda p: p.slopes is None
        )  # of two at one ω, the one with slopes
        found = [self._sample(p) for p in (*earlier, base, *singles.values()) if p.judged.all()]
        within = [s for s in found if s is not None and self._within(s.omega)]
        taken = [self._measure(point, slopes=False) for point in points]
        self.uniform = taken[0] if taken else None
        return _distinct([*within, *taken])

    def expand(self, omega: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the candidate of some free ω: [vectors, layers] from [free] or [free · layers]."""
        full = np.repeat(self.fixed[:, None], len(self.layers), axis=1)
        full[self.free] = omega.reshape(len(self.free), -1)
        return full

    def by_digest(self, omega: NDArray[np.float64]) -> dict[Digest, Omega]:
        """Return ω as it is written: a number a vector, or one for each layer where they differ."""
        found: dict[Digest, Omega] = {}
        for digest, row in zip(self.deltas, omega, strict=True):
            alike = bool((row == row[0]).all())
            found[digest] = float(row[0]) if alike else dict(zip(self.layers, row.tolist(), strict=True))
        return found

    def score(self, taken: Pass) -> float:
        """Return the score of a pass over all judges."""
        return self.objective.score(self._losses(taken))

    def choose(self, omega: NDArray[np.float64]) -> Chosen:
        """Return the chosen candidate with its scores."""
        exact, rounded = (self._passes.take(omega, rounded=rounded) for rounded in (False, True))
        return Chosen(omega, exact.nll, self.score(exact), self.score(rounded))

    def keeps_limits(self, omega: NDArray[np.float64]) -> bool:
        """Return whether a candidate keeps all limits, over all rows."""
        return self.objective.keeps_limits(self._losses(self._passes.take(omega)))

    def unseen(self) -> Problem | None:
        """Return the problem on the rows that the layers' search does not see; None where a judge has none."""
        if not self.tokens[:, ~self._seen].sum(axis=1).all():
            return None
        return self._on_blocks(self.problem, ~self._seen)

    def layer_problem(self, center: NDArray[np.float64], pull: float) -> Problem:
        """Return the search for one ω a layer, drawn towards one a vector."""
        around = np.repeat(center, len(self.layers))
        low, high = self.params["bounds"]
        return replace(
            self.problem,
            lower=np.maximum(low, around - LAYER_RADIUS),
            upper=np.minimum(high, around + LAYER_RADIUS),
            measure=self._measure,
            center=around,
            pull=pull,
        )

    def pass_of(self, sample: Sample) -> Pass:
        """Return the pass that a sample was made of."""
        return self._passes.take(self.expand(sample.omega), slopes=sample.slopes is not None)

    def in_layers(self, sample: Sample) -> Sample:
        """Return a sample of one ω a vector as one of one ω a layer."""
        taken = self.pass_of(sample)
        repeated = np.repeat(sample.omega, len(self.layers))
        return self._cut(taken, repeated, self._seen)

    def on_unseen(self, sample: Sample) -> Sample:
        """Return a sample as it is on the rows that the layers' search does not see."""
        return self._cut(self.pass_of(sample), sample.omega, ~self._seen)

    def _singles(self, passes: Passes, nothing: NDArray[np.float64]) -> dict[int, Pass]:
        """Take each dataset's own vector alone, at ω = 1: on all judges, or on its own where there are many."""
        found: dict[int, Pass] = {}
        own: dict[int, list[int]] = {}
        for j, judge in enumerate(self.judges):
            if judge.group.name in self.vector_of:
                own.setdefault(self.vector_of[judge.group.name], []).append(j)
        taking_part = {*range(len(self.deltas))} - self.references
        everywhere = taking_part if len(taking_part) <= MOST_SINGLES else set()
        for vector in sorted({*own, *everywhere}):
            alone = nothing.copy()
            alone[vector] = 1.0
            found[vector] = passes.take(alone, judged=None if vector in everywhere else own[vector])
        return found

    def _single_losses(self, singles: Mapping[int, Pass]) -> NDArray[np.float64]:
        losses = self.base.copy()
        for j, judge in enumerate(self.judges):
            vector = self.vector_of.get(judge.group.name)
            if vector is not None:
                losses[j] = self._losses(singles[vector])[j]
        return losses

    def _objective(self, singles: Mapping[int, Pass]) -> Objective:
        """Return the objective over all rows."""
        stderr = np.zeros(len(self.judges))
        for j, judge in enumerate(self.judges):
            vector = self.vector_of.get(judge.group.name)
            if vector is not None:
                stderr[j] = ratio_stderr(self.base_nll - singles[vector].nll, self.tokens)[j]
        importance = np.array([float(judge.group.params.get("importance") or 0.0) for judge in self.judges])
        limits = [judge.group.params.get("limit") for judge in self.judges]
        return Objective(
            kind=self.params["objective"],
            importance=importance / importance.sum(),
            base=self.base,
            scale=np.where(importance > 0, gain_scale(self.base, self.singles, stderr), 1.0),
            limit=np.array([np.inf if limit is None else float(limit) for limit in limits]),
        )

    def _problem(self) -> Problem:
        low, high = (np.full(len(self.free), float(bound)) for bound in self.params["bounds"])
        whole = Problem(self.objective, self.tokens, low, high, self._measure)
        return self._on_blocks(whole, self._seen)

    def _on_blocks(self, problem: Problem, blocks: NDArray[np.bool_]) -> Problem:
        """Return a problem on some blocks: gains and limits are counted from the base's loss on these."""
        nll, tokens = self.base_nll[:, blocks], self.tokens[:, blocks]
        objective = replace(self.objective, base=nll.sum(axis=1) / tokens.sum(axis=1))
        return replace(problem, objective=objective, tokens=tokens, base_nll=nll)

    def _starts(self, singles: Mapping[int, Pass]) -> list[NDArray[np.float64]]:
        equal = np.full(len(self.free), 1 / (len(self.deltas) - len(self.references)))
        starts = [equal, np.zeros(len(self.free))]
        if len(singles) == len(self.deltas) and all(p.judged.all() for p in singles.values()):
            weight = self.problem.objective.importance
            losses = np.array([weight @ self._losses(singles[v]) for v in range(len(self.deltas))])
            starts.append(softmax_start(losses)[self.free])
        return starts

    def _measure(self, omega: NDArray[np.float64], *, slopes: bool) -> Sample:
        return self._cut(self._passes.take(self.expand(omega), slopes=slopes), omega, self._seen)

    def _cut(self, taken: Pass, omega: NDArray[np.float64], blocks: NDArray[np.bool_]) -> Sample:
        """Return a pass as a sample of some blocks, its derivatives to the ω that are searched."""
        nll = taken.nll[:, blocks]
        if taken.slopes is None:
            return Sample(omega, nll)
        slopes = taken.slopes[:, blocks][:, :, self.free]
        if omega.size == len(self.free):
            return Sample(omega, nll, slopes.sum(axis=3))
        return Sample(omega, nll, slopes.reshape(*nll.shape, -1))

    def _sample(self, taken: Pass) -> Sample | None:
        """Return a pass as a sample, where it lies in the space: the fixed ω are what they are fixed at."""
        omega = taken.omega[self.free, 0]
        if not np.array_equal(self.expand(omega), taken.omega):
            return None
        return self._cut(taken, omega, self._seen)

    def _within(self, omega: NDArray[np.float64]) -> bool:
        return bool(((omega >= self.problem.lower) & (omega <= self.problem.upper)).all())

    def _losses(self, taken: Pass) -> NDArray[np.float64]:
        return np.asarray(taken.nll.sum(axis=1) / self.tokens.sum(axis=1))


def layerwise(space: Space, found: Found) -> Refined | None:
    """Search one ω for each vector and layer around what was found; None where there are too few rows to judge it.

    Moving all ω by half costs as much as the standard error of the score's lead over equal ω, so that noise alone
    moves little. It is accepted where it wins on rows that the search did not see, and breaks no limit anew.
    """
    unseen = space.unseen()
    if unseen is None or space.uniform is None:
        return None
    _, stderr = space.problem.difference(found.best, space.uniform)
    if not np.isfinite(stderr):
        return None
    problem = space.layer_problem(found.best.omega, 4 * stderr)
    known = [space.in_layers(s) for s in found.samples if s.slopes is not None or s is found.best]
    refined = search("gradient", problem, known)
    omega = space.expand(refined.best.omega)
    score = unseen.objective.score(unseen.losses(space.on_unseen(refined.best)))
    before = unseen.objective.score(unseen.losses(space.on_unseen(found.best)))
    held = space.keeps_limits(omega) or not space.keeps_limits(space.expand(found.best.omega))
    return Refined(omega, score < before and held, score, before, refined)


def _distinct(samples: Sequence[Sample]) -> list[Sample]:
    found: list[Sample] = []
    for sample in samples:
        if not any(np.array_equal(sample.omega, other.omega) for other in found):
            found.append(sample)
    return found
