"""Kind `ladder`: the vectors added to the base one at a time, each rung judged on test rows.

The order follows from what was measured and from no name: the vector that alone, at ω = 1, has the best score on
validation rows comes first; of equal ones, that of the smaller digest. A rung has two models: `frozen` takes the whole
model's ω for the vectors so far, `retuned` searches their ω anew, on validation rows, by gradients. A pass of an
earlier rung, or of the search for the whole model, with ω = 0 for what is not added yet is a pass of this rung too, so
that a rung takes few of its own. The last rung is the model itself. Models are rounded as in tuning. Nothing is chosen
on test rows.

The gain recovered on test rows is, as in tuning, (B - L) / max(B - S, 2 stderr), with the test losses B of the base
and S of the dataset's own vector alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from dem_build.actions.tune.candidates import resident, vectors_of
from dem_build.actions.tune.judges import judges, validation_judges
from dem_build.actions.tune.landscape import Landscape, Space
from dem_build.actions.tune.omega import model_omega
from dem_build.actions.tune.pass_log import read_passes
from dem_build.actions.tune.passes import Passes, begin
from dem_build.data.arrays import trained_prompts
from dem_build.model.context_length import refuse_longer
from dem_build.search import gain_scale, gradient_search
from dem_build.search.problem import mean_losses, ratio_stderr

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from dem_build.actions.tune.judges import Judge
    from dem_build.digest import JSON
    from dem_build.step import Context, Group, Inputs, Provenance

FORMAT = "ladder/1"
TEST = "data/test"
# Of the search at a rung, which begins with what is known. It looks at no other places: the last rung is the model as
# it was found, and the ones before it show what each vector adds.
MOST_STEPS = 3


@dataclass(frozen=True)
class _Rung:
    """The vectors so far: the one that is added, and their ω, [vectors, layers]; None where none is searched."""

    added: int
    frozen: NDArray[np.float64]
    retuned: NDArray[np.float64] | None


def run(inputs: Inputs, params: Mapping[str, JSON], context: Context) -> Provenance:
    """Write `rungs`; where there are no rows to order or to judge them by, that there are none, which is said.

    Args:
        inputs: `base/weights` and `base/config`; `omega` and `passes` of the search, where there was one; the groups
            of `tune`; and a group (`delta`, `data/test`) for each dataset that has test rows.
        params: `objective`, `max_samples`, `bounds` and `dtype` as of `tune`; `test_samples`, most test rows of a
            dataset.
        context: Uses `machine.micro_batch` and `machine.eval_batch_size`; resumes from the passes in its work folder.

    Raises:
        EvaluationError: A loss that is not finite, or memory ran out.
        CheckpointError: A vector of another base.
        InterruptedBuildError: The user asked to stop; the passes so far are kept.
    """
    log = begin(context)
    tuning = replace(inputs, groups=tuple(g for g in inputs.groups if TEST not in g.paths))
    tests = _tests(inputs, params["test_samples"])
    # The judges of the search; where there was none, those that can judge.
    judged = validation_judges(
        tuning.groups, inputs.paths["base/config"], params["max_samples"], all_can="omega" in inputs.paths
    )
    lacking = None if tests else "test rows to judge a ladder by, so there is none: raise a `test`"
    if not any(judge.group.params.get("importance") for judge in judged):
        lacking = "validation rows to order a ladder by, so there is none: raise a `validation`"
    if lacking:
        context.warn(f"no dataset has {lacking} share, or set ladder = false in [analysis]")
        context.write("rungs", {"format": FORMAT, "rungs": []})
        return {}
    candidates = resident(inputs, vectors_of(tuning.groups), context)
    passes = Passes(candidates, judged, params["dtype"], log)
    if "passes" in inputs.paths:
        passes.earlier += read_passes(inputs.paths["passes"], passes.scope)
    climb = _Climb(tuning, params, passes)
    rungs = climb.rungs()
    tested = Passes(candidates, tests, params["dtype"], log, "tests")
    document = {
        "format": FORMAT,
        "vectors": climb.vectors,
        "tests": [
            {
                "rows": test.digest,
                "vector": climb.vectors.index(test.group.digests["delta"]),
                "used": test.used,
                "tokens": int(test.tokens.sum()),
            }
            for test in tests
        ],
        **_TestLosses(tested, climb.vectors).document(rungs),
    }
    context.write("rungs", document)
    return passes.recorded() | {
        "test_forward_equivalents": round(tested.cost, 3),
        "tokens": {"seen": passes.tokens + tested.tokens},
    }


def _tests(inputs: Inputs, most: int) -> list[Judge]:
    """Judges on test rows, in the order of their digests; a dataset without such rows is left out."""
    groups = {g.name: g for g in inputs.groups if TEST in g.paths}
    found = judges(groups, dict.fromkeys(groups, TEST), trained_prompts([]), most, all_can=False)
    for judge in found:
        refuse_longer(judge.rows, inputs.paths["base/config"])
    return sorted(found, key=lambda judge: (judge.digest, judge.group.digests["delta"]))


class _Climb:
    """Finds the order of the vectors, and ω at each rung, on validation rows."""

    def __init__(self, inputs: Inputs, params: Mapping[str, JSON], passes: Passes) -> None:
        self._inputs, self._passes = inputs, passes
        self._params = {name: params[name] for name in ("objective", "bounds")} | {"granularity": "model"}
        self.vectors = list(vectors_of(inputs.groups))
        self._model = model_omega(inputs, self.vectors, passes.layers)
        # Not all that `passes` has: after an interruption it begins with passes of rungs that are still to come.
        self._known = list(passes.earlier)

    def rungs(self) -> list[_Rung]:
        """The rungs, in order."""
        order, found = self._order(), []
        for count in range(1, len(order) + 1):
            frozen = np.zeros_like(self._model)
            frozen[order[:count]] = self._model[order[:count]]
            whole = count == len(order)
            retuned = None
            if "omega" in self._inputs.paths:
                retuned = frozen if whole else self._retuned(order[:count], frozen)
            found.append(_Rung(order[count - 1], frozen, retuned))
        return found

    def _order(self) -> list[int]:
        whole = Space([_with(group, None) for group in self._inputs.groups])
        landscape, scores = Landscape(whole, self._passes, self._params), []
        for vector in range(len(self.vectors)):
            alone = np.zeros_like(self._model)
            alone[vector] = 1.0
            scores.append(landscape.score(self._passes.take(alone)))
        return sorted(range(len(self.vectors)), key=lambda vector: scores[vector])

    def _retuned(self, added: Sequence[int], frozen: NDArray[np.float64]) -> NDArray[np.float64]:
        there = {self.vectors[v] for v in added}
        # Vectors that are not added yet are 0, and take part as such: so passes of other rungs count here, too.
        space = Space([g if g.digests.get("delta") in there else _with(g, 0.0) for g in self._inputs.groups])
        if not space.free:
            return frozen
        self._known.append(self._passes.take(frozen))
        landscape = Landscape(space, self._passes, self._params)
        found = gradient_search(landscape.problem, landscape.samples(self._known), MOST_STEPS)
        self._known += [landscape.pass_of(sample) for sample in found.samples]
        return landscape.expand(found.best)


def _with(group: Group, omega: float | None) -> Group:
    """A group whose vector has another ω; None where it is searched."""
    return replace(group, params={**group.params, "omega": omega}) if "delta" in group.digests else group


class _TestLosses:
    """Losses of models on test rows, and their gains by those of the base and of each dataset's own vector alone."""

    def __init__(self, tested: Passes, vectors: Sequence[str]) -> None:
        self._tested = tested
        self._nothing = np.zeros((len(vectors), len(tested.layers)))
        own = [vectors.index(judge.group.digests["delta"]) for judge in tested.judges]
        base = tested.take(self._nothing)
        # Each dataset's own vector alone, at ω = 1, judged by that dataset: on the same rows as the base, so that the
        # error of its gain is that of a difference in pairs.
        alone = np.repeat(np.eye(len(vectors))[own][:, :, None], len(tested.layers), axis=2)
        singles = np.array([tested.take(omega, judged=[j]).nll[j] for j, omega in enumerate(alone)])
        self._base, self._singles = tested.losses(base), mean_losses(singles, tested.counted)
        stderr = ratio_stderr(base.nll - singles, tested.counted)
        self._scale = gain_scale(self._base, self._singles, stderr)

    def document(self, rungs: Sequence[_Rung]) -> dict[str, JSON]:
        """What became of the base, of each dataset's own vector alone, and of every rung."""
        return {
            "base": self._of_model(self._nothing),
            "singles": self._singles.tolist(),
            "rungs": [
                {
                    "added": rung.added,
                    "frozen": self._of_model(rung.frozen),
                    "retuned": None if rung.retuned is None else self._of_model(rung.retuned),
                }
                for rung in rungs
            ],
        }

    def _of_model(self, omega: NDArray[np.float64]) -> dict[str, JSON]:
        taken = self._tested.take(omega)
        losses = self._tested.losses(taken)
        gains = (self._base - losses) / self._scale
        return {
            "omega": omega.mean(axis=1).tolist(),
            "losses": losses.tolist(),
            "stderr": self._tested.stderr(taken.nll),
            "gains": gains.tolist(),
            "mean_gain": float(gains.mean()),
        }
