"""The search for importances: which are tried, in which order, and what is kept. Models are a formula here."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from weight_samples import make_context

from dem_build.action import MODEL_PARTS
from dem_build.actions.weigh.run import _Bench, _Search, _shares, _Tried
from dem_build.search import Objective
from dem_build.step import Group, Inputs

NAMES = ("math", "chat", "code")
BLOCKS = 16


class Formula:
    """A bench whose losses are least where importances have some shares; `noise` differs from block to block."""

    def __init__(self, best, *, given=None, noise=0.0, limit=np.inf, seed=0):
        self.best, self.noise, self.asked = best, noise, []
        self.vectors = [
            Group(n, {"importance": (given or {}).get(n), "weight": 1.0}, {}, {"delta": n}) for n in best
        ]
        self.judges = [SimpleNamespace(group=group) for group in self.vectors]
        self.counted = np.ones((len(best), BLOCKS))
        self.told = []
        self.context = SimpleNamespace(check_stop=lambda: None, progress=lambda *said: self.told.append(said))
        size = len(best)
        self.objective = Objective(
            "gain",
            np.full(size, 1 / size),
            np.full(size, 3.0),
            np.ones(size),
            np.array([limit] + [np.inf] * (size - 1)),
        )
        self._seeds = count(seed)

    def measure(self, importances):
        self.asked.append(dict(importances))
        random = np.random.default_rng(next(self._seeds))
        total, wanted = sum(importances.values()), sum(self.best.values())
        apart = [max(0.0, np.log2(self.best[n] / wanted / (importances[n] / total))) for n in self.best]
        nll = 2.0 + 0.1 * np.array(apart)[:, None] + self.noise * random.standard_normal((len(apart), BLOCKS))
        return _Tried(importances, nll)


def search(bench):
    found = _Search(bench, bench.objective)
    return found, found.run()


@pytest.mark.parametrize("best", [(1.0, 1.0, 2.0), (0.5, 1.0, 1.0), (2.0, 1.0, 0.5)])
def test_importances_that_are_better_are_found_among_few(best):
    bench = Formula(dict(zip(NAMES, best, strict=True)))
    found, kept = search(bench)
    assert _shares(kept.importances) == _shares(bench.best)
    assert len(found.tried) <= 2 * len(NAMES) + 1
    assert bench.asked[0] == dict.fromkeys(NAMES, 1.0)


def test_what_is_given_stays_as_it_is():
    bench = Formula({"math": 1.0, "chat": 2.0, "code": 1.0}, given={"math": 3.0, "code": 0.5})
    _, kept = search(bench)
    assert all((asked["math"], asked["code"]) == (3.0, 0.5) for asked in bench.asked)
    assert kept.importances["chat"] == 2.0


def test_what_recovers_least_is_tried_first():
    bench = Formula({"math": 1.0, "chat": 8.0, "code": 1.0})
    search(bench)
    assert bench.asked[1] == {"math": 1.0, "chat": 2.0, "code": 1.0}


def test_shares_that_were_tried_are_not_tried_again():
    bench = Formula({"math": 1.0, "chat": 1.0})
    found, kept = search(bench)
    # Of two datasets, one doubled is the other halved.
    assert len(found.tried) == 3
    assert kept is found.tried[0]


def test_one_vector_has_nothing_to_weigh():
    found, kept = search(Formula({"math": 1.0}))
    assert found.tried == [kept]


def test_a_lead_within_its_error_changes_nothing():
    """Noise alone: half of all looks better, and of forty searches hardly one follows it."""
    better, followed = 0, 0
    for seed in range(0, 4000, 100):
        found, kept = search(Formula(dict.fromkeys(NAMES, 1.0), noise=2.0, seed=seed))
        first = found.tried[0]
        better += any(found._score(one) < found._score(first) for one in found.tried)
        followed += kept is not first
    assert better > 30
    assert followed < 12


def test_what_passes_a_limit_is_left_for_what_keeps_it():
    """A limit on math's loss that equal importances pass: one that does not is kept, whatever its score is."""
    bench = Formula({"math": 4.0, "chat": 1.0, "code": 1.0}, limit=-0.92)
    found, kept = search(bench)
    document = found.document(kept)
    assert document["passes"][0]["keeps_limits"] is False
    assert document["passes"][document["kept"]]["keeps_limits"] is True


def test_the_search_is_recorded_by_digests():
    bench = Formula({"math": 1.0, "chat": 2.0, "code": 1.0}, noise=0.01)
    found, kept = search(bench)
    document = found.document(kept)
    assert [vector["vector"] for vector in document["vectors"]] == list(NAMES)
    assert document["passes"][document["kept"]]["importances"] == [kept.importances[n] for n in NAMES]
    assert document["passes"][document["kept"]]["lead"] == document["passes"][document["kept"]]["stderr"] == 0
    assert all(one["lead"] > 0 for i, one in enumerate(document["passes"]) if i != document["kept"])
    assert bench.told[-1][:1] == (len(found.tried),)


def test_a_dataset_whose_vector_takes_no_part_is_judged_by_what_that_gains_alone(tmp_path):
    """Without it a thousandth of its loss was taken for its gain, and it counted for next to everything."""

    class Measured(_Bench):
        def _losses_of(self, weights, judged):
            losses = {"base": (3.0, 4.0), "math": (2.0, 0.0), "chat": (0.0, 3.5)}[weights.name]
            return np.array([[loss if j in judged else 0.0] * BLOCKS for j, loss in enumerate(losses)])

        def _single(self, j):
            return Path(self.judges[j].group.name)

    groups = [
        Group(n, {"weight": 1.0}, {tag: Path(n)}, {tag: n})
        for n, tag in {"math": "delta", "chat": "reference"}.items()
    ]
    judges = [SimpleNamespace(group=group, tokens=np.ones(BLOCKS)) for group in groups]
    inputs = Inputs({"base/weights": Path("base")}, groups=tuple(groups))
    bench = Measured(inputs, {}, SimpleNamespace(work=tmp_path), judges)
    assert [group.name for group in bench.vectors] == ["math"]
    assert bench.objective("gain").scale.tolist() == [1.0, 0.5]


def test_what_the_matching_that_is_kept_warned_of_is_said_once(tmp_path, monkeypatch):
    def matched(inputs, _, context):
        for part in MODEL_PARTS:
            (context.out / part).write_text(part)
        context.warn(f"few rows, with {inputs.groups[0].params['importance']:g}")
        return {}

    monkeypatch.setattr("dem_build.actions.weigh.run.match.run", matched)
    context, said = make_context(tmp_path), []
    context.warn = said.append
    bench = _Bench(Inputs(groups=(Group("math", {}, {"delta": Path("math")}, {}),)), {}, context, ())
    for importance in (1.0, 2.0):
        bench._match({"math": importance})
    assert said == []
    bench.keep(_Tried({"math": 1.0}, np.zeros((0, BLOCKS))))
    assert said == ["few rows, with 1"]
    assert {path.name for path in context.out.iterdir()} >= {*MODEL_PARTS}
