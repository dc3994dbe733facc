"""Which predictions are held against what came, and by which rows."""

from __future__ import annotations

import json
import math

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


def scored_at(model: str, new: str, *changes: float | None, nll: tuple[float, ...] = (4.0, 6.0)) -> Foretold:
    """New rows scored at a model, with two rows of two tokens for each skill: `skill0`, `skill1` …"""
    skills = tuple(
        SkillRows(nll, (2, 2), (0.1, 0.1), f"skill{i}", tuple(range(len(nll))), 0, (9.0, 9.0))
        for i, _ in enumerate(changes)
    )
    told = tuple(None if c is None else PredictedChange(c, 0.1) for c in changes)
    return Foretold(model, Scores(new, 10, 5, 1.0, None, skills), None, told)


def test_a_prediction_is_held_once_its_rows_are_a_vector_of_a_model_that_is_scored():
    before = scored_at("m1", "rows-c", -0.5, 0.25)
    after = scored_at("m2", "rows-x", 0.0, 0.0, nll=(3.0, 5.0))
    models = {"m1": {"a": "rows-a"}, "m2": {"a": "rows-a", "c": "rows-c"}}
    assert how_they_held([before, after], models) == [
        HeldPrediction("skill0", -0.5, -0.5, 0.0),
        HeldPrediction("skill1", 0.25, -0.5, 0.0),
    ]
    assert how_they_held([before], {"m1": models["m1"]}) == []


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
    given = [scored_at("m1", "rows-c", -0.5), scored_at("m2", "rows-x", 0.0)]
    assert how_they_held(given, {"m1": {"a": "rows-a"}, "m2": after}) == []


def test_what_was_added_together_is_held_against_the_sum():
    given = [
        scored_at("m1", "rows-c", -0.5, None),
        scored_at("m1", "rows-d", 0.2, 0.1),
        scored_at("m2", "rows-x", 0.0, 0.0, nll=(5.0, 7.0)),
    ]
    models = {"m1": {"a": "rows-a"}, "m2": {"a": "rows-a", "c": "rows-c", "d": "rows-d"}}
    [held] = how_they_held(given, models)
    assert (held.rows, held.predicted, held.actual) == ("skill0", pytest.approx(-0.3), 0.5)


def test_rows_that_one_of_the_models_left_out_are_left_out():
    given = [scored_at("m1", "rows-c", -0.5), scored_at("m2", "rows-x", 0.0, nll=(3.0,))]
    [held] = how_they_held(given, {"m1": {"a": "rows-a"}, "m2": {"a": "rows-a", "c": "rows-c"}})
    assert (held.actual, held.stderr) == (-0.5, None)


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


def made(kind: str, outputs: dict[str, str], inputs: dict[str, str], groups: list[dict] = ()) -> Record:
    listed = [{"of": of, "sha256": digest} for of, digest in inputs.items()]
    told = [{"params": {}, "inputs": [{"of": o, "sha256": d} for o, d in g.items()]} for g in groups]
    return Record(
        "0" * 64, kind, {"inputs": listed, "groups": told}, {n: Output(d, 1) for n, d in outputs.items()}, {}
    )


def test_a_model_is_made_of_all_vectors_that_led_to_it_the_trunks_too():
    rows = {"nll": [4.0, 5.0], "tokens": [2, 2], "slopes": [0.2, 0.21]}
    document = {
        "gradient": 1.0,
        "new": {"rows": "new", "count": 3, "used": 1, **rows},
        "skills": [{"rows": "held-out", "left_out": 0, "indices": [0, 1], "origin": [8.0, 10.0], **rows}],
    }
    records = [
        made("finetune", {"delta": "d1"}, {"data/train": "rows-1"}),
        made("extract", {"delta": "d2"}, {}),
        made("compose", {"weights": "trunk"}, {"base/weights": "base", "delta": "d2"}),
        made("match", {"weights": "sum"}, {"base/weights": "trunk"}, [{"delta": "d1", "data/sample": "s"}]),
        made("choose", {"weights": "model"}, {"sum/weights": "sum", "match/weights": "sum"}),
        made(
            "score",
            {"scores": "s1"},
            {"model/weights": "model"},
            [{"data/train": "t", "data/validation": "held-out"}],
        ),
        made("score", {"scores": "damaged"}, {"model/weights": "other"}),
    ]
    held = {"s1": json.dumps(document).encode(), "damaged": b"{}"}
    [found], models = earlier_predictions(MadeUp(records, held))
    assert models == {"model": {"d1": "rows-1", "d2": ""}}
    # Vectors halved their losses: that of the new rows, 2.25, falls by 1.125, and the skill's as its slope says.
    assert found.own.change == pytest.approx(-1.125)
    assert found.changes[0].change == pytest.approx(-1.125)
    assert math.isfinite(found.changes[0].stderr)
