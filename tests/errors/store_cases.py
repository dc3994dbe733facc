"""Machine files, caches and locks that are refused before an action runs."""

from __future__ import annotations

from pathlib import Path

from error_cases import ROWS, Call, edit, lock_then, write

__all__ = ["STORES"]

REMOTE = '[[remotes]]\nurl = "shared"\nwrite = "trusted"\n'


def linked_work(home: Path) -> None:
    """Make a cache whose `work/` leads out of it."""
    write("cache/format.json", '{"dem-store": 1}')(home)
    (home / "cache" / "work").symlink_to(home / "data")


def damaged_root(home: Path) -> None:
    """Make a cache whose only root is half gone."""
    write("cache/format.json", '{"dem-store": 1}')(home)
    write(f"cache/roots/{'ab' * 32}.json", '{\n "root": {\n  "recipe": "/home/ada/a.toml",\n')(home)


STORES = (
    # machine file, cache and lock
    Call(
        "An unknown key of the machine file",
        "plan recipe.toml",
        ("machine.toml:1: error: job: unknown key\n  hint:  did you mean `jobs`?"),
        setup=write("machine.toml", "job = 2\n"),
    ),
    Call(
        "No machine file of that name",
        "plan recipe.toml --machine big.toml",
        ("big.toml: error: there is no such machine file\n  hint:  the TOML files there are recipe.toml"),
    ),
    Call(
        "A cache from the future",
        "build recipe.toml",
        (
            "error: cache: the cache has format 99, and this dem knows 1\n"
            "  hint:  upgrade dem, or choose another folder with --cache"
        ),
        1,
        setup=write("cache/format.json", '{"dem-store": 99}'),
    ),
    Call(
        "A cache whose format file is damaged",
        "build recipe.toml",
        (
            "error: cache/format.json: this file does not say which format the cache has\n"
            '  hint:  write {"dem-store": 1} into it if the folder is a cache, or choose another with --cache'
        ),
        1,
        setup=write("cache/format.json", ""),
    ),
    Call(
        "A file where the cache should be",
        "build recipe.toml",
        (
            "error: cache/format.json: cannot be reached: a part of this path is a file, not a folder\n"
            "  hint:  move the file away, or choose another cache with --cache"
        ),
        1,
        setup=write("cache", ""),
    ),
    Call(
        "A cache on a read-only disk",
        "build recipe.toml --cache /sys/dem",
        (
            "error: /sys/dem: not allowed to read or write here\n"
            "  hint:  mend the permissions, or choose another folder: --cache chooses the cache's"
        ),
        1,
    ),
    Call(
        "A collection where the root of a recipe is damaged",
        "cache gc",
        (
            "error: cache/roots/DIGEST.json: this root is damaged, so what its recipe needs is not known, "
            "and nothing was taken\n"
            "  hint:  build /home/ada/a.toml again, which writes it anew; or delete it if that is gone"
        ),
        1,
        setup=damaged_root,
    ),
    Call(
        "No lock under `--locked`",
        "build recipe.toml --locked",
        ("error: recipe.lock: there is no lock\n  hint:  `dem lock recipe.toml` writes it"),
        4,
    ),
    Call(
        "A base on a hub that no lock pins, under `--locked`",
        "build recipe.toml --locked",
        (
            "error: recipe.lock: not what is locked: base\n"
            "  hint:  `dem lock recipe.toml` accepts what is there now; or put back what was locked"
        ),
        status=4,
        replaced=('model = "base"', 'model = "org/base"'),
        setup=lock_then(),
    ),
    Call(
        "A dataset on a hub that no lock pins, under `--locked`",
        "build recipe.toml --locked",
        (
            "error: recipe.lock: not what is locked: datasets.add\n"
            "  hint:  `dem lock recipe.toml` accepts what is there now; or put back what was locked"
        ),
        status=4,
        replaced=('path = "data/add.jsonl"', 'hub = "org/add"'),
        setup=lock_then(),
    ),
    Call(
        "Data changed since the lock",
        "build recipe.toml --locked",
        (
            "error: recipe.lock: not what is locked: datasets.add\n"
            "  hint:  `dem lock recipe.toml` accepts what is there now; or put back what was locked"
        ),
        4,
        setup=lock_then(write("data/add.jsonl", ROWS + ROWS)),
    ),
    Call(
        "Data that `--set` names and no lock has",
        "build recipe.toml --locked --set datasets.add.path=data/more.jsonl",
        (
            "error: recipe.lock: not what is locked: datasets.add\n"
            "  hint:  `dem lock recipe.toml` accepts what is there now; or put back what was locked; "
            "no lock has what --set brings in: write that into the recipe first, or leave out --locked"
        ),
        4,
        setup=lock_then(write("data/more.jsonl", ROWS + ROWS)),
    ),
    Call(
        "A lock with a digest edited by hand",
        "build recipe.toml --locked",
        (
            "error: recipe.lock: not what is locked: base, datasets.add\n"
            "  hint:  `dem lock recipe.toml` accepts what is there now; or put back what was locked"
        ),
        4,
        setup=lock_then(edit("recipe.lock", '"sha256": "', '"sha256": "0')),
    ),
    Call(
        "A lock that is no JSON",
        "build recipe.toml",
        (
            "recipe.lock: error: cannot be read as a lock: Expecting value: line 1 column 1 (char 0)\n"
            "  hint:  restore it, or delete it and run `dem lock`"
        ),
        setup=write("recipe.lock", "<<<<<<< HEAD\n"),
    ),
    Call(
        "A lock of another program",
        "build recipe.toml",
        ("recipe.lock: error: is no lock of dem\n  hint:  restore it, or delete it and run `dem lock`"),
        setup=write("recipe.lock", "[]"),
    ),
    Call(
        "A lock from the future",
        "build recipe.toml",
        (
            "recipe.lock: error: is a lock of format 99, not 1\n"
            "  hint:  update dem, or delete it and run `dem lock`"
        ),
        setup=write("recipe.lock", '{"dem_lock": 99}'),
    ),
    Call(
        "A lock with a part missing",
        "build recipe.toml",
        (
            "recipe.lock: error: is no whole lock: parts of it are missing\n"
            "  hint:  restore it, or delete it and run `dem lock`"
        ),
        setup=lock_then(edit("recipe.lock", '"files"', '"file"')),
    ),
    Call(
        "Nothing to list",
        "ls --cache elsewhere",
        (
            "error: elsewhere: there is no cache here\n"
            "  hint:  --cache says where it is; the first `dem build` makes it"
        ),
        1,
    ),
    # collection
    Call(
        "Nothing to collect from",
        "cache gc --cache elsewhere",
        (
            "error: elsewhere: there is no cache here\n"
            "  hint:  --cache says where it is; the first `dem build` makes it"
        ),
        1,
    ),
    Call(
        "A grace period that is no span of time",
        "cache gc --grace soon",
        ("error: --grace: 'soon' is no span of time\n  hint:  a number and s, m, h, d or w: 12h, 30d"),
    ),
    Call(
        "A size that is none",
        "cache gc --max-size lots",
        (
            "error: --max-size: 'lots' is no size\n"
            "  hint:  a number of bytes, or one with k, M, G or T (Gi for powers of 1024): 50G, 1.5T"
        ),
    ),
    Call(
        "A cache with a part elsewhere",
        "cache gc",
        (
            "error: cache/work: is a link, and what it leads to may be others'\n"
            "  hint:  move the whole cache, and say where it is with --cache"
        ),
        1,
        setup=linked_work,
    ),
    # shared stores
    Call(
        "A remote is required, and none is named",
        "build recipe.toml --require-remote",
        (
            "error: no remote is there that could be required\n"
            "  hint:  leave out --require-remote, or write [[remotes]] into the machine file"
        ),
    ),
    Call(
        "A remote is required, and is not there",
        "build recipe.toml --require-remote",
        ("error: shared: the folder is not there\n  hint:  mount it, or make it: `dem cache remote init`"),
        1,
        setup=write("machine.toml", REMOTE),
    ),
    Call(
        "Nothing is written, and is to be pushed",
        "cache push",
        ("error: no remote is written\n  hint:  `write = ` in [[remotes]] of the machine file"),
        setup=write("machine.toml", REMOTE.replace('write = "trusted"', 'read = ["trusted"]')),
    ),
    Call(
        "Another's namespace is to be collected",
        "cache gc --remote user-ada",
        (
            "error: --remote: this machine does not write the namespace user-ada\n"
            "  hint:  namespaces that are written: trusted"
        ),
        setup=write("machine.toml", REMOTE),
    ),
)
