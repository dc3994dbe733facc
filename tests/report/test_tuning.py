"""What tuning found, by the names of today's recipe."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from dem_build.action import TUNE, Action, Edge, Input
from dem_build.actions import KINDS
from dem_build.actions.tune.read import Judged, Tuning, layers_of, read_tuning
from dem_build.actions.tune.show import lines
from dem_build.digest import Output
from dem_build.errors import StoreError
from dem_build.graph import Graph
from dem_build.report.baselines import read_baselines
from dem_build.report.inputs import BuildRecords
from dem_build.store import Record

ROWS, ONE, OTHER = "a" * 64, "b" * 64, "c" * 64


def record(name: str, **outputs: str) -> Record:
    return Record(name, name, {}, {n: Output(digest, 1) for n, digest in outputs.items()}, {})


def judge(vector: str, single: float) -> dict:
    return {
        "rows": ROWS,
        "vector": vector,
        "base": 3.0,
        "chosen": 2.0,
        "single": single,
        "gain": 1.0,
        "used": 9,
    }


def test_datasets_of_the_same_rows_keep_the_loss_of_their_own_vector():
    """Two trainings on one file, say at two learning rates."""
    takes = [Input("delta", Edge(f"vector:{n}", "delta"), group=n) for n in ("slow", "fast")]
    takes += [Input("data/validation", Edge(f"data:{n}", "validation"), group=n) for n in ("slow", "fast")]
    graph = Graph({TUNE: Action(TUNE, KINDS["tune"], {}, tuple(takes), groups={"slow": {}, "fast": {}})})
    documents = {
        "trace": {
            "search": "gradient", "objective": "gain", "passes": [], "slopes": None, "findings": [], "layers": [],
            "judges": [judge(ONE, 1.5), judge(OTHER, 1.0)],
            "vectors": [{"vector": v, "tuned": True, "omega": 0.5, "low": 0.4, "high": 0.6} for v in (ONE, OTHER)],
        },
        "omega": {"omega": {ONE: 0.5, OTHER: 0.5}},
    }  # fmt: skip
    records = {
        "vector:slow": record("finetune", delta=ONE),
        "vector:fast": record("finetune", delta=OTHER),
        "data:slow": record("prepare", validation=ROWS),
        "data:fast": record("prepare", validation=ROWS),
        TUNE: record("tune", trace="trace", omega="omega"),
    }
    tuning = read_tuning(
        BuildRecords(graph, records, lambda output: json.dumps(documents[output.digest]).encode())
    )
    assert {name: judged.single for name, judged in tuning.judges.items()} == {"slow": 1.5, "fast": 1.0}


def test_another_optimum_is_told_with_the_omega_of_each_name():
    """A vector of two names, one of which the recipe gives an ω, and another vector."""
    names = {"given": ONE, "searched": ONE, "other": OTHER}
    takes = tuple(Input("delta", Edge(f"vector:{n}", "delta"), group=n) for n in names)
    groups = {"given": {"omega": 0.25}, "searched": {}, "other": {}}
    finding = {"what": "other_optimum", "omegas": {ONE: 1.0, OTHER: 0.0}, "score": -0.6, "chosen": -0.616}
    documents = {
        "trace": {
            "search": "gradient", "objective": "gain", "passes": [], "slopes": None, "layers": [], "judges": [],
            "vectors": [{"vector": v, "tuned": True, "omega": 0.5, "low": 0.4, "high": 0.6} for v in (ONE, OTHER)],
            "findings": [finding | {"unsure": unsure} for unsure in (True, False)],
        },
        "omega": {"omega": {ONE: 0.5, OTHER: 0.5}},
    }  # fmt: skip
    records = {f"vector:{n}": record("finetune", delta=digest) for n, digest in names.items()}
    records[TUNE] = record("tune", trace="trace", omega="omega")
    graph = Graph({TUNE: Action(TUNE, KINDS["tune"], {}, takes, groups=groups)})
    read = BuildRecords(graph, records, lambda output: json.dumps(documents[output.digest]).encode())
    there = "ω searched 0.750, ω other 0.000 (mean gain recovered 0.600, here 0.616)"
    assert read_tuning(read).told == (
        f"another optimum cannot be told from this one: {there}",
        f"another optimum is nearly as good: {there}",
    )


def test_what_judges_of_the_same_rows_are_told_is_said_once():
    little = {"what": "few_rows", "judge": ROWS, "used": 3}
    assert len(search_of({"findings": [little, little]}).told) == 1


ONE_PROMPT = {"what": "few_rows", "judge": ROWS, "used": 1}


@pytest.mark.parametrize(
    ("finding", "counts", "known"),
    [
        (ONE_PROMPT, {"importance": 1.0}, False),
        (ONE_PROMPT | {"used": 20, "prompts": 1}, {"importance": 1.0}, False),
        (ONE_PROMPT, {"importance": 0.0, "limit": 0.1}, False),
        (ONE_PROMPT, {"importance": 0.0, "limit": None}, True),
        (ONE_PROMPT | {"used": 2}, {"importance": 1.0}, True),
        (ONE_PROMPT | {"used": 20, "prompts": 2}, {"importance": 1.0}, True),
    ],
)
def test_no_interval_is_told_where_rows_that_judge_are_of_one_prompt(finding, counts, known):
    """How much losses vary from prompt to prompt is unknown then, and not zero."""
    takes = (
        Input("delta", Edge("vector:a", "delta"), group="a"),
        Input("delta", Edge("vector:b", "delta"), group="b"),
        Input("data/validation", Edge("data:a", "validation"), group="a"),
    )
    graph = Graph({TUNE: Action(TUNE, KINDS["tune"], {}, takes, groups={"a": {}, "b": {}})})
    documents = {
        "trace": {
            "search": "gradient", "objective": "gain", "passes": [], "slopes": None, "layers": [],
            "judges": [judge(ONE, 1.5) | counts],
            "vectors": [{"vector": v, "tuned": True, "omega": 0.5, "low": 0.5, "high": 0.5} for v in (ONE, OTHER)],
            "findings": [finding, {"what": "like_uniform", "lead": [0.0, 0.0]}],
        },
        "omega": {"omega": {ONE: 0.5, OTHER: 0.5}},
    }  # fmt: skip
    records = {
        "vector:a": record("finetune", delta=ONE),
        "vector:b": record("finetune", delta=OTHER),
        "data:a": record("prepare", validation=ROWS),
        TUNE: record("tune", trace="trace", omega="omega"),
    }
    tuning = read_tuning(
        BuildRecords(graph, records, lambda output: json.dumps(documents[output.digest]).encode())
    )
    assert {(t.low, t.high, t.given) for t in tuning.vectors.values()} == {
        (0.5, 0.5, False) if known else (None, None, False)
    }
    shown = "\n".join(
        "".join(part if isinstance(part, str) else part[0] for part in line) for line in lines(tuning)
    )
    assert ("0.50 to 0.50" in shown, "0.500  no interval: one prompt" in shown) == (known, not known)
    told = " ".join(tuning.told)
    assert ("validation rows of a that judge it are of one prompt" in told) is not known
    assert ("hold out 8 prompts or more, 2 at least" in told) is not known
    assert ("cannot be told from equal ω" in told) is known


def search_of(trace: dict, **provenance: object) -> Tuning:
    """Return what is read of a search of no vector, whose trace has these fields."""
    whole = {
        "search": "grid", "objective": "gain", "passes": [], "slopes": None, "findings": [], "judges": [],
        "vectors": [], "layers": [],
    }  # fmt: skip
    read = {"trace": whole | trace, "omega": {"omega": {}}}
    records = {TUNE: replace(record("tune", trace="trace", omega="omega"), provenance=provenance)}
    graph = Graph({TUNE: Action(TUNE, KINDS["tune"], {})})
    return read_tuning(BuildRecords(graph, records, lambda output: json.dumps(read[output.digest]).encode()))


def omegas(groups: dict[str, dict], omega: object) -> dict:
    """Return the ω of names that all stand for one vector."""
    return search_of_one(groups, omega).vectors


def search_of_one(groups: dict[str, dict], omega: object, findings: tuple[dict, ...] = ()) -> Tuning:
    """Return a search of names that all stand for one vector."""
    takes = tuple(Input("delta", Edge(f"vector:{n}", "delta"), group=n) for n in groups)
    graph = Graph({TUNE: Action(TUNE, KINDS["tune"], {}, takes, groups=groups)})
    documents = {
        "trace": {
            "search": "gradient", "objective": "gain", "passes": [], "slopes": None, "findings": findings,
            "judges": [], "vectors": [{"vector": ONE, "tuned": True, "low": 0.3, "high": 0.7}],
            "layers": ["embeddings", "2", "10", "final"],
        },
        "omega": {"omega": {ONE: omega}},
    }  # fmt: skip
    records = {f"vector:{name}": record("finetune", delta=ONE) for name in groups}
    records[TUNE] = record("tune", trace="trace", omega="omega")
    return read_tuning(
        BuildRecords(graph, records, lambda output: json.dumps(documents[output.digest]).encode())
    )


def test_of_one_vector_a_given_omega_is_what_is_given_and_the_rest_is_shared():
    found = omegas({"fixed": {"omega": 0.25}, "one": {"omega": None}, "other": {}}, 0.5)
    assert {name: (t.omega, t.low, t.high) for name, t in found.items()} == {
        "fixed": (0.25, None, None),
        "one": (0.125, pytest.approx(0.025), pytest.approx(0.225)),
        "other": (0.125, pytest.approx(0.025), pytest.approx(0.225)),
    }


def test_what_a_vector_alone_does_is_told_of_its_own_dataset_where_others_have_the_same_rows():
    takes = [Input("delta", Edge(f"vector:{n}", "delta"), group=n) for n in ("slow", "fast")]
    takes += [Input("data/validation", Edge(f"data:{n}", "validation"), group=n) for n in ("slow", "fast")]
    graph = Graph({TUNE: Action(TUNE, KINDS["tune"], {}, tuple(takes), groups={"slow": {}, "fast": {}})})
    lost = {"what": "own_vector_does_not_help", "judge": ROWS, "base": 2.0}
    documents = {
        "trace": {
            "search": "gradient", "objective": "gain", "passes": [], "slopes": None, "judges": [], "layers": [],
            "findings": [lost | {"own": OTHER, "single": 2.5}, lost | {"own": ONE, "single": 2.25}], "vectors": [],
        },
        "omega": {"omega": {}},
    }  # fmt: skip
    records = {f"vector:{n}": record("finetune", delta=d) for n, d in (("slow", ONE), ("fast", OTHER))}
    records |= {f"data:{n}": record("prepare", validation=ROWS) for n in ("slow", "fast")}
    records[TUNE] = record("tune", trace="trace", omega="omega")
    found = read_tuning(BuildRecords(graph, records, lambda one: json.dumps(documents[one.digest]).encode()))
    assert [told.partition(" does not")[0] for told in found.told] == [
        "the vector of fast",
        "the vector of slow",
    ]


def test_a_bound_is_told_of_the_names_whose_omega_was_searched():
    bound = {"what": "on_upper_bound", "vector": ONE, "omega": 3.5}
    found = search_of_one({"fixed": {"omega": 2.0}, "twin": {"omega": None}}, 3.5, (bound,))
    assert found.told[0].startswith("ω of twin ended on the upper bound, 1.5: ")


def test_the_scale_of_a_mixture_that_came_out_as_a_datasets_own_vector_is_all_of_its_omega():
    found = omegas(
        {"mixed": {"omega": None}, "math": {"omega": 0.0, "reference": True}},
        {"10": 0.5, "2": 1.0, "embeddings": 1.0, "final": 0.5},
    )
    assert found["mixed"].omega == 0.75
    assert found["math"].omega == 0


def test_layers_stand_in_the_order_of_the_model():
    found = omegas({"math": {"omega": None}}, {"10": 0.5, "2": 1.0, "embeddings": 0.1, "final": 0.4})
    assert layers_of(found) == ["embeddings", "2", "10", "final"]
    assert list(found["math"].layers.values()) == [0.1, 1.0, 0.5, 0.4]


def test_datasets_of_the_same_rows_keep_the_share_of_a_mixture_that_each_asked_for():
    names = {"little": 0.2, "much": 0.8}
    takes = tuple(Input("data/train", Edge(f"data:{n}", "train"), group=n) for n in names)
    mixing = Action(
        "data:mix", KINDS["mix"], {}, takes, groups={n: {"share": share} for n, share in names.items()}
    )
    graph = Graph(
        {a.name: a for a in (mixing, Action("model:mix", KINDS["compose"], {}))}, baselines={"mix": "mixing"}
    )
    parts = [{"train": ROWS, "share": share, "epochs": 10 * share} for share in names.values()]
    made = {"planned_tokens": 100, "compared_tokens": None, "parts": parts}
    records = {f"data:{n}": record("prepare", train=ROWS) for n in names}
    records["data:mix"] = replace(record("mix"), provenance=made)
    mixture = read_baselines(BuildRecords(graph, records, lambda _: b""))["mix"].mixture
    assert mixture.shares == names
    assert mixture.epochs == {"little": 2.0, "much": 8.0}


@pytest.mark.parametrize(
    ("omega", "said"),
    [(0.5, "the tuned ω cannot"), ({"0": 0.4, "1": 0.6}, "the tuned ω, one a vector, cannot")],
)
def test_a_lead_over_equal_omega_is_that_of_one_omega_a_vector(omega, said):
    takes = (Input("delta", Edge("vector:math", "delta"), group="math"),)
    action = Action(TUNE, KINDS["tune"], {"granularity": "layer"}, takes, groups={"math": {}})
    trace = {
        "search": "gradient", "objective": "gain", "passes": [], "slopes": None, "judges": [],
        "findings": [{"what": "like_uniform", "lead": [-0.1, 0.1]}],
        "vectors": [{"vector": ONE, "tuned": True, "low": 0.3, "high": 0.7}], "layers": ["0", "1"],
    }  # fmt: skip
    read = {"trace": trace, "omega": {"omega": {ONE: omega}}}
    records = {
        "vector:math": record("finetune", delta=ONE),
        TUNE: record("tune", trace="trace", omega="omega"),
    }
    tuning = read_tuning(
        BuildRecords(Graph({TUNE: action}), records, lambda output: json.dumps(read[output.digest]).encode())
    )
    assert (tuning.granularity, tuning.layered) == ("layer", False)
    assert tuning.told[0].startswith(said)


SCORES = [{}, {"score": None}, {"score": float("nan")}, {"score": "x"}, {"score": 10**400}]


@pytest.mark.parametrize("score", SCORES, ids=lambda score: str(score)[:20])
def test_a_candidate_without_a_finite_score_is_refused(score):
    with pytest.raises(StoreError, match="cannot be read"):
        search_of({"passes": [score]})


@pytest.mark.parametrize("cost", [None, "many", [3.5], -1.0, 10**400])
def test_a_search_whose_record_tells_no_cost_is_read_all_the_same(cost):
    assert search_of({}, forward_equivalents=cost).cost == 0.0
    assert search_of({}, forward_equivalents=3.5).cost == 3.5


@pytest.mark.parametrize(
    ("single", "chosen", "gain", "floored"),
    [
        (1.0, 1.5, 0.5, False),
        (2.1, 2.0, 0.0, True),
        (2.0, 1.9, 50.0, True),
        (1.999, 1.9, 20.0, True),
        (1.0, 2.0, 0.0, False),
    ],
)
def test_a_gain_is_of_a_floor_where_the_own_vector_gains_less(single, chosen, gain, floored):
    assert Judged(2.0, chosen, single, gain, rows=40).floored is floored
