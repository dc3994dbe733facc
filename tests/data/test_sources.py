"""Which files a dataset's `path` means."""

from __future__ import annotations

import glob

import pytest

from dem_build.data import sources
from dem_build.data.sources import expand, file_type
from dem_build.errors import UsageError


@pytest.fixture
def folder(tmp_path):
    for name in ("a.jsonl", "b.jsonl", "notes.txt", "deep/er/c.jsonl"):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def names(paths, folder):
    return [p.relative_to(folder).as_posix() for p in paths]


def test_a_file_is_itself(folder):
    assert expand("data/a.jsonl", folder) == [folder / "data/a.jsonl"]


def test_an_absolute_path_ignores_the_folder(folder):
    assert expand(str(folder / "data/*.jsonl"), folder / "deep") == expand("data/*.jsonl", folder)


def test_a_glob_gives_sorted_files(folder):
    assert names(expand("data/*.jsonl", folder), folder) == ["data/a.jsonl", "data/b.jsonl"]


def test_two_stars_cross_folders(folder):
    assert names(expand("data/**/*.jsonl", folder), folder) == [
        "data/a.jsonl",
        "data/b.jsonl",
        "data/deep/er/c.jsonl",
    ]


def test_a_glob_gives_no_folders(folder):
    assert names(expand("data/*", folder), folder) == ["data/a.jsonl", "data/b.jsonl", "data/notes.txt"]


def test_a_bracket_in_the_folders_own_name_is_no_pattern(tmp_path):
    folder = tmp_path / "run [1]"
    folder.mkdir()
    (folder / "x[2].jsonl").touch()
    assert expand("x[2].jsonl", folder) == [folder / "x[2].jsonl"]
    assert expand("*.jsonl", folder) == [folder / "x[2].jsonl"]


def test_the_home_folder_is_expanded(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    assert expand("~/data/a.jsonl", folder / "elsewhere") == [folder / "data/a.jsonl"]


def test_a_typo_gets_the_nearest_file(folder):
    with pytest.raises(UsageError, match=r"no file matches `data/aa\.jsonl`.*a\.jsonl"):
        expand("data/aa.jsonl", folder)


def test_a_missing_folder_is_said_by_its_nearest_ancestor(folder):
    with pytest.raises(UsageError, match=f"{folder} holds no data file"):
        expand("dat/a.jsonl", folder)


def test_a_folder_is_refused_with_a_glob_for_it(folder):
    with pytest.raises(UsageError, match=r"data/\*\.jsonl"):
        expand("data/", folder)


@pytest.mark.parametrize(
    ("name", "tag"),
    [("a.jsonl", "jsonl"), ("a.JSONL", "jsonl"), ("a.ndjson", "jsonl"), ("a.json", "json"), ("a.csv", "csv"),
     ("a.parquet", "parquet")],
)  # fmt: skip
def test_the_suffix_is_the_type(tmp_path, name, tag):
    assert file_type(tmp_path / name) == tag


def test_an_unknown_suffix_is_refused_with_those_that_are_known(tmp_path):
    with pytest.raises(UsageError, match=r"a\.txt.*\.jsonl, \.ndjson, \.json, \.csv, \.parquet"):
        file_type(tmp_path / "a.txt")


def test_links_that_lead_back_to_a_folder_above_them_are_passed_over(folder):
    for name in ("self", "again", "data/up", "data/down"):
        (folder / name).symlink_to(folder, target_is_directory=True)
    for pattern in ("**/*.jsonl", "data/**/*.jsonl", "**/data/**/*.jsonl"):
        found = names(expand(pattern, folder), folder)
        assert [name for name in found if name.startswith("data")] == [
            "data/a.jsonl",
            "data/b.jsonl",
            "data/deep/er/c.jsonl",
        ]


def test_a_link_to_another_folder_is_followed(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "x.jsonl").write_text("")
    (folder / "data" / "more").symlink_to(elsewhere, target_is_directory=True)
    assert folder / "data/more/x.jsonl" in expand("data/**/*.jsonl", folder)


def test_links_that_stand_for_endless_many_folders_are_refused(folder, monkeypatch):
    monkeypatch.setattr(sources, "MOST_FOLDERS", 1000)
    for level in range(20):
        (folder / f"level{level}").mkdir()
        for name in "ab":
            (folder / f"level{level}" / name).symlink_to(folder / f"level{level + 1}")
    with pytest.raises(UsageError, match="goes through more than 1,000 folders"):
        expand("level0/**/*.jsonl", folder)


PATTERNS = ["**", "**/", "data/**", "**/*", "data/**/deep/*", "**/**/*.jsonl", "*/**/c*", "d?ta/**/*.json[l]"]


@pytest.mark.parametrize("pattern", [*PATTERNS, "**//a.jsonl", "./**/x", "data/../**/a.jsonl", "**/.hidden"])
@pytest.mark.parametrize("absolute", [False, True])
def test_where_no_link_leads_back_the_same_files_match_as_by_glob(folder, pattern, absolute):
    (folder / "data" / ".no").mkdir()
    for name in (".no/a.jsonl", ".hidden", "deep/.hidden"):
        (folder / "data" / name).write_text("")
    pattern = str(folder / pattern) if absolute else pattern
    wanted = {folder / m for m in glob.glob(pattern, root_dir=folder, recursive=True)}  # noqa: PTH207
    assert {m for m in sources.matching(pattern, folder) if m.is_file()} == {m for m in wanted if m.is_file()}
