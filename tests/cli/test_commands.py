"""What a command's options become."""

from __future__ import annotations

from pathlib import Path

import pytest

from dem_build.cli import build, inspect
from dem_build.cli.app import run
from dem_build.cli.call import Call


def test_what_a_build_is_called_with_is_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Call] = []
    monkeypatch.setattr(build, "build_all", lambda _recipes, call, _flags: calls.append(call) or 0)
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
    ]
    assert run(["build", "one.toml", *shared, "--", "data:a", "eval:b"]) == 0
    assert calls == [
        Call("store", Path("m"), ("a.b=1", "c=2"), ("data:a", "eval:b"), ("base",), locked=True),
    ]


def test_a_lock_that_moves_is_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Call] = []
    monkeypatch.setattr(inspect, "write_lock", lambda _recipe, call: calls.append(call) or 0)
    assert run(["lock", "one.toml", "--upgrade", "--cache", "store"]) == 0
    assert calls == [Call("store", upgrade=True)]


def test_only_what_runs_actions_takes_them_behind_two_dashes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown: list[str] = []
    monkeypatch.setattr(inspect, "show", lambda _recipe, action, _call, **_: shown.append(action) or 0)
    assert run(["show", "one.toml", "--", "vector:chat"]) == 0
    assert shown == ["vector:chat"]
    assert run(["check", "one.toml", "--", "vector:chat"]) == 2
    assert "vector:chat" in capsys.readouterr().err
