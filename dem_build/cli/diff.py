"""`dem diff A B`: two recipes, revisions of recipes in git, or published models, side by side; nothing is run."""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from dem_build.compare import Side, compare
from dem_build.errors import NotUpToDateError, RecipeError, StoreError, UsageError
from dem_build.estimate import estimates
from dem_build.lock import lock
from dem_build.recipe import cache_folder, load_machine
from dem_build.report.inputs import BuildRecords
from dem_build.review.repository import Repository
from dem_build.session.session import open_session, planned
from dem_build.store import Hints, Store
from dem_build.view.diff import diff_lines
from dem_build.view.text import make_console, write_json

if TYPE_CHECKING:
    from dem_build.compare.weights import WeightsChange
    from dem_build.digest import JSON
    from dem_build.machine import Machine
    from dem_build.plan import Plan
    from dem_build.recipe import Recipe
    from dem_build.session.session import Call, Planned

RESULTS = "results.json"
MODEL = "model"
_OF_REVISION = re.compile(r"((?:[^:{]|\{[^}]*\})+):(.+)", re.DOTALL)
"""`REV:PATH`; what stands in braces is the revision's, as in `HEAD^{/fix: a typo}`."""
_FORMS = "a recipe's file, REV:PATH of a recipe in git, or the folder of a published model"


@dataclass(frozen=True)
class _Opened:
    """A side, and what its model's weights are read from.

    Attributes:
        folder: The folder of a published model; None for a recipe.
        store: Where a recipe's results are; None for a folder.
    """

    side: Side
    folder: Path | None = None
    store: Store | None = None

    def weights(self) -> Path | list[Path] | None:
        """The folder or the files of the model's weights; None where they are not here."""
        if self.folder is not None:
            return self.folder if [*self.folder.glob("*.safetensors")] else None
        record = self.side.build.records.get(MODEL)
        if record is None or self.store is None:
            return None
        files = record.outputs["weights"].files or {}
        return [self.store.objects.open(b) for name, b in files.items() if name.endswith(".safetensors")]


def diff(before: str, after: str, call: Call, *, exit_code: bool) -> int:
    """Show what differs between two recipes, revisions or models; with `exit_code` the status tells it, too.

    Raises:
        UsageError: A side is nothing that can be compared.
        RecipeError: Mistakes in a recipe.
        NotUpToDateError: A revision's lock does not belong to its recipe.
        StoreError: What is recorded cannot be read.
    """
    one, other = _opened(before, call), _opened(after, call)
    comparison = compare(one.side, other.side)
    weights = _weights(one, other)
    same = comparison.same and (weights is None or weights.same)
    if call.as_json:
        more = {"weights": weights.document()} if weights else {}
        write_json(comparison.document() | {"same": same} | more)
    else:
        diff_lines(comparison, weights, make_console(), same=same)
    return 1 if exit_code and not same else 0


def _weights(one: _Opened, other: _Opened) -> WeightsChange | None:
    """How far two models are apart; of two recipes, keys and metrics tell more, and nothing is read."""
    if one.folder is None and other.folder is None:
        return None
    old, new = one.weights(), other.weights()
    if not old or not new:
        return None
    from dem_build.compare.weights import compare_weights  # noqa: PLC0415  recipes need no numpy

    return compare_weights(old, new)


def _opened(named: str, call: Call) -> _Opened:
    path = Path(named)
    if path.is_dir():
        return _published(named, path)
    match = None if path.exists() else _OF_REVISION.fullmatch(named)
    if match is not None:
        return _at_revision(match[1], match[2], call)
    return _here(named, call)


def _here(named: str, call: Call) -> _Opened:
    """The side of a recipe as it lies in the working tree.

    Raises:
        NotUpToDateError: `--locked`, and the lock is not what the recipe resolves to.
    """
    session = open_session(named, call)
    if call.locked and (changed := lock.changes(session.locked, session.lock, session.recipe.folder)):
        hint = f"`dem lock {named}` accepts what is there now"
        raise NotUpToDateError(f"not what is locked: {', '.join(changed)}", where=named, hint=hint)
    return _recorded(named, session.recipe, session.plan, session.store, session.machine)


def _recorded(named: str, recipe: Recipe, plan: Plan, store: Store, machine: Machine) -> _Opened:
    due = {e.name: e.seconds for e in estimates(plan, store, machine)}
    build = BuildRecords(plan.graph, plan.records, store.objects.read_bytes)
    return _Opened(Side.of_build(named, build, recipe.gates, due), store=store)


def _at_revision(revision: str, path: str, call: Call) -> _Opened:
    """The side of a recipe in git: of its text and its lock alone, whatever lies in the working tree.

    Raises:
        UsageError: There is no such revision, or no such recipe in it.
        NotUpToDateError: It has no lock, or one of another recipe.
    """
    named = f"{revision}:{path}"
    git = Repository.around(Path.cwd())
    place = _place(git, path, named)
    commit = git.commit(revision)
    files = git.files(commit)
    blob = files.get(place)
    if blob is None:
        raise UsageError(
            f"there is no recipe {place} in {revision}",
            where=named,
            hint=_meant(git, commit, place, [*files]),
        )
    if not blob.regular:
        raise UsageError("is a link, and not a recipe", where=named, hint="name the file that it leads to")
    beside = str(PurePosixPath(place).with_suffix(".lock"))
    held = files.get(beside)
    at, locked_at = git.root / place, f"{revision}:{beside}"
    locked = lock.parse(git.read(held), Path(locked_at)) if held is not None and held.regular else None
    machine, machine_path = load_machine(call.machine, at)
    store = Store.open(cache_folder(call.cache, machine, machine_path, at), hints=Hints(), make=False)
    found = _planned(at, git.read(blob), locked, store, (named, locked_at))
    return _recorded(named, found.recipe, found.plan, store, machine)


def _planned(at: Path, written: bytes, locked: JSON, store: Store, called: tuple[str, str]) -> Planned:
    """Plan a recipe of a revision; messages call its files by the revision."""
    named, locked_at = called
    hint = f"write it there: check {named.partition(':')[0]} out, call `dem lock` and commit it"
    try:
        found = planned(at, written, locked, store.records)
    except RecipeError as error:
        problems = [p._replace(file=named if p.file == str(at) else p.file) for p in error.problems]
        raise RecipeError(problems) from error
    except NotUpToDateError as error:
        raise NotUpToDateError(error.what, where=locked_at, hint=hint) from error
    if found.stale:
        raise NotUpToDateError(
            f"not what the recipe asks for: {', '.join(found.stale)}", where=locked_at, hint=hint
        )
    return found


def _place(git: Repository, path: str, named: str) -> str:
    """A path of a revision from the root of the repository: as git has it, from there, or after `./` from here."""
    if not path.startswith(("./", "../")):
        return path
    whole = Path(os.path.normpath(Path.cwd().resolve() / path))
    if not whole.is_relative_to(git.root):
        raise UsageError("leads out of the repository", where=named, hint=f"it is {git.root}")
    return whole.relative_to(git.root).as_posix()


def _meant(git: Repository, commit: str, place: str, files: list[str]) -> str:
    """How to name what was most likely meant by a path that a revision does not have."""
    if (module := git.submodule(commit, place)) is not None:
        return f"{module} is a submodule, a repository of its own: call dem in it"
    here = Path.cwd().resolve()
    if here.is_relative_to(git.root) and (here.relative_to(git.root) / place).as_posix() in files:
        return f"a path starts from the root of the repository; from here it is ./{place}"
    recipes = [name for name in files if name.endswith(".toml")]
    near = difflib.get_close_matches(place, recipes, n=1) or recipes[:3]
    return f"the TOML files there are {', '.join(near)}" if near else "it has no TOML file"


def _published(named: str, folder: Path) -> _Opened:
    """The side of a published model: `out/NAME` or the model in it, or a folder of weights.

    Raises:
        UsageError: It is no such folder.
    """
    from dem_build.compare.published import published_side  # noqa: PLC0415  few calls name one

    home = folder if (folder / RESULTS).is_file() else folder.parent
    model = folder / MODEL if (folder / MODEL).is_dir() else folder
    whole = home == folder or folder.name == MODEL
    try:
        data = (home / RESULTS).read_bytes() if whole and (home / RESULTS).is_file() else None
    except OSError as error:
        raise StoreError(f"cannot be read: {error.strerror}", where=str(home / RESULTS)) from error
    if data is None and not [*model.glob("*.safetensors")]:
        raise UsageError("holds no published model", where=named, hint=f"a side is {_FORMS}")
    return _Opened(published_side(named, data) if data is not None else Side(named, keyed=False), model)
