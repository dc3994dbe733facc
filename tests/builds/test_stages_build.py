"""`dem build` with `[trunk]` and `[heal]`: what is made of what, by value, and what an edit costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from project import Project, dataset, fresh, ran, recipe

from dem_build.checkpoint.delta import open_delta
from dem_build.checkpoint.reader import open_checkpoint
from dem_build.errors import CheckpointError
from dem_build.session.session import Call, open_session

if TYPE_CHECKING:
    from dem_build.checkpoint.reader import Checkpoint
    from dem_build.digest import Output
    from dem_build.session.session import Session

SPLIT = {"omega": 0.5, "validation": 0.1, "test": 0.2}
TRUNK = '[trunk]\ndatasets = ["add"]\ndtype = "float32"\ntrain = { max_steps = 4 }\n'
MORE = """\
[compose]
dtype = "float32"

[heal]
train = { max_steps = 3, learning_rate = 1e-3 }

[evaluate]
models = ["composed", "base"]
prompts = 0

[[gates]]
task = "loss:copy"
metric = "loss"
max_drop = 9.0
against = "unhealed"
"""
RECIPE = recipe(dataset("add", **SPLIT), dataset("copy", **SPLIT), TRUNK, MORE, rate="3e-3", steps=4)
UPPER = dataset("upper", **SPLIT)


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Project:
    project = fresh(tmp_path_factory.mktemp("staged"), tiny_base)
    project.build(RECIPE)
    return project


@pytest.fixture(scope="module")
def document(staged):
    return staged.build(RECIPE)


def made(session: Session, action: str, output: str) -> Output:
    record = session.plan.verdicts[action].record
    assert record is not None
    return record.outputs[output]


def values(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    with checkpoint:
        return {name: checkpoint.read(name) for name in checkpoint.tensors}


def weights(session: Session, action: str) -> Checkpoint:
    [file] = (made(session, action, "weights").files or {}).values()
    return open_checkpoint(session.store.objects.open(file))


def vector(session: Session, name: str, origin: str) -> dict[str, np.ndarray]:
    """Return a vector's values; one of another base than `origin` is refused."""
    base, digest = weights(session, origin), made(session, origin, "weights").digest
    path = session.store.objects.open(made(session, f"vector:{name}", "delta"))
    return values(open_delta(path, base, digest, name))


@pytest.mark.parametrize(
    ("model", "origin", "omegas"),
    [
        ("model:trunk", "base", {"trunk": 1.0}),
        ("model:unhealed", "model:trunk", {"add": 0.5, "copy": 0.5}),
        ("model", "model:unhealed", {"heal": 1.0}),
    ],
    ids=["trunk", "composed", "healed"],
)
def test_each_stage_is_the_one_before_and_what_was_trained_from_it(
    staged, monkeypatch, model, origin, omegas
):
    monkeypatch.setenv("DEM_HINTS", staged.environment["DEM_HINTS"])
    session = open_session(str(staged.home / "tiny.toml"), Call())
    deltas = [(omega, vector(session, name, origin)) for name, omega in omegas.items()]
    found = values(weights(session, model))
    for tensor, base in values(weights(session, origin)).items():
        total = base + sum(omega * delta[tensor] for omega, delta in deltas)
        np.testing.assert_allclose(found[tensor], total, rtol=1e-6, atol=1e-7)
    if origin != "base":
        with pytest.raises(CheckpointError, match="base"):
            vector(session, next(iter(omegas)), "base")


def test_every_stage_is_measured_and_told(staged, document):
    assert ran(document) == []
    losses = {model: tasks["loss:copy"]["loss"] for model, tasks in document["results"].items()}
    assert set(losses) == {"composed", "base", "trunk", "unhealed"}
    assert losses["composed"] < losses["unhealed"] < losses["base"]
    assert document["omega"] == {"add": 0.5, "copy": 0.5}
    assert [gate["passed"] for gate in document["gates"]] == [True]
    stages = document["stages"]
    assert (stages["trunk"]["shares"], stages["heal"]["shares"]) == ({"add": 1.0}, {"add": 0.5, "copy": 0.5})
    folder = staged.home / "out" / "tiny"
    card = (folder / "model" / "README.md").read_text()
    assert "the base fine-tuned on" in card
    assert "The composed model was healed" in card
    page = (folder / "report.html").read_text()
    assert "healed on" in page


def test_all_trainings_count_as_what_the_model_cost(document):
    cost = document["cost"]
    trained = ("trunk", "add", "copy", "heal")
    tokens = sum(cost["actions"][f"vector:{name}"]["tokens"] for name in trained)
    assert cost["mixing"]["dem"]["tokens"] == tokens
    assert {
        cost["actions"][f"{of}:{name}"]["part"] for of in ("data", "vector") for name in trained[::3]
    } == {"model"}
    # Whatever dataset comes or goes, the model is healed again; the trunk stays.
    again = ("data:heal", "vector:heal", "model:unhealed", "model")
    rest = sum(cost["actions"][name]["device_seconds"] for name in again)
    assert cost["mixing"]["datasets"]["copy"]["rest"] == pytest.approx(rest, abs=0.005)


def test_a_dataset_more_trains_its_vector_and_heals_again(staged):
    three = RECIPE.replace("[trunk]", f"{UPPER}\n[trunk]")
    due = {"data:upper", "vector:upper", "model:unhealed", "data:heal", "vector:heal", "model"}
    due |= {f"loss:{model}:{name}" for model in ("composed", "unhealed") for name in ("add", "copy")}
    due |= {f"loss:{model}:upper" for model in ("composed", "unhealed", "base", "trunk")}
    staged.write(three)
    planned = json.loads(staged.call("plan", "tiny.toml", "--json").stdout)["actions"]
    assert {action["name"] for action in planned if action["status"] != "hit"} == due
    assert set(ran(staged.build(three))) == due


def test_other_datasets_of_the_trunk_are_told_as_the_cause(staged):
    staged.write(RECIPE)
    staged.write(RECIPE.replace('datasets = ["add"]', 'datasets = ["add", "copy"]'), "other.toml")
    found = json.loads(staged.call("diff", "tiny.toml", "other.toml", "--json").stdout)
    [[cause]] = [reason["causes"] for reason in found["reasons"]]
    assert cause["text"] == "datasets of the trunk: add → add, copy"
