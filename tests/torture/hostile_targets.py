"""Who reads what strangers write: for each reader its examples, what it may answer, and how it is asked.

A refusal is an error of dem's own, with a sentence for a person. Anything else that is raised is a loss. Used by
`fence.py`.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import unicodedata
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hostile_documents as made
import hostile_texts as texts
from forged import TASK, Forger, lay_out_project

from dem_build.cli.app import run
from dem_build.errors import DemError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hypothesis.strategies import SearchStrategy

__all__ = ["TARGETS", "Target"]


class RefusedError(Exception):
    """A call that ended with an error of dem's."""


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes:
        examples: What it is given.
        read: Gives it one example, in a folder.
        lay_out: Makes that folder ready.
        first: Examples that are always given.
        refusals: What it may raise.
    """

    examples: SearchStrategy[Any]
    read: Callable[[Any, Path], None]
    lay_out: Callable[[Path], None] = lambda _: None
    first: Sequence[Any] = ()
    refusals: tuple[type[Exception], ...] = (DemError, RefusedError)


# Calls of the command line, in this process


def call(*arguments: str) -> None:
    """Call `dem`; look at all that it prints; an exit status that is no success is a refusal.

    Raises:
        RefusedError: It said what is wrong.
        AssertionError: It printed what a terminal would obey, or JSON that is none.
    """
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    with redirect_stdout(out), redirect_stderr(err):
        status = run(arguments)
        out.flush()
        err.flush()
    printed = [stream.buffer.getvalue().decode() for stream in (out, err)]  # type: ignore[attr-defined]
    for text in printed:
        bad = {c for c in text if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")}
        assert not bad, f"{arguments[0]} printed {sorted(map(ascii, bad))}"
    if "--json" in arguments:
        json.loads(printed[0])
    assert not Path("canary").exists(), "the code of a stranger ran"
    if status:
        assert "".join(printed).strip(), "it failed and said nothing"
        raise RefusedError(printed[1][:500])


def project(home: Path) -> None:
    lay_out_project(home)
    os.environ["HOME"] = str(home)
    for name in ("TMPDIR", "XDG_CACHE_HOME", "HF_HOME"):
        os.environ[name] = str(home / name.lower())
        (home / name.lower()).mkdir()
    os.environ.update({"DEM_HINTS": str(home / "hints"), "HF_HUB_OFFLINE": "1", "COLUMNS": "100"})
    import tempfile

    tempfile.tempdir = str(home / "tmpdir")


def forged_project(home: Path) -> None:
    project(home)
    FORGERS[home] = Forger(home)
    FORGERS[home].forge({})
    call("build", "tiny.toml", "--trust-tasks")  # everything is recorded: it publishes, and runs nothing


FORGERS: dict[Path, Forger] = {}


def _recipe(data: bytes, home: Path) -> None:
    (home / "odd.toml").write_bytes(data)
    (home / "odd.lock").unlink(missing_ok=True)
    _quietly("check", "odd.toml", "--json")
    call("check", "odd.toml")
    call("plan", "odd.toml")


def _override(texts: list[str], home: Path) -> None:
    del home
    call("check", "tiny.toml", *(f"--set={text}" for text in texts))
    call("plan", "tiny.toml", *(f"--set={text}" for text in texts))


def _machine(data: bytes, home: Path) -> None:
    (home / "odd-machine.toml").write_bytes(data)
    call("plan", "tiny.toml", "--machine", "odd-machine.toml", "--cache", "cache")


def _lock(data: bytes, home: Path) -> None:
    (home / "tiny.lock").write_bytes(data)
    call("plan", "tiny.toml", "--json")
    call("lock", "tiny.toml")


def _looked_at() -> None:
    for arguments in (
        ("plan", "tiny.toml"),
        ("show", "tiny.toml"),
        ("show", "tiny.toml", "vector:add", "--json"),
        ("logs", "tiny.toml", "data:add"),
        ("why", "tiny.toml", "tune"),
        ("ls",),
        ("ls", "--json"),
        ("cache", "stats"),
    ):
        _quietly(*arguments)


def _quietly(*arguments: str) -> None:
    """Call `dem`; a refusal is as good as an answer."""
    with suppress(RefusedError):
        call(*arguments)


def _records(chosen: tuple[str, Any], home: Path) -> None:
    name, change = chosen
    forger = FORGERS[home]

    def alter(action: str, document: dict[str, Any]) -> Any:
        if action != name:
            return document
        return change if isinstance(change, bytes) else _changed(document, change)

    try:
        forger.forge({}, alter)
    except (ValueError, TypeError, RecursionError):
        return  # it could not even be written
    _looked_at()
    call("plan", "tiny.toml", "--check")
    call("build", "tiny.toml", "--trust-tasks")  # everything is recorded, so nothing runs


def _changed(document: dict[str, Any], change: tuple[str, Any]) -> dict[str, Any]:
    place, value = change
    if place == "provenance":
        return document | {"provenance": value}
    if place == "outputs":
        return document | {"outputs": value}
    return document | {place: value}


def _contents(change: dict[str, bytes], home: Path) -> None:
    FORGERS[home].forge(change)
    _quietly("logs", "tiny.toml", "data:add")
    shutil.rmtree(home / "out", ignore_errors=True)
    try:
        call("build", "tiny.toml", "--trust-tasks", "--json")
    finally:
        _quietly("build", "tiny.toml", "--trust-tasks")
        for path in (home / "out").rglob("*.md"):
            _inert(path.read_text(encoding="utf-8"))


def _inert(text: str) -> None:
    odd = {c for c in text if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs")}
    assert not odd, f"a published text holds {sorted(map(ascii, odd))}"
    assert "<script" not in text
    assert "[x](http" not in text


def _leftovers(chosen: tuple[str, bytes], home: Path) -> None:
    place, data = chosen
    cache = home / "cache"
    targets = {
        "root": next(iter(cache.glob("roots/*.json")), cache / "roots" / ("0" * 64 + ".json")),
        "lease": cache / "leases" / ("1" * 64),
        "running": cache / "running" / ("ab" * 8),
        "format": cache / "format.json",
        "hints": home / "hints" / "hints-2.sqlite",
        "stamp": home / "out" / "tiny" / ".dem.json",
        "gc": cache / "gc.lock",
        "trash": cache / "trash" / "x" / "list.json",
    }
    path = targets[place]
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.read_bytes() if path.exists() else None
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    try:
        _looked_at()
        _quietly("cache", "gc", "--dry-run")
        _quietly("build", "tiny.toml", "--trust-tasks")
        _quietly("cache", "verify")
        _quietly("cache", "gc", "--grace", "0s")
    finally:
        path.unlink(missing_ok=True)
        if before is not None:
            path.write_bytes(before)


# Parsers, called as the steps call them


def _safetensors(data: bytes, home: Path) -> None:
    from dem_build.checkpoint.header import read_header
    from dem_build.checkpoint.reader import open_checkpoint

    path = home / "model.safetensors"
    path.write_bytes(data)
    read_header(path)
    with open_checkpoint(path) as checkpoint:
        for name, tensor in checkpoint.tensors.items():
            if tensor.dtype in ("F32", "BF16", "F16"):
                checkpoint.read(name)


def _index(data: bytes, home: Path) -> None:
    from dem_build.checkpoint.reader import open_checkpoint
    from dem_build.lock.base import base_files

    (home / "base" / "model.safetensors.index.json").write_bytes(data)
    base_files(home / "base")
    open_checkpoint(home / "base")


def _model_folder(chosen: tuple[str, bytes], home: Path) -> None:
    from dem_build.lock.base import base_files
    from dem_build.lock.finetuned import local_files

    name, data = chosen
    folder = home / "adapter" if name == "adapter_config.json" else home / "base"
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(data)
    (folder / "adapter_model.safetensors").touch()
    if name == "adapter_config.json":
        local_files("adapter", folder)
        return
    local_files("checkpoint", folder)
    base_files(folder)
    call("plan", "tiny.toml")


def _token_rows(data: bytes, home: Path) -> None:
    from dem_build.data.arrays import TokenRows

    path = home / "rows.safetensors"
    path.write_bytes(data)
    rows = TokenRows.open(path)
    for index in range(min(len(rows), 50)):
        ids, labels = rows[index]
        assert len(ids) == len(labels)


def _data(chosen: tuple[str, bytes], home: Path) -> None:
    from dem_build.action import SourceFile
    from dem_build.data.formats import resolve
    from dem_build.data.rows import columns_of, read_rows

    kind, data = chosen
    path = home / f"data.{kind}"
    path.write_bytes(data)
    source = SourceFile(kind, "0" * 64, path)
    layout = resolve(None, None, columns_of(source), str(path))
    for row in read_rows(source):
        example = layout.example(row)
        assert isinstance(example.split_key + example.content, str)
        example.content.encode()


def _task(text: bytes, home: Path) -> None:
    from dem_build.lock.tasks import closure_of, find_task

    folder = home / "tasks"
    (folder / "sums.yaml").write_bytes(text)
    closure_of(folder / "sums.yaml", "sums")
    find_task("sums", folder)


def _task_code(text: bytes, home: Path) -> None:
    (home / "tasks" / "helpers.py").write_bytes(text)
    _task(TASK.encode() + b"process_docs: !function helpers.read\n", home)


def _template(text: str, home: Path) -> None:
    from dem_build.data.template import check_template

    del home
    check_template(text, "chat.jinja")


def _events(data: bytes, home: Path) -> None:
    from dem_build.engine.protocol import EventTail
    from dem_build.view.lines import PlainListener
    from dem_build.view.text import make_console

    (home / "events.jsonl").write_bytes(data)
    tail = EventTail()
    tail.follow(str(home))
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with redirect_stdout(out):
        listener = PlainListener(make_console())
        action = FORGED_ACTION
        for event in tail.read():
            listener.action_event(action, event)
        out.flush()
    text = out.buffer.getvalue().decode()  # type: ignore[attr-defined]
    assert not {c for c in text if c != "\n" and unicodedata.category(c) in ("Cc", "Cf")}, (
        "an event reached the terminal"
    )


@dataclass(frozen=True)
class _Named:
    name: str = "vector:add"


FORGED_ACTION: Any = _Named()


TARGETS: dict[str, Target] = {
    "recipes": Target(made.recipes, _recipe, project, texts.HOSTILE_TOML),
    "--set overrides": Target(made.overrides, _override, project),
    "machine files": Target(made.machines, _machine, project, texts.HOSTILE_TOML),
    "locks": Target(made.locks, _lock, project, texts.HOSTILE_JSON),
    "records": Target(made.records, _records, forged_project),
    "recorded outputs and logs": Target(made.contents, _contents, forged_project),
    "roots, leases, notes and hints": Target(made.leftovers, _leftovers, forged_project),
    "safetensors headers": Target(made.tensors, _safetensors, first=made.SAFETENSORS),
    "shard indexes": Target(made.index_files, _index, project, texts.HOSTILE_JSON),
    "model and adapter configs": Target(made.model_files, _model_folder, project),
    "token rows": Target(made.rows_files(), _token_rows),
    "data files": Target(made.data_files, _data, first=texts.DATA),
    "task files": Target(made.task_files, _task, project, texts.YAML),
    "the Python of tasks": Target(made.python_files, _task_code, project, texts.PYTHON),
    "chat templates": Target(made.templates, _template, project, texts.TEMPLATES),
    "events": Target(made.events, _events, first=texts.HOSTILE_JSON),
}
