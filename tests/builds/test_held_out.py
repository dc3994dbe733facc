"""Files that are held out whole, and probes: what they build, and that nothing is both learned from and judged by."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest
from project import EVALUATE, Project, dataset, fresh, ran, recipe

from dem_build.errors import RecipeError
from dem_build.graph import build_graph, chosen_by
from dem_build.lock import lock
from dem_build.lock.leaks import refuse_leaks
from dem_build.recipe import load_recipe
from dem_build.store import Hints

if TYPE_CHECKING:
    from pathlib import Path

PROBE = """\
[probes.chat]
path = "data/chat.jsonl"
max_loss_increase = 0.01
"""
GATE = """\
[[gates]]
task = "loss:chat"
metric = "loss"
max = 100
"""
FILES = {"validation": "data/dev.jsonl", "test": "data/test.jsonl"}
RECIPE = recipe(dataset("add", omega=0.5, **FILES), PROBE, EVALUATE, GATE, steps=2)


def rows(start: int, count: int) -> str:
    lines = [{"prompt": f"{i} and {i} make", "completion": f" {i + i}"} for i in range(start, start + count)]
    return "".join(json.dumps(line) + "\n" for line in lines)


def add_files(home: Path) -> None:
    for number, name in enumerate(("dev", "test", "chat"), 1):
        (home / "data" / f"{name}.jsonl").write_text(rows(1000 * number, 6))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> tuple[Project, dict[str, object]]:
    project = fresh(tmp_path_factory.mktemp("project"), tiny_base)
    add_files(project.home)
    return project, project.build(RECIPE)


def test_the_held_out_files_and_the_probe_are_evaluated(built: tuple[Project, dict[str, object]]) -> None:
    _, first = built
    assert ran(first) == sorted(
        ["base", "data:add", "data:chat", "vector:add", "model"]
        + [f"loss:{model}:{name}" for model in ("base", "composed") for name in ("add", "chat")]
    )
    assert set(first["results"]["composed"]) == {"loss:add", "loss:chat"}  # type: ignore[index]
    assert first["results"]["base"]["loss:chat"]["rows"] == 6  # type: ignore[index]
    assert [gate["passed"] for gate in first["gates"]] == [True]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("dev", ["data:add"]),
        ("test", ["data:add", "loss:base:add", "loss:composed:add"]),
        ("chat", ["data:chat", "loss:base:chat", "loss:composed:chat"]),
    ],
)
def test_a_new_row_of_what_is_held_out_trains_nothing(
    built: tuple[Project, dict[str, object]], file: str, expected: list[str]
) -> None:
    project, _ = built
    path = project.home / "data" / f"{file}.jsonl"
    before = path.read_text()
    path.write_text(before + rows(9000, 1))
    assert ran(project.build(RECIPE)) == expected
    path.write_text(before)
    assert ran(project.build(RECIPE)) == []


def test_a_prompt_that_is_judged_and_trained_on_elsewhere_is_said(
    built: tuple[Project, dict[str, object]],
) -> None:
    project, _ = built
    probe = project.home / "data" / "chat.jsonl"
    before = probe.read_text()
    trained = (project.home / "data" / "add.jsonl").read_text().splitlines(keepends=True)[:2]
    probe.write_text(before + "".join(trained))
    project.write(RECIPE)
    said = "warning: data:chat: 2 test rows have prompts that add is trained on"
    assert said in " ".join(project.call("build", "tiny.toml").stdout.split())
    root = next((project.home / "cache" / "roots").glob("*.json"))
    written = root.stat().st_mtime_ns
    for again in (("build",), ("plan",), ("data", "chat"), ("data", "add")):
        command, *name = again
        assert said in " ".join(project.call(command, "tiny.toml", *name).stdout.split())
    assert root.stat().st_mtime_ns == written
    shown = json.loads(project.call("show", "tiny.toml", "data:chat", "--json").stdout)
    assert shown["shared_prompts"] == [
        {"name": "chat", "split": "test", "other": "add", "other_split": "train", "count": 2}
    ]
    assert (
        json.loads(project.call("plan", "tiny.toml", "--json").stdout)["overlap"] == shown["shared_prompts"]
    )
    probe.write_text(before)
    assert said not in " ".join(project.call("plan", "tiny.toml").stdout.split())
    assert project.build(RECIPE)["overlap"] == []


def test_prompts_that_are_judged_and_chosen_by_are_said_where_something_is_chosen(
    built: tuple[Project, dict[str, object]],
) -> None:
    project, _ = built
    test, dev, chat = (project.home / "data" / f"{name}.jsonl" for name in ("test", "dev", "chat"))
    before = test.read_text()
    chosen = [path.read_text().splitlines(keepends=True) for path in (dev, chat)]
    test.write_text(before + "".join([*chosen[0][:3], chosen[1][0]]))
    assert project.build(RECIPE)["overlap"] == []
    project.write(RECIPE.replace("omega = 0.5", 'omega = "tune"'))
    said = " ".join(project.call("plan", "tiny.toml").stdout.split())
    assert (
        "warning: data:add: 3 test rows have prompts that validation rows of add have too, by which" in said
    )
    assert "warning: data:add: 1 test row has a prompt that the probe chat has too, which limits" in said
    test.write_text(before)


CHOOSING = RECIPE.replace("omega = 0.5", 'omega = "tune"')
VALIDATED = "max_steps = 2\neval_steps = 1"
ADD, CHAT = ("add", "validation"), ("chat", "test")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (RECIPE, set()),
        (CHOOSING, {ADD, CHAT}),
        (CHOOSING.replace("max_loss_increase = 0.01", ""), {ADD}),
        (CHOOSING + '[datasets.copy]\npath = "data/copy.jsonl"\n[tune]\nimportance = { copy = 0 }\n', {ADD, CHAT}),
        (RECIPE.replace("max_steps = 2", VALIDATED), set()),
        (RECIPE.replace("max_steps = 2", f"{VALIDATED}\nload_best_model_at_end = true"), {ADD}),
        (RECIPE + '[baselines.one]\nmethod = "single"\n', {ADD, CHAT}),
        (
            RECIPE + '[baselines.mix]\nmethod = "mixing"\n'
            "train = { eval_steps = 1, early_stopping_patience = 1 }\n",
            {ADD},
        ),
    ],
    ids=["nothing", "tuned", "no-limit", "no-weight", "looks-on", "best-checkpoint", "single", "mixture"],
)  # fmt: skip
def test_what_a_recipe_chooses_by_is_known_from_its_graph(
    project: Path, text: str, expected: set[tuple[str, str]]
) -> None:
    found = resolved(project, text)
    assert chosen_by(build_graph(load_recipe(project / "tiny.toml"), found)) == expected


def test_data_shows_the_rows_of_a_probe(built: tuple[Project, dict[str, object]]) -> None:
    project, _ = built
    project.write(RECIPE)
    assert "test 0: " in project.call("data", "tiny.toml", "chat").stdout


def test_the_first_call_of_all_may_be_to_look_at_data(built: tuple[Project, dict[str, object]]) -> None:
    project, _ = built
    project.write(RECIPE)
    assert "test 0: " in project.call("data", "tiny.toml", "chat", "--cache", "another").stdout


def resolved(project: Path, text: str) -> lock.Lock:
    (project / "tiny.toml").write_text(text)
    recipe = load_recipe(project / "tiny.toml")
    found = lock.resolve(lock.locate(recipe), Hints(project / "hints"))
    refuse_leaks(recipe, found)
    return found


@pytest.fixture
def project(tmp_path: Path, tiny_base: Path) -> Path:
    home = fresh(tmp_path, tiny_base).home
    add_files(home)
    return home


def test_held_out_files_say_so_in_their_tags_and_the_lock(project: Path) -> None:
    found = resolved(project, RECIPE)
    assert [f.tag for f in found.datasets["add"]] == ["jsonl", "test:jsonl", "validation:jsonl"]
    assert [f.tag for f in found.datasets["chat"]] == ["test:jsonl"]
    lock.update(project / "tiny.lock", found, lock.read(project / "tiny.lock"))
    document = lock.read(project / "tiny.lock")
    (project / "data" / "dev.jsonl").write_text(rows(0, 3))
    assert lock.changes(document, resolved(project, RECIPE), project) == ["datasets.add"]


def test_the_name_of_a_held_out_file_is_in_no_parameter(project: Path) -> None:
    before = build_graph(load_recipe(write(project, RECIPE)), resolved(project, RECIPE)).actions["data:add"]
    (project / "data" / "dev.jsonl").rename(project / "data" / "moved.jsonl")
    text = RECIPE.replace("dev.jsonl", "moved.jsonl")
    after = build_graph(load_recipe(write(project, text)), resolved(project, text)).actions["data:add"]
    assert (after.params, after.sources) == (before.params, before.sources)
    assert (after.params["validation"], after.params["test"]) == (0.0, 0.0)


def write(project: Path, text: str) -> Path:
    (project / "tiny.toml").write_text(text)
    return project / "tiny.toml"


@pytest.mark.parametrize(
    ("copied", "over", "told"),
    [
        ("add", "test", ["datasets.add.test: test.jsonl is also what is trained on for add"]),
        ("add", "dev", ["datasets.add.validation: dev.jsonl is also what is trained on for add"]),
        ("add", "chat", ["probes.chat.path: chat.jsonl is also what is trained on for add"]),
        ("dev", "test", ["datasets.add.test: test.jsonl is also the validation set of add"]),
        ("dev", "chat", ["probes.chat.path: chat.jsonl is also the validation set of add"]),
    ],
)
def test_a_copy_of_a_file_is_not_judged_by_and_learned_from(
    project: Path, copied: str, over: str, told: list[str]
) -> None:
    shutil.copy(project / "data" / f"{copied}.jsonl", project / "data" / f"{over}.jsonl")
    with pytest.raises(RecipeError) as caught:
        resolved(project, RECIPE)
    assert [f"{p.key}: {p.what}" for p in caught.value.problems] == told
    assert all(p.line for p in caught.value.problems)


def test_rows_that_a_vector_is_matched_on_are_not_judged_by(project: Path) -> None:
    vector = '[vectors.code]\ncheckpoint = "base"\nrows = "data/test.jsonl"\n'
    with pytest.raises(RecipeError) as caught:
        resolved(project, f"{RECIPE}\n{vector}")
    told = [f"{p.key}: {p.what}" for p in caught.value.problems]
    assert told == ["datasets.add.test: test.jsonl is also what is trained on for code"]


def test_a_probe_may_be_a_test_file(project: Path) -> None:
    assert resolved(project, RECIPE.replace("data/chat.jsonl", "data/test.jsonl")).datasets["chat"]


def test_a_glob_that_takes_in_the_test_file_is_refused(project: Path) -> None:
    with pytest.raises(RecipeError, match=r"test\.jsonl is also what is trained on for add"):
        resolved(project, RECIPE.replace('path = "data/add.jsonl"', 'path = "data/*.jsonl"'))


@pytest.mark.parametrize("key", ["validation", "test"])
def test_a_held_out_file_that_is_not_there_is_told_at_its_key(project: Path, key: str) -> None:
    name = {"validation": "dev", "test": "test"}[key]
    with pytest.raises(RecipeError) as caught:
        resolved(project, RECIPE.replace(f"{name}.jsonl", "nowhere.jsonl"))
    assert [p.key for p in caught.value.problems] == [f"datasets.add.{key}"]


TASK = """\
task: words
dataset_path: json
dataset_kwargs:
  data_files: {train: [../data/add.jsonl], validation: [../data/dev.jsonl], test: [../data/judge.jsonl]}
output_type: generate_until
training_split: train
fewshot_split: train
doc_to_text: "{{prompt}}"
doc_to_target: "{{completion}}"
"""
JUDGED = RECIPE.replace("[evaluate]", '[evaluate]\ninclude_path = "tasks"\ntasks = ["words"]')


def write_task(project: Path, split: str, text: str = TASK) -> None:
    (project / "tasks").mkdir()
    (project / "tasks" / "words.yaml").write_text(f"{text}{split}\n")
    (project / "data" / "judge.jsonl").write_text(rows(5000, 4))


@pytest.mark.parametrize(
    ("copied", "split", "told"),
    [
        (
            "add",
            "test_split: test",
            "judge.jsonl, which the task words judges by, is also what is trained on for add",
        ),
        (
            "dev",
            "test_split: test",
            "judge.jsonl, which the task words judges by, is also the validation set of add",
        ),
        (
            "judge",
            "validation_split: validation",
            "dev.jsonl, which the task words judges by, is also the validation set of add",
        ),
    ],
)
def test_what_a_task_is_scored_on_is_not_learned_from(
    project: Path, copied: str, split: str, told: str
) -> None:
    write_task(project, split)
    (project / "data" / "judge.jsonl").write_bytes((project / "data" / f"{copied}.jsonl").read_bytes())
    with pytest.raises(RecipeError) as caught:
        resolved(project, JUDGED)
    assert [f"{p.key}: {p.what}" for p in caught.value.problems] == [f"evaluate.tasks: {told}"]


@pytest.mark.parametrize(
    ("omega", "baseline", "refused"),
    [
        ("omega = 0.5", "", False),
        ('omega = "tune"', "", True),
        ("omega = 0.5", '[baselines.mix]\nmethod = "mixing"\nalpha = 0.5\n', False),
        ("omega = 0.5", '[baselines.mix]\nmethod = "mixing"\nalpha = "tune"\n', True),
        ("omega = 0.5", '[baselines.one]\nmethod = "single"\n', True),
    ],
)
def test_a_probe_that_limits_a_search_judges_nothing_else(
    project: Path, omega: str, baseline: str, refused: bool
) -> None:
    write_task(project, "test_split: test", TASK.replace("judge.jsonl", "chat.jsonl"))
    text = JUDGED.replace("omega = 0.5", omega) + baseline
    if not refused:
        assert resolved(project, text).tasks["words"].scored
        return
    with pytest.raises(RecipeError, match=r"chat\.jsonl, which .* limits the search for ω, the probe chat"):
        resolved(project, text)


def test_a_task_may_take_its_examples_from_what_is_trained_on(project: Path) -> None:
    write_task(project, "test_split: test")
    assert resolved(project, JUDGED).tasks["words"].scored


def test_a_task_may_judge_by_a_datasets_test_file(project: Path) -> None:
    write_task(project, "test_split: test", TASK.replace("judge.jsonl", "test.jsonl"))
    assert resolved(project, JUDGED).tasks["words"].scored


@pytest.mark.parametrize(("split", "refused"), [("test", False), ("train", True)])
def test_a_task_on_a_folder_judges_by_the_files_of_its_split(
    project: Path, split: str, refused: bool
) -> None:
    (project / "data" / "own").mkdir()
    shutil.copy(project / "data" / "add.jsonl", project / "data" / "own" / "train.jsonl")
    (project / "data" / "own" / "test.jsonl").write_text(rows(6000, 4))
    write_task(project, f"test_split: {split}", "task: words\ndataset_path: ../data/own\n")
    if not refused:
        assert resolved(project, JUDGED).tasks["words"].scored
        return
    with pytest.raises(RecipeError, match=r"train\.jsonl, which the task words judges by, is also what"):
        resolved(project, JUDGED)
