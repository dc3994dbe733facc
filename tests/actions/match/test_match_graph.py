"""A recipe that is matched, or that chooses how to compose, as a graph: what its model is of. Nothing runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dem_build.action import TUNE
from dem_build.compare.causes import find_reasons
from dem_build.compare.keys import match_keys
from dem_build.compare.sides import Side, nodes
from dem_build.digest import Output, of_bytes
from dem_build.errors import RecipeError
from dem_build.graph import Graph, build_graph, chosen_by
from dem_build.lock.lock import Lock, LockedBase
from dem_build.plan import preimage_of
from dem_build.recipe import load_recipe
from dem_build.report.inputs import BuildRecords

DATASETS = {"math": "", "chat": ""}


@pytest.fixture
def graph(tmp_path: Path):
    """The graph of a recipe that is composed by matching, and more tables."""
    (tmp_path / "base").mkdir()

    def make(datasets=DATASETS, more: str = "", compose: str = "", method: str = "match") -> Graph:
        tables = "".join(f'[datasets.{n}]\npath = "{n}.jsonl"\n{keys}\n' for n, keys in datasets.items())
        path = tmp_path / "recipe.toml"
        path.write_text(
            f'[base]\nmodel = "base"\n{tables}\n{more}\n[compose]\nmethod = "{method}"\n{compose}\n'
        )
        recipe = load_recipe(path)
        pinned = dict.fromkeys(recipe.sources, ())
        return build_graph(
            recipe, Lock(LockedBase("directory", ()), pinned, {}, dict.fromkeys(recipe.vectors, ()))
        )

    return make


def document(graph: Graph, names: dict[str, str] | None = None) -> str:
    """What the key of the model hashes, where an output's digest is of what its name says, or means by `names`."""

    def digest(action: str, output: str) -> str:
        prefix, _, name = action.partition(":")
        return of_bytes(f"{prefix}:{(names or {}).get(name, name)}/{output}".encode())

    known = {a.name: {output: Output(digest(a.name, output), 1) for output in a.kind.outputs} for a in graph}
    return json.dumps(preimage_of(graph.actions["model"], known), sort_keys=True)


def test_the_model_is_made_of_base_vectors_and_samples(graph):
    model = graph().actions["model"]
    assert (model.kind.name, model.kind.family) == ("match", "compose")
    assert model.params == {"dtype": "bfloat16", "rows": 32, "ridge": 2.0, "prior": "fit"}
    assert model.groups == {"math": {"importance": 1.0}, "chat": {"importance": 1.0}}
    taken = {(t.of, str(t.at), t.group) for t in model.takes if not t.of.startswith("base/")}
    assert taken == {
        found
        for name in DATASETS
        for found in (
            ("delta", f"vector:{name}/delta", name),
            ("data/sample", f"data:{name}/sample", name),
        )
    }
    assert {t.of for t in model.takes if t.group is None} == {
        f"base/{part}" for part in ("weights", "config", "tokenizer", "generation_config")
    }
    assert TUNE not in graph().actions


@pytest.mark.parametrize("compose", ["", 'tuned = "math"'])
def test_saliency_is_an_action_beside_each_vector_that_has_rows(graph, compose):
    omega = 'omega = "tune"' if compose else ""
    more = '[vectors.away]\ncheckpoint = "elsewhere"\n'
    made = graph({"math": omega, "chat": "", "none": "omega = 0"}, more, "saliency = true")
    model = made.actions["model"]
    taken = {(str(t.at), t.group) for t in model.takes if t.of == "saliency"}
    assert taken == {(f"saliency:{name}/saliency", name) for name in DATASETS}
    assert {name for name in made.actions if name.startswith("saliency:")} == {
        f"saliency:{n}" for n in DATASETS
    }
    upstream = made.actions["saliency:math"].upstream
    assert set(upstream) == {"base", "vector:math", "data:math"}


def test_nothing_that_judges_reaches_it(graph):
    """Validation chooses and test judges: a matched model is made of training rows alone."""
    made = graph(more="[evaluate]\n[analysis]\n")
    assert {t.at.output for t in made.actions["model"].takes if t.of.startswith("data/")} == {"sample"}
    assert chosen_by(made) == set()


def test_neither_name_nor_order_of_a_dataset_reaches_its_key(graph):
    plain = document(graph())
    assert document(graph({"chat": "", "math": ""})) == plain
    assert document(graph({"sums": "", "chat": ""}), {"sums": "math"}) == plain


@pytest.mark.parametrize(
    ("datasets", "compose"),
    [
        (DATASETS | {"code": ""}, ""),
        (DATASETS | {"math": "omega = 2.0"}, ""),
        (DATASETS | {"math": "omega = 0"}, ""),
        (DATASETS, "rows = 64"),
        (DATASETS, "ridge = 0.1"),
        (DATASETS, "prior = 0.5"),
        (DATASETS, 'dtype = "float32"'),
        (DATASETS, 'salt = "again"'),
    ],
)
def test_what_it_follows_from_reaches_its_key(graph, datasets, compose):
    assert document(graph(datasets, compose=compose)) != document(graph())


def test_an_importance_that_is_the_default_is_not_another_one(graph):
    assert document(graph(DATASETS | {"math": "omega = 1"})) == document(graph())


def test_a_dataset_of_no_importance_takes_no_part(graph):
    alone = graph({"math": "", "chat": "omega = 0.0"})
    assert set(alone.actions["model"].groups) == {"math"}
    assert "vector:chat" not in alone.actions["model"].upstream
    assert alone.omega == {"math": 1.0, "chat": 0.0}


def test_a_vector_from_elsewhere_has_no_rows(graph):
    model = graph(more='[vectors.code]\ncheckpoint = "tuned"\nomega = 0.5\n').actions["model"]
    assert model.groups["code"] == {"importance": 0.5}
    assert [t.of for t in model.takes if t.group == "code"] == ["delta"]


ROWS = ('rows = "code.jsonl"', 'rows = { path = "code.jsonl", max_samples = 100 }')


@pytest.mark.parametrize("rows", ROWS)
def test_a_vector_from_elsewhere_that_names_rows_has_a_sample_of_them(graph, rows):
    made = graph(more=f'[vectors.code]\ncheckpoint = "tuned"\n{rows}\n')
    assert [t.of for t in made.actions["model"].takes if t.group == "code"] == ["delta", "data/sample"]
    assert "data:code" not in made.actions["vector:code"].upstream
    assert (made.actions["data:code"].params["validation"], made.actions["data:code"].params["test"]) == (
        0,
        0,
    )


def test_a_key_of_rows_matches_anew_and_extracts_nothing(graph):
    code = '[vectors.code]\ncheckpoint = "tuned"\nrows = {{ path = "code.jsonl", max_samples = {} }}\n'
    assert reasons(graph(more=code.format(100)), graph(more=code.format(200))) == ["max_samples: 100 → 200"]


def test_rows_that_a_vector_gets_are_told_by_its_table(graph):
    code = '[vectors.code]\ncheckpoint = "tuned"\n'
    assert "vectors.code.rows is new" in reasons(graph(more=code), graph(more=f'{code}rows = "code.jsonl"\n'))


def test_gram_matrices_are_of_the_rows_that_a_vector_names(graph):
    made = graph(more='[vectors.code]\ncheckpoint = "tuned"\nrows = "code.jsonl"\n', method="regmean")
    assert {"vector:code", "data:code"} <= set(made.actions["gram:code"].upstream)


CODE = '[vectors.code]\ncheckpoint = "tuned"\nrows = "code.jsonl"\n'


@pytest.mark.parametrize(
    ("method", "datasets", "choosing"),
    [
        ("match", DATASETS | {"math": 'omega = "tune"'}, {"model"}),
        ("auto", DATASETS, {"tune", "tune:layers", "model"}),
        ("dem", DATASETS, {"tune", "tune:best", "tune:mix", "response", "ladder"}),
    ],
)
def test_prompts_of_rows_that_a_vector_names_judge_nothing(graph, method, datasets, choosing):
    more = '[analysis]\n[baselines.best]\nmethod = "single"\n[baselines.mix]\nmethod = "mixing"\nalpha = "tune"\n'
    made = graph(datasets, f"{CODE}{more}", method=method)
    names = [*DATASETS, "code"]
    for name in choosing:
        action = made.actions[name]
        trained = {str(t.at): t.group for t in action.takes if t.of == "data/train"}
        assert trained.keys() == {f"data:{dataset}/train" for dataset in names}
        assert {*trained.values()} <= action.groups.keys()  # else they would be in no key
    assert chosen_by(made) == {(name, "validation") for name in DATASETS}


def test_a_vector_of_importance_0_that_names_rows_leaves_them_out_too(graph):
    made = graph(DATASETS | {"math": 'omega = "tune"'}, f"{CODE}omega = 0\n").actions["model"]
    assert [t.of for t in made.takes if t.group == "code"] == ["data/train"]
    assert made.groups["code"] == {}


def test_rows_of_a_vector_that_choose_no_more_are_told_by_its_table(graph):
    alone = '[vectors.code]\ncheckpoint = "tuned"\n'
    for method in ("dem", "auto"):
        assert reasons(graph(more=alone, method=method), graph(more=CODE, method=method)) == [
            "vectors.code.rows is new"
        ]


def test_other_ways_to_compose_stand_beside_it(graph):
    made = graph(
        more='[baselines.even]\nmethod = "uniform"\n[baselines.mean]\nmethod = "interpolation"\n'
        '[baselines.best]\nmethod = "single"\n[baselines.mix]\nmethod = "mixing"\n'
        '[evaluate]\nmodels = ["composed", "vectors", "even"]\n'
    )
    kinds = {name: action.kind.name for name, action in made.actions.items() if name.startswith("model:")}
    assert kinds == dict.fromkeys(
        [f"model:{n}" for n in ("math", "chat", "even", "mean", "best", "mix")], "compose"
    )
    assert made.actions["model:math"].params["method"] == "dem"
    assert made.actions["model:mean"].params["method"] == "interpolation"
    assert made.baselines == {"even": "uniform", "mean": "interpolation", "best": "single", "mix": "mixing"}


def test_analyses_that_go_by_other_omegas_are_left_out(graph):
    names = set(graph(more="[analysis]\n").actions)
    assert {"analysis", "tsne"} <= names
    assert not names & {"response", "ladder"}


def reasons(one: Graph, other: Graph) -> list[str]:
    """Why two graphs differ, in words; nothing of them is recorded."""
    sides = [Side(n, BuildRecords(graph, {}, lambda _: b"")) for n, graph in (("a", one), ("b", other))]
    before, after = map(nodes, sides)
    found = find_reasons(match_keys(before, after), before, after, tuple(sides))
    return [cause.text for reason in found for cause in reason.causes]


@pytest.mark.parametrize(
    ("datasets", "compose", "told"),
    [
        (DATASETS | {"math": "omega = 2"}, "", "importance of math: 1.0 → 2.0"),
        (DATASETS | {"math": "omega = 0"}, "", "ω of math: 1 → 0"),
        (DATASETS | {"math": 'omega = "tune"'}, "", "importance of math: 1 → tune"),
        (DATASETS, "rows = 64", "rows: 32 → 64"),
    ],
)
def test_a_change_is_told_in_the_words_of_the_recipe(graph, datasets, compose, told):
    assert reasons(graph(), graph(datasets, compose=compose)) == [told]


def test_what_is_made_to_choose_from_is_told_as_one_change(graph):
    assert set(reasons(graph(), auto(graph))) == {"`method` of [compose]: match → auto"}


def test_importances_that_are_searched_are_judged_on_validation_rows_and_nothing_else(graph):
    tables = {"math": 'omega = "tune"', "chat": "omega = 2.0", "code": "omega = 0"}
    made = graph(tables, more="[tune]\nimportance = { chat = 3.0 }\n")
    model = made.actions["model"]
    assert model.kind.name == "weigh"
    assert model.groups == {
        "math": {"importance": None, "weight": 1.0},
        "chat": {"importance": 2.0, "weight": 3.0},
        "code": {"weight": 1.0},
    }
    assert {t.group for t in model.takes if t.of in ("delta", "data/sample")} == {"math", "chat"}
    # What the vector of the third gains alone is the measure of its gain, though it takes no part.
    assert [(str(t.at), t.group) for t in model.takes if t.of == "reference"] == [
        ("vector:code/delta", "code")
    ]
    splits = {t.at.output for t in model.takes if t.at.action.startswith("data:")}
    assert splits == {"train", "validation", "sample"}
    assert chosen_by(made) == {(name, "validation") for name in tables}
    plain = document(made)
    renamed = document(
        graph(
            {"chat": tables["chat"], "sums": tables["math"], "code": tables["code"]},
            more="[tune]\nimportance = { chat = 3.0 }\n",
        ),
        {"sums": "math"},
    )
    assert plain == renamed
    assert document(graph(tables)) != plain


@pytest.mark.parametrize(
    ("datasets", "more", "said"),
    [
        (DATASETS, "[tune]\nbounds = [0.0, 1.0]\n", "of which no ω is searched"),
        ({"math": 'omega = "tune"\nvalidation = 0'}, "", "judged on validation rows"),
        ({"math": "omega = -1"}, "", "is below 0"),
        ({"math": "omega = 0"}, "", "the ω of every vector is 0"),
        (DATASETS, "[analysis]\nresponse = [0.5]\n", "not linear"),
        (DATASETS, "[analysis]\nladder = true\n", "not linear"),
    ],
)
def test_what_a_matched_recipe_cannot_have_is_refused(graph, datasets, more, said):
    with pytest.raises(RecipeError) as refused:
        graph(datasets, more)
    assert said in str(refused.value)


def auto(graph, *given, **more):
    return graph(*given, method="auto", **more)


def test_a_choice_is_of_three_models_that_are_measured_on_validation_rows(graph):
    made = auto(graph, more='[probes.talk]\npath = "talk.jsonl"\nmax_loss_increase = 0.1\n')
    assert made.candidates == ("sum", "layers", "match")
    assert {n: made.actions[n].kind.name for n in made.models.values()} == {
        "base": "import",
        "model": "choose",
        "model:sum": "compose",
        "model:layers": "compose",
        "model:match": "match",
    }
    searches = {n: made.actions[n].params["granularity"] for n in ("tune", "tune:layers")}
    assert searches == {"tune": "model", "tune:layers": "layer"}
    of = {
        n: next(t.at for t in made.actions[n].takes if t.of == "omega").action
        for n in ("model:sum", "model:layers")
    }
    assert of == {"model:sum": "tune", "model:layers": "tune:layers"}
    measured = {n: str(a.takes[2].at) for n, a in made.actions.items() if n.startswith("choice:")}
    assert measured == {
        f"choice:{model}:{judge}": rows
        for model in ("base", *made.candidates)
        for judge, rows in (
            ("math", "data:math/validation"),
            ("chat", "data:chat/validation"),
            ("talk", "data:talk/test"),
        )
    }
    assert chosen_by(made) == {("math", "validation"), ("chat", "validation"), ("talk", "test")}


def test_no_test_row_of_a_dataset_reaches_a_choice(graph):
    above = auto(graph, more="[evaluate]\n").only(["model"])
    taken = {str(t.at) for action in above for t in action.takes if t.at.action.startswith("data:")}
    assert taken == {f"data:{n}/{split}" for n in DATASETS for split in ("train", "validation", "sample")}


def test_neither_name_nor_order_of_a_dataset_reaches_a_choice(graph):
    renamed = document(auto(graph, {"sums": "", "chat": ""}), {"sums": "math"})
    # Losses are told apart by the datasets' names here, which stand for their bytes.
    plain = document(auto(graph, {"chat": "", "math": ""}), {f"{m}:math": f"{m}:sums" for m in LOSSES})
    again = document(auto(graph, {"math": "", "chat": ""}), {f"{m}:math": f"{m}:sums" for m in LOSSES})
    assert renamed == plain == again


LOSSES = ("base", "sum", "layers", "match")


def test_models_that_are_chosen_from_are_measured_on_test_rows_where_that_is_asked(graph):
    asked = auto(graph, more='[evaluate]\nmodels = ["composed", "base", "layers"]\nprompts = 0\n')
    plain = auto(graph, more="[evaluate]\nprompts = 0\n")
    new = asked.actions.keys() - plain.actions.keys()
    assert new == {"loss:layers:math", "loss:layers:chat"}


@pytest.mark.parametrize(
    ("datasets", "more", "said"),
    [
        ({"math": "omega = 0.5"}, "", "it is searched for each model"),
        ({"match": ""}, "", "is what a model is called"),
        ({}, "", "there is no vector to compose"),
        (DATASETS, '[tune]\ngranularity = "layer"\n', "both are tried"),
        (DATASETS, "[analysis]\nladder = true\n", "not linear"),
        ({"math": "validation = 0"}, "", "judged on validation rows"),
    ],
)
def test_what_a_choice_cannot_have_is_refused(graph, datasets, more, said):
    with pytest.raises(RecipeError) as refused:
        auto(graph, datasets, more=more)
    assert said in str(refused.value)
