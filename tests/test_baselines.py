"""Baselines in the graph: which actions they are, and what reaches their keys. Nothing runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from graph_samples import changed, documents

from dem_build.digest import Output, of_bytes
from dem_build.estimate import Budget, budgets
from dem_build.graph import Graph, build_graph
from dem_build.lock.lock import Lock, LockedBase
from dem_build.plan import History, make_plan
from dem_build.recipe import load_recipe
from dem_build.store import Record

DATASETS = {"math": "omega = 0.5", "chat": "omega = 0.5\ntrain = { max_steps = 20 }"}
MIX = '[baselines.mix]\nmethod = "mixing"\n'
TUNED = MIX + 'alpha = "tune"\n'
EVALUATE = '[evaluate]\nmodels = ["composed", "mix"]\n'


@pytest.fixture
def graph(tmp_path: Path):
    """The graph of a recipe of some datasets and what follows them."""
    (tmp_path / "base").mkdir()

    def make(more: str = TUNED, datasets=DATASETS, train: str = "") -> Graph:
        tables = "".join(f'[datasets.{n}]\npath = "{n[:4]}.jsonl"\n{keys}\n' for n, keys in datasets.items())
        path = tmp_path / "recipe.toml"
        path.write_text(f'[base]\nmodel = "base"\n[train]\n{train}\n{tables}{more}')
        recipe = load_recipe(path)
        return build_graph(recipe, Lock(LockedBase("directory", ()), dict.fromkeys(datasets, ()), {}, {}))

    return make


def test_a_mixture_is_rows_a_vector_its_scale_and_a_model(graph):
    actions = graph().actions
    assert {n for n in actions if n.endswith(":mix")} == {"data:mix", "vector:mix", "tune:mix", "model:mix"}
    assert actions["data:mix"].upstream == ("data:math", "data:chat")
    assert actions["vector:mix"].upstream == ("base", "data:mix")
    assert "tune:mix" in actions["model:mix"].upstream
    assert "tune:mix" not in graph(MIX).actions


def test_the_other_methods_train_nothing(graph):
    made = graph(
        '[baselines.even]\nmethod = "uniform"\n[baselines.mean]\nmethod = "interpolation"\n'
        '[baselines.best]\nmethod = "single"\n[baselines.given]\nmethod = "interpolation"\nomega = { math = 1.0 }\n'
    ).actions
    assert {a.kind.name for n, a in made.items() if n.endswith((":even", ":mean", ":best", ":given"))} == {
        "tune",
        "compose",
    }
    terms = {n: {t.at.action: t.omega for t in made[n].takes if t.of == "delta"} for n in made}
    assert terms["model:even"] == terms["model:mean"] == {"vector:math": 0.5, "vector:chat": 0.5}
    assert terms["model:given"] == {"vector:math": 1.0}
    assert (made["model:even"].params["method"], made["model:mean"].params["method"]) == (
        "dem",
        "interpolation",
    )
    assert made["tune:best"].params["search"] == "single"


def test_only_named_baselines_are_evaluated(graph):
    both = MIX + '[baselines.even]\nmethod = "uniform"\n' + EVALUATE
    assert {a.evaluation.model for a in graph(both) if a.evaluation} == {"composed", "mix"}


def test_omega_gates_and_evaluations_retrain_no_baseline(graph):
    gate = '[[gates]]\ntask = "loss:math"\nmetric = "loss"\nmax_drop = 0.1\nagainst = "mix"\n'
    other = graph(TUNED + EVALUATE + gate, DATASETS | {"math": "omega = 0.9"})
    assert changed(graph(), other) == {"model"}


def test_names_and_order_of_datasets_reach_no_key_of_a_mixture(graph):
    before = documents(graph())
    after = documents(graph(datasets={"chat": DATASETS["chat"], "sums": DATASETS["math"]}))
    mixtures = ("data:mix", "vector:mix", "tune:mix", "model:mix")
    assert [before[n] for n in mixtures] == [after[n] for n in mixtures]
    renamed = documents(
        graph(TUNED.replace("mix]", "blend]")),
        **{f"{k}_blend": f"{k}:mix" for k in ("data", "vector", "tune")},
    )
    assert [before[n] for n in mixtures] == [renamed[n.replace("mix", "blend")] for n in mixtures]


def test_a_validation_file_reaches_the_scale_and_no_training(graph):
    plain = graph()
    validation = {t.of for t in plain.actions["data:mix"].takes}
    assert validation == {"data/train"}
    assert "data/validation" in {t.of for t in plain.actions["tune:mix"].takes}
    watched = graph(train="eval_steps = 5")
    assert {"data/train", "data/validation"} == {t.of for t in watched.actions["data:mix"].takes}
    assert "vector:mix" not in changed(plain, watched)


def test_a_dataset_more_is_another_mixture_and_no_other_vector(graph):
    three = graph(datasets=DATASETS | {"poems": "omega = 0.5"})
    assert changed(graph(), three) == {"data:mix", "tune:mix", "model"}


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ({"math": "omega = 0.5\ntrain = { num_train_epochs = 2 }"}, False),
        ({"chat": "omega = 0.5\ntrain = { max_steps = 21 }"}, False),
        ({"math": "omega = 0.5\ntrain = { learning_rate = 1e-3 }"}, True),
        ({"chat": "omega = 0.5\ntrain = { max_steps = 10, global_batch_size = 64 }"}, True),
    ],
    ids=["epochs", "steps", "learning rate", "half the steps of twice the batch"],
)
def test_the_length_of_each_training_is_all_of_it_that_reaches_the_mixture(graph, other, same):
    assert ("data:mix" not in changed(graph(), graph(datasets=DATASETS | other))) == same


def test_a_length_of_its_own_frees_a_mixture_from_those_of_the_vectors(graph):
    own = TUNED + "train = { max_steps = 7 }\n"
    longer = DATASETS | {"math": "omega = 0.5\ntrain = { num_train_epochs = 2 }"}
    assert "data:mix" not in changed(graph(own), graph(own, longer))
    vector = graph(own).actions["vector:mix"].params
    assert (vector["max_steps"], vector["num_train_epochs"]) == (7, None)
    assert graph().actions["vector:mix"].params["num_train_epochs"] == 1.0
    assert graph(train="max_steps = 9").actions["vector:mix"].params["max_steps"] is None


def test_shares_are_scaled_to_one_and_a_uniform_mixture_says_so(graph):
    given = [graph(MIX + f"proportions = {{ math = {m}, chat = {c} }}\n") for m, c in ((1, 3), (0.25, 0.75))]
    assert not changed(*given)
    uniform = graph(MIX + 'proportions = "uniform"\n')
    assert {g["share"] for g in uniform.actions["data:mix"].groups.values()} == {1.0}
    assert {g["share"] for g in graph().actions["data:mix"].groups.values()} == {None}


def test_a_dataset_without_a_share_counts_for_equal_tokens_and_for_nothing_else(graph):
    only = MIX + "proportions = { math = 1 }\n"
    assert set(graph(only).actions["data:mix"].groups) == {"math", "chat"}
    assert set(graph(only + "train = { max_steps = 7 }\n").actions["data:mix"].groups) == {"math"}


def test_the_datasets_own_vectors_measure_a_scale_and_are_not_searched(graph):
    groups = graph().actions["tune:mix"].groups
    assert groups["mix"] == {"omega": None}
    assert {n: (g["omega"], g["reference"]) for n, g in groups.items() if n != "mix"} == {
        "math": (0.0, True),
        "chat": (0.0, True),
    }
    assert (
        graph(TUNED + '[tune]\ngranularity = "layer"\n').actions["tune:mix"].params["granularity"] == "model"
    )


class Recorded:
    """A store in which some actions are recorded."""

    def __init__(self, provenance: dict[str, dict[str, object]]) -> None:
        self.provenance = provenance

    def expect(self, keys):
        """All of them are here."""

    def lookup(self, key: str) -> Record | None:
        return self.records.get(key)

    peek = lookup

    def plan(self, graph: Graph):
        self.records: dict[str, Record] = {}
        while True:
            plan = make_plan(graph, self, History())
            due = [v for n, v in plan.verdicts.items() if v.status == "run" and n in self.provenance]
            if not due:
                return plan
            for v in due:
                outputs = {
                    o: Output(of_bytes(f"{v.action.name}/{o}".encode()), 1) for o in v.action.kind.outputs
                }
                provenance = self.provenance[v.action.name]
                self.records[v.key] = Record(
                    v.key, v.action.kind.name, v.preimage, outputs, provenance, outputs[next(iter(outputs))]
                )


def test_a_plan_says_the_tokens_of_a_mixture_as_soon_as_its_data_are_there(graph):
    """200 rows of 10 tokens, once; 20 steps of 32 rows of 10 tokens."""
    train = {"splits": {"train": {"rows": 200, "tokens": 2000, "trained_tokens": 500}}}
    known = {"base": {}, "data:math": train, "data:chat": train}
    assert budgets(Recorded({}).plan(graph())) == [Budget("mix", True, ("math", "chat"), None)]
    assert budgets(Recorded(known).plan(graph())) == [Budget("mix", True, ("math", "chat"), 2000 + 6400)]
    own = graph(TUNED + "train = { max_steps = 7 }\n")
    assert budgets(Recorded(known).plan(own)) == [Budget("mix", False, ("math", "chat"), 7 * 32 * 10)]
