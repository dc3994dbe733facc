"""What can go wrong, and what dem says: each case is a test, and a row of `docs/errors.md`.

A case is a recipe (`RECIPE`, with some text replaced), a base and data that are set up wrongly, a call, and what the
call prints and ends with.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "RECIPE",
    "ROWS",
    "BrokenData",
    "Build",
    "Call",
    "both",
    "config",
    "edit",
    "lock_then",
    "sketch",
    "without",
    "write",
]

RECIPE = """\
[base]
model = "base"

[train]
max_steps = 2
global_batch_size = 4
max_length = 64

[datasets.add]
path = "data/add.jsonl"
omega = 0.5
test = 0.2

[evaluate]
tasks = []
prompts = 0
"""
ROWS = "".join(f'{{"prompt": "{n} plus {n} =", "completion": " {n + n}"}}\n' for n in range(40))
CONFIG = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}


def nothing(_home: Path) -> None:
    """Leave the folder as `sketch` makes it."""


@dataclass(frozen=True)
class Call:
    """A call that fails before an action runs; `dem` is called in process.

    Attributes:
        what: What happened, as the page says it.
        call: The arguments of `dem`.
        says: What it prints on stderr, with the folder of the recipe taken out.
        status: The exit status.
        replaced: Text of `RECIPE` → what stands there instead.
        setup: Breaks something in the recipe's folder.
        absent: A package that is not installed.
    """

    what: str
    call: str
    says: str
    status: int = 2
    replaced: tuple[str, str] = ("", "")
    setup: Callable[[Path], None] = nothing
    absent: str = ""

    @property
    def recipe(self) -> str:
        """The text of the recipe."""
        return RECIPE.replace(*self.replaced) if self.replaced[0] else RECIPE


@dataclass(frozen=True)
class BrokenData:
    """A dataset that cannot be made or trained on.

    Attributes:
        what: What happened, as the page says it.
        file: The file's name; the dataset is called by its stem.
        content: What is in it.
        says: What the build prints of the action that fails.
        more: More keys of the dataset, as TOML.
        action: The kind of the action that fails.
    """

    what: str
    file: str
    content: bytes
    says: str
    more: str = ""
    action: str = "data"


@dataclass(frozen=True)
class Build:
    """A build that fails in its worker.

    Attributes:
        what: What happened, as the page says it.
        says: What it prints on stderr and stdout, from the first failure on, without times and folders.
        status: The exit status.
        setup: Breaks something in the recipe's folder.
        call: The arguments of `dem`.
        before: Those of a call that ends well before it; empty for none.
        replaced: Text of `RECIPE` → what stands there instead.
        mishap: What the test does while the build runs: `interrupt` or `kill`.
        file_limit: Bytes that a file may grow to in place of a full disk, None for no limit.
        memory_limit: Bytes of address space in place of a small machine, None for no limit.
    """

    what: str
    says: str
    status: int = 1
    setup: Callable[[Path], None] = nothing
    call: str = "build recipe.toml"
    before: str = ""
    replaced: tuple[str, str] = ("", "")
    mishap: str = ""
    file_limit: int | None = None
    memory_limit: int | None = None


def sketch(home: Path) -> None:
    """Make a folder with rows and a base that suffices for a plan: names and a config, and no tensor in it."""
    base, data = home / "base", home / "data"
    base.mkdir(parents=True)
    data.mkdir()
    (base / "config.json").write_text(json.dumps(CONFIG))
    (base / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    (base / "tokenizer.json").write_text("{}")
    (data / "add.jsonl").write_text(ROWS)


def write(name: str, content: str | bytes) -> Callable[[Path], None]:
    """Return what writes a file."""

    def setup(home: Path) -> None:
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    return setup


def config(**keys: object) -> Callable[[Path], None]:
    """Return what gives the base's config other keys."""
    return write("base/config.json", json.dumps(CONFIG | keys))


def without(*names: str) -> Callable[[Path], None]:
    """Return what removes files."""

    def setup(home: Path) -> None:
        for name in names:
            (home / name).unlink()

    return setup


def both(*setups: Callable[[Path], None]) -> Callable[[Path], None]:
    """Return what does several things in turn."""

    def setup(home: Path) -> None:
        for each in setups:
            each(home)

    return setup


def lock_then(*after: Callable[[Path], None]) -> Callable[[Path], None]:
    """Return what writes the lock of `RECIPE`, and then does more."""

    def setup(home: Path) -> None:
        from dem_build.cli.app import run

        (home / "recipe.toml").write_text(RECIPE)
        assert run(["lock", str(home / "recipe.toml")]) == 0
        both(*after)(home)

    return setup


def edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    """Return what replaces text in a file."""

    def setup(home: Path) -> None:
        path = home / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return setup
