"""A base revision of which little is known: what it asks for is told all the same."""

from __future__ import annotations

import json

import pytest
from git_samples import Repo
from test_untrusted import HEAD, lock_of

from dem_build.cli.app import run

GATE = '[[gates]]\ntask = "loss:a"\nmetric = "loss"\nmax = {}\n'


@pytest.fixture
def repo(tmp_path, monkeypatch):
    made = Repo(tmp_path / "repo")
    monkeypatch.chdir(made.root)
    for name in ("HINTS", "CACHE"):
        monkeypatch.setenv(f"DEM_{name}", str(tmp_path / name))
    for name in ("GITHUB_EVENT_PATH", "DEM_MACHINE", "DEM_REMOTE"):
        monkeypatch.delenv(name, raising=False)
    return made


@pytest.mark.parametrize("lock", [None, lock_of("other.jsonl"), "{"])
def test_a_gate_is_told_as_loosened_where_the_base_revisions_lock_tells_nothing(repo, capsys, lock):
    recipe = HEAD.format("rows.jsonl") + 'test = 0.5\n\n[evaluate]\nmodels = ["composed"]\n'
    repo.write(r_toml=recipe + GATE.format(1.0), rows_jsonl="", **({"r_lock": lock} if lock else {}))
    repo.commit("the base")
    repo.git("checkout", "-q", "-b", "head")
    repo.write(r_toml=recipe + GATE.format(9.0), r_lock=lock_of("rows.jsonl"))
    repo.commit("the head")
    assert run(["ci", "--base", "main", "--json", "--no-train"]) == 4
    (found,) = json.loads(capsys.readouterr().out)["recipes"]
    (gate,) = found["weakened"]
    assert (gate["how"], gate["was"], gate["now"]) == ("loosened", "at most 1", "at most 9")
    assert "at the base revision" in found["no_baseline"]


def test_a_vector_whose_data_are_not_here_is_to_be_trained_and_no_failure(repo, capsys):
    """A runner of the check has no data: it plans from the lock."""
    repo.write(r_toml=HEAD.format("rows.jsonl"), r_lock=lock_of("rows.jsonl"))
    repo.commit("the base")
    repo.git("checkout", "-q", "-b", "head")
    repo.write(r_lock=lock_of("rows.jsonl", "1" * 64))
    repo.commit("other rows, which git has not")
    assert run(["ci", "--base", "main", "--json", "--no-train"]) == 4
    (found,) = json.loads(capsys.readouterr().out)["recipes"]
    assert [(a["action"], a["state"]) for a in found["actions"] if a["trains"]] == [("vector:a", "due")]
    assert run(["ci", "--base", "main"]) == 1  # who trains has to have them


def test_a_machine_file_that_the_head_breaks_is_the_heads(repo, capsys):
    repo.write(r_toml="[base]\nmodel = 1\n[datasets.a]\n", machine_toml="jobs = 1\n")
    repo.commit("the base")
    repo.git("checkout", "-q", "-b", "head")
    repo.write(notes_txt="something else")
    repo.commit("untouched")
    assert run(["ci", "--base", "main", "--json", "--no-train"]) == 0
    repo.write(machine_toml="jobs = 'many'\n")
    repo.commit("the head")
    capsys.readouterr()
    assert run(["ci", "--base", "main", "--json", "--no-train"]) == 2
    (found,) = json.loads(capsys.readouterr().out)["recipes"]
    assert found["trouble"]["mistakes"][0]["file"] == "machine.toml"


@pytest.mark.parametrize("link", ["file", "folder"])
def test_data_behind_a_link_of_git_are_held_against_the_lock(repo, link):
    """A lock names the file as the recipe does, and git has a link there."""
    place = "rows.jsonl" if link == "file" else "data/rows.jsonl"
    repo.write(r_toml=HEAD.format(place), r_lock=lock_of(place), deep__rows_jsonl="")
    if link == "file":
        (repo.root / place).symlink_to("deep/rows.jsonl")
    else:
        (repo.root / "data").symlink_to("./deep")
    repo.commit("the base")
    repo.git("checkout", "-q", "-b", "head")
    repo.write(notes_txt="something else")
    repo.commit("untouched")
    assert run(["ci", "--base", "main", "--no-train"]) == 0
    repo.write(deep__rows_jsonl='{"text": "a"}\n')
    repo.commit("other rows, and the lock as it was")
    assert run(["ci", "--base", "main", "--no-train"]) == 4


def test_more_recipes_than_a_review_holds_are_refused_before_any_is_reviewed(repo, capsys, monkeypatch):
    monkeypatch.setattr("dem_build.cli.review.ci.MOST_RECIPES", 3)
    for number in range(3):
        repo.put(f"many/{number}.toml", "[base]\n[datasets.a]\n")
    repo.put("one.toml", "[base]\n[datasets.a]\n")
    repo.commit("the base")
    assert run(["ci", "--base", "HEAD"]) == 2
    assert "there are 4 recipes, and a review is of at most 3" in capsys.readouterr().err
    assert run(["ci", "one.toml", "--base", "HEAD"]) == 0
