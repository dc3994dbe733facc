"""What a command's options become."""

from __future__ import annotations

from dataclasses import fields
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest

from dem_build.cli import build, inspect
from dem_build.cli.app import OTHER_NAMES, Command, _paths, app, run
from dem_build.session.session import Call

if TYPE_CHECKING:
    from collections.abc import Iterator


def test_what_a_build_is_called_with_is_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr(
        build, "build", lambda recipes, call, **more: calls.append((recipes, call, more)) or 0
    )
    shared = [
        "--locked",
        "--rebuild",
        "base",
        "--set",
        "a.b=1",
        "--set",
        "c=2",
        "--cache",
        "store",
        "--machine",
        "m",
        "--jobs",
        "2",
        "--keep-going",
        "--trust-tasks",
        "--no-train",
        "--offline",
        "--require-remote",
        "--json",
    ]
    assert run(["build", "one.toml", *shared, "--", "data:a", "eval:b"]) == 0
    call = Call(
        "store",
        Path("m"),
        ("a.b=1", "c=2"),
        ("data:a", "eval:b"),
        ("base",),
        locked=True,
        no_train=True,
        offline=True,
        require_remote=True,
        keep_going=True,
        trust_tasks=True,
        jobs=2,
        as_json=True,
    )
    assert calls == [(("one.toml",), call, {})]


def every_command(group: click.Group) -> Iterator[Command]:
    for command in group.commands.values():
        if isinstance(command, click.Group):
            yield from every_command(command)
        else:
            assert isinstance(command, Command)
            yield command


@pytest.mark.parametrize("command", [*every_command(app)], ids=lambda command: command.name)
def test_a_command_is_a_function_that_takes_its_options_and_no_others(command: Command) -> None:
    """Types do not tell: click calls it by names."""
    function = getattr(import_module(f"dem_build.cli.{command.module}"), command.function)
    asked = {p.name for p in command.params} - {field.name for field in fields(Call)}
    assert {*signature(function).parameters} == asked | {"call"}


def test_a_lock_that_moves_is_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, Call]] = []
    monkeypatch.setattr(inspect, "lock", lambda recipe, call: calls.append((recipe, call)) or 0)
    assert run(["lock", "one.toml", "--upgrade", "--cache", "store"]) == 0
    assert calls == [("one.toml", Call("store", upgrade=True))]


def test_only_what_runs_actions_takes_them_behind_two_dashes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown: list[str] = []
    monkeypatch.setattr(inspect, "show", lambda action, **_: shown.append(action) or 0)
    assert run(["show", "one.toml", "--", "vector:chat"]) == 0
    assert shown == ["vector:chat"]
    assert run(["check", "one.toml", "--", "vector:chat"]) == 2
    assert "vector:chat" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("call", "meant"),
    [
        ("push", "cache push"),
        ("verify", "cache verify"),
        ("delete", "remove"),
        ("cache delete", "cache gc"),
        ("cache remove", "cache gc"),
        ("cache build", "build"),
        ("cache list", "ls"),
        ("status", "plan"),
        ("cache status", "cache stats"),
        ("cache remote status", "cache remote show"),
        ("cache remote list", "cache remote show"),
        ("cache remote pull", "cache pull"),
        ("remote show", "cache remote"),
        ("cache remote frobnicate", None),
    ],
)
def test_a_command_of_another_group_or_tool_leads_to_the_nearest_of_its_meaning(
    call: str, meant: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(call.split()) == 2
    told = capsys.readouterr().err.splitlines()
    hints = [] if meant is None else [f"Hint: dem {meant}"]
    word = "remote" if call == "remote show" else call.rsplit(maxsplit=1)[-1]
    assert told[told.index("") + 1 :] == [f"Error: No such command '{word}'.", *hints]


def test_every_meaning_is_of_a_command_that_is_there() -> None:
    assert {*OTHER_NAMES} <= {" ".join(path) for path in _paths(app, [])}
