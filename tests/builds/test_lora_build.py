"""`dem build` with vectors of low rank: trained on a trunk, mixed, searched, analysed, and taken along."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from project import Project, dataset, fresh, ran, recipe

COMPOSE = '[compose]\ndtype = "float32"\n'
LORA = '[train]\nmethod = "lora"\nlora_r = 4\n'


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Project:
    return fresh(tmp_path_factory.mktemp("lora"), tiny_base)


def shown(project: Project, action: str) -> dict:
    return json.loads(project.call("show", "tiny.toml", action, "--json").stdout)


def test_beside_a_full_vector_it_is_searched_analysed_mixed_and_added_to_a_trunk(
    project: Project,
) -> None:
    tables = (
        dataset("add", test=0.2, validation=0.2),
        dataset("copy", test=0.2, validation=0.2) + 'train = { method = "full" }\n',
        '[trunk]\ndatasets = ["copy"]\ntrain = { max_steps = 2 }\n',
        "[tune]\nmax_samples = 4\n[analysis]\ntsne = false\nladder = false\nresponse = []\n",
        '[baselines.mix]\nmethod = "mixing"\n[evaluate]\nprompts = 0\nmodels = ["composed", "mix"]\n',
        COMPOSE,
    )
    document = project.build(recipe(*tables, rate="1e-2", steps=2).replace("[train]\n", LORA))
    assert {"vector:add", "vector:copy", "vector:trunk", "vector:mix", "tune", "analysis"} <= {*ran(document)}
    small, full = (shown(project, f"vector:{name}")["outputs"]["delta"]["size"] for name in ("add", "copy"))
    assert small < full / 4
    assert shown(project, "vector:trunk")["outputs"]["delta"]["size"] == small
    told = project.call("export", "tiny.toml", "vector:add", "of-trunk").stdout
    assert told == "of-trunk: an adapter of the model that model:trunk makes\n"
    refused = project.call("export", "tiny.toml", "vector:copy", "full", status=2).stderr
    assert "vector:copy is a vector of all weights" in refused
