"""Every outside name of a recipe → a digest or a commit, and the file that remembers them.

`locate` finds the files that a recipe names and reports all that is missing at once; `resolve` hashes them;
`write` puts the result beside the recipe as `<recipe>.lock`. The lock holds paths for people; only tags and digests
reach keys.
"""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from dem_build.action import SourceFile
from dem_build.checkpoint.filenames import INDEX, SINGLE, listed
from dem_build.data import sources
from dem_build.errors import DemError, Problem, RecipeError, UsageError
from dem_build.json_text import parse_json
from dem_build.lock import hub, parts
from dem_build.lock.absent import Absent, is_absent
from dem_build.lock.base import CHAT_TEMPLATE, GGUF, base_files, locate_template
from dem_build.lock.finetuned import local_files
from dem_build.lock.pin import CHOOSE, Pin, Resolver, hub_refs, recipe_key
from dem_build.store.files import changing, overwrite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from dem_build.digest import JSON, Digest
    from dem_build.lock.pin import Ref
    from dem_build.lock.task_groups import TaskGroup
    from dem_build.lock.tasks import Closure
    from dem_build.recipe import Recipe
    from dem_build.store import Hints

LOCK_VERSION = 1
Tagged = tuple[str, Path]


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
class LockedTask:
    """An evaluation task: the files that give it its meaning, and the commit of its data.

    Attributes:
        lm_eval: Version of lm-eval that gives the task its meaning.
        local: Whether the task comes from files of the user, which are code.
        files: The task's YAML and all that it refers to.
        dataset: The hub dataset that it reads, None where its data are local files.
        dataset_revision: The commit of that dataset.
        scored: Those of its files that hold what a model is scored on.
    """

    lm_eval: str
    local: bool
    files: tuple[SourceFile, ...]
    dataset: str | None = None
    dataset_revision: str | None = None
    scored: tuple[SourceFile, ...] = ()


@dataclass(frozen=True)
class Lock:
    """What a recipe's outside names stand for, now and on this machine.

    Attributes:
        datasets: The files of each dataset and probe, those on a hub among them.
        vectors: The files of each vector from elsewhere, those on a hub among them.
        pins: What of it is on a hub, by names in the lock: `base`, `vectors.code`, `datasets.math`; so are probes.
        groups: Groups and tags of evaluation tasks, those within others too.
    """

    base: LockedBase
    datasets: Mapping[str, tuple[SourceFile, ...]] = field(default_factory=dict)
    tasks: Mapping[str, LockedTask] = field(default_factory=dict)
    vectors: Mapping[str, tuple[SourceFile, ...]] = field(default_factory=dict)
    pins: Mapping[str, Pin] = field(default_factory=dict)
    groups: Mapping[str, TaskGroup] = field(default_factory=dict)


@dataclass(frozen=True)
class Located:
    """What a recipe names: files that were found and not yet read, and names that a hub may be asked for.

    Attributes:
        base_source: How the base is read.
        base: Its local files.
        datasets: The local files of each dataset and probe.
        closures: The evaluation tasks.
        vectors: The local files of each vector from elsewhere.
        refs: What is asked of a hub, by names in the lock.
        absent: The files that are not on this machine → the digests that the lock has of them.
        problem: Makes a mistake at the key of the recipe that says where what the lock has under a name lies.
        groups: Groups and tags of evaluation tasks.
    """

    base_source: str
    base: tuple[Tagged, ...]
    datasets: Mapping[str, tuple[Tagged, ...]]
    closures: Mapping[str, Closure]
    vectors: Mapping[str, tuple[Tagged, ...]] = field(default_factory=dict)
    refs: Mapping[str, Ref] = field(default_factory=dict)
    absent: Mapping[Path, Digest] = field(default_factory=dict)
    problem: Callable[[str, str, str], Problem] = lambda name, what, hint: Problem("", 0, name, what, hint)
    groups: Mapping[str, TaskGroup] = field(default_factory=dict)


def locate(recipe: Recipe, known: Absent | None = None) -> Located:
    """Find every file that a recipe names.

    Args:
        recipe: The recipe.
        known: What its lock tells of files that are not here; by default nothing.

    Raises:
        RecipeError: All of what is missing or refused, at once.
    """
    known = known or Absent(None, recipe.folder)
    models = {"base": ("model", recipe.base.model, "revision" in recipe.base.model_fields_set)}
    models |= {
        f"vectors.{n}": (v.source, v.origin, v.revision is not None) for n, v in recipe.vectors.items()
    }
    found: dict[str, tuple[Tagged, ...]] = dict.fromkeys(models, ())
    local: set[str] = set()
    problems: list[Problem] = []
    for name, (key, model, revision) in models.items():
        with _told(recipe, f"{name}.{key}", problems):
            if known.is_local(name, model, revision=revision):
                local.add(name)
                found[name] = tuple(_locate_model(recipe, known, name, key, model))
        if name == "base":
            with _told(recipe, "base.chat_template", problems):
                found[name] += _locate_template(recipe, known)
    source = (
        "gguf" if "base" in local and recipe.resolve(recipe.base.model).suffix == ".gguf" else "directory"
    )
    datasets = {n: _locate_data(recipe, known, n, problems) for n in recipe.sources}
    closures, groups = _locate_tasks(recipe, known, problems)
    if problems:
        raise RecipeError(problems)
    base, *others = found.items()
    vectors = {name.partition(".")[2]: files for name, files in others}
    refs = hub_refs(recipe, local)

    def problem(name: str, what: str, hint: str) -> Problem:
        return recipe.problem(recipe_key(recipe, name), what, hint)

    return Located(source, base[1], datasets, closures, vectors, refs, known.digests, problem, groups)


def _locate_model(recipe: Recipe, known: Absent, name: str, key: str, model: str) -> list[Tagged]:
    """The files of a base or a vector; where it is not whole here, those too that a lock has of it.

    Raises:
        DemError: It is not whole with them either, or it is none that dem takes.
    """
    path = recipe.resolve(model)
    wrong: DemError | None = None
    if not known.alone:
        try:
            return base_files(path) if key == "model" else local_files(key, path)
        except DemError as error:
            wrong = error
    locked = known.model(name, model)
    try:
        if not locked or not (known.alone or path.is_dir() or is_absent(path)):
            raise wrong or _unlocked(path)
        if GGUF in locked:
            known.take(path, locked[GGUF])
            return [(GGUF, path)]
        listing = listed(path, locked, alone=known.alone)
        # Weights that no lock knows are another model's, which lacks some of its files.
        if {SINGLE, INDEX} & listing.names - listing.locked:
            raise wrong or _unlocked(path)
        files = CHOOSE[key](listing)
    except DemError as error:
        raise wrong or error from None
    for tag in listing.absent.intersection(files):
        known.take(path / tag, locked[tag])
    return [(tag, path / tag) for tag in files]


def _locate_template(recipe: Recipe, known: Absent) -> tuple[Tagged, ...]:
    """The recipe's chat template, here or as a lock has it.

    Raises:
        UsageError: There is none.
    """
    named = recipe.base.chat_template
    if named is not None and (known.alone or is_absent(recipe.resolve(named))):
        if found := known.template(named):
            return tuple((CHAT_TEMPLATE, path) for path in found)
        if known.alone:
            raise _unlocked(recipe.resolve(named))
    return locate_template(recipe)


def _unlocked(path: Path) -> UsageError:
    return UsageError("is not in the lock", where=str(path), hint="`dem lock`, where the file is, pins it")


@contextmanager
def _told(recipe: Recipe, key: str, problems: list[Problem]) -> Iterator[None]:
    """Add what is refused within to the problems, at a key of the recipe, and go on: all are told at once."""
    try:
        yield
    except OSError as error:
        what = f"{error.filename} cannot be read: {error.strerror}"
        problems.append(recipe.problem(key, what, "mend its permissions, or name another"))
    except DemError as error:
        problems.append(recipe.problem(key, error.located, error.hint or ""))


def _locate_data(recipe: Recipe, known: Absent, name: str, problems: list[Problem]) -> tuple[Tagged, ...]:
    """The files of a source. Those that are held out whole say so in their tag: `test:jsonl`.

    Those of a part of a dataset say which: `0/:jsonl`.
    """
    source, table = recipe.sources[name], partial(recipe.source_key, name)
    side = "test:" if name in recipe.probes else ""
    named = [(table(key, "path"), side + parts.mark(key), rows.path) for key, rows in source.origins.items()]
    held = [(side, getattr(source, side, None)) for side in ("validation", "test")]
    named += [(table(side), f"{side}:", value) for side, value in held if isinstance(value, str)]
    found: list[Tagged] = []
    for key, mark, pattern in named:
        if pattern is None:
            continue
        with _told(recipe, key, problems):
            found += [(mark + sources.file_type(p), p) for p in _expanded(recipe, known, name, mark, pattern)]
    return tuple(found)


def _expanded(recipe: Recipe, known: Absent, name: str, mark: str, pattern: str) -> list[Path]:
    """The files that a path or pattern names, here or as a lock has them.

    Raises:
        UsageError: There are none.
    """
    if not known.alone:
        return sources.expand(pattern, recipe.folder, lambda: known.data(name, mark, pattern))
    if found := known.data(name, mark, pattern):
        return found
    raise _unlocked(recipe.resolve(pattern))


def _locate_tasks(
    recipe: Recipe, known: Absent, problems: list[Problem]
) -> tuple[dict[str, Closure], dict[str, TaskGroup]]:
    """The tasks that a recipe names itself or by groups and tags, and these."""
    if recipe.evaluate is None or not recipe.evaluate.tasks:
        return {}, {}
    from dem_build.lock.task_groups import asked  # noqa: PLC0415  as in _locate_task

    include = recipe.evaluate.include_path
    folder = recipe.resolve(include) if include else None
    groups: dict[str, TaskGroup] = {}
    for task in recipe.evaluate.tasks:
        with _told(recipe, "evaluate.tasks", problems):
            groups |= _locate_groups(known, task.name, folder)
    found: dict[str, Closure] = {}
    # Of a name that is refused already, no more is said.
    if not problems:
        with _told(recipe, "evaluate.tasks", problems):
            for task in asked(recipe.evaluate.tasks, groups):
                with _told(recipe, "evaluate.tasks", problems):
                    found[task.name] = _locate_task(known, task.name, folder)
    return found, groups


def _locate_groups(known: Absent, name: str, folder: Path | None) -> dict[str, TaskGroup]:
    """The group or tag of a name and those in it, here or as a lock has them; nothing where it is a task.

    Raises:
        UsageError: There is neither a task nor a group of that name, or it cannot be read.
    """
    from dem_build.lock.task_groups import find_groups  # noqa: PLC0415  as in _locate_task

    if known.alone:
        return known.groups(name)
    try:
        return find_groups(name, folder)
    except UsageError:
        if not (found := known.groups(name)) and known.task(name, folder) is None:
            raise
        return found


def _locate_task(known: Absent, name: str, folder: Path | None) -> Closure:
    """What a task is made of, here or as a lock has it.

    Raises:
        UsageError: There is no such task, or files of it are missing or cannot be read.
    """
    from dem_build.lock import tasks  # noqa: PLC0415  a recipe without tasks need not wait for the parser of their files

    if known.alone:
        closure = known.task(name, folder)
        if closure is None:
            raise UsageError(f"the task {name} is not in the lock", hint="`dem lock`, where it is, pins it")
        return closure
    try:
        return tasks.find_task(name, folder)
    except UsageError:
        if (closure := known.task(name, folder)) is None:
            raise
        return closure


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
    pins: dict[str, Pin] = {}
    resolver = Resolver(_pins(known), hints)
    for name, ref in located.refs.items():
        try:
            pins[name] = resolver.resolve(ref)
        except DemError as error:
            problems.append(located.problem(name, error.located, error.hint or ""))
    if problems:
        raise RecipeError(problems)
    on_hub = {name: pin.files for name, pin in pins.items()}
    hashed = partial(_hashed, hints=hints, absent=located.absent)
    base = LockedBase(located.base_source, (*on_hub.get("base", ()), *hashed(located.base)))
    # Ordered by content, so that neither a file's name nor its folder can reach a byte of what is made of them.
    datasets = {
        name: tuple(sorted([*hashed(files), *on_hub.get(f"datasets.{name}", ()), *parts.pinned(name, pins)]))
        for name, files in located.datasets.items()
    }
    if shared := list(parts.shared(datasets, located.problem)):
        raise RecipeError(shared)
    vectors = {n: on_hub.get(f"vectors.{n}") or hashed(f) for n, f in located.vectors.items()}
    # Last, as each may ask the hub: what of models and datasets is missing has been said by then.
    pinned = known["tasks"] if known is not None else {}
    # Of the many tasks of a group that read one dataset, the first asks.
    commit_of = cache(partial(hub.commit_of, "dataset"))
    tasks = {
        n: _lock_task(c, hashed(c.files), pinned.get(n, {}), commit_of) for n, c in located.closures.items()
    }
    return Lock(base, datasets, tasks, vectors, pins, located.groups)


def unpinned(located: Located, old: JSON | None) -> list[str]:
    """The names (`base`, `vectors.code`, `tasks.arc_easy`) that no lock pins, and that a hub must tell."""
    known = {pin.ref for pin in _pins(old)}
    tasks = old["tasks"] if old is not None else {}
    names = [name for name, ref in located.refs.items() if ref not in known]
    closures = located.closures.items()
    return names + [f"tasks.{n}" for n, c in closures if c.dataset and not _commit(c, tasks.get(n, {}))]


def _hashed(files: Iterable[Tagged], hints: Hints, absent: Mapping[Path, Digest]) -> tuple[SourceFile, ...]:
    tagged = list(files)
    try:
        blobs = hints.digests_of(path for _, path in tagged if path not in absent)
    except OSError as error:
        hint = "mend its permissions, or build again if it was just moved"
        raise UsageError(f"cannot be read: {error.strerror}", where=str(error.filename), hint=hint) from error
    return tuple(
        SourceFile(tag, absent[path], path, absent=True)
        if path in absent
        else SourceFile(tag, blobs[path].digest, path)
        for tag, path in tagged
    )


def _lock_task(
    closure: Closure, files: tuple[SourceFile, ...], pinned: JSON, commit_of: Callable[[str], str]
) -> LockedTask:
    """What is locked of a task, given its files and what the lock that is there has of it."""
    from dem_build.lock.tasks import lm_eval_version  # noqa: PLC0415  a recipe without tasks need not wait for their parser

    commit = None
    if closure.dataset is not None:
        commit = _commit(closure, pinned) or commit_of(closure.dataset)
    scored = tuple(f for f in files if f.path in closure.scored)
    return LockedTask(
        closure.lm_eval or lm_eval_version(), closure.local, files, closure.dataset, commit, scored
    )


def _commit(closure: Closure, pinned: JSON) -> str | None:
    """The commit that a lock has of a task's dataset, None where it has none."""
    return pinned.get("dataset_revision") if pinned.get("dataset") == closure.dataset else None


def _pins(old: JSON | None) -> list[Pin]:
    """What a lock pins on a hub."""
    if old is None:
        return []
    models, datasets = (old["base"], *old.get("vectors", {}).values()), old["datasets"].values()
    pins = [Pin.parse(entry["hub"], dataset=False) for entry in models if "hub" in entry]
    asked = [each for entry in datasets for each in [*entry.get("parts", ()), entry.get("hub")] if each]
    return pins + [Pin.parse(each, dataset=True) for each in asked]


def lock_path(recipe: Path) -> Path:
    """Where a recipe's lock lies."""
    return recipe.with_suffix(".lock")


def read(path: Path) -> JSON | None:
    """The document of a lock file, or None when there is none.

    Raises:
        RecipeError: The file is no lock, or one of a newer dem.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _refused(path, f"cannot be read as a lock: {error}") from error
    return parse(data, path)


def _refused(path: Path, what: str, mend: str = "restore it") -> RecipeError:
    return RecipeError([Problem(str(path), 0, "", what, f"{mend}, or delete it and run `dem lock`")])


def parse(data: bytes, path: Path) -> JSON:
    """The document of a lock file's bytes.

    Raises:
        RecipeError: It is no lock, or one of a newer dem.
    """
    refused = partial(_refused, path)
    try:
        document = parse_json(data.decode())
    except ValueError as error:
        raise refused(f"cannot be read as a lock: {error}") from error
    version = document.get("dem_lock") if isinstance(document, dict) else None
    if version is None:
        raise refused("is no lock of dem")
    if version != LOCK_VERSION:
        raise refused(f"is a lock of format {version}, not {LOCK_VERSION}", "update dem")
    # Taken apart here, so that whoever reads it later need not ask whether it is whole.
    try:
        _digests(document)
        _pins(document)
    except (KeyError, TypeError, AttributeError) as error:
        raise refused("is no whole lock: parts of it are missing") from error
    return document


def update(path: Path, lock: Lock, before: JSON | None) -> None:
    """Replace the lock file in one step, where it is what it was.

    Args:
        path: The file.
        lock: What it shall hold.
        before: The document that was read of it, None where there was none.

    Raises:
        UsageError: Somebody else has written another one meanwhile, which may pin what this one does not.
        DemError: The folder cannot be written.
    """
    made = document(lock, path.parent)
    # ASCII: a file's name may hold bytes that are no UTF-8.
    text = json.dumps(made, indent=2) + "\n"
    try:
        with changing(path.parent):
            if read(path) not in (before, made):
                what = "has been changed by somebody else just now"
                raise UsageError(what, where=str(path), hint="call this again: it goes by the new one")
            overwrite(path, text.encode())
    except OSError as error:
        raise DemError(f"the lock cannot be written: {error.strerror}", where=str(path)) from error


def document(lock: Lock, folder: Path) -> dict[str, JSON]:
    """The lock as it stands in its file, paths relative to `folder`."""

    def rows(files: Iterable[SourceFile]) -> list[JSON]:
        paths = [(f, Path(os.path.relpath(f.path, folder)).as_posix()) for f in files]
        return [{"tag": f.tag, "path": path, "sha256": f.digest} for f, path in paths]

    def entry(name: str, files: Iterable[SourceFile]) -> dict[str, JSON]:
        local = {"files": rows(f for f in files if f.hub is None)}
        of_parts = [lock.pins[n].document() for n in parts.names(name, lock.pins)]
        local |= {"parts": of_parts} if of_parts else {}
        return local | ({"hub": lock.pins[name].document()} if name in lock.pins else {})

    def task_entry(task: LockedTask) -> dict[str, JSON]:
        pinned = {"dataset": task.dataset, "dataset_revision": task.dataset_revision} if task.dataset else {}
        return {"lm_eval": task.lm_eval, "local": task.local, **pinned, "files": rows(task.files)}

    vectors = {name: entry(f"vectors.{name}", files) for name, files in sorted(lock.vectors.items())}
    groups = {name: group.document() for name, group in sorted(lock.groups.items())}
    return {
        "dem_lock": LOCK_VERSION,
        "base": {"source": lock.base.source} | entry("base", lock.base.files),
        "datasets": {name: entry(f"datasets.{name}", files) for name, files in sorted(lock.datasets.items())},
        **({"vectors": vectors} if vectors else {}),
        "tasks": {name: task_entry(task) for name, task in sorted(lock.tasks.items())},
        **({"groups": groups} if groups else {}),
    }


def changes(old: JSON | None, lock: Lock, folder: Path) -> list[str]:
    """The names (`base`, `datasets.math`, `vectors.code`) whose digests are not those of the old lock."""
    now, then = _digests(document(lock, folder)), _digests(old) if old is not None else {}
    return [name for name in sorted({*now, *then}) if now.get(name) != then.get(name)]


def dropped(old: JSON | None, lock: Lock, folder: Path) -> list[str]:
    """The local files, as the old lock names them, that the lock has no more under any name."""

    def paths(document: JSON) -> set[str]:
        tables = [document["datasets"], document.get("vectors", {}), document["tasks"]]
        entries = [document["base"], *(entry for table in tables for entry in table.values())]
        return {str(file.get("path")) for entry in entries for file in entry["files"]}

    return sorted(paths(old) - paths(document(lock, folder))) if old is not None else []


def _digests(lock: JSON) -> dict[str, JSON]:
    """What a lock pins, without the paths: name → digests."""
    entries = {"base": lock["base"]}
    entries |= {f"datasets.{name}": entry for name, entry in lock["datasets"].items()}
    entries |= {f"vectors.{name}": entry for name, entry in lock.get("vectors", {}).items()}
    entries |= {f"tasks.{name}": entry for name, entry in lock["tasks"].items()}
    groups = {f"groups.{name}": entry for name, entry in lock.get("groups", {}).items()}
    return groups | {name: _pathless(entry) for name, entry in entries.items()}


def _pathless(entry: JSON) -> dict[str, JSON]:
    more: dict[str, JSON] = {"hub": _pathless(entry["hub"])} if "hub" in entry else {}
    more |= {"parts": [_pathless(each) for each in entry["parts"]]} if "parts" in entry else {}
    return {**entry, **more, "files": [[f["tag"], f["sha256"]] for f in entry["files"]]}
