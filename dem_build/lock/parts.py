"""The parts of a dataset in a lock, and in keys: which files belong together, told without any name.

A lock says of a part's files which part they are of, and of which configuration: `0/glue_mrpc:parquet`. In keys a part
and a sub-dataset are called after what is in them, so that a configuration or a file may have another name, and parts
may come in another order. Changed is then only what has other files, or another rule.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from dem_build.data.sources import part_of
from dem_build.digest import of_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from dem_build.action import SourceFile
    from dem_build.digest import JSON
    from dem_build.errors import Problem
    from dem_build.lock.pin import Pin
    from dem_build.recipe import DatasetPart

_INDEX = re.compile(r"parts\[(\d+)\]")
_LETTERS = 16  # of a digest: enough to tell apart what one dataset has


def mark(key: str) -> str:
    """What stands before the type in the tags of a part's local files, given the part's key in its dataset."""
    found = _INDEX.fullmatch(key)
    return f"{found[1]}/:" if found else ""


def names(dataset: str, pins: Iterable[str]) -> list[str]:
    """Those names in a lock that are parts of a dataset, in order.

    `datasets.prompts.parts[0]` is one of `datasets.prompts`.
    """
    found = {name: _INDEX.fullmatch(name.removeprefix(f"{dataset}.")) for name in pins}
    return sorted((n for n, match in found.items() if match), key=lambda n: int((found[n] or "")[1]))


def pinned(dataset: str, pins: Mapping[str, Pin]) -> Iterator[SourceFile]:
    """The files on a hub of all parts of a dataset, each with its part and configuration in its tag."""
    for name in names(f"datasets.{dataset}", pins):
        index = name.rpartition("[")[2].removesuffix("]")
        yield from (replace(file, tag=f"{index}/{file.tag}") for file in pins[name].files)


def shared(
    datasets: Mapping[str, Sequence[SourceFile]], problem: Callable[[str, str, str], Problem]
) -> Iterator[Problem]:
    """A mistake for each file that two parts of a dataset have: its rows would come twice."""
    for name, files in datasets.items():
        owners: dict[str, str] = {}
        for file in files:
            if (found := part_of(file)) is None:
                continue
            place = str(file.path) if file.hub is None else f"{file.hub.repo}/{file.hub.name}"
            first = owners.setdefault(place, found[0])
            if first != found[0]:
                what = f"{place} is in parts[{first}] as well"
                yield problem(f"datasets.{name}.parts[{found[0]}]", what, "let one of them name less")
                break


def nameless(
    parts: Sequence[DatasetPart], files: Iterable[SourceFile]
) -> tuple[dict[str, JSON], tuple[SourceFile, ...]]:
    """What keys say of parts, and their files as keys have them.

    Args:
        parts: The parts of a dataset.
        files: Its files, as a lock has them; those held out whole stay as they are.

    Returns:
        A part's name in keys → its rule (`columns`, `by`, `max_samples`, `share`, those that it has); and the files.
    """
    grouped: dict[int, dict[str, list[SourceFile]]] = {
        index: defaultdict(list) for index in range(len(parts))
    }
    rest = []
    for file in files:
        found = part_of(file)
        if found is None:
            rest.append(file)
        else:
            # Of local files each is a sub-dataset; on a hub those of one configuration are one together.
            grouped[int(found[0])][found[1] if file.hub else str(file.path)].append(file)
    rules: dict[str, JSON] = {}
    copies = _Copies()
    for index, part in enumerate(parts):
        said = {"columns": part.columns, "by": part.by, "max_samples": part.max_samples, "share": part.share}
        rule = {name: value for name, value in said.items() if value is not None}
        same = _Copies()
        subsets = {n: same.apart(_short(sorted(f.digest for f in fs))) for n, fs in grouped[index].items()}
        called = copies.apart(_short([rule, sorted(subsets.values())]))
        rules[called] = rule
        for name, group in grouped[index].items():
            rest += [replace(f, tag=f"{called}/{subsets[name]}:{f.tag.rpartition(':')[2]}") for f in group]
    return rules, tuple(sorted(rest))


class _Copies:
    """Tells apart what has the same files: each is one of its own, and which is which does not matter."""

    def __init__(self) -> None:
        self._seen: Counter[str] = Counter()

    def apart(self, called: str) -> str:
        """What to call one more of these."""
        self._seen[called] += 1
        return called if (number := self._seen[called]) == 1 else f"{called}.{number}"


def _short(value: JSON) -> str:
    return of_json(value)[:_LETTERS]
