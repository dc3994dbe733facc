"""`dem build` with vectors from elsewhere: what runs, what comes out, and what moves no key."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from project import RECIPE, Project, fresh, null_build_imports_nothing, ran
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from weight_samples import IDS, trained_elsewhere

TRAINED = RECIPE.split("[datasets.copy]", maxsplit=1)[0]
REST = """
[compose]
dtype = "float32"

[evaluate]
models = ["composed", "base", "vectors"]
prompts = 0
"""
CODE = """
[vectors.code]
checkpoint = "theirs/code"
omega = 0.25
vector_dtype = "float32"
"""
BOTH = TRAINED + CODE + REST
ALONE = """\
name = "alone"

[base]
model = "base"

[train]
vector_dtype = "float32"

[vectors.theirs]
checkpoint = "./theirs/code"
omega = 1.0

[compose]
dtype = "float32"
"""


class Built:
    """A project with a trained vector, to which one from elsewhere was added."""

    def __init__(self, project: Project) -> None:
        self.project = project
        project.build(TRAINED + REST)
        self.document = project.build(BOTH)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Built:
    project = fresh(tmp_path_factory.mktemp("vectors"), tiny_base)
    trained_elsewhere(tiny_base, project.home / "theirs" / "code")
    return Built(project)


def shown(project: Project, action: str) -> dict:
    return json.loads(project.call("show", "tiny.toml", action, "--json").stdout)


def vector_of(project: Project, name: str) -> dict[str, torch.Tensor]:
    digest = shown(project, f"vector:{name}")["outputs"]["delta"]["digest"]
    return load_file(project.home / "cache" / "cas" / "sha256" / digest[:2] / digest)


def integers_of(project: Project, name: str) -> dict[str, torch.Tensor]:
    """A vector that is stored in int8, by its documented format."""
    stored, found = vector_of(project, name), {}
    for tensor, values in stored.items():
        if values.dtype == torch.int8:
            scales = stored[f"{tensor}_scale"].float()
            found[tensor] = values.float() * scales[:, torch.arange(values.shape[1]) // 64]
        elif not tensor.endswith("_scale"):
            found[tensor] = values.float()
    return found


def model_of(document: dict[str, object]) -> Path:
    return Path(str(document["model"]))


def test_a_vector_that_is_added_runs_one_extraction_a_composition_and_its_evaluations(built: Built) -> None:
    alone = ["loss:code:add", "model:code"]
    assert ran(built.document) == sorted(["vector:code", "model", "loss:composed:add", *alone])
    assert built.document["omega"] == {"add": 0.5, "code": 0.25}
    assert set(built.document["results"]) == {"composed", "base", "add", "code"}  # type: ignore[call-overload]


def test_the_sum_is_of_trained_and_extracted_vectors(built: Built) -> None:
    built.project.write(BOTH)
    made, base = (
        load_file(folder / "model.safetensors")
        for folder in (model_of(built.document), built.project.home / "base")
    )
    add, code = (vector_of(built.project, name) for name in ("add", "code"))
    for name, values in base.items():
        expected = values.double() + 0.25 * code[name].double() + 0.5 * add[name].double()
        assert (made[name].double() - expected).abs().max() < 1e-6


def test_a_recipe_without_a_dataset_composes_the_fine_tune_itself(built: Built) -> None:
    document = built.project.build(ALONE)
    assert ran(document) == []  # each vector alone was composed to be evaluated
    theirs = built.project.home / "theirs" / "code"
    made, expected = (load_file(f / "model.safetensors") for f in (model_of(document), theirs))
    for name, values in expected.items():
        # Θ + (Θᵢ − Θ) in float32 is Θᵢ but for its last bit.
        assert (made[name] - values).abs().max() <= 2**-22 * values.abs().max()
    with torch.no_grad():
        ours, tuned, base = (
            AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(IDS).logits
            for folder in (model_of(document), theirs, built.project.home / "base")
        )
    assert (ours - tuned).abs().max() < 1e-5
    assert (ours - base).abs().max() > 1e-2


def test_vectors_in_int8_are_half_as_large_and_compose_to_nearly_the_same(built: Built) -> None:
    project = built.project
    project.build(BOTH)  # the test before left another model in out/
    before = {name: vector_of(project, name) for name in ("add", "code")}
    whole = load_file(model_of(built.document) / "model.safetensors")
    in_int8 = BOTH.replace('vector_dtype = "float32"', 'vector_dtype = "int8"')
    document = project.build(in_int8.replace("[train]", '[train]\nvector_dtype = "int8"', 1))
    assert {"vector:add", "vector:code", "model"} <= set(ran(document))
    made, base = (
        load_file(folder / "model.safetensors") for folder in (model_of(document), project.home / "base")
    )
    records = {name: shown(project, f"vector:{name}") for name in ("add", "code")}
    vectors = {name: integers_of(project, name) for name in records}
    in_order = sorted(records, key=lambda v: records[v]["outputs"]["delta"]["digest"])  # as they are added
    for name, values in base.items():
        total = values.float()
        for vector in in_order:
            total = total + vectors[vector][name] * {"add": 0.5, "code": 0.25}[vector]
        assert torch.equal(made[name], total)
        assert (made[name] - whole[name]).norm() < 1e-2 * (whole[name] - values.float()).norm()
    card = (model_of(document) / "README.md").read_text()
    for name, record in records.items():
        size, told = record["outputs"]["delta"]["size"], record["provenance"]["vector"]
        assert size < 1.1 * told["elements"] + 10_000  # and the header of a tiny model
        lost = torch.cat([(vectors[name][n] - t.float()).ravel() for n, t in before[name].items()]).norm()
        length = torch.cat([t.float().ravel() for t in before[name].values()]).norm()
        assert told["dtype"] == "int8"
        assert told["relative_rounding_error"] == pytest.approx(float(lost / length), rel=0.2)
        assert 0 < told["relative_rounding_error"] < 0.01
        assert f"{name} {told['relative_rounding_error']:.2g}" in card
    project.build(BOTH)  # what comes next finds it as it was


def test_card_and_record_say_where_it_came_from(built: Built) -> None:
    built.project.write(BOTH)
    assert "| code | `theirs/code` |" in (model_of(built.document) / "README.md").read_text()
    record = shown(built.project, "vector:code")
    assert record["preimage"]["params"] == {"source": "checkpoint", "vector_dtype": "float32"}
    assert 0 < record["provenance"]["moved"]["median"] < 0.3
    assert record["provenance"]["vector"]["rounding_error"] == 0


def test_a_folder_that_moved_and_a_card_in_it_run_nothing(built: Built) -> None:
    home = built.project.home
    built.project.build(BOTH)
    (home / "theirs" / "code").rename(home / "moved")
    (home / "moved" / "README.md").write_text("A card.")
    assert ran(built.project.build(BOTH.replace("theirs/code", "./moved"), "--locked")) == []
    (home / "moved" / "README.md").unlink()
    (home / "moved").rename(home / "theirs" / "code")


def test_a_null_build_with_a_vector_imports_no_heavy_library(built: Built) -> None:
    built.project.build(BOTH)
    null_build_imports_nothing(built.project, BOTH)


def test_a_gate_compares_with_a_vector_alone(built: Built) -> None:
    gate = '[[gates]]\ntask = "loss:add"\nmetric = "loss"\nmax_drop = 1e9\nagainst = "code"\n'
    assert built.project.build(BOTH + gate)["gates"][0]["passed"] is True  # type: ignore[index]


def test_a_config_that_changed_is_not_what_is_locked_and_extracts_without_training(built: Built) -> None:
    config = built.project.home / "theirs" / "code" / "config.json"
    before = config.read_text()
    config.write_text(before + "\n")
    document = built.project.build(BOTH, "--locked", status=4)
    assert "vectors.code" in document["error"]["what"]  # type: ignore[index]
    assert "sources.config.json" in built.project.call("why", "tiny.toml", "vector:code").stdout
    # The vector comes out the same, so nothing follows.
    assert ran(built.project.build(BOTH, "--no-train")) == ["vector:code"]
    config.write_text(before)


def test_of_two_equal_fine_tunes_one_is_extracted_and_the_other_says_whose_twin_it_is(built: Built) -> None:
    project = built.project
    shutil.copytree(project.home / "theirs" / "code", project.home / "theirs" / "copy")
    first, second = (CODE.replace("code", name) + 'salt = "twins"\n' for name in ("code", "copy"))
    project.write(TRAINED + first + second + REST, "twins.toml")
    said = project.call("build", "twins.toml", "--jobs", "2", "--", "vector:code", "vector:copy").stdout
    assert "the same as vector:" in said
    assert "another process" not in said


def test_an_edit_of_use_cache_in_the_base_imports_it_and_nothing_else(built: Built) -> None:
    built.project.build(BOTH)
    config = built.project.home / "base" / "config.json"
    before = config.read_text()
    config.write_text(json.dumps(json.loads(before) | {"use_cache": False}))
    assert ran(built.project.build(BOTH)) == ["base"]
    config.write_text(before)
