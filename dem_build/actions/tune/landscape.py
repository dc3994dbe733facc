"""The loss landscape that a search for ω sees: its space, where it starts, what it minimises, what it ends with."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from dem_build.actions.tune.candidates import vectors_of
from dem_build.actions.tune.judges import BLOCKS
from dem_build.search import Objective, Sample, SearchProblem, gain_scale, gradient_search, softmax_start
from dem_build.search.problem import mean_losses, ratio_stderr

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from dem_build.actions.tune.pass_log import Pass
    from dem_build.actions.tune.passes import Passes
    from dem_build.digest import JSON
    from dem_build.search import Found
    from dem_build.step import Group

MOST_SINGLES = 8
"""Vectors of which each is judged on every dataset before the search; of more, on its own alone.

Each is a pass over all rows, of which a search takes some ten itself.
"""
HELD_BACK = 4  # where layers are tuned: one block in so many judges whether that was worth it
ALIKE = 0.05  # of ω: a start that is as near to another one is not worth a pass
LAYER_RADIUS = 0.5  # how far a layer's ω may go from its vector's


class Space:
    """The free ω of a recipe.

    A vector that several groups have is one: its ω is the sum of theirs, given ones included, and free where any of
    them is. One that is a reference in all its groups is no part of any candidate: it is the measure of its dataset's
    gain.

    Args:
        groups: The inputs' groups.

    Attributes:
        deltas: Digest → file of each vector, in the order of digests.
        vector_of: Name of a group → index of its vector.
        fixed: What the recipe gives of each vector's ω, [vectors]: all of it where none is searched.
        free: Indices of the vectors whose ω is searched.
        taking_part: Indices of the vectors that are no mere references.
    """

    def __init__(self, groups: Sequence[Group]) -> None:
        with_delta = [g for g in groups if "delta" in g.digests]
        self.deltas = vectors_of(groups)
        names = list(self.deltas)
        self.vector_of = {g.name: names.index(g.digests["delta"]) for g in with_delta}
        self.fixed = np.zeros(len(names))
        for group in with_delta:
            self.fixed[self.vector_of[group.name]] += group.params.get("omega") or 0.0
        searched = Counter(self.vector_of[g.name] for g in with_delta if g.params.get("omega") is None)
        self.free = sorted(searched)
        self._searched = np.array([searched[vector] for vector in self.free], np.float64)
        self.taking_part = {self.vector_of[g.name] for g in with_delta if not g.params.get("reference")}

    def bounds(self, low: float, high: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The lowest and highest ω of the free vectors, [free] each, where each searched ω has these bounds."""
        given = self.fixed[self.free]
        return given + self._searched * low, given + self._searched * high

    def expand(self, omega: NDArray[np.float64], layers: int) -> NDArray[np.float64]:
        """The candidate of some free ω: [vectors, layers] from [free] or [free · layers]."""
        full = np.repeat(self.fixed[:, None], layers, axis=1)
        full[self.free] = omega.reshape(len(self.free), -1)
        return full


@dataclass(frozen=True)
class Chosen:
    """The candidate that tuning ends with.

    Attributes:
        taken: Its pass.
        score: Over all rows.
    """

    taken: Pass
    score: float


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


class Landscape:
    """The losses over a space, as every search needs them: those of the base and of each vector alone are taken.

    Args:
        space: What is searched.
        passes: Takes losses.
        params: `objective`, `granularity` and `bounds`, of the kind `tune`.

    Attributes:
        space, passes, params: As given.
        base: The pass of the base.
        singles: Loss of each dataset's own vector alone, the base's where there is none; over all rows, [judges].
        objective: What counts, over all rows.
        problem: What is searched: one ω a vector, on the rows that a search sees.
    """

    def __init__(self, space: Space, passes: Passes, params: Mapping[str, JSON]) -> None:
        self.space, self.passes, self.params = space, passes, params
        # One ω a layer fits the noise of the rows it is searched on: other rows say whether it was worth it.
        self._seen = np.ones(BLOCKS, np.bool_)
        if params["granularity"] == "layer":
            self._seen[HELD_BACK - 1 :: HELD_BACK] = False
        self._own = [space.vector_of.get(judge.group.name) for judge in passes.judges]
        self._nothing = np.zeros((len(space.deltas), len(passes.layers)))
        self.base = passes.take(self._nothing)
        self._alone = self._take_singles()
        self.singles = passes.losses(self.base)
        for j, vector in enumerate(self._own):
            if vector is not None:
                self.singles[j] = passes.losses(self._alone[vector])[j]
        self.objective = self._objective()
        low, high = space.bounds(*params["bounds"])
        whole = SearchProblem(
            self.objective, passes.counted, low, high, partial(self._measure, layered=False)
        )
        # Where rows are held back, gains and limits are counted from the base's loss on those that are left.
        self.problem = self._on_blocks(whole, self._seen)

    def starts(self) -> list[Sample]:
        """Take what every search for the whole model begins with: equal ω, none, and softmax where it is known."""
        space, problem = self.space, self.problem
        uniform = np.full(len(space.free), 1 / len(space.taking_part))
        points = [uniform, np.zeros(len(space.free))]
        if len(self._alone) == len(space.deltas) and all(p.judged.all() for p in self._alone.values()):
            weight = problem.objective.importance
            losses = [weight @ self.passes.losses(self._alone[v]) for v in range(len(space.deltas))]
            softmax = softmax_start(np.array(losses))[space.free]
            points += [softmax] if np.abs(softmax - uniform).max() > ALIKE else []
        return [problem.measure(problem.clip(point), slopes=False) for point in points]

    def samples(self, known: Iterable[Pass], starts: Sequence[Sample] = ()) -> list[Sample]:
        """What is known of the space, none twice: passes that lie in it, base and singles among them.

        Args:
            known: Passes.
            starts: Samples to add.
        """
        with_slopes_first = sorted(known, key=lambda p: p.slopes is None)  # of two at one ω, that one
        whole = [p for p in (*with_slopes_first, self.base, *self._alone.values()) if p.judged.all()]
        within = [sample for taken in whole if (sample := self._sample(taken)) is not None]
        return _distinct([*within, *starts])

    def score(self, taken: Pass) -> float:
        """The score of a pass over all judges."""
        return self.objective.score(self.passes.losses(taken))

    def choose(self, omega: NDArray[np.float64]) -> Chosen:
        """The chosen candidate, [vectors, layers], with its score."""
        taken = self.passes.take(omega)
        return Chosen(taken, self.score(taken))

    def keeps_limits(self, omega: NDArray[np.float64]) -> bool:
        """Whether a candidate keeps all limits, over all rows."""
        return self.objective.keeps_limits(self.passes.losses(self.passes.take(omega)))

    def expand(self, sample: Sample) -> NDArray[np.float64]:
        """The candidate that a sample is of, [vectors, layers]."""
        return self.space.expand(sample.omega, len(self.passes.layers))

    def pass_of(self, sample: Sample) -> Pass:
        """The pass that a sample was made of."""
        return self.passes.take(self.expand(sample), slopes=sample.slopes is not None)

    def unseen(self) -> SearchProblem | None:
        """The problem on the rows that the layers' search does not see; None where a judge has none."""
        if not self.passes.counted[:, ~self._seen].sum(axis=1).all():
            return None
        return self._on_blocks(self.problem, ~self._seen)

    def on_unseen(self, sample: Sample) -> Sample:
        """A sample's losses as they are on the rows that the layers' search does not see."""
        return Sample(sample.omega, self.pass_of(sample).nll[:, ~self._seen])

    def layer_problem(self, center: NDArray[np.float64], pull: float) -> SearchProblem:
        """The search for one ω a layer, drawn towards one a vector."""
        around = np.repeat(center, len(self.passes.layers))
        low, high = (np.repeat(b, len(self.passes.layers)) for b in (self.problem.lower, self.problem.upper))
        return replace(
            self.problem,
            lower=np.maximum(low, around - LAYER_RADIUS),
            upper=np.minimum(high, around + LAYER_RADIUS),
            measure=partial(self._measure, layered=True),
            center=around,
            pull=pull,
        )

    def in_layers(self, sample: Sample) -> Sample:
        """A sample of one ω a vector as one of one ω a layer."""
        repeated = np.repeat(sample.omega, len(self.passes.layers))
        return self._cut(self.pass_of(sample), repeated, layered=True)

    def _take_singles(self) -> dict[int, Pass]:
        """Take each dataset's own vector alone, at ω = 1: on all judges, or on its own where there are many."""
        # The gain needs a vector's loss on its own dataset. On all others it serves the start by softmax and the
        # models, and costs a pass a vector: too much for many.
        found: dict[int, Pass] = {}
        taking_part = self.space.taking_part
        everywhere = taking_part if len(taking_part) <= MOST_SINGLES else set()
        for vector in sorted({v for v in self._own if v is not None} | everywhere):
            alone = self._nothing.copy()
            alone[vector] = 1.0
            own = [j for j, owner in enumerate(self._own) if owner == vector]
            found[vector] = self.passes.take(alone, judged=None if vector in everywhere else own)
        return found

    def _objective(self) -> Objective:
        """The objective over all rows."""
        groups = [judge.group for judge in self.passes.judges]
        base, stderr = self.passes.losses(self.base), np.zeros(len(groups))
        for j, vector in enumerate(self._own):
            if vector is not None:
                # Of the difference, block by block: both read the same rows.
                stderr[j] = ratio_stderr(self.base.nll - self._alone[vector].nll, self.passes.counted)[j]
        importance = np.array([float(group.params.get("importance") or 0.0) for group in groups])
        limits = [group.params.get("limit") for group in groups]
        return Objective(
            kind=self.params["objective"],
            importance=importance / importance.sum(),
            base=base,
            # A probe has no gain, and nobody divides by this.
            scale=np.where(importance > 0, gain_scale(base, self.singles, stderr), 1.0),
            limit=np.array([np.inf if limit is None else float(limit) for limit in limits]),
        )

    def _on_blocks(self, problem: SearchProblem, blocks: NDArray[np.bool_]) -> SearchProblem:
        """A problem on some blocks: gains and limits are counted from the base's loss on these."""
        nll, tokens = self.base.nll[:, blocks], self.passes.counted[:, blocks]
        objective = replace(self.objective, base=mean_losses(nll, tokens))
        return replace(problem, objective=objective, tokens=tokens, base_nll=nll)

    def _measure(self, omega: NDArray[np.float64], *, slopes: bool, layered: bool) -> Sample:
        taken = self.passes.take(self.space.expand(omega, len(self.passes.layers)), slopes=slopes)
        return self._cut(taken, omega, layered=layered)

    def _cut(self, taken: Pass, omega: NDArray[np.float64], *, layered: bool) -> Sample:
        """A pass as a sample of the rows that a search sees, its derivatives to the ω that are searched."""
        nll = taken.nll[:, self._seen]
        if taken.slopes is None:
            return Sample(omega, nll)
        # One ω for all layers moves them all, so its derivative is the sum of theirs (the chain rule).
        slopes = taken.slopes[:, self._seen][:, :, self.space.free]
        return Sample(omega, nll, slopes.reshape(*nll.shape, -1) if layered else slopes.sum(axis=3))

    def _sample(self, taken: Pass) -> Sample | None:
        """A pass as a sample, where it lies in the space: within bounds, and the fixed ω are as they are."""
        omega = taken.omega[self.space.free, 0]
        # To the last bit: a pass whose layers differ, or that has other ω of what is fixed, is of another space.
        if not np.array_equal(self.space.expand(omega, len(self.passes.layers)), taken.omega):
            return None
        if ((omega < self.problem.lower) | (omega > self.problem.upper)).any():
            return None
        return self._cut(taken, omega, layered=False)


def layerwise(landscape: Landscape, found: Found) -> Refined | None:
    """Search one ω for each vector and layer around what was found; None where there are too few rows to judge it.

    It is accepted where it wins on rows that the search did not see, and breaks no limit anew.
    """
    unseen = landscape.unseen()
    if unseen is None:
        return None
    best = landscape.problem.measure(found.best.omega, slopes=True)
    stderr = landscape.problem.step_stderr(best, np.full(len(best.omega), 0.5))
    if not np.isfinite(stderr):
        return None
    # The pull is a weight of the mean squared distance: with this one, moving all ω by 0.5 costs 4 · 0.5² = 1 standard
    # error of what that changes, so that noise alone moves little. As a prior, ω of layers lie around their vector's.
    problem = landscape.layer_problem(best.omega, 4 * stderr)
    sloped = _distinct([best, *(s for s in found.samples if s.slopes is not None)])
    known = [landscape.in_layers(s) for s in sloped]
    refined = gradient_search(problem, known)
    omega = landscape.expand(refined.best)
    # On the blocks held back: on those that it was searched on, the refined one wins whatever it is.
    score, before = (
        unseen.objective.score(unseen.losses(landscape.on_unseen(sample))) for sample in (refined.best, best)
    )
    held = landscape.keeps_limits(omega) or not landscape.keeps_limits(landscape.expand(best))
    return Refined(omega, score < before and held, score, before, refined)


def _distinct(samples: Sequence[Sample]) -> list[Sample]:
    """The first sample of each ω."""
    found: list[Sample] = []
    for sample in samples:
        if not any(np.array_equal(sample.omega, other.omega) for other in found):
            found.append(sample)
    return found
