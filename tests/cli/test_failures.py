"""Calls that fail before anything runs: a status, a sentence, one document under --json, and never a traceback."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from dem_build.cli.app import run
from dem_build.engine.interrupt import Interrupt
from dem_build.session.session import Session


@pytest.mark.parametrize(
    "call",
    [
        ["build", "--json"],
        ["plan", "--json", "--bogus", "r.toml"],
        ["build", "--json", "--jobs", "0", "r.toml"],
        ["plan", "--json", "absent.toml"],
        ["build", "--json", "folder"],
        ["plan", "--json", "r.toml", "--set", "base.model=~no-such-user/x"],
        ["plan", "--json", "r.toml", "--set", "datasets.a.max_samples=9007199254740993"],
        ["plan", "--json", "r.toml", "--set", "nonsense"],
    ],
)
def test_a_mistaken_call_is_one_document_and_status_2(
    call: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "r.toml").write_text(
        '[base]\nmodel = "base"\n[datasets.a]\npath = "a.jsonl"\nomega = 1.0\n', encoding="utf-8"
    )
    assert run(call) == 2
    said = capsys.readouterr()
    assert json.loads(said.out)["error"]["what"]
    assert "Traceback" not in said.err


@pytest.mark.parametrize(
    ("files", "hint"),
    [
        ((), "no recipe is in this folder; `dem init` writes one, `dem init --demo` one to try"),
        (("r.toml",), "dem plan r.toml"),
        (("r.toml", "s.toml"), "the recipes here are r.toml, s.toml"),
    ],
)
def test_a_call_that_names_no_recipe_is_told_which_are_here(
    files: tuple[str, ...],
    hint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\n', encoding="utf-8")
    for name in files:
        (tmp_path / name).write_text('[base]\nmodel = "base"\n', encoding="utf-8")
    assert run(["plan", "--json"]) == 2
    said = capsys.readouterr()
    assert said.err.splitlines()[-1] == f"Hint: {hint}"
    assert json.loads(said.out)["error"]["hint"] == hint


def test_of_several_recipes_each_has_a_document_and_what_an_earlier_one_makes_is_no_mistake(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    text = '[base]\nmodel = "{}"\n[datasets.a]\npath = "rows.jsonl"\nomega = 1.0\n'
    (tmp_path / "a.toml").write_text(text.format(tiny_base), encoding="utf-8")
    (tmp_path / "b.toml").write_text(text.format("out/a/model") + "seed = 1\n", encoding="utf-8")
    assert run(["build", "--json", "a.toml", "b.toml"]) == 2
    first, second = json.loads(capsys.readouterr().out)
    assert (first["recipe"], second["recipe"]) == ("a.toml", "b.toml")
    assert first["error"]["what"] == "not built, as b.toml cannot be"
    assert [p["key"] for p in second["error"]["problems"]] == ["datasets.a.seed"]


@pytest.mark.parametrize("mistake", [["--nope"], ["--jobs", "0"], ["--set"]])
def test_of_a_mistaken_call_with_several_recipes_each_has_a_document(
    mistake: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["build", "--json", "--machine", "m.toml", "a.toml", "b.toml", *mistake]) == 2
    documents = json.loads(capsys.readouterr().out)
    assert [d["recipe"] for d in documents] == ["a.toml", "b.toml"]
    assert all(d["error"]["what"] for d in documents)


def test_recipes_that_a_stopped_call_did_not_reach_have_documents_and_are_not_done(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    text = f'[base]\nmodel = "{tiny_base}"\n[datasets.a]\npath = "rows.jsonl"\nomega = 1.0\n'
    for name in ("a.toml", "b.toml", "c.toml"):
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.setattr(Session, "save_lock", lambda _: os.kill(os.getpid(), signal.SIGINT))
    assert run(["build", "--json", "a.toml", "b.toml", "c.toml"]) == 130
    first, *rest = json.loads(capsys.readouterr().out)
    assert (first["recipe"], first["error"]["what"]) == ("a.toml", "stopped")
    assert [d["recipe"] for d in rest] == ["b.toml", "c.toml"]
    assert {d["error"]["what"] for d in rest} == {"not built: the call was stopped"}


def test_a_folder_that_is_missing_for_several_tasks_is_one_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.toml").write_text(
        '[base]\nmodel = "base"\n[evaluate]\ntasks = ["a", "b"]\ninclude_path = "tasks"\n', encoding="utf-8"
    )
    assert run(["check", "--json", "r.toml"]) == 2
    told = [
        p["what"] for p in json.loads(capsys.readouterr().out)["problems"] if p["key"] == "evaluate.tasks"
    ]
    assert told == [f"there is no folder {tmp_path / 'tasks'}"]


@pytest.mark.parametrize("call", [["ls"], ["cache", "stats"], ["cache", "gc", "--grace", "soon"]])
def test_what_is_of_no_recipe_names_none(
    call: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run([*call, "--json"]) in {1, 2}
    assert json.loads(capsys.readouterr().out)["recipe"] == ""


def test_an_action_is_no_recipe_and_no_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["build", "--json", "--", "loss:base:add"]) == 2
    assert json.loads(capsys.readouterr().out)["recipe"] == ""
    assert run(["build", "--", "--json"]) == 2
    assert capsys.readouterr().out == ""


def test_a_cache_of_a_user_who_is_not_there_is_a_folder_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["ls", "--json", "--cache", "~no-such-user/x"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["where"] == str(tmp_path / "~no-such-user" / "x")


def test_ctrl_c_stops_at_once_where_no_action_runs() -> None:
    with Interrupt() as interrupt, pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    assert interrupt.count == 1


def test_ctrl_c_is_counted_where_actions_run() -> None:
    with Interrupt() as interrupt, interrupt.counting():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
    assert interrupt.count == 2
