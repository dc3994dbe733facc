"""Where an lm-eval task's local data lie, and which of the files it is scored on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dem_build.data.sources import matching
from dem_build.errors import UsageError
from dem_build.lock.hub_splits import HubData, split_files
from dem_build.paths import expanded

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from dem_build.digest import JSON

__all__ = ["FILE_FORMATS", "judged_files", "map_data_files", "within"]

FILE_FORMATS = frozenset({"arrow", "csv", "json", "pandas", "parquet", "text", "xml"})
"""Values of `dataset_path` for which the data are the files of `dataset_kwargs`."""


def map_data_files(data_files: JSON, change: Callable[[str], str]) -> JSON:
    """Return `data_files` as `datasets.load_dataset` takes it, each pattern in it changed.

    Raises:
        ValueError: Something other than patterns, lists of them, or splits of them.
    """
    match data_files:
        case str():
            return change(data_files)
        case list() | tuple():
            return [map_data_files(each, change) for each in data_files]
        case {"split": split, "path": pattern}:
            return {"split": split, "path": map_data_files(pattern, change)}
        case dict():
            return {split: map_data_files(each, change) for split, each in data_files.items()}
        case _:
            raise ValueError(f"{data_files!r} is no pattern of files")


def within(folder: Path, name: str) -> Path:
    """Return the absolute path of `name` as seen from `folder`, symbolic links kept as they are."""
    return Path(os.path.normpath(folder / expanded(name)))


def judged_files(config: Mapping[str, Any], path: Path, found: Collection[Path]) -> tuple[Path, ...]:
    """Return the files that a task is scored on: of its `test_split`, else of its `validation_split`.

    What its examples in the prompt come from is not among them. Where the split's files cannot be told, all data are.

    Args:
        config: The task's keys, includes resolved.
        path: The task's file.
        found: All files that it refers to.
    """
    split = str(config.get("test_split") or config.get("validation_split") or "").partition("[")[0]
    kwargs, dataset = config.get("dataset_kwargs"), config.get("dataset_path")
    kwargs = kwargs if isinstance(kwargs, dict) else {}
    in_files = isinstance(dataset, str) and dataset in FILE_FORMATS
    folder = within(path.parent, str((kwargs.get("data_dir") if in_files else dataset) or ""))
    if in_files and "data_files" in kwargs:
        wanted = _named(kwargs["data_files"], split, folder)
    else:
        wanted = _inside(folder, split, found)
    return tuple(file for file in found if file in wanted)


def _named(data_files: Any, split: str, folder: Path) -> set[Path]:
    """Return what `data_files` names for a split; patterns without a split are of all."""
    if isinstance(data_files, dict) and split in data_files:
        data_files = data_files[split]
    patterns: list[str] = []
    map_data_files(data_files, lambda p: patterns.append(p) or p)  # type: ignore[func-returns-value]
    return {file for p in patterns for file in matching(str(within(folder, p)), folder)}


def _inside(folder: Path, split: str, found: Collection[Path]) -> set[Path]:
    """Return the files of a split of a folder, which `datasets` tells apart by their names."""
    inside = {f.relative_to(folder).as_posix(): f for f in found if f.is_relative_to(folder)}
    if not inside:
        return set()
    try:
        return {inside[name] for name in split_files(HubData("folder", list(inside)), None, [split])[split]}
    except UsageError:
        return set(inside.values())
