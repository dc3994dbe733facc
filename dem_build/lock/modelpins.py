"""What a recipe asks of models on a hub, for its base and for vectors → the commit and files, which a lock remembers.

What a lock pins is not asked for again: the same model and revision are the same files for ever. Else the hub is asked
for names and digests; of the files only what judges a model is read, and no weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from dem_build.action import HubFile, SourceFile
from dem_build.errors import UsageError
from dem_build.json_text import text_at
from dem_build.lock import hub
from dem_build.lock.basemodel import Listing, is_named_template, model_files
from dem_build.lock.finetuned import adapter_files, checkpoint_files
from dem_build.recipe import is_local

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from dem_build.digest import JSON
    from dem_build.lock.hub import Listed
    from dem_build.recipe import Recipe
    from dem_build.store import Hints

__all__ = ["AskedModel", "ModelPin", "asked_models", "resolve_model"]

FILES: Mapping[str, Callable[[Listing], list[str]]] = MappingProxyType(
    {"model": model_files, "checkpoint": checkpoint_files, "adapter": adapter_files}
)
"""The key of a recipe that names a model → what chooses the files that matter there, or refuses the model."""


@dataclass(frozen=True)
class AskedModel:
    """What a recipe asks of a hub: a model, and a branch, tag or commit of it.

    Attributes:
        key: The key of the recipe that names it, and so what it is for: `model` (the base's), `checkpoint`, `adapter`.
        name: `org/name`.
        revision: The branch, tag or commit.
    """

    key: str
    name: str
    revision: str


@dataclass(frozen=True)
class ModelPin:
    """What was asked of a hub, the commit that answers it, and those of its files that matter."""

    asked: AskedModel
    commit: str
    files: tuple[SourceFile, ...]

    def document(self) -> dict[str, JSON]:
        """Return it as it stands in the lock."""
        files = [{"tag": f.tag, "sha256": f.digest} for f in self.files]
        asked = self.asked
        return {asked.key: asked.name, "revision": asked.revision, "commit": self.commit, "files": files}

    @classmethod
    def parse(cls, document: JSON) -> ModelPin:
        """Return the pin that stands in a lock.

        Raises:
            KeyError, TypeError, AttributeError: It is not whole.
        """
        key = next((key for key in FILES if key in document), "model")
        asked = AskedModel(key, text_at(document, key), text_at(document, "revision"))
        commit = text_at(document, "commit")
        files = [
            _source(text_at(f, "tag"), text_at(f, "sha256"), asked.name, commit) for f in document["files"]
        ]
        return cls(asked, commit, tuple(files))


def asked_models(recipe: Recipe) -> dict[str, AskedModel]:
    """Return what base and vectors ask of a hub, by their names in the lock: `base`, `vectors.code`."""
    asked = {"base": AskedModel("model", recipe.base.model, recipe.base.revision)}
    for name, vector in recipe.vectors.items():
        asked[f"vectors.{name}"] = AskedModel(vector.source, vector.origin, vector.revision or "main")
    return {name: model for name, model in asked.items() if not is_local(model.name, recipe.folder)}


def resolve_model(asked: AskedModel, known: Iterable[ModelPin], hints: Hints) -> ModelPin:
    """Return what a lock pins, else what the hub says.

    Args:
        asked: The model.
        known: What the lock has of models.
        hints: What this host has hashed: small files are downloaded and read, as the hub knows no digest of them.

    Raises:
        UsageError: There is no such model or revision, it is none that dem takes, or the hub cannot be asked.
        CheckpointError: The index of its shards cannot be read.
    """
    for pin in known:
        if pin.asked == asked:
            return pin
    try:
        commit = hub.commit_of("model", asked.name, asked.revision)
    except UsageError as error:
        what = f"there is no folder `{asked.name}` here, and {error.what}"
        raise UsageError(what, hint=error.hint) from error
    files = {f.file.name: f for f in hub.files_of("model", asked.name, commit)}
    names = FILES[asked.key](_listing(asked, commit, files))
    kept = [_source(name, _digest(files[name], hints), asked.name, commit) for name in names]
    return ModelPin(asked, commit, tuple(kept))


def _listing(asked: AskedModel, commit: str, files: Mapping[str, Listed]) -> Listing:
    where = HubFile("model", asked.name, commit, "").origin
    return Listing(
        names=frozenset(name for name in files if "/" not in name or is_named_template(name)),
        text=lambda name: hub.download(files[name].file).read_text(encoding="utf-8"),
        place=lambda name: f"{name} of {where}",
        where=where,
        given=repr(asked.name),
        again="name another model or revision, or a folder that holds all of it",
        other="name a model that transformers loads",
    )


def _digest(listed: Listed, hints: Hints) -> str:
    """Return a file's SHA-256: the hub knows it of large files; small ones are read."""
    return listed.sha256 or hints.digest_of(hub.download(listed.file)).digest


def _source(tag: str, digest: str, model: str, commit: str) -> SourceFile:
    return SourceFile(tag, digest, Path(tag), HubFile("model", model, commit, tag))
