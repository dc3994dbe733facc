"""The recipes of the paper's experiment, against a hub of miniature datasets with the real columns.

All three are locked and planned; and one is built in miniature: another base, shorter trainings, tasks of a few rows.
"""

from __future__ import annotations

import json
import runpy
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hub_server import HubServer, serving
from paper_hub import LIMITS, fill, miniature_base, write_instructdial
from project import Project, of_hub

from dem_build.recipe import load_recipe

if TYPE_CHECKING:
    from collections.abc import Iterator

PAPER = Path(__file__).parents[2] / "recipes" / "paper"
SIZES = ("3b", "7b", "13b")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    with serving() as server:
        fill(server, PAPER / "3b.toml", miniature_base(tmp_path_factory.mktemp("base") / "base"))
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


def test_scores_of_a_conversation_are_those_of_words() -> None:
    coqa = runpy.run_path(str(PAPER / "tasks" / "coqa.py"))
    more = {"0": {"input_text": ["a tree", "very tall"]}, "1": None}
    story = {"story": "An oak.", "questions": {"input_text": ["What?", "Tall?"]}, "additional_answers": more}
    story |= {"answers": {"input_text": ["Oak", "Yes, it is"]}}
    assert coqa["prompt"](story) == "An oak.\n\nQ: What?\n\nA: Oak\n\nQ: Tall?\n\nA:"
    assert coqa["answers"](story) == ["Yes, it is", "very tall"]
    assert coqa["score"](story, [" The very TALL."]) == {"em": 1.0, "f1": 1.0}
    assert coqa["score"](story, ["it is tall"]) == {
        "em": 0.0,
        "f1": pytest.approx(2 / 3),
    }  # two of three words, twice
    assert coqa["score"](story, [""]) == {"em": 0.0, "f1": 0.0}


TASKS = (
    '"mathqa", {name = "drop", num_fewshot = 3}, {name = "mmlu_anatomy", num_fewshot = 5}, "helm_reasoning"'
)
"""Of each benchmark the least, and of groups one; the last is of choices and of words."""
MEMBERS = {"gsm8k", "babi", "agieval_lsat_ar"}
MINIATURE = LIMITS | {"evaluate.models": '["composed", "base"]', "train.learning_rate": "1e-3"}
"""Trained so little that answers still end at once."""


@pytest.fixture(scope="module")
def miniature(tmp_path_factory: pytest.TempPathFactory, hub: HubServer) -> Project:
    home = tmp_path_factory.mktemp("miniature")
    shutil.copytree(PAPER, home, dirs_exist_ok=True)
    write_instructdial(home / "instructdial")
    return of_hub(Project(home), hub, "")


def told(project: Project, *call: str, tasks: str) -> dict[str, Any]:
    sets = [f"{key}={value}" for key, value in (MINIATURE | {"evaluate.tasks": f"[{tasks}]"}).items()]
    words = [word for one in sets for word in ("--set", one)]
    document: dict[str, Any] = json.loads(project.call(*call, "--json", *words).stdout)
    return document


def test_the_miniature_is_built_and_a_task_that_is_added_is_all_that_runs(miniature: Project) -> None:
    document = told(miniature, "build", "3b.toml", "--trust-tasks", tasks=TASKS)
    assert {*document["omega"]} == {"p3", "sni", "cot", "mathqa", "instructdial"}
    for model in ("composed", "base"):
        found = document["results"][model]
        assert {"mathqa", "drop", "mmlu_anatomy", "helm_reasoning", *MEMBERS} <= {*found}
        assert {"loss:p3", "loss:sni", "loss:cot", "loss:mathqa", "loss:instructdial"} <= {*found}
        words = (found["gsm8k"]["exact_match"] + found["babi"]["exact_match"]) / 2
        assert found["helm_reasoning"]["exact_match"] == pytest.approx(words)
        assert found["helm_reasoning"]["acc"] == found["agieval_lsat_ar"]["acc"]
    script = runpy.run_path(str(PAPER / "miniature.py"))
    drawn = script["Tables"]((miniature.home / "out" / "paper-3b" / "report.html").read_text()).found
    for _, section, which in script["TABLES"]:
        assert all(len(drawn[section][number]) > 2 for number in which)
    head, *rows = drawn["tasks"][1]  # with the models across, or down where tasks are fewer
    assert {"base", "composed"} <= {*head, *(row[0] for row in rows)}
    assert [row[0] for row in drawn["cosines"][0][1:]] == [*document["omega"]]
    planned = told(miniature, "plan", "3b.toml", tasks=f'{TASKS}, "helm_dialogue"')
    due = [action["name"] for action in planned["actions"] if action["status"] != "hit"]
    assert due == ["eval:composed:helm_coqa", "eval:base:helm_coqa"]
