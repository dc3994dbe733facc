"""How and where to build: the machine file, the cache, and what is local."""

from __future__ import annotations

from pathlib import Path

import pytest

from dem_build.errors import RecipeError
from dem_build.machine import Machine
from dem_build.recipe import cache_folder, is_local, load_machine, project_folder


@pytest.fixture
def write(tmp_path):
    def write(text, name="recipe.toml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def problems_of(*arguments):
    with pytest.raises(RecipeError) as caught:
        load_machine(*arguments)
    return caught.value.problems


def test_without_a_machine_file_there_are_defaults(write, monkeypatch):
    monkeypatch.delenv("DEM_MACHINE", raising=False)
    assert load_machine(None, write("")) == (Machine(), None)


def test_the_machine_file_is_the_options_the_environments_or_the_one_beside(write, monkeypatch):
    recipe = write("")
    beside, named, option = (
        write(f"micro_batch = {n}", f"{name}.toml") for n, name in ((1, "machine"), (2, "b"), (3, "c"))
    )
    monkeypatch.delenv("DEM_MACHINE", raising=False)
    assert load_machine(None, recipe) == (Machine(micro_batch=1), beside)
    monkeypatch.setenv("DEM_MACHINE", str(named))
    assert load_machine(None, recipe) == (Machine(micro_batch=2), named)
    assert load_machine(option, recipe) == (Machine(micro_batch=3), option)


def test_mistakes_of_a_machine_file_are_told_at_once(write):
    path = write('jobs = "2"\nmicro_batsh = 4\nlearning_rate = 1\nreport_to = ["tensorbord"]\n', "m.toml")
    assert [(p.line, p.key, p.what, p.hint) for p in problems_of(path, write(""))] == [
        (1, "jobs", 'must be a whole number, not "2"', ""),
        (2, "micro_batsh", "unknown key", "did you mean `micro_batch`?"),
        (3, "learning_rate", "unknown key", "the recipe says what to build, the machine file how"),
        (
            4,
            "report_to[0]",
            'must be "wandb", "tensorboard" or "trackio", not "tensorbord"',
            'did you mean "tensorboard"?',
        ),
    ]


def test_a_named_machine_file_must_be_there(write, tmp_path):
    [problem] = problems_of(tmp_path / "no.toml", write(""))
    assert problem.what == "there is no such machine file"


def test_the_cache_is_the_options_the_environments_the_machine_files_or_the_projects(
    write, tmp_path, monkeypatch
):
    recipe, beside = write(""), tmp_path / "etc" / "machine.toml"
    machine = Machine(cache="store")
    monkeypatch.chdir("/")
    monkeypatch.setenv("DEM_CACHE", "from-environment")
    assert cache_folder("from-option", machine, beside, recipe) == Path("/from-option")
    assert cache_folder(None, machine, beside, recipe) == Path("/from-environment")
    monkeypatch.delenv("DEM_CACHE")
    assert cache_folder(None, machine, beside, recipe) == tmp_path / "etc" / "store"
    assert cache_folder(None, Machine(), beside, recipe) == tmp_path / "cache"


@pytest.mark.parametrize("root", [".git", "pyproject.toml"])
def test_the_project_is_the_nearest_folder_with_a_root(tmp_path, root):
    recipe = tmp_path / "project" / "recipes" / "deep" / "a.toml"
    recipe.parent.mkdir(parents=True)
    assert project_folder(recipe) == recipe.parent
    (tmp_path / root).mkdir()
    (tmp_path / "project" / root).touch()
    assert project_folder(recipe) == tmp_path / "project"


@pytest.mark.parametrize(
    ("model", "local"),
    [
        ("base", True),
        ("./org/name", True),
        ("../org/name", True),
        ("/models/name", True),
        ("~/name", True),
        ("org/name.gguf", True),
        ("models/org/name", True),
        ("here/name", True),
        ("org/name", False),
        ("HuggingFaceTB/SmolLM2-135M", False),
    ],
)
def test_a_model_is_local_by_its_form_or_because_it_is_there(tmp_path, model, local):
    (tmp_path / "here" / "name").mkdir(parents=True)
    assert is_local(model, tmp_path) is local
