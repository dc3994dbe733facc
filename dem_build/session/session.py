"""What every command begins with: a call, and of one recipe its machine, store, lock, graph and plan."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dem_build import digest
from dem_build.action import MODEL
from dem_build.engine.publish import destination
from dem_build.errors import DemError, NotUpToDateError, RecipeError, StoreError, UsageError
from dem_build.graph import build_graph
from dem_build.lock import lock
from dem_build.lock.absent import Absent
from dem_build.lock.base import CHAT_TEMPLATE, refuse_template, template_is_new
from dem_build.lock.leaks import refuse_leaks, refuse_shared_files
from dem_build.plan import History, Status, make_plan
from dem_build.recipe import (
    cache_folder,
    load_machine,
    project_folder,
    read_recipe,
    remotes_of,
    work_folder,
)
from dem_build.session.overlap import is_overlap
from dem_build.session.sharing import Sharing, Voice, Warned
from dem_build.store import Hints, Store
from dem_build.store.files import nonce
from dem_build.store.local import open_layout
from dem_build.store.roots import DROPPED, END_OF_TIME

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from contextlib import ExitStack

    from dem_build.engine.outcome import Outcome
    from dem_build.engine.publish import Destination
    from dem_build.graph import Graph
    from dem_build.lock.lock import Located, Lock
    from dem_build.machine import Machine
    from dem_build.plan import Lookup, Plan
    from dem_build.recipe import Recipe

REFRESH_SECONDS = 3600
"""How old a root that needs no change may be before a build that has nothing to do writes it again: its time tells a
collection when what it names was used."""

MOST_DROPPED = 2000

PREDICTION = "score:"
"""How a root calls predictions, beside the actions of the build."""


@dataclass(frozen=True)
class Call:
    """The options that several commands have, or that a session remembers.

    Attributes:
        cache: `--cache`.
        machine: `--machine`.
        overrides: `--set KEY=VALUE`, in order.
        targets: Actions named after `--`, or patterns of their names; none means all of them.
        rebuild: `--rebuild`, likewise; of a session names alone.
        upgrade: `dem lock --upgrade`.
        locked: `--locked`: what no lock pins is an error, and no hub is asked for it; nor may the lock be another one.
        pinned: What a hub has must be pinned by the lock, as nobody here writes it.
        no_train: `--no-train`.
        offline: `--offline`: no hub and no remote is asked for anything.
        require_remote: `--require-remote`: a remote that does not answer is an error.
        keep_going: `--keep-going`.
        trust_tasks: `--trust-tasks`.
        jobs: `--jobs`, which stands above the machine file's.
        as_json: `--json`.
        own_process: Nothing but dem runs in this process: it may be copied for light actions, and its memory arranged.
        voice: Who says what is not an error.
    """

    cache: str | None = None
    machine: Path | None = None
    overrides: Sequence[str] = ()
    targets: Sequence[str] = ()
    rebuild: Sequence[str] = ()
    upgrade: bool = False
    locked: bool = False
    pinned: bool = False
    no_train: bool = False
    offline: bool = False
    require_remote: bool = False
    keep_going: bool = False
    trust_tasks: bool = False
    jobs: int | None = None
    as_json: bool = False
    own_process: bool = True
    voice: Voice = field(default_factory=Warned, compare=False, repr=False)


@dataclass(frozen=True)
class Session:
    """One recipe of one call, resolved and planned; nothing has been written yet.

    Attributes:
        named: The recipe as the user named it.
        locked: The lock file's document, None when there is none.
        root: What the recipe's last build wrote, every field of it; empty ones when there was none.
        sharing: The remotes.
        mark: What tells this build from others of the recipe: the name of its notes of what it uses, where it has any.
    """

    named: str
    call: Call
    recipe: Recipe
    machine: Machine
    store: Store
    lock: Lock
    locked: digest.JSON | None
    plan: Plan
    root: Mapping[str, digest.JSON]
    sharing: Sharing
    mark: str = field(default_factory=nonce)

    @property
    def whole(self) -> bool:
        """Whether all actions were asked for: gates judge nothing less."""
        return not self.call.targets

    @property
    def elsewhere(self) -> str | None:
        """What to say where the recipe's model is published and the cache has nothing of it: it may be in another one.

        None where nothing is published, or the cache knows the recipe or anything that it makes.
        """
        if self.root["actions"] or any(verdict.record for verdict in self.plan.verdicts.values()):
            return None
        with suppress(StoreError):  # a link in the place of `out/` is told by what would publish there
            folder = self.destination().folder
            if (folder / "model").is_dir():
                return (
                    f"{folder} was built, and {self.store.root} has nothing of it: all is made again; if its cache "
                    "was moved, stop, and name it with --cache, $DEM_CACHE or `cache` in machine.toml"
                )
        return None

    @property
    def displaced(self) -> str | None:
        """What to say where a changed recipe is published in the place of the recipe as it is written; None else."""
        keys = {text.partition("=")[0].strip() for text in self.call.overrides}
        if not keys or "name" in keys:
            return None
        back = _command("build", self.named)
        return (
            f"it is the recipe's with --set, in the place of its own, which `{back}` puts back; with --set name=… as "
            "well each has a folder"
        )

    def destination(self) -> Destination:
        """Where the recipe publishes: in `out/` of the project, wherever the cache is.

        Raises:
            StoreError: A link lies there.
        """
        out = project_folder(self.recipe.path) / "out"
        place = digest.of_bytes(os.fsencode(self.recipe.path))[:32]  # tells it from others of its name
        return destination(out, self.recipe.name, self.recipe.path, place)

    def planned_again(self) -> Session:
        """This session with a plan of what the store holds now; what was to be rebuilt has been."""
        plan = make_plan(self.plan.graph, self.store.records, self.plan.history)
        return replace(self, call=replace(self.call, rebuild=()), plan=plan)

    def kept(self, within: ExitStack) -> Session:
        """This session, with what its plan finds kept from collection until `within` is closed.

        Where there is no cache there is nothing to keep, and no folder is made.
        """
        if not (self.store.root / "format.json").exists():
            return self
        within.enter_context(self.store.in_use())
        return self.planned_again()  # looked up again: now it is noted that it is in use

    def require(self) -> None:
        """Raise what can be said before anything is built or written.

        Raises:
            NotUpToDateError: `--locked`, and the lock file is not what the recipe resolves to.
            UsageError: A local task file is due, which is code, and the user has not said that it may run.
            StoreError: Nothing can be published, so nothing is trained first.
        """
        self.require_lock()
        self.require_trust()
        self.destination()

    def require_lock(self) -> None:
        """Refuse a lock that is not what the recipe resolves to, where `--locked` asks for that.

        Raises:
            NotUpToDateError: It is not.
        """
        if self.call.locked and (changed := lock.changes(self.locked, self.lock, self.recipe.folder)):
            raise not_locked(self.named, self.call, lock.lock_path(self.recipe.path), changed)

    def require_trust(self) -> None:
        """Refuse to run code of task files that the user has not said may run.

        Raises:
            UsageError: A local task file is due.
        """
        due = [
            v.action for v in self.plan.verdicts.values() if v.action.runs_code and v.status is not Status.HIT
        ]
        if due and not self.call.trust_tasks:
            files = ", ".join(
                str(s.path) for s in due[0].sources if s.path.suffix in (".yaml", ".yml", ".py")
            )
            hint = "read them, then add --trust-tasks"
            raise UsageError(
                f"{due[0].name} runs task files, which are code: {files}", where=self.named, hint=hint
            )

    def save_lock(self) -> None:
        """Write the lock file where something in it has changed.

        Raises:
            UsageError: Somebody else has written another one since this session read it.
            DemError: It cannot be written.
        """
        path = lock.lock_path(self.recipe.path)
        if self.locked != lock.document(self.lock, self.recipe.folder):
            lock.update(path, self.lock, self.locked)

    @property
    def _signs(self) -> bool:
        """Whether what it builds is published: what prepares one dataset, or builds a part, has no say in that."""
        return MODEL in self.plan.graph.actions

    def save_root(self, outcome: Outcome | None = None, *, signed: bool = True) -> None:
        """Record the keys that this recipe's builds use: before a build reads anything, and after it.

        Args:
            outcome: What became of the build.
            signed: Whether it publishes what it builds, as a worker does not.

        Raises:
            StoreError: The store cannot be written, and there is something to build.
        """
        with self.store.roots.changing():
            self._save_root(outcome, signed=signed)

    def _save_root(self, outcome: Outcome | None, *, signed: bool) -> None:
        if not self.whole and self.store.roots.damaged(root_id(self.recipe.path)):
            return  # it keeps collection away, and only a whole build knows all that it named
        # As it is now: what others have written since this one was planned is not lost.
        root = last_root(self.store, self.recipe.path)
        last = root["actions"]
        kept = (name for name in last if name.startswith(PREDICTION))
        names = [*self.plan.graph.actions, *kept] if self.whole else last
        keys = {name: last[name] for name in names if name in last}
        keys |= {n: v.key for n, v in self.plan.verdicts.items() if v.record is not None and v.key}
        keys |= {name: r.key for name, r in outcome.records.items()} if outcome is not None else {}
        known = [v.key for v in self.plan.verdicts.values()]
        known += [r.key for r in outcome.results.values()] if outcome is not None else []
        # Recorded or not, as soon as a key is known: unfinished work on it is worth keeping.
        wanted = {key for key in known if key} - {*keys.values()}
        fresh = root["built"] <= time.time() < root["built"] + REFRESH_SECONDS
        here = root["host"] == os.uname().nodename
        if outcome is not None and self._is_superseded(root):
            self._leave(root, {*keys.values(), *wanted})
            return
        begins = outcome is None and signed and self._signs
        same = keys == last and wanted == {*root["wanted"]} and fresh and here
        if same and (self.plan.up_to_date or not begins):
            return  # a build with nothing to do writes nothing
        begun = [*dict.fromkeys(self._running(root) + [self.mark] * begins)]
        try:
            self.store.roots.write(root_id(self.recipe.path), self._root(root, keys, wanted, begun))
        except StoreError:
            if not self.plan.up_to_date:
                raise  # else a store that is only read serves what it has

    @property
    def superseded(self) -> bool:
        """Whether the recipe says something else by now, and a build that began later runs or has published."""
        return self._is_superseded(last_root(self.store, self.recipe.path))

    def _is_superseded(self, root: Mapping[str, digest.JSON]) -> bool:
        if not any(self._counts(mark, root) for mark in self._later(root)):
            return False
        try:
            recipe, located, locked = _located(str(self.recipe.path), self.call.overrides, self.store.hints)
            if self.call.overrides:  # no lock has what these bring in, and no hub is asked again
                locked = lock.document(self.lock, self.recipe.folder)
            graph = build_graph(recipe, lock.resolve(located, self.store.hints, locked))
            return {**graph.only(self.call.targets or graph.actions).actions} != {**self.plan.graph.actions}
        except DemError:
            return True

    def _later(self, root: Mapping[str, digest.JSON]) -> list[str]:
        """The marks of builds that began, or published, after this one began."""
        begun: list[str] = root["begun"]
        if self.mark in begun:
            return begun[begun.index(self.mark) + 1 :]
        return [mark for mark in begun if mark not in self.root["begun"]]

    def _counts(self, mark: str, root: Mapping[str, digest.JSON]) -> bool:
        """Whether a build runs, or published last; one that was killed, failed or was stopped does neither."""
        return mark == root["published"] or self.store.uses.is_running(mark)

    def _running(self, root: Mapping[str, digest.JSON]) -> list[str]:
        """The marks that a root still needs, in the order of `begun`."""
        return [mark for mark in root["begun"] if mark == self.mark or self._counts(mark, root)]

    def save_published(self) -> None:
        """Record that this build has published, which makes it the last one; a build that found all done is none."""
        with self.store.roots.changing():
            root = last_root(self.store, self.recipe.path)
            if self.plan.up_to_date and self.mark not in root["begun"]:
                return
            others = [mark for mark in self._running(root) if mark not in (self.mark, root["published"])]
            self._amend(root, begun=[*others, self.mark], published=self.mark)

    def _leave(self, root: Mapping[str, digest.JSON], used: Iterable[digest.Digest]) -> None:
        """Note in the root of a later build what this one used, which the recipe needs no more."""
        needed = {*root["actions"].values(), *root["wanted"]}
        dropped = root[DROPPED] | dict.fromkeys({*used} - needed, round(time.time(), 3))
        self._amend(root, **{DROPPED: _newest(dropped)})

    def save_overlap(self, overlap: dict[str, digest.JSON]) -> None:
        """Record what datasets share beside the keys of the build that counted it."""
        with self.store.roots.changing():
            self._amend(last_root(self.store, self.recipe.path), overlap=overlap)

    def save_predictions(self, keys: Iterable[digest.Digest]) -> None:
        """Record that predictions are kept, beside the keys of the last build: later models are held against them."""
        kept = {f"{PREDICTION}{key[:12]}": key for key in keys}
        with self.store.roots.changing():
            root = last_root(self.store, self.recipe.path)
            self._amend(root, actions={**root["actions"], **kept})

    def _amend(self, root: Mapping[str, digest.JSON], **fields: digest.JSON) -> None:
        """Write a root with other fields; a store that is only read serves what it has."""
        with suppress(StoreError):
            document = {"recipe": str(self.recipe.path), **root, **fields}
            self.store.roots.write(root_id(self.recipe.path), document)

    @property
    def fresh_until(self) -> float:
        """Until when the root says well enough when it was used, in seconds since 1970."""
        return float(self.root["built"]) + REFRESH_SECONDS

    def _root(
        self,
        last: Mapping[str, digest.JSON],
        keys: Mapping[str, digest.Digest],
        wanted: set[digest.Digest],
        begun: list[str],
    ) -> dict[str, digest.JSON]:
        """The root: what the recipe needs, what it has yet to make, and when it used what it needs no more."""
        used = last[DROPPED] | dict.fromkeys(last["actions"].values(), last["built"])
        for key in {*keys.values(), *wanted}:
            used.pop(key, None)
        return {
            "recipe": str(self.recipe.path),
            "host": os.uname().nodename,
            "begun": begun,
            "published": last["published"],
            "built": round(time.time(), 3),
            "actions": dict(keys),
            "wanted": sorted(wanted),
            "overlap": last["overlap"],
            DROPPED: _newest(used),
        }


def _newest(used: Mapping[digest.Digest, float]) -> dict[digest.Digest, float]:
    """Of keys and when they were used, the last ones."""
    return dict(sorted(used.items(), key=lambda item: item[1], reverse=True)[:MOST_DROPPED])


def _is_text(value: digest.JSON) -> bool:
    return isinstance(value, str)


def _are_texts(value: digest.JSON) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_time(value: digest.JSON) -> bool:
    return isinstance(value, int | float) and 0 <= value < END_OF_TIME


# Field of a root → what it is where there is none, and whether a value, which anybody may have written, is one.
_FIELDS: dict[str, tuple[digest.JSON, Callable[[digest.JSON], bool]]] = {
    "host": ("", _is_text),
    "begun": ([], _are_texts),
    "published": ("", _is_text),
    "built": (0.0, _is_time),
    "actions": ({}, lambda value: isinstance(value, dict) and all(map(_is_text, value.values()))),
    "wanted": ([], _are_texts),
    "overlap": ({}, is_overlap),
    DROPPED: ({}, lambda value: isinstance(value, dict) and all(map(_is_time, value.values()))),
}


def last_root(store: Store, recipe: Path) -> dict[str, digest.JSON]:
    """The root of a recipe's last build; fields that are missing or of a wrong type are empty."""
    found = store.roots.read(root_id(recipe)) or store.roots.find(str(recipe))
    document = found if isinstance(found, dict) else {}
    return {
        name: value if is_one(value := document.get(name)) else empty
        for name, (empty, is_one) in _FIELDS.items()
    }


@dataclass(frozen=True)
class Planned:
    """A recipe and its lock, resolved and planned without anything else.

    Attributes:
        stale: Names in the lock (`datasets.math`) that the recipe does not have: `--locked` refuses that.
    """

    recipe: Recipe
    lock: Lock
    plan: Plan
    stale: tuple[str, ...] = ()


def root_id(path: Path) -> str:
    """The name of a recipe's root in the store; on two hosts one path may be two files."""
    return digest.of_bytes(os.fsencode(os.uname().nodename) + b"\0" + os.fsencode(path))[:32]


def checked(named: str, overrides: Sequence[str], written: bytes | None = None) -> Recipe:
    """A recipe in which nothing is wrong, as far as that shows without reading data.

    Args:
        named: The recipe, as the user named it.
        overrides: `--set KEY=VALUE`, in order.
        written: What is to be its bytes, in the place of those that it has.

    Raises:
        RecipeError: Its mistakes, files that it names and that are neither here nor locked among them.
    """
    recipe, located, _ = _located(named, overrides, Hints(), written)
    refuse_shared_files(recipe, located)
    if not any(path in located.absent for tag, path in located.base if tag == CHAT_TEMPLATE):
        refuse_template(recipe)
    return recipe


def _located(
    named: str, overrides: Sequence[str], hints: Hints, written: bytes | None = None
) -> tuple[Recipe, Located, digest.JSON | None]:
    """Read a recipe and its lock, and find what it names.

    Raises:
        RecipeError: Its mistakes and what is missing, at once: of a recipe with mistakes, what they leave is looked at.
    """
    path = Path(named)
    recipe, problems = read_recipe(path, overrides, written, path.parent)
    if recipe is None:
        raise RecipeError(problems)
    try:
        locked = lock.read(lock.lock_path(recipe.path))
        located = lock.locate(recipe, Absent(locked, recipe.folder, hints))
    except RecipeError as error:
        raise RecipeError([*problems, *error.problems]) from error
    if problems:
        raise RecipeError(problems)
    return recipe, located, locked


def open_session(named: str, call: Call, within: ExitStack | None = None) -> Session:
    """Load, resolve and plan a recipe.

    Args:
        named: The recipe, as the user named it.
        call: The options.
        within: Until it is closed, what the plan found and a build will use is kept from collection.

    Raises:
        RecipeError: Mistakes in the recipe, the machine file or the lock.
        UsageError: A target or `--rebuild` that is no action of the recipe, and matches none.
        StoreError: The cache cannot be used.
        NotUpToDateError: The call asks for a lock, and there is none, or it does not pin a name on a hub.
    """
    if call.offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    hints = Hints()
    recipe, located, locked = _located(named, call.overrides, hints)
    machine, machine_path = _machine(call, recipe.path)
    if call.locked and locked is None:
        path, hint = str(lock.lock_path(recipe.path)), f"`{_command('lock', named)}` writes it"
        raise NotUpToDateError("there is no lock", where=path, hint=hint)
    if (call.locked or call.pinned) and (missing := lock.unpinned(located, locked)):
        raise not_locked(named, call, lock.lock_path(recipe.path), missing)
    resolved = lock.resolve(located, hints, locked, upgrade=call.upgrade)
    refuse_leaks(recipe, resolved)
    if template_is_new(resolved.base.files, locked):
        refuse_template(recipe)
    graph, call = _asked(build_graph(recipe, resolved), call)
    # Who only looks makes no folder.
    place = _open_workplace(call, (machine, machine_path), recipe.path, hints, make=within is not None)
    store = place.store
    if within is not None:
        within.enter_context(store.in_use())
    root = last_root(store, recipe.path)
    plan = make_plan(graph, store.records, History(root["actions"]), frozenset(call.rebuild))
    mark = store.uses.name or nonce()
    return Session(named, call, recipe, machine, store, resolved, locked, plan, root, place.sharing, mark)


def _asked(graph: Graph, call: Call) -> tuple[Graph, Call]:
    """The actions that a call asks for, and the call as it is to be read beside them.

    Raises:
        UsageError: As `Graph.matching`.
    """
    part = graph.only(call.targets or graph.actions)
    targets = call.targets if len(part.actions) < len(graph.actions) else ()  # all were named
    return part, replace(call, targets=targets, rebuild=part.matching(call.rebuild))


@dataclass(frozen=True)
class Workplace:
    """Where a call's results are kept and looked for, whichever recipe they are of.

    Attributes:
        machine: The machine file's keys, and what the call says in their place.
        store: The cache.
        sharing: The remotes.
    """

    machine: Machine
    store: Store
    sharing: Sharing


def open_workplace(call: Call, recipe: Path, *, make: bool = True) -> Workplace:
    """Open what a recipe that need not lie there would use.

    Args:
        call: The options.
        recipe: The recipe's file, beside which a machine file may lie.
        make: Whether a cache is made where there is none; who only looks makes no folder.

    Raises:
        RecipeError: Mistakes in the machine file.
        StoreError: The cache cannot be used.
    """
    if call.offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    return _open_workplace(call, _machine(call, recipe), recipe, Hints(), make=make)


def _machine(call: Call, recipe: Path) -> tuple[Machine, Path | None]:
    machine, path = load_machine(call.machine, recipe)
    return machine if call.jobs is None else machine.model_copy(update={"jobs": call.jobs}), path


def _open_workplace(
    call: Call, machine_file: tuple[Machine, Path | None], recipe: Path, hints: Hints, *, make: bool
) -> Workplace:
    machine, path = machine_file
    folder = cache_folder(call.cache, machine, path, recipe)
    layout = open_layout(folder, make=make, work=work_folder(machine, path))
    remotes = () if call.offline else remotes_of(machine, path)
    sharing = Sharing(remotes, call.voice, required=call.require_remote)
    return Workplace(machine, Store(layout, hints, elsewhere=sharing.reader(layout)), sharing)


def session_of(named: str, call: Call, found: Planned, place: Workplace, locked: digest.JSON) -> Session:
    """A session of a recipe that is planned already, as of a revision of git; it has no root, and so no last build."""
    root = {name: empty for name, (empty, _) in _FIELDS.items()}
    return Session(
        named,
        call,
        found.recipe,
        place.machine,
        place.store,
        found.lock,
        locked,
        found.plan,
        root,
        place.sharing,
    )


def planned(
    named: Path,
    written: bytes,
    locked: digest.JSON | None,
    records: Lookup,
    history: History | None = None,
) -> Planned:
    """Resolve and plan a recipe and its lock that need not lie anywhere, such as those of a revision of git.

    Everything that the recipe names comes from the lock: nothing of the working tree is read, where other bytes may lie
    under the same names, and no hub is asked.

    Args:
        named: The recipe's file, as messages name it; it need not exist. Paths start from its folder.
        written: The recipe's bytes.
        locked: The lock's document, as `lock.parse` returns it; None where the revision has none.
        records: Where keys are looked up.
        history: Keys of the build to compare with; by default of none.

    Raises:
        RecipeError: Mistakes in the recipe; a file that it is both judged by and learns from.
        NotUpToDateError: There is no lock, or it does not tell of everything that the recipe names.
    """
    recipe, problems = read_recipe(named, written=written)
    if recipe is None or problems:
        raise RecipeError(problems)
    path, hint = lock.lock_path(named), f"`{_command('lock', str(named))}` writes it"
    if locked is None:
        raise NotUpToDateError("there is no lock", where=str(path), hint=hint)
    try:
        located = lock.locate(recipe, Absent(locked, recipe.folder, alone=True))
        missing = lock.unpinned(located, locked)
    except RecipeError as error:  # the lock is whole, and of another recipe
        missing = [problem.key for problem in error.problems]
    if missing:
        what = f"does not tell of {', '.join(dict.fromkeys(missing))}"
        raise NotUpToDateError(what, where=str(path), hint=hint)
    resolved = lock.resolve(located, Hints(), locked)
    refuse_leaks(recipe, resolved)
    plan = make_plan(build_graph(recipe, resolved), records, history or History())
    return Planned(recipe, resolved, plan, tuple(lock.changes(locked, resolved, recipe.folder)))


def not_locked(named: str, call: Call, path: Path, names: Sequence[str]) -> NotUpToDateError:
    """What is said where a lock is not what is there."""
    hint = f"`{_command('lock', named)}` accepts what is there now; or put back what was locked"
    if call.overrides:
        hint += "; no lock has what --set brings in: write that into the recipe first, or leave out --locked"
    return NotUpToDateError(f"not what is locked: {', '.join(names)}", where=str(path), hint=hint)


def _command(name: str, recipe: str) -> str:
    """A command for a recipe, to be copied into a shell."""
    import shlex  # noqa: PLC0415  few calls say one

    return shlex.join(["dem", name, recipe])


def open_store(call: Call) -> Store:
    """Open the store that a recipe in the current folder would use.

    Raises:
        StoreError: There is none, or it cannot be used.
    """
    here = Path.cwd() / "recipe.toml"
    machine, machine_path = load_machine(call.machine, here)
    folder = cache_folder(call.cache, machine, machine_path, here)
    if not (folder / "format.json").exists():
        hint = "--cache says where it is; the first `dem build` makes it"
        raise StoreError("there is no cache here", where=str(folder), hint=hint)
    return Store.open(folder, make=False, work=work_folder(machine, machine_path))


def open_shared(call: Call) -> tuple[Store, Sharing]:
    """Open the store that a recipe in the current folder would use, with its remotes.

    Raises:
        StoreError: It cannot be used.
    """
    here = Path.cwd() / "recipe.toml"
    machine, machine_path = load_machine(call.machine, here)
    folder = cache_folder(call.cache, machine, machine_path, here)
    layout = open_layout(folder, make=False, work=work_folder(machine, machine_path))
    sharing = Sharing(remotes_of(machine, machine_path), call.voice, required=call.require_remote)
    return Store(layout, Hints(), elsewhere=sharing.reader(layout)), sharing
