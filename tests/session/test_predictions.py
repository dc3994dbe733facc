"""Which predictions are held against what came, and by which rows."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from dem_build.actions.score.read import PredictedChange, Scores, SkillRows
from dem_build.digest import Output
from dem_build.session.predictions import (
    Foretold,
    HeldPrediction,
    agreeing,
    earlier_predictions,
    how_they_held,
    rank_correlation,
)
from dem_build.store import Record

ONE = {"a": "rows-a"}
TWO = {"a": "rows-a", "c": "rows-c"}


def scored_at(
    vectors: dict[str, str],
    new: str,
    *changes: float | None,
    nll: tuple[float, ...] = (4.0, 6.0),
    omega: dict[str, dict[str, float]] | None = None,
) -> Foretold:
    """New rows scored at a model, with rows of two tokens for each skill: `skill0`, `skill1` …"""
    skills = tuple(
        SkillRows(nll, (2, 2), (0.1, 0.1), f"skill{i}", tuple(range(len(nll))), 0, (9.0, 9.0))
        for i, _ in enumerate(changes)
    )
    told = tuple(None if c is None else PredictedChange(c, 0.1) for c in changes)
    return Foretold("+".join(vectors), vectors, Scores(new, 10, 5, 1.0, None, skills), None, told, omega)


def test_a_prediction_is_held_once_its_rows_are_a_vector_of_a_model_that_is_scored():
    before = scored_at(ONE, "rows-c", -0.5, 0.25)
    after = scored_at(TWO, "rows-x", 0.0, 0.0, nll=(3.0, 5.0))
    assert how_they_held([before, after]) == [
        HeldPrediction("skill0", -0.5, -0.5, 0.0),
        HeldPrediction("skill1", 0.25, -0.5, 0.0),
    ]
    assert how_they_held([before]) == []


@pytest.mark.parametrize("silent", [None, "before", "after"])
def test_the_error_of_what_came_is_over_prompts_as_far_as_either_record_says_them(silent):
    def scored(when, vectors, new, nll):
        given = scored_at(vectors, new, -0.5, nll=nll)
        [skill] = given.scores.skills
        told = replace(skill, tokens=(1, 1, 1, 1), prompts=None if when == silent else (0, 0, 1, 1))
        return replace(given, scores=replace(given.scores, skills=(told,)))

    before = scored("before", ONE, "rows-c", (4.0, 5.0, 6.0, 7.0))
    [held] = how_they_held([before, scored("after", TWO, "rows-x", (3.0, 4.0, 6.0, 7.0))])
    # -2 of one prompt and 0 of the other, two tokens each.
    assert held.actual == -0.5
    assert held.stderr == pytest.approx(math.sqrt(2 * 2) / 4)


@pytest.mark.parametrize(
    "after",
    [
        {"a2": "rows-a", "c": "rows-c"},  # trained again
        {"a": "rows-a", "d": "rows-d"},  # other rows were added, which nobody has scored
        {"a": "rows-a", "c": "rows-c", "d": "rows-d"},
        {"a": "rows-a", "e": ""},  # a vector from elsewhere
        {"a": "rows-a"},
        {},
    ],
)
def test_what_came_of_other_vectors_is_no_answer(after):
    assert how_they_held([scored_at(ONE, "rows-c", -0.5), scored_at(after, "rows-x", 0.0)]) == []


def test_what_was_added_together_is_held_against_the_sum():
    given = [
        scored_at(ONE, "rows-c", -0.5, None),
        scored_at(ONE, "rows-d", 0.2, 0.1),
        scored_at(TWO | {"d": "rows-d"}, "rows-x", 0.0, 0.0, nll=(5.0, 7.0)),
    ]
    [held] = how_they_held(given)
    assert (held.rows, held.predicted, held.actual) == ("skill0", pytest.approx(-0.3), 0.5)


@pytest.mark.parametrize(
    ("was", "now", "moved"),
    [
        ({"a": {"": 0.5}}, {"a": {"": 0.5}, "c": {"": 0.3}}, 0.0),
        ({"a": {"": 0.5}}, {"a": {"": 0.375}, "c": {"": 0.3}}, 0.125),
        ({"a": {"": 0.5}}, {"c": {"": 0.3}}, 0.5),  # a search found 0, and the vector is no term
        ({"a": {"l0": 0.5, "l1": 0.25}}, {"a": {"l0": 0.5, "l1": 0.5}}, 0.25),
        ({"a": {"": 0.5}}, {"a": {"l0": 0.5, "l1": 0.75}}, 0.25),
        (None, {"a": {"": 0.5}}, None),
        ({"a": {"": 0.5}}, None, None),
    ],
)
def test_what_else_came_is_told_other_omegas_of_the_vectors_that_were_there(was, now, moved):
    before, after = scored_at(ONE, "rows-c", -0.5, omega=was), scored_at(TWO, "rows-x", 0.0, omega=now)
    assert [held.moved for held in how_they_held([before, after])] == [moved]


def test_rows_that_one_of_the_models_left_out_are_left_out():
    [held] = how_they_held([scored_at(ONE, "rows-c", -0.5), scored_at(TWO, "rows-x", 0.0, nll=(3.0,))])
    assert (held.actual, held.stderr) == (-0.5, None)


def test_of_two_predictions_of_the_same_that_by_more_rows_counts():
    given = [
        scored_at(ONE, "rows-c", -0.5),
        scored_at(ONE, "rows-c", -0.9, nll=(4.0,)),
        scored_at(TWO, "rows-x", 0.0),
    ]
    assert [held.predicted for held in how_they_held(given)] == [-0.5]
    assert [held.predicted for held in how_they_held(given[::-1])] == [-0.5]


def test_signs_and_ranks_of_what_was_held():
    held = [
        HeldPrediction("r", predicted, actual, None) for predicted, actual in ((-1, -3), (0.5, -1), (2, 0.1))
    ]
    assert agreeing(held) == 2
    assert rank_correlation(held) == pytest.approx(1.0)
    assert rank_correlation(held[:2]) is None
    assert rank_correlation([HeldPrediction("r", 0.0, a, None) for a in (1.0, 2.0, 3.0)]) is None


class MadeUp:
    """A store of some records, and of the bytes of their outputs."""

    def __init__(self, records: list[Record], held: dict[str, bytes]) -> None:
        self.records = self.objects = self
        self._records, self._held = records, held

    def all(self):
        return iter(self._records)

    def read_bytes(self, output: Output) -> bytes:
        return self._held[output.digest]


def test_predictions_are_read_from_records_and_what_is_damaged_tells_nothing():
    rows = {"nll": [4.0, 5.0], "tokens": [2, 2], "slopes": [0.2, 0.21]}
    document = {
        "gradient": 1.0,
        "new": {"rows": "new", "count": 3, "used": 1, **rows},
        "skills": [{"rows": "held-out", "left_out": 0, "indices": [0, 1], "origin": [8.0, 10.0], **rows}],
    }
    preimage = {
        "params": {"vectors": ONE},
        "inputs": [{"of": "model/weights", "sha256": "model"}],
        "groups": [{"inputs": [{"of": "data/validation", "sha256": "held-out"}]}],
    }
    records = [
        Record("0" * 64, kind, preimage, {"scores": Output(digest, 1)}, {})
        for kind, digest in (("loss", "s1"), ("score", "s1"), ("score", "damaged"))
    ]
    for weights, terms in (
        ("model", [{"vector": "a", "omega": 0.5}]),
        ("damaged", [{"vector": "a", "omega": "x"}]),
    ):
        outputs = {"weights": Output(weights, 1)}
        records.append(Record("1" * 64, "compose", preimage, outputs, {"terms": terms}))
    store = MadeUp(records, {"s1": json.dumps(document).encode(), "damaged": b"{}"})
    [found] = earlier_predictions(store)
    assert (found.model, found.vectors, found.omega) == ("model", ONE, {"a": {"": 0.5}})
    # Vectors halved their losses: that of the new rows, 2.25, falls by 1.125, and the skill's as its slope says.
    assert found.own.change == pytest.approx(-1.125)
    assert found.changes[0].change == pytest.approx(-1.125)
    assert math.isfinite(found.changes[0].stderr)
