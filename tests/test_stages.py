"""`[trunk]` and `[heal]` in the graph: which actions they are, and what reaches their keys. Nothing runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from compare_samples import side
from graph_samples import changed

from dem_build.compare import compare
from dem_build.graph import Graph, build_graph
from dem_build.lock.lock import Lock, LockedBase
from dem_build.recipe import load_recipe

DATASETS = {"math": "0.5", "chat": "0.5"}
TRUNK = '[trunk]\ndatasets = ["math"]\ntrain = { max_steps = 9 }\n'
HEAL = "[heal]\ntrain = { max_steps = 5 }\n"
MIX = '[baselines.mix]\nmethod = "mixing"\n'
BASELINES = (
    f'{MIX}[baselines.even]\nmethod = "uniform"\n[baselines.mean]\nmethod = "interpolation"\n'
    '[baselines.best]\nmethod = "single"\n'
)
OMEGAS = dict.fromkeys(("dem", "dare", "match", "regmean"), DATASETS) | {
    "auto": {"math": '"tune"', "chat": '"tune"'}
}
MEASURED = '[analysis]\n[evaluate]\nmodels = ["composed", "base", "vectors", "mix", "even"]\n'


@pytest.fixture
def graph(tmp_path: Path):
    """The graph of a recipe of datasets, each with its ω, and what follows them."""
    (tmp_path / "base").mkdir()

    def make(more: str = "", datasets=DATASETS, options=()) -> Graph:
        tables = "".join(
            f'[datasets.{n}]\npath = "{n}.jsonl"\nomega = {omega}\n' for n, omega in datasets.items()
        )
        path = tmp_path / "recipe.toml"
        path.write_text(f'[base]\nmodel = "base"\n{tables}{more}')
        recipe = load_recipe(path, options)
        return build_graph(recipe, Lock(LockedBase("directory", ()), dict.fromkeys(datasets, ()), {}, {}))

    return make


def bases(graph: Graph) -> dict[str, set[str]]:
    """Name of an action → what it takes where it takes a base's weights."""
    found = {a.name: {t.at.action for t in a.takes if t.of == "base/weights"} for a in graph}
    return {name: made for name, made in found.items() if made}


def test_a_trunk_is_rows_a_vector_and_a_model(graph):
    actions = graph(TRUNK).actions
    assert {n for n in actions if n.endswith(":trunk")} == {"data:trunk", "vector:trunk", "model:trunk"}
    assert actions["data:trunk"].upstream == ("data:math",)
    assert actions["vector:trunk"].upstream == ("base", "data:trunk")
    assert actions["vector:trunk"].params["max_steps"] == 9
    assert [(t.at.action, t.omega) for t in actions["model:trunk"].takes if t.of == "delta"] == [
        ("vector:trunk", 1.0)
    ]


def test_vectors_and_all_that_adds_them_start_from_the_trunk_and_mixtures_from_the_base(graph):
    datasets = {"math": '"tune"', "chat": "0.5"}
    found = bases(graph(TRUNK + BASELINES + MEASURED, datasets))
    from_base = {n for n, of in found.items() if of == {"base"}}
    assert from_base == {"vector:trunk", "model:trunk", "vector:mix", "model:mix"}
    from_trunk = {n for n, of in found.items() if of == {"model:trunk"}}
    assert from_trunk == {
        *("vector:math", "vector:chat", "tune", "model", "model:math", "model:chat", "model:even"),
        *("model:mean", "tune:best", "model:best", "analysis", "response", "ladder"),
    }
    assert from_base | from_trunk == found.keys()


def test_what_is_called_base_in_results_stays_the_base(graph):
    made = graph(TRUNK + BASELINES + MEASURED)
    assert made.models["base"] == "base"
    asked = {a.evaluation.model: a.upstream[0] for a in made if a.evaluation and a.kind.name == "loss"}
    assert {m: asked[m] for m in ("base", "trunk", "composed")} == {
        "base": "base",
        "trunk": "model:trunk",
        "composed": "model",
    }


def test_stages_are_measured_where_the_composed_model_is(graph):
    def measured(models: str) -> set[str]:
        made = graph(TRUNK + HEAL + f"[evaluate]\nmodels = {models}\n")
        return {a.evaluation.model for a in made if a.evaluation and a.kind.name == "loss"}

    assert measured('["composed", "base"]') == {"composed", "base", "trunk", "unhealed"}
    assert measured('["base"]') == {"base"}


def test_a_dataset_more_changes_no_trunk(graph):
    three = graph(TRUNK, DATASETS | {"poems": "0.5"})
    assert changed(graph(TRUNK), three) == {"model"}
    named = graph(TRUNK.replace('["math"]', '["math", "poems"]'), DATASETS | {"poems": "0.5"})
    assert "data:trunk" in changed(three, named)


def test_the_published_type_reaches_no_trunk(graph):
    assert changed(graph(TRUNK), graph(TRUNK, options=["compose.dtype=float32"])) == {"model"}
    assert changed(graph(TRUNK), graph(TRUNK, options=["trunk.dtype=float32"])) == {"model:trunk"}


def test_healing_trains_the_composed_model(graph):
    plain, healed = graph(), graph(HEAL)
    before, after = plain.actions["model"], healed.actions["model:unhealed"]
    assert (before.takes, before.params, before.salt) == (after.takes, after.params, after.salt)
    assert bases(healed)["vector:heal"] == bases(healed)["model"] == {"model:unhealed"}
    assert healed.actions["data:heal"].upstream == ("data:math", "data:chat")
    assert [(t.at.action, t.omega) for t in healed.actions["model"].takes if t.of == "delta"] == [
        ("vector:heal", 1.0)
    ]
    assert (plain.composing, healed.composing) == ("model", "model:unhealed")


@pytest.mark.parametrize(
    ("omegas", "method", "kinds"),
    [
        ({"math": '"tune"', "chat": "0.5"}, "dem", {"compose", "tune"}),
        ({"math": "0.5", "chat": "0.5"}, "interpolation", {"compose"}),
    ],
    ids=["tuned", "interpolated"],
)
def test_whatever_composes_the_model_is_healed(graph, omegas, method, kinds):
    made = graph(f'{TRUNK}[compose]\nmethod = "{method}"\n{HEAL}', omegas)
    unhealed = made.actions["model:unhealed"]
    assert unhealed.params["method"] == method
    assert {made.actions[t.at.action].kind.name for t in unhealed.takes if t.of == "omega"} | {
        unhealed.kind.name
    } == kinds
    assert bases(made)["model:unhealed"] == {"model:trunk"}
    assert made.actions["model"].params["method"] == "dem"


def test_a_dataset_more_heals_again_unless_the_datasets_are_named(graph):
    three = DATASETS | {"poems": "0.5"}
    assert changed(graph(HEAL), graph(HEAL, three)) == {"data:heal", "model:unhealed"}
    named = f'{HEAL}datasets = ["math", "chat"]\n'
    assert changed(graph(named), graph(named, three)) == {"model:unhealed"}


def test_a_salt_disowns_its_own_table_alone(graph):
    both = TRUNK + HEAL
    assert changed(graph(both), graph(both, options=["trunk.salt=a"])) == {"data:trunk", "model:trunk"}
    assert changed(graph(both), graph(both, options=["heal.salt=a"])) == {"data:heal", "model"}
    assert changed(graph(both), graph(both, options=["trunk.train.salt=a"])) == {"vector:trunk"}


def test_rows_that_choose_a_checkpoint_of_a_stage_are_told(graph):
    from dem_build.graph import chosen_by

    choosing = "train.eval_steps=2", "train.load_best_model_at_end=true"
    assert chosen_by(graph(TRUNK, options=choosing)) == {("math", "validation"), ("chat", "validation")}
    own = "trunk.train.eval_steps=2", "trunk.train.load_best_model_at_end=true"
    assert chosen_by(graph(TRUNK, options=own)) == {("math", "validation")}


@pytest.mark.parametrize(
    ("old", "new"), [("dare", "match"), ("regmean", "dare"), ("match", "auto"), ("auto", "dem")]
)
def test_another_way_to_compose_is_one_cause(graph, old, new):
    """Neither its keys and kinds, nor the actions that it brings or takes away, are told one by one."""
    sides = [side(graph(f'[compose]\nmethod = "{way}"\n', OMEGAS[way]), only=[]) for way in (old, new)]
    comparison = compare(*sides)
    [reason] = comparison.reasons
    assert [cause.text for cause in reason.causes] == [f"`method` of [compose]: {old} → {new}"]
    assert "model" in reason.changed
    assert comparison.omega == ()  # an ω of one is not an ω of the other


def test_a_way_to_compose_that_changed_is_told_beside_healing(graph):
    before, after = graph('[compose]\nmethod = "dare"\n'), graph(f'{HEAL}[compose]\nmethod = "match"\n')
    causes = {
        name: {cause.text for cause in reason.causes}
        for reason in compare(side(before, only=[]), side(after, only=[])).reasons
        for name in reason.actions
    }
    method = "`method` of [compose]: dare → match"
    assert causes["model:unhealed"] == {method}
    assert causes["data:heal"] == {"healing is new"}
    assert causes["model"] == {method, "healing is new"}


def test_importances_that_are_searched_now_are_told_as_such(graph):
    matched = '[compose]\nmethod = "match"\n'
    searched = graph(matched, {"math": '"tune"', "chat": "0.5"})
    [reason] = compare(side(graph(matched), only=[]), side(searched, only=[])).reasons
    assert [cause.text for cause in reason.causes] == ["importance of math: 0.5 → tune"]
