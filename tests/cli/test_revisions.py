"""What `dem diff` says of a revision, a recipe or a folder that it cannot compare."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from git_samples import Repo

from dem_build.cli.app import run

if TYPE_CHECKING:
    from pathlib import Path

RECIPE = '[base]\nmodel = "base"\n\n[datasets.add]\npath = "data/add.jsonl"\nomega = 0.5\n'


def locked(datasets: tuple[str, ...] = ("add",)) -> str:
    """A lock as `dem lock` writes it, of files that are not here."""

    def file(tag: str, path: str, letter: str) -> dict[str, str]:
        return {"tag": tag, "path": path, "sha256": letter * 64}

    names = ("config.json", "model.safetensors", "tokenizer.json")
    base = [file(name, f"base/{name}", letter) for name, letter in zip(names, "abc", strict=True)]
    data = {n: {"files": [file("jsonl", f"data/{n}.jsonl", "d")]} for n in datasets}
    document = {"dem_lock": 1, "base": {"source": "directory", "files": base}, "datasets": data, "tasks": {}}
    return json.dumps(document)


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repo:
    """A repository with recipes and locks in their revisions, and in its working tree nothing of them."""
    repo = Repo(tmp_path / "repo")
    repo.put("recipe.toml", RECIPE)
    repo.put("recipe.lock", locked())
    repo.put("deep/other.toml", RECIPE)
    repo.put("deep/other.lock", locked())
    (repo.root / "linked.toml").symlink_to("recipe.toml")
    repo.commit("first")
    repo.git("tag", "first")
    monkeypatch.chdir(repo.root)
    for name in ("DEM_CACHE", "DEM_MACHINE"):
        monkeypatch.delenv(name, raising=False)
    return repo


def says(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    status = run(["diff", *arguments])
    return status, capsys.readouterr().err


def test_a_revision_is_read_from_git_alone(repo: Repo, capsys: pytest.CaptureFixture[str]) -> None:
    repo.put("recipe.toml", "this is not TOML")
    (repo.root / "recipe.lock").unlink()
    assert run(["diff", "first:recipe.toml", "first:deep/other.toml", "--json", "--exit-code"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["same"]
    assert document["cost"]["after"]["due"] == len(document["actions"])


def test_a_revision_may_hold_colons_in_braces(repo: Repo, capsys: pytest.CaptureFixture[str]) -> None:
    repo.put("note", "x")
    repo.commit("second: a note")
    assert says(capsys, "HEAD^{/first}:recipe.toml", "HEAD^{/second: a}:recipe.toml")[0] == 0


@pytest.mark.parametrize(
    ("side", "status", "told"),
    [
        ("nowhere:recipe.toml", 2, ["git knows no revision `nowhere`", "git fetch"]),
        ("--upload-pack=x:recipe.toml", 2, ["git knows no revision", "git log"]),
        ("first:recip.toml", 2, ["there is no recipe recip.toml in first", "recipe.toml"]),
        ("first:deep", 2, ["there is no recipe deep in first"]),
        ("first:other.toml", 2, ["deep/other.toml"]),
        ("first:linked.toml", 2, ["is a link, and not a recipe"]),
        ("first:../out.toml", 2, ["leads out of the repository"]),
        ("absent.toml", 2, ["there is no such recipe"]),
        ("deep", 2, ["holds no published model", "the folder of a published model"]),
    ],
)
def test_what_is_no_side_is_refused_with_a_hint(
    repo: Repo, capsys: pytest.CaptureFixture[str], side: str, status: int, told: list[str]
) -> None:
    assert repo.root.exists()
    found, said = says(capsys, "--", "first:recipe.toml", side)
    assert found == status
    assert all(words in said for words in told), said


def test_a_path_that_was_meant_from_here_is_told(
    repo: Repo, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repo.root / "deep")
    status, said = says(capsys, "first:other.toml", "first:./other.toml")
    assert status == 2
    assert "a path starts from the root of the repository; from here it is ./other.toml" in said


@pytest.mark.parametrize(
    ("lock", "told"),
    [
        (None, "there is no lock"),
        (locked(()), "does not tell of datasets.add"),
        (locked(("add", "gone")), "not what the recipe asks for: datasets.gone"),
    ],
)
def test_a_lock_that_is_not_the_recipes_is_4(
    repo: Repo, capsys: pytest.CaptureFixture[str], lock: str | None, told: str
) -> None:
    repo.put("recipe.lock", lock)
    repo.commit("another lock")
    status, said = says(capsys, "first:recipe.toml", "HEAD:recipe.toml")
    assert status == 4
    assert told in said
    assert "HEAD:recipe.lock" in said
    assert "dem lock" in said


def test_a_mistake_of_a_revisions_recipe_names_the_revision_and_the_line(
    repo: Repo, capsys: pytest.CaptureFixture[str]
) -> None:
    repo.put("recipe.toml", RECIPE + "omgea = 1\n")
    repo.commit("a typo")
    status, said = says(capsys, "first:recipe.toml", "HEAD:recipe.toml")
    assert status == 2
    assert "HEAD:recipe.toml:7: error: datasets.add.omgea: unknown key" in said


def test_a_shallow_clone_says_how_to_get_the_rest(
    repo: Repo, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo.put("note", "x")
    repo.commit("second")
    repo.git("clone", "--quiet", "--depth=1", "--no-tags", f"file://{repo.root}", str(tmp_path / "clone"))
    monkeypatch.chdir(tmp_path / "clone")
    status, said = says(capsys, "first:recipe.toml", "HEAD:recipe.toml")
    assert status == 2
    assert "git knows no revision `first`" in said
    assert "fetch-depth: 0" in said


def test_a_recipe_of_a_submodule_is_compared_there(
    repo: Repo, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    inner = Repo(tmp_path / "inner")
    inner.put("recipe.toml", RECIPE)
    inner.commit()
    allowed = ("-c", "protocol.file.allow=always")
    repo.git(*allowed, "submodule", "--quiet", "add", str(inner.root), "parts/inner")
    repo.commit("a submodule")
    status, said = says(capsys, "first:recipe.toml", "HEAD:parts/inner/recipe.toml")
    assert status == 2
    assert "parts/inner is a submodule" in said


def test_outside_of_a_repository_a_revision_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, said = says(capsys, "main:recipe.toml", "main:recipe.toml")
    assert status == 2
    assert "is in no git repository" in said


def test_results_that_are_none_are_refused(repo: Repo, capsys: pytest.CaptureFixture[str]) -> None:
    for place, text in enumerate(
        ("[]", "{}", '{"results": {"m": {"t": {"acc": "1"}}}, "omega": {}, "gates": []}')
    ):
        repo.put(f"model{place}/results.json", text)
        status, said = says(capsys, f"model{place}", "first:recipe.toml")
        assert status == 2
        assert "holds no results of dem" in said
