"""The recipes of the paper's experiment, against a hub of miniature datasets with the real columns.

All three are locked and planned; and one is built in miniature: another base, shorter trainings, tasks of a few rows.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hub_server import HubServer, serving
from paper_hub import fill_data, fill_models, fill_tasks, write_instructdial
from project import Project, of_hub, ran

from dem_build.lock.task_groups import asked, find_groups
from dem_build.lock.tasks import find_task
from dem_build.recipe import load_recipe

if TYPE_CHECKING:
    from collections.abc import Iterator

PAPER = Path(__file__).parents[2] / "recipes" / "paper"
SIZES = ("3b", "7b", "13b")


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    recipe = load_recipe(PAPER / "3b.toml")
    assert recipe.evaluate is not None
    groups = {}
    for task in recipe.evaluate.tasks:
        groups |= find_groups(task.name, PAPER / "tasks")
    read = {find_task(task.name, PAPER / "tasks").dataset for task in asked(recipe.evaluate.tasks, groups)}
    with serving() as server:
        fill_models(server)
        fill_data(server)
        fill_tasks(server, {name for name in read if name is not None})
        yield server


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, hub: HubServer) -> Project:
    home = tmp_path_factory.mktemp("paper")
    shutil.copytree(PAPER, home, dirs_exist_ok=True)
    write_instructdial(home / "instructdial")
    (home / "machine.toml").write_text('engine = "slurm"\ngradient_checkpointing = true\n')
    return of_hub(Project(home), hub, "")


def test_recipes_differ_in_name_and_base_alone() -> None:
    found = [load_recipe(PAPER / f"{size}.toml").model_dump(exclude={"name"}) for size in SIZES]
    bases = [recipe.pop("base") for recipe in found]
    assert found[0] == found[1] == found[2]
    assert len({base["model"] for base in bases}) == 3


def test_the_three_recipes_are_locked_and_planned(project: Project, hub: HubServer) -> None:
    memory = []
    for size in SIZES:
        if size == SIZES[0]:
            project.call("lock", f"{size}.toml")
        else:  # what the lock has is asked for no more: the hub is asked for the base alone
            shutil.copy(project.home / f"{SIZES[0]}.lock", project.home / f"{size}.lock")
        document = json.loads(project.call("plan", f"{size}.toml", "--json").stdout)
        names = [action["name"] for action in document["actions"]]
        assert sum(name.startswith("eval:composed:mmlu_") for name in names) == 57
        assert sum(name.startswith("eval:composed:bbh_") for name in names) == 27
        assert {"vector:p3", "vector:sni", "vector:cot", "vector:mathqa", "vector:instructdial", "tune"} <= {
            *names
        }
        found = {estimate["name"]: estimate for estimate in document["estimates"]}
        assert found["vector:p3"]["disk"] > 2 * 3e9
        memory.append(found["vector:p3"]["memory"])
        # Four configurations, of whose two files one is taken.
        assert (found["data:p3"]["subsets"], found["data:p3"]["rows"]) == (4, 60)
        assert all(found[f"data:{name}"]["download"] > 0 for name in ("p3", "sni", "cot"))
    assert memory == sorted(memory)
    # Nothing that the hub knows the digest of was downloaded, and no weights.
    assert not [path for path in hub.downloads() if path.endswith((".parquet", ".safetensors"))]
    assert len(hub.asked) < 200  # once for a dataset, and not once for each of 57 tasks


TASK = """\
task: mini_{name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {name}.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: [" oak", " elm"]
doc_to_target: answer
metric_list: [{{metric: acc}}]
"""
MINIATURE = {
    "base.model": '"base"',
    "train.max_steps": "1",
    "train.learning_rate": "1e-2",
    "train.warmup_steps": "0",
    "train.packing": "false",
    "train.max_length": "200",
    "train.global_batch_size": "2",
    "tune.max_samples": "2",
    "tune.search": '"coordinate"',
    "evaluate.models": '["composed", "base", "mix"]',
}


@pytest.fixture(scope="module")
def miniature(tmp_path_factory: pytest.TempPathFactory, hub: HubServer, tiny_base: Path) -> Project:
    home = tmp_path_factory.mktemp("miniature")
    shutil.copytree(tiny_base, home / "base")
    shutil.copy(PAPER / "3b.toml", home / "tiny.toml")
    write_instructdial(home / "instructdial")
    (home / "tasks").mkdir()
    for name, rows in (("one", 2), ("two", 4), ("three", 2)):
        (home / "tasks" / f"{name}.yaml").write_text(TASK.format(name=name))
        docs = [json.dumps({"question": f"{name} {i}:", "answer": i % 2}) + "\n" for i in range(rows)]
        (home / "tasks" / f"{name}.jsonl").write_text("".join(docs))
    group = "group: mini\ntask: [mini_one, mini_two]\naggregate_metric_list: {metric: acc}\n"
    (home / "tasks" / "group.yaml").write_text(group)
    return of_hub(Project(home), hub, (home / "tiny.toml").read_text().replace("[analysis]\n", ""))


def built(project: Project, tasks: str) -> dict[str, Any]:
    sets = [
        part
        for key, value in {**MINIATURE, "evaluate.tasks": tasks}.items()
        for part in ("--set", f"{key}={value}")
    ]
    document: dict[str, Any] = json.loads(
        project.call("build", "tiny.toml", "--json", "--trust-tasks", *sets).stdout
    )
    return document


def test_the_miniature_is_built_and_a_task_that_is_added_is_all_that_runs(miniature: Project) -> None:
    document = built(miniature, '["mini"]')
    assert {*document["omega"]} == {"p3", "sni", "cot", "mathqa", "instructdial"}
    for model in ("composed", "base", "mix"):
        found = document["results"][model]
        assert {"mini", "mini_one", "mini_two", "loss:p3", "loss:sni", "loss:cot", "loss:mathqa"} <= {*found}
        assert found["mini"]["acc"] == pytest.approx(
            (found["mini_one"]["acc"] + 2 * found["mini_two"]["acc"]) / 3
        )
        assert found["mini"]["samples"] == 6
    document = built(miniature, '["mini", "mini_three"]')
    # Of models with the same bytes, as the base and one whose ω came out as 0, a task is run once.
    assert {name.rpartition(":")[2] for name in ran(document)} == {"mini_three"}
    assert all("mini_three" in document["results"][model] for model in ("composed", "base", "mix"))
