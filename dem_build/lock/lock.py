"""Every outside name of a recipe → a digest or a commit, and the file that remembers them.

`locate` finds the files that a recipe names and reports all that is missing at once; `resolve` hashes them;
`write` puts the result beside the recipe as `<recipe>.lock`. The lock holds paths for people; only tags and digests
reach keys.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from dem_build.action import SourceFile
from dem_build.data import sources
from dem_build.errors import DemError, Problem, RecipeError, UsageError
from dem_build.json_text import parse_json
from dem_build.lock.bases import locate_base, locate_template
from dem_build.lock.finetuned import local_files
from dem_build.lock.modelpins import ModelPin, asked_models, resolve_model
from dem_build.lock.pins import Pin, Pins, asked_of
from dem_build.lock.tasklock import LockedTask, lock_task, pinned_commit
from dem_build.recipe import is_local
from dem_build.store.files import replace_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from dem_build.digest import JSON
    from dem_build.lock.modelpins import AskedModel
    from dem_build.lock.pins import Asked
    from dem_build.lock.tasks import Closure
    from dem_build.recipe import Recipe
    from dem_build.store import Hints

__all__ = [
    "Located",
    "Lock",
    "LockedBase",
    "LockedTask",
    "changes",
    "locate",
    "lock_path",
    "read",
    "resolve",
    "unpinned",
    "write",
]

LOCK_VERSION = 1
Tagged = tuple[str, Path]
T = TypeVar("T")


@dataclass(frozen=True)
class LockedBase:
    """The base model.

    Attributes:
        source: How it is read: `directory` or `gguf`.
        files: Its files, those on a hub among them, and the recipe's chat template.
    """

    source: str
    files: tuple[SourceFile, ...]


@dataclass(frozen=True)
class Lock:
    """What a recipe's outside names stand for, now and on this machine.

    Attributes:
        base: The base model's files.
        datasets: The files of each dataset and probe, those on a hub among them.
        tasks: The evaluation tasks.
        vectors: The files of each vector from elsewhere, those on a hub among them.
        pins: What of datasets and probes is on a hub.
        models: What of base and vectors is on a hub, by their names in the lock: `base`, `vectors.code`.
    """

    base: LockedBase
    datasets: Mapping[str, tuple[SourceFile, ...]] = field(default_factory=dict)
    tasks: Mapping[str, LockedTask] = field(default_factory=dict)
    vectors: Mapping[str, tuple[SourceFile, ...]] = field(default_factory=dict)
    pins: Mapping[str, Pin] = field(default_factory=dict)
    models: Mapping[str, ModelPin] = field(default_factory=dict)


@dataclass(frozen=True)
class Located:
    """What a recipe names: files that were found and not yet read, and names that a hub may be asked for.

    Attributes:
        base_source: How the base is read.
        base: Its files that are on this machine.
        datasets: The files of each dataset and probe that are on this machine.
        closures: The evaluation tasks.
        vectors: The files of each vector from elsewhere that are on this machine.
        asked: What datasets and probes ask of a hub.
        problem: Makes a mistake at a key of the recipe.
        models: What base and vectors ask of a hub, by their names in the lock.
    """

    base_source: str
    base: tuple[Tagged, ...]
    datasets: Mapping[str, tuple[Tagged, ...]]
    closures: Mapping[str, Closure]
    vectors: Mapping[str, tuple[Tagged, ...]] = field(default_factory=dict)
    asked: Mapping[str, Asked] = field(default_factory=dict)
    problem: Callable[[str, str, str], Problem] = lambda key, what, hint: Problem("", 0, key, what, hint)
    models: Mapping[str, AskedModel] = field(default_factory=dict)


def locate(recipe: Recipe) -> Located:
    """Find every file that a recipe names.

    Raises:
        RecipeError: All of what is missing or refused, at once.
    """
    problems: list[Problem] = []
    source, base = _try(recipe, "base.model", lambda: locate_base(recipe), problems) or ("", ())
    template = _try(recipe, "base.chat_template", lambda: locate_template(recipe), problems) or ()
    names = (*recipe.datasets, *recipe.probes)
    datasets = {name: _locate_data(recipe, name, problems) for name in names}
    vectors = {name: _locate_vector(recipe, name, problems) for name in recipe.vectors}
    closures = _locate_tasks(recipe, problems)
    if problems:
        raise RecipeError(problems)
    asked = {name: found for name in names if (found := asked_of(recipe, name)) is not None}
    files, models = (*base, *template), asked_models(recipe)
    return Located(source, files, datasets, closures, vectors, asked, recipe.problem, models)


def resolve(located: Located, hints: Hints, old: JSON | None = None, *, upgrade: bool = False) -> Lock:
    """Hash what was located, and find the commits of names on a hub.

    Args:
        located: The files.
        hints: What this host has hashed before, which is only looked at.
        old: The document of the lock that is there: what it pins on a hub stays pinned.
        upgrade: Ask the hub anew for every name.

    Raises:
        RecipeError: What base, vectors and datasets ask of a hub and it does not have, all of it at once.
        UsageError: Another name that no lock pins, and that the hub cannot be asked for.
    """
    known = None if upgrade else old
    problems: list[Problem] = []
    models = _resolve_models(located, _model_pins(known), hints, problems)
    pins = _resolve_pins(located, Pins(_pins(known), hints), problems)
    if problems:
        raise RecipeError(problems)
    on_hub = {name: pin.files for name, pin in models.items()}
    base = LockedBase(located.base_source, (*on_hub.get("base", ()), *_hashed(located.base, hints)))
    # Ordered by content, so that neither a file's name nor its folder can reach a byte of what is made of them.
    datasets = {
        name: tuple(sorted([*_hashed(files, hints), *(pins[name].files if name in pins else ())]))
        for name, files in located.datasets.items()
    }
    vectors = {n: on_hub.get(f"vectors.{n}") or _hashed(f, hints) for n, f in located.vectors.items()}
    pinned = known["tasks"] if known is not None else {}
    locked = {
        n: lock_task(c, _hashed(c.files, hints), pinned.get(n, {})) for n, c in located.closures.items()
    }
    return Lock(base, datasets, locked, vectors, pins, models)


def unpinned(located: Located, old: JSON | None) -> list[str]:
    """Return the names (`base`, `vectors.code`, `tasks.arc_easy`) that no lock pins, and that a hub must tell."""
    known = {pin.asked for pin in _pins(old)}
    models = {pin.asked for pin in _model_pins(old)}
    tasks = old["tasks"] if old is not None else {}
    return [
        *(name for name, asked in located.models.items() if asked not in models),
        *(f"datasets.{name}" for name, asked in located.asked.items() if asked not in known),
        *(
            f"tasks.{n}"
            for n, c in located.closures.items()
            if c.dataset and not pinned_commit(c, tasks.get(n, {}))
        ),
    ]


def _resolve_models(
    located: Located, known: list[ModelPin], hints: Hints, problems: list[Problem]
) -> dict[str, ModelPin]:
    found: dict[str, ModelPin] = {}
    for name, asked in located.models.items():
        try:
            found[name] = resolve_model(asked, known, hints)
        except DemError as error:
            problems.append(located.problem(f"{name}.{asked.key}", error.located, error.hint or ""))
    return found


def _resolve_pins(located: Located, pins: Pins, problems: list[Problem]) -> dict[str, Pin]:
    found: dict[str, Pin] = {}
    for name, asked in located.asked.items():
        try:
            found[name] = pins.resolve(asked)
        except UsageError as error:
            key = f"{'datasets' if 'train' in dict(asked.splits) else 'probes'}.{name}.hub"
            problems.append(located.problem(key, error.what, error.hint or ""))
    return found


def _pins(old: JSON | None) -> list[Pin]:
    """Return what a lock pins of datasets on a hub."""
    entries = old["datasets"].values() if old is not None else ()
    return [Pin.parse(entry["hub"]) for entry in entries if "hub" in entry]


def _model_pins(old: JSON | None) -> list[ModelPin]:
    """Return what a lock pins of models on a hub."""
    entries = [old["base"], *old.get("vectors", {}).values()] if old is not None else []
    return [ModelPin.parse(entry["hub"]) for entry in entries if "hub" in entry]


def lock_path(recipe: Path) -> Path:
    """Return where a recipe's lock lies."""
    return recipe.with_suffix(".lock")


def read(path: Path) -> JSON | None:
    """Return the document of a lock file, or None when there is none.

    Raises:
        RecipeError: The file is no lock, or one of a newer dem.
    """
    try:
        document = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        hint = "restore it, or delete it and run `dem lock`"
        raise RecipeError([Problem(str(path), 0, "", f"cannot be read as a lock: {error}", hint)]) from error
    version = document.get("dem_lock") if isinstance(document, dict) else None
    if version != LOCK_VERSION:
        what = (
            "is no lock of dem" if version is None else f"is a lock of format {version}, not {LOCK_VERSION}"
        )
        hint = f"{'restore it' if version is None else 'update dem'}, or delete it and run `dem lock`"
        raise RecipeError([Problem(str(path), 0, "", what, hint)])
    try:
        _digests(document)
        _pins(document)
        _model_pins(document)
    except (KeyError, TypeError, AttributeError) as error:
        hint = "restore it, or delete it and run `dem lock`"
        raise RecipeError(
            [Problem(str(path), 0, "", "is no whole lock: parts of it are missing", hint)]
        ) from error
    return document


def write(path: Path, lock: Lock) -> None:
    """Replace the lock file in one step.

    Raises:
        DemError: The folder cannot be written.
    """
    # ASCII: a file's name may hold bytes that are no UTF-8.
    text = json.dumps(document(lock, path.parent), indent=2) + "\n"
    try:
        replace_file(path, text.encode())
    except OSError as error:
        raise DemError(f"the lock cannot be written: {error.strerror}", where=str(path)) from error


def document(lock: Lock, folder: Path) -> dict[str, JSON]:
    """Return the lock as it stands in its file, paths relative to `folder`."""
    vectors = {
        name: _hub_document(files, lock.models.get(f"vectors.{name}"), folder)
        for name, files in sorted(lock.vectors.items())
    }
    return {
        "dem_lock": LOCK_VERSION,
        "base": {"source": lock.base.source}
        | _hub_document(lock.base.files, lock.models.get("base"), folder),
        "datasets": {
            name: _hub_document(files, lock.pins.get(name), folder)
            for name, files in sorted(lock.datasets.items())
        },
        **({"vectors": vectors} if vectors else {}),
        "tasks": {name: _task_document(task, folder) for name, task in sorted(lock.tasks.items())},
    }


def changes(old: JSON | None, lock: Lock, folder: Path) -> list[str]:
    """Return the names (`base`, `datasets.math`, `vectors.code`) whose digests are not those of the old lock."""
    now, then = _digests(document(lock, folder)), _digests(old) if old is not None else {}
    return [name for name in sorted({*now, *then}) if now.get(name) != then.get(name)]


def _locate_vector(recipe: Recipe, name: str, problems: list[Problem]) -> tuple[Tagged, ...]:
    vector = recipe.vectors[name]
    if not is_local(vector.origin, recipe.folder):
        return ()
    folder = recipe.resolve(vector.origin)
    found = _try(
        recipe, f"vectors.{name}.{vector.source}", lambda: local_files(vector.source, folder), problems
    )
    return tuple(found or ())


def _locate_data(recipe: Recipe, name: str, problems: list[Problem]) -> tuple[Tagged, ...]:
    """Find the files of a dataset or a probe. Those that are held out whole say so in their tag: `test:jsonl`."""
    found: list[Tagged] = []
    for key, side, pattern in _patterns(recipe, name):
        paths = _try(recipe, key, lambda p=pattern: _typed(p, recipe.folder), problems) or ()  # type: ignore[misc]
        found += [(f"{side}:{kind}" if side else kind, path) for kind, path in paths]
    return tuple(found)


def _patterns(recipe: Recipe, name: str) -> list[tuple[str, str, str]]:
    """Return each key that names local files of a dataset or a probe, what it holds them out for, and its pattern."""
    if name in recipe.probes:
        path = recipe.probes[name].path
        return [(f"probes.{name}.path", "test", path)] if path else []
    dataset = recipe.datasets[name]
    held = [("validation", dataset.validation), ("test", dataset.test)]
    patterns = [(f"datasets.{name}.{side}", side, value) for side, value in held if isinstance(value, str)]
    return [*([(f"datasets.{name}.path", "", dataset.path)] if dataset.path else []), *patterns]


def _typed(pattern: str, folder: Path) -> tuple[Tagged, ...]:
    return tuple((sources.file_type(p), p) for p in sources.expand(pattern, folder))


def _locate_tasks(recipe: Recipe, problems: list[Problem]) -> dict[str, Closure]:
    if recipe.evaluate is None or not recipe.evaluate.tasks:
        return {}
    from dem_build.lock import tasks  # noqa: PLC0415  a recipe without tasks need not wait for the parser of their files

    include = recipe.evaluate.include_path
    folder = recipe.resolve(include) if include else None
    found: dict[str, Closure] = {}
    for task in recipe.evaluate.tasks:
        closure = _try(recipe, "evaluate.tasks", lambda t=task.name: tasks.find_task(t, folder), problems)  # type: ignore[misc]
        if closure is not None:
            found[task.name] = closure
    return found


def _try(recipe: Recipe, key: str, action: Callable[[], T], problems: list[Problem]) -> T | None:
    """Run `action`; what it refuses becomes a problem of the recipe's key."""
    try:
        return action()
    except OSError as error:
        what = f"{error.filename} cannot be read: {error.strerror}"
        problems.append(recipe.problem(key, what, "mend its permissions, or name another"))
        return None
    except DemError as error:
        problems.append(recipe.problem(key, error.located, error.hint or ""))
        return None


def _hashed(files: Iterable[Tagged], hints: Hints) -> tuple[SourceFile, ...]:
    tagged = list(files)
    try:
        blobs = hints.digests_of(path for _, path in tagged)
    except OSError as error:
        hint = "mend its permissions, or build again if it was just moved"
        raise UsageError(f"cannot be read: {error.strerror}", where=str(error.filename), hint=hint) from error
    return tuple(SourceFile(tag, blobs[path].digest, path) for tag, path in tagged)


def _listed(files: Iterable[SourceFile], folder: Path) -> list[JSON]:
    return [
        {"tag": f.tag, "path": Path(os.path.relpath(f.path, folder)).as_posix(), "sha256": f.digest}
        for f in files
    ]


def _hub_document(files: Iterable[SourceFile], pin: Pin | ModelPin | None, folder: Path) -> dict[str, JSON]:
    local = {"files": _listed((f for f in files if f.hub is None), folder)}
    return local if pin is None else local | {"hub": pin.document()}


def _task_document(task: LockedTask, folder: Path) -> dict[str, JSON]:
    pinned = {"dataset": task.dataset, "dataset_revision": task.dataset_revision} if task.dataset else {}
    return {"lm_eval": task.lm_eval, "local": task.local, **pinned, "files": _listed(task.files, folder)}


def _digests(lock: JSON) -> dict[str, JSON]:
    """Return what a lock pins, without the paths: name → digests."""
    entries = {"base": lock["base"]}
    entries |= {f"datasets.{name}": entry for name, entry in lock["datasets"].items()}
    entries |= {f"vectors.{name}": entry for name, entry in lock.get("vectors", {}).items()}
    entries |= {f"tasks.{name}": entry for name, entry in lock["tasks"].items()}
    return {name: _pathless(entry) for name, entry in entries.items()}


def _pathless(entry: JSON) -> dict[str, JSON]:
    more = {"hub": _pathless(entry["hub"])} if "hub" in entry else {}
    return {**entry, **more, "files": [[f["tag"], f["sha256"]] for f in entry["files"]]}
