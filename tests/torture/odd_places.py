"""Odd places: full disks, read-only caches, strange names, wrong clocks, other versions."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from light import Bounds
from room import NOBODY, can_mount, other_disk, quick_folder, read_only, small_disk, without_modes
from tally import Tally
from workshop import BUILD, Workshop

from dem_build.store.sealed import FIELD, sealed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tally import Scale
    from workshop import Called

TITLE = "Full, read-only and odd places"
_HOW = "on a mounted tmpfs" if can_mount() else "with a limit on file sizes, as mounting is not allowed here"
_READ_ONLY = "mounted read-only" if can_mount() else "without the right to write"
INTRODUCTION = f"""
A project is built where there is no room ({_HOW}), for ever more room until the build ends well: each failure is
status 1 with a sentence about the disk, and the next build, with room, gives the same model. A cache that cannot be
written ({_READ_ONLY}, and as a user who may not): hits are planned, built and published, what is due says why
it cannot be built, and nothing changes. Projects in folders of every name that a file system takes; temporary files and
caches on another file system; links; times in the past and in the future; formats of other versions.
"""
FULL_WORDS = ("no space left", "disk is full", "file too large")
NAMES = (
    "a b", "it's", 'say "hi"', "two\nlines", "tab\there", "ünïcödé-日本語-🙂", "-rf", "--help", "%s{0}$HOME`id`", "#x",
    "[bold]x[red]", "back\\slash", "esc\x1b[31mred", "trailing ", ".hidden", "*?", "a" * 200,
    os.fsdecode(b"not-\xff-utf8"),
)  # fmt: skip
MESSAGES = ("not allowed", "Read-only", "cannot be written")
YEAR = 365 * 86400


def run(scale: Scale, folder: Path) -> Iterator[Tally]:
    folder = quick_folder(folder)
    shop = Workshop(folder / "light")
    try:
        yield _full(shop, scale.pick(6, 60), "stand-ins")
        yield _read_only(shop)
        yield _unprivileged(shop)
        yield _names(shop, NAMES[:: scale.pick(3, 1)])
        yield _paths(shop)
        yield _elsewhere(shop)
        yield _clocks(shop)
        yield _versions(shop)
    finally:
        shop.close()
    if not scale.short:
        real = Workshop(folder / "real", real=True)
        try:
            yield _full(real, 16, "real")
        finally:
            real.close()


def _count(tally: Tally, what: str, wrong: list[str]) -> None:
    tally.tried += 1
    tally.recovered += not wrong
    if wrong:
        tally.lose(f"{what!r}: {'; '.join(wrong)}")


# Full.


def _full(shop: Workshop, steps: int, what: str) -> Tally:
    """Build with so much room, for ever more room; then with enough."""
    tally = Tally(f"disk full ({what}, {_HOW})", detected=0)
    attempts = _on_disks if can_mount() else _with_limits
    for room, short, ample in attempts(shop, steps):
        if short.status == 0:
            wrong = [] if short.calm else [short.brief]
        else:
            tally.detected = (tally.detected or 0) + 1
            said = (
                short.status == 1
                and short.calm
                and any(w in (short.err + short.out).lower() for w in FULL_WORDS)
            )
            wrong = [] if said else [short.brief]
        _count(tally, f"{room} bytes", wrong + ample)
    return tally


def _on_disks(shop: Workshop, steps: int) -> Iterator[tuple[int, Called, list[str]]]:
    """Yield the room, the call that had no more, and what was wrong with the call that had enough."""
    home = shop.copy("disk")
    shutil.rmtree(home)
    with small_disk(home) as disk:
        _unbuilt(shop, home)
        begun = disk.used()
        assert shop.call(home, *BUILD).status == 0
        needed = disk.used() - begun
        for step in range(steps):
            disk.resize(64 << 20)
            _unbuilt(shop, home)
            room = needed * step // steps
            disk.resize(disk.used() + room)
            short = shop.call(home, *BUILD)
            disk.resize(64 << 20)
            yield room, short, _afterwards(shop, home)


def _with_limits(shop: Workshop, steps: int) -> Iterator[tuple[int, Called, list[str]]]:
    home = shop.copy("disk")
    largest = max(p.stat().st_size for p in home.rglob("*") if p.is_file())
    for step in range(steps):
        _unbuilt(shop, home)
        room = 512 + largest * step // steps  # what it prints goes to files, too
        short = shop.call(home, *BUILD, bounds=Bounds(largest=room))
        yield room, short, _afterwards(shop, home)


def _unbuilt(shop: Workshop, home: Path) -> None:
    """Put the project as it was before its first build into a folder."""
    home.mkdir(exist_ok=True)
    for path in home.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name in ("base", "data"):
        shutil.copytree(shop.start / name, home / name)
    for path in shop.start.glob("*.toml"):
        shutil.copyfile(path, home / path.name)


def _afterwards(shop: Workshop, home: Path) -> list[str]:
    looked = shop.call(home, "cache", "verify")
    none = looked.status == 1 and "there is no cache here" in looked.err  # the disk was too full to make one
    wrong = [] if looked.status == 0 or none else [f"verify after it: {looked.out[:200]} {looked.brief}"]
    return wrong + shop.wrong(home, shop.call(home, *BUILD))


# Read-only.


def _read_only(shop: Workshop) -> Tally:
    tally = Tally(f"read-only cache ({_READ_ONLY})")
    user = 0 if can_mount() or os.geteuid() else NOBODY
    for what, wrong in _reads(shop, read_only, user):
        _count(tally, what, wrong)
    return tally


def _unprivileged(shop: Workshop) -> Tally:
    tally = Tally("cache of another user, without the right to write")
    for what, wrong in _reads(shop, without_modes, NOBODY if os.geteuid() == 0 else 0):
        _count(tally, what, wrong)
    return tally


def _reads(shop: Workshop, locked: Callable[[Path], object], user: int) -> Iterator[tuple[str, list[str]]]:
    home, bounds = shop.copy(), Bounds(user=user)
    shutil.rmtree(home / "out")
    cache = home / "cache"
    if user:
        for path in [home, *(p for p in home.rglob("*") if not p.is_relative_to(cache))]:
            os.chown(path, user, user)
    with locked(cache):  # type: ignore[attr-defined]
        before = _listing(cache)
        planned = shop.call(home, "plan", "tiny.toml", "--check", bounds=bounds)
        yield "plan", [] if planned.status == 0 else [planned.brief]
        yield "build", shop.wrong(home, shop.call(home, *BUILD, bounds=bounds), set())
        for arguments in (
            ("cache", "verify"), ("cache", "stats"), ("ls",), ("show", "tiny.toml", "model"),
            ("logs", "tiny.toml", "model"), ("why", "tiny.toml", "model"),
        ):  # fmt: skip
            called = shop.call(home, *arguments, bounds=bounds)
            yield arguments[-1], [] if called.status == 0 and called.calm else [called.brief]
        due = shop.call(home, *BUILD, "--set", "datasets.add.omega=0.125", bounds=bounds)
        yield "what is due", _refused(due)
        yield "nothing changes", [] if _listing(cache) == before else ["the cache changed"]
    yield from _damaged_reads(shop, home, locked, bounds)


def _damaged_reads(
    shop: Workshop, home: Path, locked: Callable[[Path], object], bounds: Bounds
) -> Iterator[tuple[str, list[str]]]:
    """A damaged model that cannot be set aside is not published."""
    cache = home / "cache"
    weights = home / "out" / "tiny" / "model" / "model.safetensors"
    name = hashlib.sha256(weights.read_bytes()).hexdigest()
    path = cache / "cas" / "sha256" / name[:2] / name
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    shutil.rmtree(home / "out")
    with locked(cache):  # type: ignore[attr-defined]
        built = shop.call(home, *BUILD, bounds=bounds)
        wrong = [] if built.status == 1 and built.calm else [built.brief]
        wrong += [] if len(built.document.get("actions", ())) == len(shop.keys) else ["no action is listed"]
        wrong += [] if not shop.published(home) else ["a damaged model was published"]
        yield "damage", wrong
        repaired = shop.call(home, "cache", "verify", "--repair", bounds=bounds)
        yield "a repair", [] if repaired.status == 1 and repaired.calm else [repaired.brief]


def _refused(called: Called) -> list[str]:
    said = any(word in called.err + called.out for word in MESSAGES)
    return [] if called.status == 1 and called.calm and said else [called.brief]


def _listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of everything below a folder."""
    return {str(p): (p.lstat().st_size, p.lstat().st_mtime_ns) for p in folder.rglob("*")}


# Names, paths and links.


def _names(shop: Workshop, names: tuple[str, ...]) -> Tally:
    tally = Tally("project in a folder, and a recipe and a data file, of every name")
    for name in names:
        home = shop.copy("named") / name
        _unbuilt(shop, home)
        recipe = home / f"{name}.toml"
        text = (home / "tiny.toml").read_text()
        if name.isprintable():
            (home / "data" / "add.jsonl").rename(home / "data" / f"{name}.jsonl")
            text = text.replace('"data/add.jsonl"', json.dumps(f"data/{name}.jsonl", ensure_ascii=False))
        recipe.write_text(text)
        wrong = shop.wrong(home, shop.call(home, "build", f"./{recipe.name}", "--json"))
        wrong += shop.wrong(home, shop.call(home, "build", f"./{recipe.name}", "--json"), set())
        for command in ("plan", "check", "lock"):
            called = shop.call(home, command, f"./{recipe.name}")
            wrong += [] if called.status == 0 and called.calm else [f"{command}: {called.brief}"]
        looked = shop.call(home, "cache", "stats")
        wrong += (
            []
            if looked.calm and looked.status == 0 and "\x1b" not in looked.out
            else [f"stats: {looked.brief}"]
        )
        _count(tally, name, wrong)
        shutil.rmtree(home.parent)
    return tally


def _paths(shop: Workshop) -> Tally:
    """As deep as a path may be, and deeper than the cache below it can be: an error that says so, or a build."""
    tally = Tally("very long paths")
    for length in (1000, 3000, 3900):
        top = shop.copy("deep")
        home = top
        while len(str(home)) < length:
            home /= "d" * min(200, max(length - len(str(home)), 1))
        home.mkdir(parents=True)
        _unbuilt(shop, home)
        called = shop.call(home, *BUILD)
        wrong = (
            shop.wrong(home, called)
            if called.status == 0
            else ([] if called.calm and called.err else [called.brief])
        )
        _count(tally, f"{length} bytes", wrong)
        shutil.rmtree(top)
    return tally


def _elsewhere(shop: Workshop) -> Tally:
    tally = Tally("caches and temporary files on other file systems, behind links, or in the way")
    away = other_disk(shop.start)
    home = shop.copy()
    try:
        _count(tally, "TMPDIR elsewhere", _rebuilt(shop, home, TMPDIR=str(away)))
        _count(tally, "TMPDIR is not there", _rebuilt(shop, home, TMPDIR=str(away / "none")))
        shutil.rmtree(home / "cache")
        (home / "cache").symlink_to(away / "linked", target_is_directory=True)
        (away / "linked").mkdir()
        _count(tally, "cache is a link to another disk", _rebuilt(shop, home))
        _count(tally, "and again", shop.wrong(home, shop.call(home, *BUILD), set()))
        (home / "cache").unlink()
        (home / "cache").symlink_to(away / "nothing")
        _count(tally, "cache is a link to nothing", _clear(shop.call(home, *BUILD)))
        (home / "cache").unlink()
        (home / "cache").write_text("a file")
        _count(tally, "cache is a file", _clear(shop.call(home, *BUILD)))
        (home / "cache").unlink()
        variables = {"DEM_CACHE": str(away / "by variable")}
        _count(tally, "DEM_CACHE", shop.wrong(home, shop.call(home, *BUILD, variables=variables)))
        _count(tally, "--cache", shop.wrong(home, shop.call(home, *BUILD, "--cache", "../other cache")))
        for hints in (str(away / "h\nints"), "/dev/null", "/proc/nothing"):
            called = shop.call(home, *BUILD, variables={**variables, "DEM_HINTS": hints})
            _count(tally, f"DEM_HINTS={hints}", shop.wrong(home, called, set()))
    finally:
        shutil.rmtree(away)
    return tally


def _rebuilt(shop: Workshop, home: Path, **variables: str) -> list[str]:
    for name in ("cas", "actions"):
        shutil.rmtree(home / "cache" / name, ignore_errors=True)
    return shop.wrong(home, shop.call(home, *BUILD, variables=variables))


def _clear(called: Called) -> list[str]:
    return [] if called.status == 1 and called.calm and called.err else [called.brief]


# Clocks and versions.


def _clocks(shop: Workshop) -> Tally:
    """Whatever the times of files say, what a build takes is their bytes."""
    tally = Tally("all times in the future, in the past, or before 1970")
    for seconds in (2 * 10**9 + YEAR, 0, -YEAR):
        home = shop.copy()
        _stamp(home, seconds)
        wrong = shop.wrong(home, shop.call(home, *BUILD), set())
        data = home / "data" / "add.jsonl"
        before = data.read_bytes()
        data.write_bytes(before.replace(b"a", b"b"))
        _stamp(home, seconds)
        changed = shop.call(home, *BUILD)
        wrong += (
            [] if "data:add" in changed.ran else ["a changed file of the same size and time was not seen"]
        )
        data.write_bytes(before)
        _stamp(home, seconds)
        _count(tally, str(seconds), wrong + shop.wrong(home, shop.call(home, *BUILD), set()))
    return tally


def _stamp(home: Path, seconds: int) -> None:
    for path in home.rglob("*"):
        os.utime(path, (seconds, seconds))


def _versions(shop: Workshop) -> Tally:
    tally = Tally("formats of newer and older versions", detected=0)
    home = shop.copy()
    (home / "cache" / "format.json").unlink()
    (home / "cache" / "format.json").write_text('{"dem-store": 2}')
    before = _listing(home / "cache")
    for arguments in (BUILD, ("cache", "verify", "--repair"), ("cache", "gc"), ("plan", "tiny.toml")):
        called = shop.call(home, *arguments)
        tally.detected = (tally.detected or 0) + ("upgrade dem" in called.err)
        unharmed = _listing(home / "cache") == before
        _count(tally, arguments[0], _clear(called) + ([] if unharmed else ["something was changed"]))
    home = shop.copy()
    _rewrite_records(home, lambda document: json.dumps(document | {"dem-record": 1}).encode())
    _count(tally, "older records", shop.wrong(home, shop.call(home, *BUILD), set()))
    home = shop.copy()
    _rewrite_records(home, lambda document: sealed(document | {"dem-record": 99}))
    _count(tally, "newer records", shop.wrong(home, shop.call(home, *BUILD)))
    return tally


def _rewrite_records(home: Path, change: Callable[[dict[str, object]], bytes]) -> None:
    for path in (home / "cache" / "actions").glob("*/*.json"):
        document = json.loads(path.read_bytes())
        del document[FIELD]
        path.unlink()
        path.write_bytes(change(document))
