"""What a recipe asks of a hub, a model or splits of a dataset → the commit and files that it gets and a lock remembers.

What a lock pins is not asked for again: the same names and revision are the same files for ever. Else the hub is asked
for names and digests; of the files only those that judge a model, or are a dataset's card, are read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from dem_build.action import HubFile, SourceFile
from dem_build.checkpoint.filenames import Listing, is_named_template
from dem_build.data.sources import file_type
from dem_build.errors import UsageError
from dem_build.json_text import quantity, text_at
from dem_build.lock import hub
from dem_build.lock.base import model_files
from dem_build.lock.finetuned import adapter_files, checkpoint_files
from dem_build.recipe import DatasetPart, SplitName, is_local

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Mapping

    from dem_build.digest import JSON
    from dem_build.lock.hub import Listed
    from dem_build.lock.hub_splits import HubData
    from dem_build.recipe import Recipe
    from dem_build.store import Hints

CARD = "README.md"
MORE_CARD = ".huggingface.yaml"  # lays its keys over the card's

CHOOSE: Mapping[str, Callable[[Listing], list[str]]] = MappingProxyType(
    {"model": model_files, "checkpoint": checkpoint_files, "adapter": adapter_files}
)
"""The key of a recipe that names a model → what chooses the files that matter there, or refuses the model."""


@dataclass(frozen=True)
class ModelRef:
    """A model on a hub, as a recipe names it.

    Attributes:
        key: The key of the recipe that names it, and so what it is for: `model` (the base's), `checkpoint`, `adapter`.
        name: `org/name`.
        revision: Branch, tag or commit.
    """

    kind: ClassVar[str] = "model"
    key: str
    name: str
    revision: str

    def document(self) -> dict[str, JSON]:
        """The reference as it stands in the lock."""
        return {self.key: self.name, "revision": self.revision}


@dataclass(frozen=True)
class PartRef:
    """What a part of a dataset asks of a hub dataset.

    Attributes:
        configs: Configurations and patterns of them; none for the dataset's default.
        max_files: Most files of each configuration or pattern of files; None for all.
        files: Patterns of files, in place of configurations.
    """

    configs: tuple[str, ...] = ()
    max_files: int | None = None
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class DatasetRef:
    """Splits of a dataset on a hub, as a recipe names them.

    Attributes:
        name: `org/name`.
        revision: Branch, tag or commit.
        config: The configuration; None for the dataset's default.
        splits: What rows are for (`train`, `validation`, `test`) → the split that they are.
        part: What a part of a dataset asks for, in place of `config`; None for a whole dataset.
    """

    kind: ClassVar[str] = "dataset"
    name: str
    revision: str
    config: str | None
    splits: tuple[tuple[str, str], ...]
    part: PartRef | None = None

    def document(self) -> dict[str, JSON]:
        """The reference as it stands in the lock."""
        asked: dict[str, JSON] = {"dataset": self.name, "revision": self.revision}
        if self.part is None:
            asked["config"] = self.config
        else:
            asked |= {"configs": list(self.part.configs), "max_files": self.part.max_files}
            asked |= {"patterns": list(self.part.files)} if self.part.files else {}
        return asked | {"splits": dict(self.splits)}


Ref: TypeAlias = ModelRef | DatasetRef


@dataclass(frozen=True)
class Pin:
    """What was asked of a hub, the commit that answers it, and those of its files that matter.

    The files of a part of a dataset have tags `CONFIGURATION:TYPE`, their sizes, and about how many rows they have
    where the dataset's card says that.
    """

    ref: Ref
    commit: str
    files: tuple[SourceFile, ...]

    def document(self) -> dict[str, JSON]:
        """The pin as it stands in the lock; the tag of a model's file is its path."""
        files: list[JSON]
        if isinstance(self.ref, ModelRef):
            files = [{"tag": f.tag, "sha256": f.digest} for f in self.files]
        else:
            files = [
                {"tag": f.tag, "path": f.path.as_posix(), "sha256": f.digest}
                | ({"bytes": f.size} if f.size is not None else {})
                | ({"rows": f.rows} if f.rows is not None else {})
                for f in self.files
            ]
        return self.ref.document() | {"commit": self.commit, "files": files}

    @classmethod
    def parse(cls, document: JSON, *, dataset: bool) -> Pin:
        """The pin that stands in a lock.

        Args:
            document: Its entry.
            dataset: Whether it is among the datasets of the lock; else it pins a model.

        Raises:
            KeyError, TypeError, AttributeError: It is not whole.
        """
        commit, revision = text_at(document, "commit"), text_at(document, "revision")
        ref: Ref
        if dataset:
            config = None if document.get("config") is None else text_at(document, "config")
            splits = tuple((side, text_at(document["splits"], side)) for side in document["splits"])
            part = _parsed_part(document) if "configs" in document else None
            ref = DatasetRef(text_at(document, "dataset"), revision, config, splits, part)
        else:
            key = next((key for key in CHOOSE if key in document), "model")
            ref = ModelRef(key, text_at(document, key), revision)
        return cls(ref, commit, tuple(_pinned_file(file, ref, commit) for file in document["files"]))


def _pinned_file(entry: JSON, ref: Ref, commit: str) -> SourceFile:
    tag = text_at(entry, "tag")
    path = tag if isinstance(ref, ModelRef) else text_at(entry, "path")
    # A lock that came with a recipe may be anybody's: a path in a repository leads nowhere else.
    if path.startswith("/") or ".." in path.split("/"):
        raise TypeError(f"{path} is no path in a repository")
    octets, rows = (None if (n := quantity(entry.get(k))) is None else int(n) for k in ("bytes", "rows"))
    at = HubFile(ref.kind, ref.name, commit, path)
    return SourceFile(tag, text_at(entry, "sha256"), Path(path), at, size=octets, rows=rows)


def _parsed_part(document: JSON) -> PartRef:
    configs, most, patterns = document["configs"], document.get("max_files"), document.get("patterns", [])
    if not all(
        isinstance(names, list) and all(isinstance(n, str) for n in names) for names in (configs, patterns)
    ):
        raise TypeError("`configs` or `patterns` is no list of names")
    if most is not None and not isinstance(most, int):
        raise TypeError("`max_files` is no number")
    return PartRef(tuple(configs), most, tuple(patterns))


def hub_refs(recipe: Recipe, local: Container[str] | None = None) -> dict[str, Ref]:
    """What a recipe asks of a hub, by names in the lock: `base`, `vectors.code`, `datasets.math`; so are probes.

    Args:
        recipe: The recipe.
        local: The names of bases and vectors that are the user's files; None for those that are here.
    """
    models = {"base": ModelRef("model", recipe.base.model, recipe.base.revision)}
    for name, vector in recipe.vectors.items():
        models[f"vectors.{name}"] = ModelRef(vector.source, vector.origin, vector.revision or "main")
    if local is None:
        local = {n for n, ref in models.items() if is_local(ref.name, recipe.folder)}
    refs: dict[str, Ref] = {n: ref for n, ref in models.items() if n not in local}
    for name, source in recipe.sources.items():
        held = {side: getattr(source, side, None) for side in ("validation", "test")}
        for key, rows in source.origins.items():
            if rows.hub is None:
                continue
            splits = {"test" if name in recipe.probes else "train": rows.split or "train"}
            splits |= {side: value.split for side, value in held.items() if isinstance(value, SplitName)}
            part = (
                PartRef(rows.configs, rows.max_files, rows.patterns)
                if isinstance(rows, DatasetPart)
                else None
            )
            config = None if part else rows.config
            asked = DatasetRef(rows.hub, rows.revision or "main", config, tuple(splits.items()), part)
            refs[f"datasets.{name}.{key}" if key else f"datasets.{name}"] = asked
    return refs


def recipe_key(recipe: Recipe, name: str) -> str:
    """The key of a recipe that says where what its lock has under a name lies, such as `vectors.code.checkpoint`."""
    section, _, own = name.partition(".")
    if section == "datasets":
        dataset, *part = own.split(".", 1)
        rows = recipe.sources[dataset].origins["".join(part)]
        return recipe.source_key(dataset, *part, "path" if rows.hub is None else "hub")
    return f"{name}.{recipe.vectors[own].source}" if section == "vectors" else "base.model"


class Resolver:
    """Answers what a recipe asks of a hub: from the pins of a lock, else from the hub."""

    def __init__(self, known: Iterable[Pin], hints: Hints) -> None:
        """Take what a lock pins, and what this host has hashed."""
        self._hints = hints
        self._pins: dict[Ref, Pin] = {}
        self._commits: dict[tuple[str, str], str] = {}
        self._contents: dict[tuple[str, str], tuple[HubData, Mapping[str, Listed]]] = {}
        for pin in known:
            # Where two entries of a merged lock say the same differently, the first one counts.
            self._pins.setdefault(pin.ref, pin)
            if isinstance(pin.ref, DatasetRef):
                self._commits[pin.ref.name, pin.ref.revision] = pin.commit

    def resolve(self, ref: Ref) -> Pin:
        """What the lock pins, else what the hub says.

        Raises:
            UsageError: There is no such model, dataset, revision, configuration or split; it is none that dem takes or
                reads; or the hub cannot be asked.
            CheckpointError: The index of a model's shards cannot be read.
        """
        if ref in self._pins:
            return self._pins[ref]
        return self._ask_model(ref) if isinstance(ref, ModelRef) else self._ask_dataset(ref)

    def _ask_model(self, ref: ModelRef) -> Pin:
        try:
            commit = hub.commit_of("model", ref.name, ref.revision)
        except UsageError as error:
            what = f"there is no folder `{ref.name}` here, and {error.what}"
            raise UsageError(what, hint=error.hint) from error
        files = {f.file.name: f for f in hub.files_of("model", ref.name, commit)}
        where = HubFile("model", ref.name, commit, "").origin
        listing = Listing(
            names=frozenset(name for name in files if "/" not in name or is_named_template(name)),
            text=lambda name: hub.download(files[name].file).read_text(encoding="utf-8"),
            place=lambda name: f"{name} of {where}",
            where=where,
            given=repr(ref.name),
            again="name another model or revision, or a folder that holds all of it",
            other="name a model that transformers loads",
        )
        return Pin(ref, commit, tuple(self._source(name, files[name]) for name in CHOOSE[ref.key](listing)))

    def _ask_dataset(self, ref: DatasetRef) -> Pin:
        from dem_build.lock.hub_splits import split_files  # noqa: PLC0415  only for what no lock pins

        # One commit for all that is asked of a dataset's revision, and that of the lock where it has one.
        if (ref.name, ref.revision) not in self._commits:
            self._commits[ref.name, ref.revision] = hub.commit_of("dataset", ref.name, ref.revision)
        commit = self._commits[ref.name, ref.revision]
        data, listed = self._content(ref, commit)
        if ref.part is not None:
            return Pin(ref, commit, tuple(sorted(self._part_files(ref, ref.part, data, listed))))
        chosen = split_files(data, ref.config, dict.fromkeys(split for _, split in ref.splits))
        files = [
            self._source(
                file_type(Path(path)) if side == "train" else f"{side}:{file_type(Path(path))}", listed[path]
            )
            for side, split in ref.splits
            for path in chosen[split]
        ]
        # A gated repository lists its files to everybody, and the build would end hours later, when it reads one.
        hub.require_access(listed[chosen[ref.splits[0][1]][0]].file)
        # Ordered by content, as all sources are.
        return Pin(ref, commit, tuple(sorted(files)))

    def _part_files(
        self, ref: DatasetRef, part: PartRef, data: HubData, listed: Mapping[str, Listed]
    ) -> Iterator[SourceFile]:
        """The files of each configuration of a part, with sizes, and rows as the card tells them."""
        from dem_build.lock.hub_splits import named_files, part_files, told_rows  # noqa: PLC0415  as above

        ((_, split),) = ref.splits
        if part.files:
            chosen = {pattern: named_files(data, pattern) for pattern in part.files}
        else:
            chosen = part_files(data, part.configs, split)
        hub.require_access(listed[next(iter(chosen.values()))[0]].file)
        taken: dict[str, None] = {}  # in case two patterns name one file
        for name, paths in chosen.items():
            rows = None if part.files else told_rows(data.card, name, split)
            size = sum(listed[path].size for path in paths)
            for path in paths[: part.max_files]:
                if path in taken:
                    continue
                taken[path] = None
                subset = path if part.files else name
                found = self._source(f"{subset}:{file_type(Path(path))}", listed[path])
                # Shards of one split are about as large as each other, and so are their rows.
                own = None if rows is None else round(rows * listed[path].size / max(size, 1))
                yield replace(found, size=listed[path].size, rows=own)

    def _content(self, ref: DatasetRef, commit: str) -> tuple[HubData, Mapping[str, Listed]]:
        """All files of a dataset and what its card says; asked once, however many splits are wanted."""
        from dem_build.lock.hub_splits import CONVERTED, HubData  # noqa: PLC0415  as above

        known = self._contents.get((ref.name, commit))
        if known is None:
            listed = {f.file.name: f for f in hub.files_of("dataset", ref.name, commit)}
            data = HubData(ref.name, list(listed), _card(listed), converted=ref.revision == CONVERTED)
            known = self._contents[ref.name, commit] = (data, listed)
        return known

    def _source(self, tag: str, listed: Listed) -> SourceFile:
        # The hub knows the SHA-256 of large files; small ones are read.
        digest = listed.sha256 or self._hints.digest_of(hub.download(listed.file)).digest
        return SourceFile(tag, digest, Path(listed.file.name), listed.file)


def _card(listed: Mapping[str, Listed]) -> dict[str, Any]:
    """What the YAML of a dataset's card says."""
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
