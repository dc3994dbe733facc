"""Sides that `dem diff` cannot compare."""

from __future__ import annotations

from typing import TYPE_CHECKING

from error_cases import RECIPE, Call, both, lock_then, without, write

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["DIFFS"]


def committed(home: Path) -> None:
    """Commit the recipe, and its lock where there is one, in a repository whose branch is `main`."""
    from git_samples import Repo

    repo = Repo(home)
    repo.put("recipe.toml", RECIPE)
    repo.git("add", "recipe.toml", *(["recipe.lock"] if (home / "recipe.lock").exists() else []))
    repo.git("commit", "--quiet", "--message", "a recipe")


DIFFS = (
    Call(
        "A revision where there is no git repository",
        "diff main:recipe.toml recipe.toml",
        (
            "error: .: is in no git repository\n"
            "  hint:  a revision is one of a git repository: call dem in one"
        ),
    ),
    Call(
        "A revision that git does not know",
        "diff mian:recipe.toml recipe.toml",
        (
            "error: .: git knows no revision `mian`\n"
            "  hint:  `git log --all --oneline` lists what there is; `git fetch` gets what is new"
        ),
        setup=committed,
    ),
    Call(
        "A recipe that a revision does not have",
        "diff main:recpie.toml recipe.toml",
        (
            "error: main:recpie.toml: there is no recipe recpie.toml in main\n"
            "  hint:  the TOML files there are recipe.toml"
        ),
        setup=committed,
    ),
    Call(
        "A revision without a lock",
        "diff main:recipe.toml recipe.toml",
        (
            "error: main:recipe.lock: there is no lock\n"
            "  hint:  write it there: check main out, call `dem lock` and commit it"
        ),
        status=4,
        setup=committed,
    ),
    Call(
        "A revision whose lock was not made of its recipe",
        "diff main:recipe.toml recipe.toml",
        (
            "error: main:recipe.lock: does not tell of base.model, datasets.add.path\n"
            "  hint:  write it there: check main out, call `dem lock` and commit it"
        ),
        status=4,
        setup=lock_then(
            write(
                "recipe.lock",
                '{"dem_lock": 1, "base": {"source": "directory", "files": []}, "datasets": {}, "tasks": {}}',
            ),
            committed,
        ),
    ),
    Call(
        "A revision whose lock is none",
        "diff main:recipe.toml recipe.toml",
        ("main:recipe.lock: error: is no lock of dem\n  hint:  restore it, or delete it and run `dem lock`"),
        setup=both(write("recipe.lock", "{}"), committed, without("recipe.lock")),
    ),
    Call(
        "A folder that holds no model is compared",
        "diff recipe.toml data",
        (
            "error: data: holds no published model\n"
            "  hint:  a side is a recipe's file, REV:PATH of a recipe in git, or the folder of a published model"
        ),
    ),
    Call(
        "Results that are none",
        "diff recipe.toml model",
        (
            "error: model: its results.json holds no results of dem\n"
            "  hint:  `dem build` or `dem report` of its recipe writes it anew"
        ),
        setup=write("model/results.json", "[]"),
    ),
    Call(
        "The lock is not what is there, under `--locked`",
        "diff recipe.toml recipe.toml --locked",
        (
            "error: recipe.toml: not what is locked: datasets.add\n"
            "  hint:  `dem lock recipe.toml` accepts what is there now"
        ),
        status=4,
        setup=lock_then(write("data/add.jsonl", '{"prompt": "a", "completion": "b"}\n')),
    ),
)
