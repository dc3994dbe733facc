"""Which recipes two revisions have: by git alone, in a real repository."""

from __future__ import annotations

import pytest
from git_samples import Repo

from dem_build.errors import UsageError
from dem_build.review.found import is_recipe, pair_recipes, recipes_at
from dem_build.review.repository import Repository

RECIPE = '[base]\nmodel = "base"\n[datasets.a]\npath = "a.jsonl"\nomega = 1.0\n'


def pairs(repo, before, after="HEAD", *wanted):
    git = Repository.around(repo.root)
    old, new = git.commit(before), git.commit(after)
    found = pair_recipes(
        recipes_at(git, git.files(old)), recipes_at(git, git.files(new)), git.renames(old, new), wanted
    )
    return {
        pair.path: (pair.before.path if pair.before else None, pair.after.path if pair.after else None)
        for pair in found
    }


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (RECIPE, True),
        ('[base]\nmodel = "b"\n[vectors.a]\nadapter = "x"\n', True),
        ('[base]\nmodel = "b"\n', False),
        ('[project]\nname = "x"\n[datasets]\n', False),
        ('base = "b"\ndatasets = 3\n', False),
        (RECIPE.replace("1.0", "1.0.0"), True),  # no TOML, and meant as a recipe: its author is to hear of it
        ("[base\n[datasets", False),
    ],
)
def test_a_recipe_is_a_toml_with_a_base_and_a_table_of_datasets_or_vectors(text, told):
    assert is_recipe(text.encode()) is told


def test_recipes_added_removed_moved_and_kept(tmp_path):
    repo = Repo(tmp_path)
    repo.write(
        kept_toml=RECIPE,
        gone_toml=RECIPE + "# gone, and much else\n" * 9,
        moved_toml=RECIPE + "# moved\n" * 40,
    )
    repo.write(kept_lock="{}", notes_toml="[project]\n")
    before = repo.commit()
    repo.write(gone_toml=None, moved_toml=None, new_toml=RECIPE + "# new\n" * 90)
    repo.put("deep/er/now.toml", RECIPE + "# moved\n" * 40)
    repo.commit()
    assert pairs(repo, before) == {
        "deep/er/now.toml": ("moved.toml", "deep/er/now.toml"),
        "gone.toml": ("gone.toml", None),
        "kept.toml": ("kept.toml", "kept.toml"),
        "new.toml": (None, "new.toml"),
    }
    assert pairs(repo, before, "HEAD", "n*.toml") == {"new.toml": (None, "new.toml")}
    assert list(pairs(repo, before, "HEAD", "moved.toml")) == ["deep/er/now.toml"]  # by its old name, too
    with pytest.raises(UsageError, match=r"neither revision has a recipe `x\.toml`"):
        pairs(repo, before, "HEAD", "x.toml")


def test_the_lock_is_read_at_the_revision_and_links_are_no_files(tmp_path):
    repo = Repo(tmp_path)
    repo.write(a_toml=RECIPE, a_lock='{"dem_lock": 1}')
    before = repo.commit()
    repo.write(a_lock=None)
    (tmp_path / "a.lock").symlink_to("/etc/passwd")
    (tmp_path / "b.toml").symlink_to("a.toml")
    repo.commit()
    repo.write(a_toml="not what was committed")
    git = Repository.around(tmp_path)
    old, new = (recipes_at(git, git.files(git.commit(r))) for r in (before, "HEAD"))
    assert old["a.toml"].lock == b'{"dem_lock": 1}'
    assert {path: (r.text.decode(), r.lock) for path, r in new.items()} == {"a.toml": (RECIPE, None)}


def test_names_of_files_hold_whatever_they_like(tmp_path):
    repo = Repo(tmp_path)
    names = ["-x.toml", "a\nb.toml", "ü.toml", 'q"\t.toml', "::error::x.toml"]
    for name in names:
        repo.put(name, RECIPE + f"# {name!r}\n")
    repo.commit()
    assert sorted(pairs(repo, "HEAD")) == sorted(names)


def test_the_base_is_the_merge_base(tmp_path):
    repo = Repo(tmp_path)
    repo.write(a_toml=RECIPE)
    forked = repo.commit()
    repo.git("checkout", "-q", "-b", "topic")
    repo.write(a_toml=RECIPE + "# topic\n")
    head = repo.commit()
    repo.git("checkout", "-q", "main")
    repo.write(b_toml=RECIPE)
    main = repo.commit()
    git = Repository.around(tmp_path)
    assert git.merge_base(head, main) == forked


def test_what_git_does_not_know_is_said_with_what_helps(tmp_path):
    repo = Repo(tmp_path / "r")
    repo.commit()
    git = Repository.around(repo.root)
    with pytest.raises(UsageError, match="git log --all"):
        git.commit("nowhere")
    repo.git("clone", "-q", "--depth", "1", f"file://{repo.root}", str(tmp_path / "shallow"))
    with pytest.raises(UsageError, match="fetch-depth: 0"):
        Repository.around(tmp_path / "shallow").commit("nowhere")
    with pytest.raises(UsageError, match="no revision `--output=x`"):
        git.commit("--output=x")
    repo.git("checkout", "-q", "--orphan", "other")
    other = repo.commit("another beginning")
    with pytest.raises(UsageError, match="no commit in common"):
        git.merge_base(git.commit("main"), other)
    (tmp_path / "none").mkdir()
    with pytest.raises(UsageError, match="in no git repository"):
        Repository.around(tmp_path / "none")


def test_what_git_cannot_read_is_no_revision_without_recipes(tmp_path):
    """A partial clone that cannot fetch: that is no answer, and a review would pass all that it was not shown."""
    repo = Repo(tmp_path / "whole")
    repo.write(r_toml=RECIPE)
    repo.commit()
    repo.git("config", "uploadpack.allowFilter", "true")
    part = tmp_path / "part"
    repo.git("clone", "--quiet", "--filter=blob:none", "--no-checkout", repo.root.as_uri(), str(part))
    repo.root.rename(tmp_path / "gone")
    git = Repository.around(part)
    with pytest.raises(UsageError, match="cannot read what its commits hold"):
        git.files(git.commit("HEAD"))
