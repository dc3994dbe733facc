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
    assert run(["ci", "--base", "main", "--json", "--no-train"]) == 1  # its base is not here
    (found,) = json.loads(capsys.readouterr().out)["recipes"]
    (gate,) = found["weakened"]
    assert (gate["how"], gate["was"], gate["now"]) == ("loosened", "at most 1", "at most 9")
    assert "at the base revision" in found["no_baseline"]
