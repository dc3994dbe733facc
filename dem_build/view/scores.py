"""What is foretold of new rows, as a person sees it, and how earlier predictions held."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from dem_build.report.quantities import decimals, percent, signed, with_error
from dem_build.report.text import clean, joined
from dem_build.session.predictions import agreeing, rank_correlation
from dem_build.stats import SURE
from dem_build.view.text import say
from dem_build.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rich.console import Console

    from dem_build.actions.score.read import PredictedChange, SkillRows
    from dem_build.digest import JSON, Digest
    from dem_build.session.predictions import HeldPrediction
    from dem_build.session.scoring import Scored
    from dem_build.session.session import Session

CAUTION = (
    "changes are to first order, by how a training begins: an order more than sizes. Where they were tried, those of "
    "other skills came out worse than foretold"
)
MOVED = 1e-6
"""ω that differ by no more are one ω: they are stored in float32."""
STYLES = {"helps": "green", "hurts": "red", "unclear": "dim"}


@dataclass(frozen=True)
class NewRows:
    """New rows as the user named them, and what was seen there."""

    source: str
    lines: Sequence[str]


@dataclass(frozen=True)
class ScoreView:
    """All that a call of `dem score` found.

    Attributes:
        new: Name → the new rows.
        scored: Name → what is foretold of them.
        held: Earlier predictions of which it is known what came.
    """

    session: Session
    new: Mapping[str, NewRows]
    scored: Mapping[str, Scored]
    held: Sequence[HeldPrediction]

    def ranked(self) -> list[Scored]:
        """What was scored, the lowest sum of changes first: what is to be trained first."""
        return sorted(self.scored.values(), key=lambda s: (math.inf if (t := _sum(s)) is None else t, s.name))

    def document(self) -> dict[str, JSON]:
        """It as JSON."""
        names = self._names()
        return {
            "recipe": self.session.named,
            "new": [self._new_document(scored) for scored in self.ranked()],
            "earlier": {
                "pairs": [asdict(h) | {"skills": names.get(h.rows, [])} for h in self.held],
                "n": len(self.held),
                "spearman": rank_correlation(self.held),
                "signs_right": agreeing(self.held),
            },
        }

    def _new_document(self, scored: Scored) -> dict[str, JSON]:
        scores, own = scored.prediction.scores, scored.prediction.own
        return {
            "name": scored.name,
            "source": self.new[scored.name].source,
            "rows": scores.count,
            "left_out": dict(scored.left_out),
            "prompts": scored.prompts,
            "known_prompts": dict(scored.known),
            "gradient_rows": scores.used,
            "loss": scores.own.loss if scores.own else None,
            "loss_stderr": scores.own.loss_stderr if scores.own else None,
            "slope": scores.own.slope if scores.own else None,
            "slope_stderr": scores.own.slope_stderr if scores.own else None,
            "change": own.change if own else None,
            "sum": _sum(scored),
            "skills": {
                name: {
                    "rows": len(skill.nll),
                    "loss": skill.loss,
                    "loss_stderr": skill.loss_stderr,
                    "slope": skill.slope,
                    "slope_stderr": skill.slope_stderr,
                    "change": change.change if change else None,
                    "change_stderr": change.stderr if change else None,
                    "verdict": _verdict(skill),
                }
                for name, skill, change in self._skills(scored)
            },
        }

    def say(self, console: Console) -> None:
        """Print it."""
        for scored in self.ranked():
            self._say_new(scored, console)
        unjudged = sorted({*self.session.recipe.datasets} - {n for ns in self._names().values() for n in ns})
        if unjudged:
            say(
                console,
                ("note: ", "dim"),
                f"without validation rows, so unknown: {joined(', '.join(unjudged))}",
            )
        if len(self.scored) > 1:
            order = ", ".join(f"{i}. {s.name}" for i, s in enumerate(self.ranked(), 1))
            say(console, f"lowest sum of changes first: {clean(order)}")
        say(console, (CAUTION, "dim"))
        say(console, self._earlier_line())

    def _say_new(self, scored: Scored, console: Console) -> None:
        prediction, scores = scored.prediction, scored.prediction.scores
        say(
            console,
            (clean(self.new[scored.name].source), "bold"),
            f": {counted(scores.count, 'row')} to train on",
            _left(scored),
        )
        if scores.own is not None:
            loss = with_error(decimals(scores.own.loss), scores.own.loss_stderr)
            falls = (
                f", which its vector is taken to lower by {decimals(-prediction.own.change)}"
                if prediction.own
                else ""
            )
            say(console, f"  loss now {loss}{falls}")
        for name, count in scored.known.items():
            share = percent(count / scored.prompts)
            known = f"{count} of its prompts ({share}) are trained on in {joined(name)} already"
            say(console, ("  note: ", "dim"), known)
        if prediction.own is None:
            why = "its rows do not clearly help one another at this model: nothing tells how far a training would go"
            say(console, ("  note: ", "dim"), why)
        table = Table(
            "skill", "rows", "loss now", "change", "", box=None, header_style="dim", padding=(0, 3, 0, 0)
        )
        for column in table.columns[1:4]:
            column.justify = "right"
        for name, skill, change in self._skills(scored):
            verdict = _verdict(skill)
            shown = "unknown" if change is None else with_error(signed(change.change), change.stderr)
            table.add_row(
                Text(joined(name)),
                str(len(skill.nll)),
                with_error(decimals(skill.loss), skill.loss_stderr),
                shown,
                Text(verdict, STYLES[verdict]),
            )
        console.print(table)
        console.print()

    def _skills(self, scored: Scored) -> Iterator[tuple[str, SkillRows, PredictedChange | None]]:
        """Name, rows and change of each skill, in the recipe's order."""
        found = {skill.rows: (skill, change) for skill, change in scored.prediction.by_rows()}
        for rows, names in self._names().items():
            if rows in found:
                for name in names:
                    yield name, *found[rows]

    def _names(self) -> dict[Digest, list[str]]:
        """Digest of the rows of a skill → what the recipe calls it."""
        recipe, records = self.session.recipe, self.session.plan.records
        found: dict[Digest, list[str]] = {}
        splits = dict.fromkeys(recipe.validated, "validation") | dict.fromkeys(recipe.probes, "test")
        for name, split in splits.items():
            if (record := records.get(f"data:{name}")) is not None:
                found.setdefault(record.outputs[split].digest, []).append(name)
        return found

    def _earlier_line(self) -> str:
        head = "how earlier predictions held: "
        if not self.held:
            return f"{head}unknown, as none of what was scored has been trained, composed and scored beside since"
        correlation, n = rank_correlation(self.held), len(self.held)
        right = f"{agreeing(self.held)} of {n} changes had the sign that was foretold"
        told = (
            "; too few for a rank correlation"
            if correlation is None
            else f", rank correlation {correlation:.2f}"
        )
        return f"{head}{right}{told}{self._moved()}"

    def _moved(self) -> str:
        """What else came between predictions and what they are held against: other ω of the vectors that were there."""
        moved = [h.moved for h in self.held if h.moved is not None and h.moved > MOVED]
        still = [h for h in self.held if h.moved is not None and h.moved <= MOVED]
        unknown = len(self.held) - len(moved) - len(still)
        told = []
        if moved:
            told.append(
                f"ω of other vectors moved (by up to {max(moved):.2g}) for {len(moved)} of them, which is in what came"
            )
        if unknown:
            told.append(f"whether ω of other vectors moved is not known of {unknown}")
        if told and still:
            told.append(f"where they stayed, {agreeing(still)} of {len(still)} had it")
        return f". {'; '.join(told)}" if told else ""


def _verdict(skill: SkillRows) -> str:
    """Whether the sign of a skill's change is clear: below 0 the new rows' gradient hurts it."""
    error = skill.slope_stderr
    if error is None or abs(skill.slope) <= SURE * error:
        return "unclear"
    return "helps" if skill.slope > 0 else "hurts"


def _sum(scored: Scored) -> float | None:
    changes = [change.change for change in scored.prediction.changes if change is not None]
    return math.fsum(changes) if changes else None


def _left(scored: Scored) -> str:
    left = ", ".join(
        f"{count} {joined(reason).replace('_', ' ')}" for reason, count in scored.left_out.items()
    )
    return f" ({left})" if left else ""
