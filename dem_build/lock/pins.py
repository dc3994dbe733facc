"""What a recipe asks of datasets on a hub → the commit and the files that it gets, remembered by the lock.

What a lock pins is not asked for again: same dataset, revision, configuration and splits are the same files for ever.
Only where the recipe asks for something else is the hub asked, at the commit that the lock has of that revision.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dem_build.action import HubFile, SourceFile
from dem_build.data.sources import file_type
from dem_build.errors import UsageError
from dem_build.json_text import text_at
from dem_build.lock import hub
from dem_build.recipe import SplitName

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dem_build.digest import JSON
    from dem_build.lock.hub import Listed
    from dem_build.lock.hub_splits import HubData
    from dem_build.recipe import Recipe
    from dem_build.store import Hints

__all__ = ["Asked", "Pin", "Pins", "asked_of"]

CARD = "README.md"
MORE_CARD = ".huggingface.yaml"  # lays its keys over the card's


@dataclass(frozen=True)
class Asked:
    """What a recipe asks of a hub dataset.

    Attributes:
        dataset: `org/name`.
        revision: Branch, tag or commit.
        config: The configuration; None for the dataset's default.
        splits: What rows are for (`train`, `validation`, `test`) → the split that they are.
    """

    dataset: str
    revision: str
    config: str | None
    splits: tuple[tuple[str, str], ...]

    def document(self) -> dict[str, JSON]:
        """Return it as it stands in the lock."""
        return {
            "dataset": self.dataset,
            "revision": self.revision,
            "config": self.config,
            "splits": dict(self.splits),
        }


@dataclass(frozen=True)
class Pin:
    """What was asked of a hub dataset, the commit that answers it, and its files."""

    asked: Asked
    commit: str
    files: tuple[SourceFile, ...]

    def document(self) -> dict[str, JSON]:
        """Return it as it stands in the lock."""
        files = [{"tag": f.tag, "path": f.path.as_posix(), "sha256": f.digest} for f in self.files]
        return self.asked.document() | {"commit": self.commit, "files": files}

    @classmethod
    def parse(cls, document: JSON) -> Pin:
        """Return the pin that stands in a lock.

        Raises:
            KeyError, TypeError, AttributeError: It is not whole.
        """
        splits = tuple((side, text_at(document["splits"], side)) for side in document["splits"])
        config = None if document["config"] is None else text_at(document, "config")
        asked = Asked(text_at(document, "dataset"), text_at(document, "revision"), config, splits)
        commit = text_at(document, "commit")
        files = [
            _source(
                text_at(f, "tag"), text_at(f, "sha256"), HubFile("dataset", asked.dataset, commit, _inside(f))
            )
            for f in document["files"]
        ]
        return cls(asked, document["commit"], tuple(files))


def asked_of(recipe: Recipe, name: str) -> Asked | None:
    """Return what a recipe asks of a hub for a dataset or a probe, None for one of files."""
    probe, dataset = recipe.probes.get(name), recipe.datasets.get(name)
    source = probe or dataset
    if source is None or source.hub is None:
        return None
    splits = {"test" if probe else "train": source.split or "train"}
    if dataset is not None:
        held = {"validation": dataset.validation, "test": dataset.test}
        splits |= {side: value.split for side, value in held.items() if isinstance(value, SplitName)}
    return Asked(source.hub, source.revision or "main", source.config, tuple(splits.items()))


@dataclass
class Pins:
    """Answers what recipes ask of hub datasets.

    Attributes:
        known: What a lock pins.
        hints: What this host has hashed.
    """

    known: Iterable[Pin]
    hints: Hints
    _commits: dict[tuple[str, str], str] = field(default_factory=dict)
    _contents: dict[tuple[str, str], tuple[HubData, Mapping[str, Listed]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.known = tuple(self.known)
        self._commits |= {(p.asked.dataset, p.asked.revision): p.commit for p in self.known}

    def recall(self, asked: Asked) -> Pin | None:
        """Return what the lock pins, None where it does not."""
        return next((p for p in self.known if p.asked == asked), None)

    def resolve(self, asked: Asked) -> Pin:
        """Return what the lock pins, else what the hub says.

        Raises:
            UsageError: There is no such dataset, revision, configuration or split; dem cannot read it; or the hub
                cannot be asked.
        """
        return self.recall(asked) or self._ask(asked)

    def _ask(self, asked: Asked) -> Pin:
        from dem_build.lock.hub_splits import split_files  # noqa: PLC0415  only for what no lock pins

        commit = self._commit(asked.dataset, asked.revision)
        data, listed = self._content(asked, commit)
        chosen = split_files(data, asked.config, dict.fromkeys(split for _, split in asked.splits))
        files = [
            _source(_tag(side, path), self._digest(listed[path]), listed[path].file)
            for side, split in asked.splits
            for path in chosen[split]
        ]
        hub.require_access(listed[chosen[asked.splits[0][1]][0]].file)
        # Ordered by content, as all sources are.
        return Pin(asked, commit, tuple(sorted(files)))

    def _commit(self, dataset: str, revision: str) -> str:
        """Return one commit for all that is asked of a dataset's revision."""
        if (dataset, revision) not in self._commits:
            self._commits[dataset, revision] = hub.dataset_commit(dataset, revision)
        return self._commits[dataset, revision]

    def _content(self, asked: Asked, commit: str) -> tuple[HubData, Mapping[str, Listed]]:
        """Return all files of a dataset and what its card says; asked once, however many splits are wanted."""
        from dem_build.lock.hub_splits import CONVERTED, HubData  # noqa: PLC0415  as above

        known = self._contents.get((asked.dataset, commit))
        if known is None:
            listed = {f.file.name: f for f in hub.files_of("dataset", asked.dataset, commit)}
            converted = asked.revision == CONVERTED
            data = HubData(asked.dataset, list(listed), _card(listed), converted=converted)
            known = self._contents[asked.dataset, commit] = (data, listed)
        return known

    def _digest(self, listed: Listed) -> str:
        """Return a file's SHA-256: the hub knows it of large files; small ones are read."""
        return listed.sha256 or self.hints.digest_of(hub.download(listed.file)).digest


def _inside(entry: JSON) -> str:
    """Return the path of a file in its repository, which leads nowhere else."""
    path = text_at(entry, "path")
    if path.startswith("/") or ".." in path.split("/"):
        raise TypeError(f"{path} is no path in a repository")
    return path


def _source(tag: str, digest: str, file: HubFile) -> SourceFile:
    return SourceFile(tag, digest, Path(file.name), file)


def _tag(side: str, path: str) -> str:
    kind = file_type(Path(path))
    return kind if side == "train" else f"{side}:{kind}"


def _card(listed: Mapping[str, Listed]) -> dict[str, Any]:
    """Return what the YAML of a dataset's card says."""
    import yaml  # noqa: PLC0415  only for what no lock pins
    from huggingface_hub import metadata_load  # noqa: PLC0415  as above

    card: dict[str, Any] = {}
    try:
        if CARD in listed:
            card |= metadata_load(hub.download(listed[CARD].file)) or {}
        if MORE_CARD in listed:
            text = hub.download(listed[MORE_CARD].file).read_text(encoding="utf-8")
            card |= yaml.safe_load(text) or {}
    except (yaml.YAMLError, ValueError, TypeError) as error:
        name = next(iter(listed.values())).file.repo
        hint = "download it, and name its files in `path`"
        raise UsageError(f"the card of the dataset {name!r} cannot be read", hint=hint) from error
    return card
