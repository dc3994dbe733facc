"""`dem build` with vectors of low rank: trained on a trunk, mixed, searched, analysed, and taken along."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from project import Project, dataset, fresh, ran, recipe
from safetensors.torch import load_file

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
        "[heal]\ntrain = { max_steps = 2 }\n",
        '[baselines.mix]\nmethod = "mixing"\n[evaluate]\nprompts = 0\nmodels = ["composed", "mix"]\n',
        COMPOSE,
    )
    document = project.build(recipe(*tables, rate="1e-2", steps=2).replace("[train]\n", LORA))
    assert {"vector:add", "vector:copy", "vector:trunk", "vector:mix", "vector:heal", "tune", "analysis"} <= {
        *ran(document)
    }
    small, full = (shown(project, f"vector:{name}")["outputs"]["delta"]["size"] for name in ("add", "copy"))
    assert small < full / 4
    assert shown(project, "vector:trunk")["outputs"]["delta"]["size"] == small
    told = project.call("export", "tiny.toml", "vector:add", "of-trunk").stdout
    assert told == "of-trunk: an adapter of the model that model:trunk makes\n"
    _healed_by_the_adapter(project)
    refused = project.call("export", "tiny.toml", "vector:copy", "full", status=2).stderr
    assert "vector:copy is a vector of all weights" in refused


def _healed_by_the_adapter(project: Project) -> None:
    """The model is what it was unhealed, plus scale · B A of each adapted layer and nothing elsewhere."""
    told = project.call("export", "tiny.toml", "vector:heal", "of-unhealed").stdout
    assert told == "of-unhealed: an adapter of the model that model:unhealed makes\n"
    cache = project.home / "cache"
    key = shown(project, "model:unhealed")["key"]
    [file] = json.loads((cache / "actions" / key[:2] / f"{key}.json").read_text())["outputs"]["weights"][
        "files"
    ].values()
    before = load_file(cache / "cas" / "sha256" / file["sha256"][:2] / file["sha256"])
    factors = load_file(project.home / "of-unhealed" / "adapter_model.safetensors")
    after = load_file(project.home / "out" / "tiny" / "model" / "model.safetensors")
    for name, weight in after.items():
        at = f"base_model.model.{name.removesuffix('.weight')}.lora_"
        change = (
            8.0 * factors[f"{at}B.weight"] @ factors[f"{at}A.weight"] if f"{at}A.weight" in factors else 0.0
        )
        torch.testing.assert_close(weight, before[name] + change, rtol=0, atol=1e-6)
    assert len(factors) == 2 * 14
