"""Which files of a hub dataset make up a split, held against what the `datasets` library finds in the same files."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from dem_build.errors import UsageError
from dem_build.lock.hub_splits import HubData, split_files

if TYPE_CHECKING:
    from pathlib import Path

TREES: dict[str, tuple[str, ...]] = {
    "one file": ("README.md", ".gitattributes", "data.jsonl"),
    "files by split": ("train.csv", "test.csv", "README.md"),
    "synonyms": ("training_0.jsonl", "training_1.jsonl", "dev.jsonl", "eval-1.jsonl", "notes.md"),
    "a keyword inside a word": ("constrained.jsonl", "latest.jsonl", "my-train.jsonl"),
    "shards": (
        "data/train-00000-of-00002.parquet",
        "data/train-00001-of-00002.parquet",
        "data/test-00000-of-00001-abc.parquet",
        "data/extra-00000-of-00001.parquet",
    ),
    "shards elsewhere": ("main/train-00000-of-00001.parquet", "main/test-00000-of-00001.parquet"),
    "folders by split": (
        "data/train/a.jsonl",
        "data/train/b.jsonl",
        "data/val/a.jsonl",
        "data/test_1/a.jsonl",
    ),
    "folders outrank files": ("train/x.json", "test.json", "train.json"),
    "hidden and special": ("data.csv", ".cache/train.csv", "__pycache__/train.csv", "a/.hidden.csv"),
    "two forms of the same": ("train.csv", "train.parquet", "test.parquet", "test.csv"),
    "files that are no data": ("train.json", "dataset_infos.json", "config.json"),
    "deep": ("a/b/c/train-x.jsonl", "a/b/c/x.train.jsonl", "a/b/valid.jsonl"),
}
CONFIGS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "one pattern": (("a/x.csv", "b/y.csv"), {"data_files": "a/*.csv"}),
    "several patterns": (("a/x.csv", "b/y.csv", "c/z.csv"), {"data_files": ["a/*.csv", "b/*"]}),
    "by split": (
        ("main/train-0.parquet", "main/test-0.parquet", "socratic/train-0.parquet"),
        {
            "data_files": [
                {"split": "train", "path": "main/train-*"},
                {"split": "test", "path": ["main/test-*"]},
            ]
        },
    ),
    "a folder": (("main/train.csv", "main/test.csv", "train.csv"), {"data_dir": "main"}),
    "a folder and patterns": (
        ("main/a.csv", "main/b.csv", "a.csv"),
        {"data_dir": "main", "data_files": [{"split": "dev", "path": "a.csv"}]},
    ),
    "a hidden folder by name": ((".x/a.csv", "a.csv"), {"data_files": ".x/*"}),
    "a question mark and a class": (("a1.csv", "a2.csv", "ab.csv"), {"data_files": "a[0-9].csv"}),
}


def write(folder: Path, paths: tuple[str, ...]) -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text("x")


def oracle(folder: Path, rules: dict[str, Any]) -> dict[str, set[str]]:
    """Return what `datasets` takes for each split of a configuration of a folder."""
    from datasets.data_files import DataFilesDict, get_data_patterns, sanitize_patterns
    from datasets.load import _MODULE_TO_EXTENSIONS, infer_module_for_data_files

    base = folder / rules.get("data_dir", "")
    files = rules.get("data_files")
    patterns = sanitize_patterns(files) if files is not None else get_data_patterns(str(base))
    found = DataFilesDict.from_patterns(
        patterns, base_path=str(base), allowed_extensions=[".csv", ".json", ".jsonl", ".parquet"]
    )
    if files is None:
        module, _ = infer_module_for_data_files(found)
        found = found.filter(extensions=_MODULE_TO_EXTENSIONS[str(module)])
    root = str(folder.resolve()) + "/"
    return {str(split): {path.removeprefix(root) for path in paths} for split, paths in found.items()}


@pytest.mark.parametrize("tree", TREES)
def test_files_without_a_card_go_where_datasets_puts_them(tmp_path: Path, tree: str) -> None:
    write(tmp_path, TREES[tree])
    wanted = oracle(tmp_path, {})
    found = split_files(HubData("org/name", TREES[tree]), None, wanted)
    assert {split: set(files) for split, files in found.items()} == wanted


@pytest.mark.parametrize("case", CONFIGS)
def test_a_cards_configuration_means_what_it_means_to_datasets(tmp_path: Path, case: str) -> None:
    paths, rules = CONFIGS[case]
    write(tmp_path, paths)
    wanted = oracle(tmp_path, rules)
    card = {"configs": [{"config_name": "main", **rules}]}
    found = split_files(HubData("org/name", paths, card), None, wanted)
    assert {split: set(files) for split, files in found.items()} == wanted


TWO = {
    "configs": [
        {"config_name": "main", "data_files": "main.csv"},
        {"config_name": "hard", "data_files": [{"split": "test", "path": "hard.csv"}]},
    ]
}
PATHS = ("main.csv", "hard.csv")


def test_the_default_configuration_is_the_one_that_says_so() -> None:
    card = {"configs": [TWO["configs"][0], {**TWO["configs"][1], "default": True}]}
    assert split_files(HubData("org/name", PATHS, card), None, ["test"]) == {"test": ["hard.csv"]}


@pytest.mark.parametrize(
    ("data", "config", "split", "told"),
    [
        (HubData("org/name", PATHS, TWO), None, "train", r"several configs.*one of main, hard"),
        (
            HubData("org/name", PATHS, TWO),
            "mian",
            "train",
            r"no config 'mian'.*did you mean main\? .*main, hard",
        ),
        (HubData("org/name", PATHS, TWO), "main", "test", r"no split 'test'.*the splits are train"),
        (HubData("org/name", ("train.csv",)), None, "train[:10%]", r"no split .*max_samples"),
        (
            HubData("org/name", ("name.py", "data.csv")),
            None,
            "train",
            r"script, name\.py.*refs/convert/parquet",
        ),
        (
            HubData("org/name", ("train.txt", "README.md")),
            None,
            "train",
            r"holds train\.txt; dem reads \.jsonl",
        ),
        (HubData("org/name", ("a.jsonl", "b.jsonl.gz")), None, "train", r"holds b\.jsonl\.gz"),
        (
            HubData("org/name", ("README.md", ".gitattributes")),
            None,
            "train",
            r"has no data files.*README\.md",
        ),
        (
            HubData(
                "org/name", PATHS, {"configs": [{"config_name": "a", "data_files": "*.csv", "sep": ";"}]}
            ),
            None,
            "train",
            "read config 'a' with `sep`",
        ),
        (
            HubData(
                "org/name", PATHS, {"configs": [{"config_name": "a", "data_files": "https://x.org/a.csv"}]}
            ),
            None,
            "train",
            r"names https://x\.org/a\.csv",
        ),
        (HubData("org/name", PATHS, {"configs": ["main"]}), None, "train", "`configs` that cannot be read"),
        (
            HubData("org/name", PATHS, {"configs": [{"config_name": "a", "data_files": [{"split": "x"}]}]}),
            None,
            "train",
            "`data_files` that cannot be read",
        ),
        (
            HubData("org/name", PATHS, {"configs": [{"config_name": "a", "data_files": "a**.csv"}]}),
            None,
            "train",
            r"pattern 'a\*\*\.csv' cannot be read",
        ),
        (HubData("org/name", ("a.csv",), converted=True), None, "train", "has made no parquet files"),
    ],
)
def test_what_dem_cannot_take_is_refused_by_name(
    data: HubData, config: str | None, split: str, told: str
) -> None:
    with pytest.raises(UsageError) as caught:
        split_files(data, config, [split])

    assert re.search(told, str(caught.value))


def test_the_parquet_files_that_the_hub_made_are_told_apart_by_their_folders() -> None:
    paths = (
        "main/train/0000.parquet",
        "main/train/0001.parquet",
        "main/test/0000.parquet",
        "hard/test/0000.parquet",
    )
    data = HubData("org/name", paths, converted=True)
    assert split_files(data, "main", ["train"]) == {"train": list(paths[:2])}
    assert split_files(data, "hard", ["test"]) == {"test": ["hard/test/0000.parquet"]}
