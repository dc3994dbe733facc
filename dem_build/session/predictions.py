"""What was foretold of new rows, and how earlier predictions held, as far as the records of a store tell.

A prediction is the record of an action `score`: its key names the model, the new rows and the rows of the skills by
their contents. Once a vector is trained on these rows and a model composed of it and the same others, whatever is
scored at that model has measured what became of the skills. No other book is kept.
"""

from __future__ import annotations

import math
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dem_build.actions.compose.spec import KIND as COMPOSE
from dem_build.actions.score.read import foretold, parse_scores
from dem_build.actions.score.spec import KIND
from dem_build.errors import StoreError
from dem_build.json_text import MALFORMED
from dem_build.stats import stderr_of_ratio
from dem_build.workload import inputs_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from dem_build.actions.score.read import PredictedChange, Scores, SkillRows
    from dem_build.digest import Digest
    from dem_build.store import Record, Store

ALL = ""
"""Under which ω of all layers stands: no layer is called so."""
FEWEST = 3
"""Pairs of which there is a rank correlation: two always have one of 1 or -1."""


@dataclass(frozen=True)
class Foretold:
    """The prediction that a record has.

    Attributes:
        model: Digest of the model's weights.
        vectors: Those that it is made of → digest of the rows that each was trained on; empty of one from elsewhere.
        scores: What was measured there.
        own: The change of the new rows' own loss; None where nothing tells of its size.
        changes: The change of each skill of `scores`, likewise.
        omega: The vectors of which the model is the sum → ω of each layer, or of `ALL`; None where no record tells.
    """

    model: Digest
    vectors: Mapping[Digest, Digest]
    scores: Scores
    own: PredictedChange | None
    changes: tuple[PredictedChange | None, ...]
    omega: Mapping[Digest, Mapping[str, float]] | None = None

    def by_rows(self) -> Iterator[tuple[SkillRows, PredictedChange | None]]:
        """Each skill with its change."""
        return zip(self.scores.skills, self.changes, strict=True)


@dataclass(frozen=True)
class HeldPrediction:
    """A prediction of one skill, and what became of it.

    Attributes:
        rows: Digest of the skill's split.
        predicted: The change that was foretold, in nats per token; of datasets that were added at once, the sum.
        actual: The change that came.
        stderr: Its standard error over prompts, paired by rows; None of fewer than two.
        moved: The most by which ω differs of a vector that both models have, by a search or as somebody set it: what
            came has that in it, too. None where no record tells.
    """

    rows: Digest
    predicted: float
    actual: float
    stderr: float | None
    moved: float | None = None


def prediction_of(
    record: Record, data: bytes, omegas: Mapping[Digest, Mapping[Digest, Mapping[str, float]]] | None = None
) -> Foretold:
    """The prediction of a record of an action `score`.

    Args:
        record: The record.
        data: The bytes of its output.
        omegas: Digest of a model's weights → ω of its vectors, as far as that is known.

    Raises:
        StoreError: They are of another shape.
    """
    scores = parse_scores(data, f"record {record.key[:12]}…")
    groups = [
        {str(i.get("of")): str(i.get("sha256")) for i in group["inputs"]}
        for group in record.preimage["groups"]
    ]
    trained = {group["data/validation"] for group in groups if "data/validation" in group}
    own, changes = foretold(scores, [skill for skill in scores.skills if skill.rows in trained])
    [model] = [str(i.get("sha256")) for i in inputs_of(record) if i.get("of") == "model/weights"]
    omega = (omegas or {}).get(model)
    return Foretold(model, record.preimage["params"]["vectors"], scores, own, changes, omega)


def earlier_predictions(store: Store) -> list[Foretold]:
    """All predictions that a store has recorded; of one that is damaged, or not here, nothing is known."""
    records = [r for r in store.records.all() if r.kind in (KIND.name, COMPOSE.name)]
    found, omegas = [], _omegas(r for r in records if r.kind == COMPOSE.name)
    for record in records:
        if record.kind == KIND.name:
            with suppress(StoreError, *MALFORMED):
                found.append(
                    prediction_of(record, store.objects.read_bytes(record.outputs["scores"]), omegas)
                )
    return found


def how_they_held(predictions: Iterable[Foretold]) -> list[HeldPrediction]:
    """Each prediction of a skill whose new rows have become a vector of a later model that is scored, too."""
    at: dict[Digest, dict[Digest, Foretold]] = defaultdict(dict)
    for one in sorted(predictions, key=lambda p: sum(len(skill.nll) for skill in p.scores.skills)):
        at[one.model][one.scores.new] = one  # of several at one model, that by the most rows
    vectors = {model: next(iter(there.values())).vectors for model, there in at.items()}
    held: list[HeldPrediction] = []
    for before, foretold_there in sorted(at.items()):
        for after, seen_there in sorted(at.items()):
            if vectors[before] and vectors[before].items() < vectors[after].items():
                added = {rows for v, rows in vectors[after].items() if v not in vectors[before]}
                if added <= foretold_there.keys():
                    told = [foretold_there[rows] for rows in sorted(added)]
                    held += _compared(told, [*seen_there.values()])
    return held


def _moved(before: Foretold, after: Foretold) -> float | None:
    """The most by which ω of a vector of the first model differs at the second; a vector that is no term has ω = 0."""
    if before.omega is None or after.omega is None:
        return None
    moves = [0.0]
    for vector in before.vectors:
        was, now = (omega.get(vector, {ALL: 0.0}) for omega in (before.omega, after.omega))
        places = ({*was, *now} - {ALL}) or {ALL}
        moves += [abs(now.get(p, now.get(ALL, 0.0)) - was.get(p, was.get(ALL, 0.0))) for p in places]
    return max(moves)


def _omegas(composed: Iterable[Record]) -> dict[Digest, dict[Digest, dict[str, float]]]:
    """Digest of the weights of each model that is recorded as a sum → its vectors → ω of each layer, or of `ALL`."""
    found = {}
    for record in composed:
        with suppress(*MALFORMED):
            terms = {str(term["vector"]): term["omega"] for term in record.provenance["terms"]}
            by_layer = {v: w if isinstance(w, dict) else {ALL: w} for v, w in terms.items()}
            numbers = {v: {str(p): float(x) for p, x in w.items()} for v, w in by_layer.items()}
            found[record.outputs["weights"].digest] = numbers
    return found


def _compared(predicted: Sequence[Foretold], seen: Sequence[Foretold]) -> Iterator[HeldPrediction]:
    """Hold predictions at one model, which are added up, against what was measured at another."""
    moved = _moved(predicted[0], seen[0])
    later = {skill.rows: skill for one in seen for skill in one.scores.skills}
    sums: dict[Digest, list[float]] = defaultdict(list)
    for one in predicted:
        for skill, change in one.by_rows():
            if change is not None:
                sums[skill.rows].append(change.change)
    for skill in predicted[0].scores.skills:
        now = later.get(skill.rows)
        if now is None or len(sums[skill.rows]) < len(predicted):
            continue
        lost = dict(zip(now.indices, now.nll, strict=True))
        # Rows whose prompts another dataset trains on are left out at one of the models.
        both = [i for i, index in enumerate(skill.indices) if index in lost]
        changes = [lost[skill.indices[i]] - skill.nll[i] for i in both]
        tokens = [skill.tokens[i] for i in both]
        if sum(tokens):
            actual = math.fsum(changes) / sum(tokens)
            of = _prompts(skill) or _prompts(now)
            prompts = [of[skill.indices[i]] for i in both] if of else None
            error = stderr_of_ratio(changes, tokens, prompts)
            yield HeldPrediction(skill.rows, math.fsum(sums[skill.rows]), actual, error, moved)


def _prompts(skill: SkillRows) -> dict[int, int] | None:
    """Index of each row → a number for its prompt; None where nothing says that two rows have one."""
    return None if skill.prompts is None else dict(zip(skill.indices, skill.prompts, strict=True))


def rank_correlation(held: Sequence[HeldPrediction]) -> float | None:
    """Spearman's, of what was foretold with what came; None of too few pairs, or where one side is all the same."""
    predicted, actual = [h.predicted for h in held], [h.actual for h in held]
    if len(held) < FEWEST or len(set(predicted)) < 2 or len(set(actual)) < 2:
        return None
    from scipy.stats import spearmanr  # noqa: PLC0415  it takes a third of a second, and few calls have pairs

    return float(spearmanr(predicted, actual).statistic)


def agreeing(held: Iterable[HeldPrediction]) -> int:
    """How many came with the sign that was foretold."""
    return sum((h.predicted < 0) == (h.actual < 0) for h in held)
