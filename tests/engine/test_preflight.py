"""Packages that a recipe or a machine file asks for are looked for before anything runs."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
from build_samples import Made, make_graph

from dem_build.engine.preflight import refuse_missing, refuse_unsharded
from dem_build.errors import UsageError
from dem_build.machine import Machine


@pytest.mark.parametrize(
    ("package", "params", "machine"),
    [
        ("bitsandbytes", {"optim": "adamw_8bit"}, {}),
        ("tensorboard", {}, {"report_to": ("tensorboard",)}),
        ("trackio", {}, {"report_to": ("trackio",)}),
        ("wandb", {}, {"report_to": ("wandb",)}),
    ],
)
def test_a_package_that_is_missing_is_refused_with_what_to_install(monkeypatch, package, params, machine):
    monkeypatch.setitem(sys.modules, package, None)
    made = Made()
    graph = make_graph()
    vector = graph.actions["vector:math"]
    changed = replace(vector, params={**vector.params, **params})
    plan = made.plan(replace(graph, actions={**graph.actions, vector.name: changed}))
    with pytest.raises(UsageError, match=f"needs the package {package}, which is not installed") as caught:
        refuse_missing(plan, Machine(**machine))
    assert caught.value.hint == f"pip install {package}"


@pytest.mark.parametrize(
    ("more", "named"),
    [({"params": {"optim": "adafactor"}}, "optim"), ({"watching": {"eval_steps": 5}}, "eval_steps")],
)
def test_a_training_that_several_processes_do_not_know_is_refused_with_its_name(monkeypatch, more, named):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    made, graph = Made(), make_graph()
    vector = graph.actions["vector:math"]
    changed = replace(vector, **{key: {**getattr(vector, key), **told} for key, told in more.items()})
    plan = made.plan(replace(graph, actions={**graph.actions, vector.name: changed}))
    refuse_unsharded(plan, Machine(gpus_per_action=2))  # which a machine without GPUs does not read
    for machine in (Machine(processes_per_action=2), Machine(gpus_per_action=2, engine="slurm")):
        with pytest.raises(UsageError, match=f"{named} = .* is not trained by several processes") as caught:
            refuse_unsharded(plan, machine)
        assert caught.value.where == "vector:math"


def test_a_build_that_trains_nothing_needs_none(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    made = Made()
    made.build(make_graph())
    refuse_missing(made.plan(make_graph(omega=0.9)), Machine(report_to=("tensorboard",)))
