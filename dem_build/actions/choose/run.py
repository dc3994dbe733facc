"""Kind `choose`: of some models the one that is best on validation rows becomes the composed one.

A judge is a dataset's validation split, or a probe that has a limit; of its rows those count whose prompt no vector was
trained on. Models are scored as `[tune]` scores candidates. The lead of one over another is paired: both were measured
on the same rows.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import load_file

from dem_build.action import MODEL_PARTS
from dem_build.actions.choose.spec import CANDIDATES
from dem_build.data.arrays import TokenRows, trained_prompts
from dem_build.errors import EvaluationError
from dem_build.json_text import parse_json
from dem_build.search.problem import Objective
from dem_build.stats import Z95, least_gain, stderr_of_ratio

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from dem_build.digest import JSON, Digest
    from dem_build.step import Context, Group, Inputs, Provenance

    Vector = NDArray[np.float64]

BASE = "base"
ROWS = ("data/validation", "data/rows")


def run(inputs: Inputs, params: Mapping[str, JSON], context: Context) -> Provenance:
    """Choose, and copy the parts of the best model.

    Args:
        inputs: The parts of each model (`sum/weights` …); `trace` of a search, which knows what each vector gains
            alone; a group for each judge: its rows (`data/validation`, or `data/rows` of a probe), the losses of base
            and models on them (`loss/base` …), `delta`, and `importance` or `limit`; and one for each `data/train`.
        params: `objective`, as of `tune`.
        context: Where.

    Returns:
        `chosen`; of each judge its rows, base loss and importance; of each model its score, where less is better, its
        losses and gains, and by how much the chosen one leads, with a 95 % interval.

    Raises:
        EvaluationError: No row judges.
    """
    trained = trained_prompts(
        group.paths["data/train"] for group in inputs.groups if "data/train" in group.paths
    )
    judges = [_judge(group, trained) for group in inputs.groups if any(tag in group.paths for tag in ROWS)]
    judges = [judge for judge in judges if sum(judge.tokens)]
    objective = _objective(judges, parse_json(inputs.paths["trace"].read_bytes()), params["objective"])
    losses = {name: np.array([judge.loss(name) for judge in judges]) for name in CANDIDATES}
    chosen = _best(objective, losses)
    for part in MODEL_PARTS:
        context.check_stop()
        _copy(inputs.paths[f"{chosen}/{part}"], context.out / part)
    context.note(f"{chosen} is kept of {', '.join(CANDIDATES)}")
    return {
        "chosen": chosen,
        "objective": objective.kind,
        "judges": [
            judge.document() | {"base": float(base), "scale": float(scale)}
            for judge, base, scale in zip(judges, objective.base, objective.scale, strict=True)
        ],
        "candidates": [_document(name, chosen, objective, judges, losses) for name in CANDIDATES],
    }


@dataclass(frozen=True)
class _Judge:
    """Rows that judge.

    Attributes:
        group: Its inputs, and what is said of it.
        nll: Model → the summed loss of each row.
        tokens: Tokens of each row that count.
        prompts: A number for the prompt of each row.
        left_out: How many rows are left out, as a vector was trained on their prompts.
    """

    group: Group
    nll: Mapping[str, Vector]
    tokens: Sequence[int]
    prompts: Sequence[int]
    left_out: int

    @property
    def digest(self) -> Digest:
        """Of its rows."""
        return next(self.group.digests[tag] for tag in ROWS if tag in self.group.digests)

    @property
    def importance(self) -> float:
        """Its weight; 0 of a probe."""
        return float(self.group.params.get("importance") or 0.0)

    def loss(self, model: str) -> float:
        """A model's mean loss per token."""
        return float(self.nll[model].sum()) / sum(self.tokens)

    def lead_stderr(self, one: str, other: str) -> float | None:
        """The standard error of the difference of two models' losses, paired by prompts."""
        return stderr_of_ratio((self.nll[one] - self.nll[other]).tolist(), self.tokens, self.prompts)

    def document(self) -> dict[str, JSON]:
        """What is recorded of it, by digests."""
        return {
            "rows": self.digest,
            "vector": self.group.digests.get("delta"),
            "importance": self.importance,
            "used": len(self.tokens),
            "left_out": self.left_out,
        }


def _judge(group: Group, trained: NDArray[np.uint64]) -> _Judge:
    rows = TokenRows.open(next(group.paths[tag] for tag in ROWS if tag in group.paths))
    prompts = rows.prompt_numbers
    fresh = np.flatnonzero(~np.isin(prompts, trained))
    found = {name: load_file(group.paths[f"loss/{name}"]) for name in (BASE, *CANDIDATES)}
    nll = {name: one["nll"].astype(np.float64)[fresh] for name, one in found.items()}
    tokens = found[BASE]["tokens"][fresh].tolist()
    return _Judge(group, nll, tokens, prompts[fresh].tolist(), len(rows) - len(fresh))


def _objective(judges: Sequence[_Judge], trace: JSON, kind: str) -> Objective:
    importance = np.array([judge.importance for judge in judges])
    if not importance.sum():
        raise EvaluationError(
            "no validation row is left to choose by: a vector was trained on the prompts of all",
            hint="raise a `validation` share, or name a `method` in [compose]",
        )
    limits = (judge.group.params.get("limit") for judge in judges)
    return Objective(
        kind,
        importance / importance.sum(),
        np.array([judge.loss(BASE) for judge in judges]),
        np.array([_scale(judge, trace) for judge in judges]),
        np.array([np.inf if limit is None else float(limit) for limit in limits]),
    )


def _scale(judge: _Judge, trace: JSON) -> float:
    """What the judge's own vector gains alone, as the search measured it, and as gains recovered are counted of it."""
    own = (judge.digest, judge.group.digests.get("delta"))
    entry = next((e for e in trace["judges"] if (e["rows"], e["vector"]) == own), None)
    if entry is None or entry["single"] is None:
        return 1.0  # a probe has no vector: only its limit counts
    gained = entry["base"] - entry["chosen"]
    if entry["gain"] and gained:
        return float(gained / entry["gain"])  # with the floor that it had there
    return least_gain(entry["base"], entry["base"] - entry["single"], None)


def _best(objective: Objective, losses: Mapping[str, Vector]) -> str:
    """The model of the lowest score that keeps all limits; without one, that of the least excess."""
    kept = [name for name in losses if objective.keeps_limits(losses[name])]
    if kept:
        return min(kept, key=lambda name: objective.score(losses[name]))
    return min(losses, key=lambda name: float(objective.excess(losses[name]).max()))


def _document(
    name: str, chosen: str, objective: Objective, judges: Sequence[_Judge], losses: Mapping[str, Vector]
) -> dict[str, JSON]:
    score = objective.score(losses[name])
    lead = score - objective.score(losses[chosen])
    # To first order in the losses; judges have rows of their own, whose errors are independent.
    slope = objective.slope(losses[chosen])
    errors = [judge.lead_stderr(name, chosen) for judge, weight in zip(judges, slope, strict=True) if weight]
    known = [error for error in errors if error is not None]
    error = float(np.sqrt(((slope[slope != 0] * known) ** 2).sum())) if len(known) == len(errors) else None
    return {
        "name": name,
        "score": score,
        "keeps_limits": objective.keeps_limits(losses[name]),
        "losses": losses[name].tolist(),
        "gains": objective.gains(losses[name]).tolist(),
        "lead": lead,
        "low": None if error is None else lead - Z95 * error,
        "high": None if error is None else lead + Z95 * error,
    }


def _copy(source: Path, target: Path) -> None:
    """Copy a file or folder. A link to it would let the store touch what is in it already."""
    if source.is_dir():
        shutil.copytree(source, target, copy_function=shutil.copyfile)
    else:
        shutil.copyfile(source, target)
