"""Corruption: files of a cache are damaged in every way, looked for, built over, repaired and built again."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from failpoints import Plan
from faults import FAULTS, flip
from light import Bounds
from room import NOBODY, quick_folder
from small_store import SmallStore
from tally import Tally
from workshop import BUILD, Workshop

from dem_build.errors import StoreError
from dem_build.store import Hints, Store
from dem_build.store.hints import Hashed
from dem_build.store.records import read_record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tally import Scale
    from workshop import Called

TITLE = "Corruption"
INTRODUCTION = """
A small store: every byte of every object and record in turn has a bit flipped (its times restored), and every file is
truncated, emptied, deleted, replaced by another one's bytes or by a folder. `dem cache verify` must find it, no reader
may get other bytes, and after `--repair` the store is sound and takes the same results again. Then the caches of built
projects, one with stand-ins for the steps that need torch and one with real trainings: file after file is damaged, and
`dem` is called: verify (1), build (the same model; only what was damaged runs), repair, build, verify (0). Noticed: by
verify. A record that was deleted is a miss and nothing to notice. Last, what may only cost time: the
file of hints, roots, leases, checkpoints, strays. And objects and records that their user may not read: verify names
them, a build says so, and once they can be read again it goes on.
"""
FOREIGN = {
    "dem-lease": 1, "host": "elsewhere", "boot_id": "another", "pid_namespace": "pid:[1]", "pid": 7,
    "start_time": 7, "nonce": "0" * 16, "since": 1.0,
}  # fmt: skip
YEAR = 365 * 86400


def run(scale: Scale, folder: Path) -> Iterator[Tally]:
    rng = random.Random(scale.seed)
    yield from _small(scale, folder / "small", rng)
    yield _formats(folder / "formats")
    yield _hints(scale, folder / "hints", rng)
    shop = Workshop(quick_folder(folder) / "light")
    try:
        yield from _built(shop, "stand-ins", rng, scale.pick(6, 10**6))
        yield _roots(shop, scale, rng)
        yield from _beside(shop)
        yield _strays(shop)
        yield _unreadable(shop, rng, scale.pick(2, 30))
        yield _light_checkpoints(shop, scale, rng)
    finally:
        shop.close()
    if scale.short:
        return  # the imports of torch alone take as long as a chapter's short form may
    real = Workshop(quick_folder(folder) / "real", real=True)
    try:
        yield from _built(real, "real", rng, 40)
        yield _real_checkpoints(real, rng)
    finally:
        real.close()


# A small store, exhaustively.


def _small(scale: Scale, folder: Path, rng: random.Random) -> Iterator[Tally]:
    small = SmallStore(quick_folder(folder))
    flips = Tally("small store: a bit flipped")
    flips.detected = 0
    places = [(path, at) for path in small.files() for at in range(path.stat().st_size)]
    for path, at in rng.sample(places, min(len(places), scale.pick(150, len(places)))):
        bit = 8 * at + rng.randrange(8)
        _count(flips, small.trial(path, lambda p, bit=bit: flip(p, bit)), f"{path.name[:12]} bit {bit}")
    yield flips
    for name, fault in FAULTS.items():
        if fault is not flip:
            tally = Tally(f"small store: {name}")
            tally.detected = 0
            for path in small.files():
                _count(tally, small.trial(path, lambda p, f=fault: f(p, 0)), path.name[:12])
            yield tally


def _count(tally: Tally, found: tuple[bool, list[str]], what: str) -> None:
    noticed, wrong = found
    tally.tried += 1
    tally.detected = (tally.detected or 0) + noticed
    tally.recovered += not wrong
    if wrong:
        tally.lose(f"{what}: {'; '.join(wrong)}")


# The cache of a built project.


def _built(shop: Workshop, what: str, rng: random.Random, most: int) -> Iterator[Tally]:
    cache = shop.start / "cache"
    paths = sorted(
        p.relative_to(shop.start) for part in ("cas", "actions") for p in (cache / part).rglob("*")
    )
    files = [p for p in paths if (shop.start / p).is_file()]
    cases = [(path, name) for name in FAULTS for path in files]
    chosen = cases if most >= len(cases) else _spread(rng, cases, most)
    for name in FAULTS:
        tally = Tally(f"built cache ({what}): {name}")
        tally.detected = 0
        for path, fault in chosen:
            if fault == name:
                bit = rng.randrange(10**6)
                _count(tally, _over(shop, path, name, bit), f"{path} ({bit})")
        yield tally


def _spread(rng: random.Random, cases: list[tuple[Path, str]], most: int) -> list[tuple[Path, str]]:
    """Return so many cases, all faults among them."""
    names = list(FAULTS)
    by_name = {
        name: rng.sample([c for c in cases if c[1] == name], len(cases) // len(names)) for name in names
    }
    return [by_name[names[i % len(names)]][i // len(names)] for i in range(most)]


def _over(shop: Workshop, path: Path, fault: str, bit: int) -> tuple[bool, list[str]]:
    """Damage a file of the cache; look, build, repair, build, look."""
    may_run = _affected(shop, path)
    home = shop.copy()
    FAULTS[fault](home / path, bit)
    looked = shop.call(home, "cache", "verify")
    noticed = looked.status == 1 and path.stem in looked.out
    wrong = [] if looked.calm else [looked.brief]
    missed = fault == "deleted" and path.parts[1] == "actions"  # a record that is not there is a miss
    if not noticed and not missed:
        wrong.append("verify did not find it")
    shutil.rmtree(home / "out")
    wrong += shop.wrong(home, shop.call(home, *BUILD), may_run)
    repaired = shop.call(home, "cache", "verify", "--repair")
    wrong += [] if repaired.calm else [repaired.brief]
    wrong += shop.wrong(home, shop.call(home, *BUILD), may_run)
    return noticed, wrong + _unsound(shop.call(home, "cache", "verify"))


def _unsound(looked: Called) -> list[str]:
    return [] if looked.status == 0 else [f"after the repair, verify finds: {looked.out[:200]}"]


def _affected(shop: Workshop, path: Path) -> set[str]:
    """Return the actions whose record is the file, or whose outputs it is part of; a log is nobody's."""
    found = set()
    for name, key in shop.keys.items():
        record = read_record(shop.start / "cache" / "actions" / key[:2] / f"{key}.json")
        assert record is not None
        if path.stem == key or path.name in {blob.digest for blob in record.blobs()}:
            found.add(name)
    return found


# What may only cost time.


def _formats(folder: Path) -> Tally:
    """Every bit of the file that says the cache's format: opened as it is, or refused."""
    tally = Tally("format.json: a bit flipped", detected=0)
    Store.open(folder / "cache", hints=Hints(folder))
    path = folder / "cache" / "format.json"
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        flip(path, bit)
        tally.tried += 1
        try:
            Store.open(folder / "cache", hints=Hints(folder))
        except StoreError as error:
            tally.detected = (tally.detected or 0) + bool(error.hint)
        else:
            if json.loads(path.read_bytes()) != json.loads(whole):
                tally.lose(f"bit {bit}: opened as another format")
        path.chmod(0o644)
        path.write_bytes(whole)
    tally.recovered = tally.tried - tally.lost
    return tally


def _hints(scale: Scale, folder: Path, rng: random.Random) -> Tally:
    """The file of hints, byte after byte: a digest is always that of the file."""
    tally = Tally("file of hints: a bit flipped, truncated, or no file at all")
    (folder / "data").mkdir(parents=True)
    paths = [folder / "data" / f"{n}.jsonl" for n in range(40)]
    for number, path in enumerate(paths):
        path.write_bytes(str(number).encode())
        os.utime(path, (1, 1))
    truth = Hints(folder / "none").digests_of(paths)
    kept = Hints(folder / "kept")
    kept.remember([Hashed(p, truth[p], p.stat(), settled=True) for p in paths])
    kept.close()
    [file] = (folder / "kept").iterdir()
    whole = file.read_bytes()
    damaged = [_flipped(whole, 8 * at + rng.randrange(8)) for at in range(len(whole))]
    damaged = rng.sample(damaged, min(len(damaged), scale.pick(150, len(damaged))))
    damaged += [whole[:size] for size in (0, 1, 100, len(whole) // 2, len(whole) - 1)]
    for number, data in enumerate(damaged):
        file.write_bytes(data)
        hints = Hints(folder / "kept")
        tally.tried += 1
        if hints.digests_of(paths) == truth:
            tally.recovered += 1
        else:
            tally.lose(f"number {number}: a wrong digest")
        hints.close()
        for left in (folder / "kept").iterdir():
            if left != file:
                left.unlink()
    return tally


def _flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def _roots(shop: Workshop, scale: Scale, rng: random.Random) -> Tally:
    """What the last build wrote about itself: the next one runs nothing, whatever is left of it, even after a `gc`."""
    tally = Tally("root: a bit flipped, truncated, another document, a folder; with and without `cache gc`")
    [root] = (shop.start / "cache" / "roots").iterdir()
    whole = root.read_bytes()
    others = [b"", whole[: len(whole) // 2], b"[1]", b'{"recipe_id": "a", "root": [1]}']
    others += [b'{"recipe_id": "a", "root": {"actions": [1], "recipe": 3}}']
    others += [_flipped(whole, rng.randrange(8 * len(whole))) for _ in range(scale.pick(4, 150))]
    for data in others:
        _only_time(shop, tally, lambda home, data=data: _rewrite(_moved(root, shop, home), data), set())
        _only_time(shop, tally, lambda home, data=data: _collected(root, data, shop, home), set())
    _only_time(shop, tally, lambda home: FAULTS["a folder in its place"](_moved(root, shop, home), 0), set())
    return tally


def _moved(root: Path, shop: Workshop, home: Path) -> Path:
    """Return the root's place in a copy of the project: roots are named by where a recipe lies."""
    assert shop.call(home, *BUILD).status == 0
    [path] = [p for p in (home / "cache" / "roots").iterdir() if p.name != root.name] or [home / root]
    return path


def _collected(root: Path, data: bytes, shop: Workshop, home: Path) -> None:
    """Damage the only root of a project, and collect all that nobody needs."""
    _rewrite(_moved(root, shop, home), data)
    (home / "cache" / "roots" / root.name).unlink()
    shop.call(home, "cache", "gc", "--vectors", "--grace", "0s")


def _rewrite(path: Path, data: bytes) -> None:
    path.unlink()
    path.write_bytes(data)


def _only_time(
    shop: Workshop,
    tally: Tally,
    damage: Callable[[Path], None],
    may_run: set[str],
    bounds: Bounds | None = None,
) -> None:
    """Count a build after some damage that must cost no more than time."""
    home = shop.copy()
    damage(home)
    tally.tried += 1
    wrong = shop.wrong(home, shop.call(home, *BUILD, bounds=bounds), may_run)
    wrong += _unsound(shop.call(home, "cache", "verify"))
    tally.recovered += not wrong
    if wrong:
        tally.lose(f"number {tally.tried}: {'; '.join(wrong)}")


def _beside(shop: Workshop) -> Iterator[Tally]:
    """Leases of an action that is due: whatever is in the file, nobody waits for somebody who is not there."""
    tally = Tally("lease: damaged, of a dead holder, or stamped in the future")
    key = shop.keys["data:add"]

    def due(home: Path, data: bytes, age: float) -> None:
        (home / "cache" / "actions" / key[:2] / f"{key}.json").unlink()
        lease = home / "cache" / "leases" / key
        lease.write_bytes(data)
        stamp = lease.stat().st_mtime - age
        os.utime(lease, (stamp, stamp))

    foreign = json.dumps(FOREIGN).encode()
    huge = json.dumps({**FOREIGN, "pid": 10**40, "since": 1e300, **_here()}).encode()
    cases = [
        (b"", 0),
        (b"\0" * 500, 0),
        (foreign[:60], 0),
        (b"[]", 0),
        (huge, 0),
        (foreign, 600),
        (foreign, -YEAR),
    ]
    for data, age in cases:
        bounds = Bounds(seconds=30)
        _only_time(shop, tally, lambda h, d=data, a=age: due(h, d, a), {"data:add"}, bounds)
    yield tally


def _here() -> dict[str, str]:
    """Return what makes a holder one of this boot and these processes."""
    return {
        "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "pid_namespace": str(Path("/proc/self/ns/pid").readlink()),
    }


def _strays(shop: Workshop) -> Tally:
    """Files and folders that nobody needs, or that somebody removed: builds go on."""
    tally = Tally("strays in tmp/, quarantine/ and work/, and folders that were removed")

    def litter(home: Path) -> None:
        for name in ("tmp/half", "quarantine/object-x", "leases/not-a-key", f"work/{'0' * 64}/junk"):
            path = home / "cache" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"\xff")

    _only_time(shop, tally, litter, set())
    for name in ("tmp", "quarantine", "leases", "work", "roots"):
        _only_time(shop, tally, lambda home, name=name: shutil.rmtree(home / "cache" / name), set())
    return tally


def _unreadable(shop: Workshop, rng: random.Random, count: int) -> Tally:
    """Take the right to read from a file; whose right that is, is an ordinary user."""
    tally = Tally("built cache (stand-ins): not readable", detected=0)
    user = NOBODY if os.geteuid() == 0 else 0
    for number in range(count):
        home = shop.copy()
        home.parents[1].chmod(0o755)
        files = [p for p in home.glob(f"cache/{('cas/sha256', 'actions')[number % 2]}/*/*") if p.is_file()]
        path = rng.choice(sorted(files))
        for each in (home, *home.rglob("*")) if user else ():
            os.chown(each, user, user)
        mode = path.stat().st_mode
        path.chmod(0)
        looked = shop.call(home, "cache", "verify", bounds=Bounds(user=user))
        noticed = looked.status == 1 and looked.calm and path.stem in looked.out
        wrong = [] if noticed else [f"verify: {looked.brief}"]
        shutil.rmtree(home / "out")
        built = shop.call(home, *BUILD, bounds=Bounds(user=user))
        told = built.status == 1 and built.calm and "not allowed" in built.err + built.out
        wrong += [] if told or not shop.wrong(home, built, set()) else [built.brief]
        path.chmod(mode)
        wrong += shop.wrong(home, shop.call(home, *BUILD, bounds=Bounds(user=user)), set())
        _count(tally, (noticed, wrong), str(path.relative_to(home)))
    return tally


# Checkpoints of a training that was killed.


def _light_checkpoints(shop: Workshop, scale: Scale, rng: random.Random) -> Tally:
    tally = Tally("checkpoint (stand-ins): every fault")
    _checkpoints(shop, tally, rng, scale.pick(4, 60))
    return tally


def _real_checkpoints(shop: Workshop, rng: random.Random) -> Tally:
    tally = Tally("checkpoint (real): every fault")
    _checkpoints(shop, tally, rng, 24)
    return tally


def _checkpoints(shop: Workshop, tally: Tally, rng: random.Random, count: int) -> None:
    """Kill a training behind its checkpoint, damage a file of that, go on: the vector is the same."""
    home = shop.copy("killed")
    (home / "machine.toml").write_text("checkpoint_seconds = 0\n")
    key = shop.keys["vector:add"]
    (home / "cache" / "actions" / key[:2] / f"{key}.json").unlink()
    # The flush of their folder comes after a checkpoint's mark, and before all that may take it away again.
    shop.call(home, *BUILD, plan=Plan(at=1, named="^fsync .*/checkpoints$"))
    [marker, *_] = sorted(home.glob(f"cache/work/{key}/*/checkpoints/*/complete.json")) or [None]
    if marker is None:
        tally.tried += 1
        tally.lose("no checkpoint was there to be damaged")
        return
    files = sorted(p for p in marker.parent.rglob("*") if p.is_file())
    for number in range(count):
        path, fault = files[number % len(files)], rng.choice(list(FAULTS))
        trial = home.with_name("trial")
        shutil.rmtree(trial, ignore_errors=True)
        shutil.copytree(home, trial)
        FAULTS[fault](trial / path.relative_to(home), bit := rng.randrange(10**6))
        shutil.rmtree(trial / "out")
        tally.tried += 1
        wrong = shop.wrong(trial, shop.call(trial, *BUILD), {"vector:add"})
        tally.recovered += not wrong
        if wrong:
            tally.lose(f"{path.name}, {fault} ({bit}): {'; '.join(wrong)}")
