"""What a recipe's `[base]` names: the model's files, here or on a hub, and the chat template that it brings.

What a lock pins of a hub is not asked for again: the same model and revision are the same files for ever.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dem_build import hub
from dem_build.basemodel import CHAT_TEMPLATE, Listing, base_files, model_files
from dem_build.data.template import check_template, read_template
from dem_build.errors import RecipeError, UsageError
from dem_build.kinds import HubFile, SourceFile
from dem_build.recipe import is_local

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dem_build.digest import JSON
    from dem_build.hub import Listed
    from dem_build.recipe import Recipe
    from dem_build.store import Hints

__all__ = [
    "AskedBase",
    "BasePin",
    "asked_base",
    "locate_base",
    "locate_template",
    "refuse_template",
    "resolve_base",
    "template_is_new",
]


@dataclass(frozen=True)
class AskedBase:
    """What a recipe asks of a hub for its base: a model, and a branch, tag or commit of it."""

    model: str
    revision: str


@dataclass(frozen=True)
class BasePin:
    """What was asked of a hub, the commit that answers it, and those of its files that matter."""

    asked: AskedBase
    commit: str
    files: tuple[SourceFile, ...]

    def document(self) -> dict[str, JSON]:
        """Return it as it stands in the lock."""
        files = [{"tag": f.tag, "sha256": f.digest} for f in self.files]
        return {
            "model": self.asked.model,
            "revision": self.asked.revision,
            "commit": self.commit,
            "files": files,
        }

    @classmethod
    def parse(cls, base: JSON) -> BasePin | None:
        """Return the pin that a lock's entry of the base holds, None where it is of a local base.

        Raises:
            KeyError, TypeError, AttributeError: It is not whole.
        """
        if "hub" not in base:
            return None
        entry = base["hub"]
        asked = AskedBase(entry["model"], entry["revision"])
        files = [_source(f["tag"], f["sha256"], asked.model, entry["commit"]) for f in entry["files"]]
        return cls(asked, entry["commit"], tuple(files))


def asked_base(recipe: Recipe) -> AskedBase | None:
    """Return what a recipe asks of a hub for its base, None where that is here."""
    base = recipe.base
    return None if is_local(base.model, recipe.folder) else AskedBase(base.model, base.revision)


def locate_base(recipe: Recipe) -> tuple[str, tuple[tuple[str, Path], ...]]:
    """Return how the base is read (`directory` or `gguf`), and the files of a local one with their tags.

    Raises:
        UsageError: It is not there, or is none that dem takes.
    """
    if asked_base(recipe) is not None:
        return "directory", ()
    path = recipe.resolve(recipe.base.model)
    return ("gguf" if path.suffix == ".gguf" else "directory"), tuple(base_files(path))


def resolve_base(asked: AskedBase, known: BasePin | None, hints: Hints) -> BasePin:
    """Return what a lock pins, else what the hub says: it is asked for names and digests, and for no weights.

    Args:
        asked: The model.
        known: What the lock has of a base, if anything.
        hints: What this host has hashed: small files are downloaded and read, as the hub knows no digest of them.

    Raises:
        UsageError: There is no such model or revision, it is none that dem takes, or the hub cannot be asked.
        CheckpointError: The index of its shards cannot be read.
    """
    if known is not None and known.asked == asked:
        return known
    try:
        commit = hub.commit_of("model", asked.model, asked.revision)
    except UsageError as error:
        what = f"there is no folder `{asked.model}` here, and {error.what}"
        raise UsageError(what, hint=error.hint) from error
    files = {f.file.name: f for f in hub.files_of("model", asked.model, commit)}
    names = model_files(_listing(asked, commit, files))
    kept = [_source(name, _digest(files[name], hints), asked.model, commit) for name in names]
    return BasePin(asked, commit, tuple(kept))


def _listing(asked: AskedBase, commit: str, files: Mapping[str, Listed]) -> Listing:
    where = f"{asked.model} at {commit[:8]}"
    return Listing(
        names=frozenset(name for name in files if "/" not in name),
        text=lambda name: hub.download(files[name].file).read_text(encoding="utf-8"),
        place=lambda name: f"{name} of {where}",
        where=where,
        given=repr(asked.model),
        again="name another model or revision, or a folder that holds all of it",
        other="name a model that transformers loads",
    )


def _digest(listed: Listed, hints: Hints) -> str:
    """Return a file's SHA-256: the hub knows it of large files; small ones are read."""
    return listed.sha256 or hints.digest_of(hub.download(listed.file)).digest


def _source(tag: str, digest: str, model: str, commit: str) -> SourceFile:
    return SourceFile(tag, digest, Path(tag), HubFile("model", model, commit, tag))


def locate_template(recipe: Recipe) -> tuple[tuple[str, Path], ...]:
    """Return the chat template that the recipe brings, with its tag; nothing where it brings none.

    Raises:
        UsageError: There is no such file.
    """
    if recipe.base.chat_template is None:
        return ()
    path = recipe.resolve(recipe.base.chat_template)
    if not path.is_file():
        hint = "name a file of Jinja; a path starts from the recipe's folder"
        raise UsageError("no such file", where=str(path), hint=hint)
    return ((CHAT_TEMPLATE, path),)


def template_is_new(files: Iterable[SourceFile], old: JSON | None) -> bool:
    """Tell whether the recipe's chat template is none that a lock has: one that is locked was judged before."""
    known = [f["sha256"] for f in old["base"]["files"] if f["tag"] == CHAT_TEMPLATE] if old else []
    return any(f.tag == CHAT_TEMPLATE and f.digest not in known for f in files)


def refuse_template(recipe: Recipe) -> None:
    """Refuse a chat template that cannot write a question and its answer, before anything is built with it.

    Raises:
        RecipeError: It cannot.
    """
    named = recipe.base.chat_template
    if named is None:
        return
    try:
        check_template(read_template(recipe.resolve(named)), named)
    except UsageError as error:
        problem = recipe.problem("base.chat_template", error.located, error.hint or "")
        raise RecipeError([problem]) from error
