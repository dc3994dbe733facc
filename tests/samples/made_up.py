"""Losses that are made up, with more than one basin, and known everywhere: what a search for ω is measured on."""

from __future__ import annotations

import itertools
from functools import partial

import numpy as np
from scipy.optimize import minimize

from dem_build.search import Objective, Sample, SearchProblem, gain_scale

BLOCKS = 8
HIGHEST = 1.5
LEVELS = {1: 301, 2: 61, 3: 21, 4: 13}
REFINED = 12  # of the grid's points, from which the lowest score is sought further


class MadeUp:
    """As many datasets as ω, each with blocks of rows that differ a little in their slopes.

    Attributes:
        cost: Forward-equivalents so far.
        tokens: That count, [datasets, blocks].
    """

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self.size, self.cost = size, 0
        self.tokens = rng.integers(100, 300, (size, BLOCKS)).astype(float)
        tilt = rng.standard_normal((size, BLOCKS, size)) * 0.01
        shift = np.einsum("jbk,jb->jk", tilt, self.tokens) / self.tokens.sum(axis=1)[:, None]
        self._tilt = tilt - shift[:, None]

    def among(self, points):
        """Return losses, [points, datasets], and their derivatives, [points, datasets, ω]."""
        raise NotImplementedError

    def losses(self, omega):
        return self.among(omega[None])[0][0]

    def __call__(self, omega, *, slopes):
        self.cost += 3 if slopes else 1
        losses, found = (part[0] for part in self.among(omega[None]))
        nll = (losses[:, None] + self._tilt @ omega) * self.tokens
        sloped = (found[:, None, :] + self._tilt) * self.tokens[:, :, None]
        return Sample(np.array(omega, float), nll, sloped if slopes else None)


class Wells(MadeUp):
    """Each loss has a well near its own vector, and another one anywhere."""

    def __init__(self, size: int, seed: int) -> None:
        rng = np.random.default_rng([seed, size])
        own = np.eye(size) * rng.uniform(0.6, 1.1, size) + rng.uniform(0, 0.25, (size, size))
        self._centers = np.stack([own, rng.uniform(0, HIGHEST, (size, size))], axis=1)  # [datasets, wells, ω]
        mixed = rng.standard_normal((size, 2, size, size))
        self._curves = mixed @ mixed.swapaxes(2, 3) * 0.3 / size + rng.uniform(
            0.2, 1.5, (size, 2, 1, size)
        ) * np.eye(size)
        self._heights = np.stack([np.zeros(size), rng.uniform(-0.15, 0.3, size)], axis=1)
        self._floors = rng.uniform(0.75, 1.85, size)
        super().__init__(size, rng)

    def among(self, points):
        away = points[:, None, None, :] - self._centers
        bent = np.einsum("pjwk,jwkl->pjwl", away, self._curves)
        height = 0.5 * (away * bent).sum(axis=3)
        depth = np.exp(-(self._heights + np.log1p(height)) / 0.15)
        share = depth / depth.sum(axis=2, keepdims=True)
        slopes = (share[..., None] * bent / (1 + height)[..., None]).sum(axis=2)
        return self._floors - 0.15 * np.log(depth.sum(axis=2)), slopes


class Waves(MadeUp):
    """Each loss falls towards its own vector, and waves of any direction, as long as the box is wide, lie over it."""

    def __init__(self, size: int, seed: int) -> None:
        rng = np.random.default_rng([seed, size, 1])
        self._own = np.eye(size) * rng.uniform(0.6, 1.1, size) + rng.uniform(0, 0.25, (size, size))
        self._curves = rng.uniform(0.3, 1.2, (size, size))
        directions = rng.standard_normal((size, 4, size))
        directions /= np.linalg.norm(directions, axis=2, keepdims=True)
        self._waves = directions * 2 * np.pi / rng.uniform(1.0, 2.5, (size, 4, 1))
        self._phases = rng.uniform(0, 2 * np.pi, (size, 4))
        self._heights = rng.uniform(0.04, 0.16, (size, 4))
        self._floors = rng.uniform(1.2, 2.2, size)
        super().__init__(size, rng)

    def among(self, points):
        away = points[:, None, :] - self._own
        height = 0.5 * (self._curves * away**2).sum(axis=2)
        angle = np.einsum("pk,jwk->pjw", points, self._waves) + self._phases
        losses = self._floors + np.log1p(height) + (self._heights * np.cos(angle)).sum(axis=2)
        bent = self._curves * away / (1 + height)[..., None]
        return losses, bent - np.einsum("pjw,jwk->pjk", self._heights * np.sin(angle), self._waves)


def problem_of(losses: MadeUp, kind: str = "gain") -> SearchProblem:
    """Return the search for ω from 0 to 1.5, whose gains are of each dataset's own vector."""
    size = losses.size
    base = losses.losses(np.zeros(size))
    single = np.array([losses.losses(row)[i] for i, row in enumerate(np.eye(size))])
    scale = gain_scale(base, single, np.full(size, 0.02))
    objective = Objective(kind, np.full(size, 1 / size), base, scale, np.full(size, np.inf))
    return SearchProblem(objective, losses.tokens, np.zeros(size), np.full(size, HIGHEST), losses)


def begin(problem: SearchProblem) -> list[Sample]:
    """Take what every search begins with: none, each alone, equal ω."""
    size = problem.size
    starts = [np.zeros(size), *np.eye(size), np.full(size, 1 / size)]
    return [problem.measure(start, slopes=False) for start in starts]


def finest(problem: SearchProblem, losses: MadeUp) -> float:
    """Return the lowest score: the lowest on a fine grid, and below the best of its points."""
    axis = np.linspace(0, HIGHEST, LEVELS[problem.size])
    points = np.array(list(itertools.product(axis, repeat=problem.size)))
    score = problem.objective.score
    scores = np.concatenate(
        [[score(at) for at in losses.among(some)[0]] for some in np.array_split(points, 8)]
    )
    bounds = [(0.0, HIGHEST)] * problem.size
    descend = partial(minimize, lambda x: score(losses.losses(x)), bounds=bounds, method="L-BFGS-B")
    return min(float(descend(points[i]).fun) for i in scores.argsort()[:REFINED])
