"""What was measured of new rows at a model, and what it foretells of each skill.

To first order a step s against the sign of the new rows' gradient g changes a skill's loss by -s ⟨∇L_j, sign g⟩, and
that of new rows which g is not of by ΔL_new = -s ⟨∇L_new, sign g⟩. So whatever s is,

    ΔL_j = ΔL_new · ⟨∇L_j, sign g⟩ / ⟨∇L_new, sign g⟩

and how far a training goes is asked in nats of its own rows: the recipe's vectors took their own losses down, from the
model that they start from to the composed one, by some share each. The median of these shares is taken for the new
rows, too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

from dem_build.errors import StoreError
from dem_build.json_text import MALFORMED, parse_json
from dem_build.stats import SURE, stderr_of_ratio

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dem_build.digest import JSON, Digest


@dataclass(frozen=True)
class RowSlopes:
    """Some rows at the model.

    Attributes:
        nll: Summed loss of each in nats, [rows].
        tokens: How many of its tokens count, [rows].
        slopes: ⟨∇nll, sign g⟩, [rows], for the gradient g of the new rows' loss.
        prompts: A number for the prompt of each, [rows]; None where nothing says that two rows have one prompt.
    """

    nll: Sequence[float]
    tokens: Sequence[int]
    slopes: Sequence[float]
    prompts: Sequence[int] | None = field(default=None, kw_only=True)

    @property
    def loss(self) -> float:
        """Their loss per token."""
        return math.fsum(self.nll) / sum(self.tokens)

    @property
    def slope(self) -> float:
        """The derivative of that along the sign of g."""
        return math.fsum(self.slopes) / sum(self.tokens)

    @property
    def slope_stderr(self) -> float | None:
        """Its standard error over prompts; None of fewer than two."""
        return stderr_of_ratio(self.slopes, self.tokens, self.prompts)

    @property
    def loss_stderr(self) -> float | None:
        """The standard error of the loss over prompts; None of fewer than two."""
        return stderr_of_ratio(self.nll, self.tokens, self.prompts)


@dataclass(frozen=True)
class SkillRows(RowSlopes):
    """The rows of a skill.

    Attributes:
        rows: Digest of the split.
        indices: Which of its rows they are.
        left_out: How many rows were left out, as their prompts are trained on, or would be.
        origin: Summed loss of each at what vectors start from, [rows].
    """

    rows: Digest
    indices: Sequence[int]
    left_out: int
    origin: Sequence[float]

    @property
    def fall(self) -> float:
        """By which share of itself the loss fell from what vectors start from to the model."""
        return 1 - math.fsum(self.nll) / math.fsum(self.origin)


@dataclass(frozen=True)
class Scores:
    """What an action `score` found.

    Attributes:
        new: Digest of the new rows.
        count: How many there are.
        used: How many the gradient is of.
        gradient: ‖g‖.
        own: New rows that it is not of; None where there are none to spare.
        skills: The skills.
    """

    new: Digest
    count: int
    used: int
    gradient: float
    own: RowSlopes | None
    skills: tuple[SkillRows, ...]


def parse_scores(data: bytes, where: str) -> Scores:
    """What `run` wrote.

    Raises:
        StoreError: It is of another shape.
    """
    try:
        document = parse_json(data)
        new = document["new"]
        own = RowSlopes(**_measured(new)) if new["nll"] else None
        skills = tuple(
            SkillRows(
                **_measured(s),
                rows=str(s["rows"]),
                indices=s["indices"],
                left_out=int(s["left_out"]),
                origin=s["origin"],
            )
            for s in document["skills"]
        )
        return Scores(
            str(new["rows"]), int(new["count"]), int(new["used"]), float(document["gradient"]), own, skills
        )
    except MALFORMED as error:
        raise StoreError(
            "the recorded scores cannot be read", where=where, hint="take the record out of the cache"
        ) from error


def _measured(entry: Mapping[str, JSON]) -> dict[str, Any]:
    nll, tokens, slopes, prompts = entry["nll"], entry["tokens"], entry["slopes"], entry.get("prompts")
    if not len(nll) == len(tokens) == len(slopes) == len(nll if prompts is None else prompts):
        raise ValueError("not as many slopes or prompts as rows")
    return {
        "nll": [float(x) for x in nll],
        "tokens": [int(x) for x in tokens],
        "slopes": [float(x) for x in slopes],
        "prompts": None if prompts is None else [int(x) for x in prompts],
    }


@dataclass(frozen=True)
class PredictedChange:
    """A change of a loss that is foretold, in nats per token; below 0 it is a help.

    Attributes:
        change: The change.
        stderr: Its standard error over prompts, the skill's and the new ones; None where there are too few to tell.
    """

    change: float
    stderr: float | None

    @property
    def sure(self) -> bool:
        """Whether its sign is."""
        return self.stderr is not None and abs(self.change) > SURE * self.stderr


def share_fallen(skills: Sequence[SkillRows]) -> float | None:
    """The median share by which the recipe's vectors took their own losses down; None where none fell."""
    fallen = [skill.fall for skill in skills]
    found = median(fallen) if fallen else 0.0
    return found if found > 0 else None


def foretold(
    scores: Scores, trained: Sequence[SkillRows]
) -> tuple[PredictedChange | None, tuple[PredictedChange | None, ...]]:
    """The changes of the new rows' own loss and of each skill's.

    Args:
        scores: What was measured.
        trained: Those of the skills that vectors were trained on.

    Returns:
        None where nothing tells how far a training would go: no new rows to spare, or the gradient of some new rows
        does not help others, or no vector of the recipe took its own loss down.
    """
    share, own = share_fallen(trained), scores.own
    slope, error = (own.slope, own.slope_stderr) if own is not None else (0.0, None)
    if share is None or own is None or error is None or slope <= SURE * error:
        return None, tuple(None for _ in scores.skills)
    down = -share * own.loss
    return PredictedChange(down, None), tuple(_change(skill, down, slope, error) for skill in scores.skills)


def _change(skill: SkillRows, down: float, slope: float, error: float) -> PredictedChange:
    of_skill = skill.slope_stderr
    change = down * skill.slope / slope
    if of_skill is None:
        return PredictedChange(change, None)
    # The error of a quotient of two independent means, by the delta method.
    return PredictedChange(change, math.hypot(down * of_skill / slope, change * error / slope))
