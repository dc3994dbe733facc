"""`dem ls` and `dem cache`, on a store with one recorded action."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dem_build import digest
from dem_build.cli.app import run
from dem_build.store import Hints, Record, Store


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("DEM_HINTS", str(tmp_path / "hints"))
    monkeypatch.setenv("COLUMNS", "200")
    made = Store.open(tmp_path / "cache", hints=Hints(tmp_path / "hints"))
    document = {"kind": "loss"}
    key = digest.of_json(document)
    work = made.work.new(key)
    (work / "out" / "metrics").write_text('{"loss": 1.0}')
    output = made.objects.put(work / "out" / "metrics")
    made.records.publish(
        Record(key, "loss", document, {"metrics": output}, {"seconds": 2.5, "finished": "2026-01-01"})
    )
    made.work.drop(key)
    made.roots.write("a" * 32, {"recipe": "/nowhere/\x1b[31mred.toml", "actions": {"loss:base:a": key}})
    return made


def test_ls_names_what_is_recorded(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ls", "--cache", str(store.root)]) == 0
    shown = capsys.readouterr().out
    assert "loss:base:a" in shown
    assert "13 B" in shown
    assert run(["ls", "--json", "--cache", str(store.root)]) == 0
    assert [row["action"] for row in json.loads(capsys.readouterr().out)] == ["loss:base:a"]


@pytest.mark.parametrize("root", [["no table"], {"actions": ["no table"]}, {"actions": {"loss:base:b": 7}}])
def test_ls_takes_no_name_from_a_root_that_holds_anything(
    store: Store, root: object, capsys: pytest.CaptureFixture[str]
) -> None:
    store.roots.write("a" * 32, root)
    assert run(["ls", "--json", "--cache", str(store.root)]) == 0
    assert [row["action"] for row in json.loads(capsys.readouterr().out)] == [None]


@pytest.mark.parametrize("command", [["ls"], ["cache", "stats"], ["cache", "verify"], ["cache", "gc"]])
def test_a_mistyped_cache_is_named_and_not_made(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typo = tmp_path / "cahce"
    assert run([*command, "--cache", str(typo)]) == 1
    assert f"{typo}: there is no cache here" in "".join(capsys.readouterr().err.split("\n"))
    assert not typo.exists()


def test_stats_count_by_kind_and_by_recipe_and_escape_paths(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["cache", "stats", "--cache", str(store.root)]) == 0
    shown = capsys.readouterr().out
    assert "13 B" in shown
    assert r"/nowhere/\x1b[31mred.toml (gone)" in shown
    assert "\x1b[31m" not in shown


@pytest.mark.parametrize("root", [[1], {"recipe": "x" * 300}, {"recipe": "\0"}, {"recipe": None}])
def test_stats_name_a_recipe_whose_root_holds_anything(
    root: object, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    store.roots.write("a" * 32, root)
    assert run(["cache", "stats", "--cache", str(store.root)]) == 0
    assert "(gone)" in capsys.readouterr().out


def test_stats_as_json_are_one_document(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["cache", "stats", "--cache", str(store.root), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kinds"] == {"loss": {"count": 1, "bytes": 13}}


def test_verify_says_that_all_is_sound(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["cache", "verify", "--cache", str(store.root)]) == 0
    assert "everything is as its name says" in capsys.readouterr().out


def test_verify_finds_a_flipped_bit_and_exits_with_1(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    [path] = [p for p in store.root.glob("cas/sha256/*/*") if p.stat().st_size == 13]
    path.chmod(0o644)
    path.write_text('{"loss": 0.0}')
    assert run(["cache", "verify", "--cache", str(store.root)]) == 1
    shown = capsys.readouterr().out
    assert path.name in shown
    assert "nothing was changed" in shown


def test_repair_says_what_it_did_and_the_store_is_sound_after_it(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    [path] = [p for p in store.root.glob("cas/sha256/*/*") if p.stat().st_size == 13]
    path.chmod(0o644)
    path.write_text('{"loss": 0.0}')
    assert run(["cache", "verify", "--repair", "--json", "--cache", str(store.root)]) == 1
    said = json.loads(capsys.readouterr().out)
    assert [d["repaired"] for d in said] == ["now in quarantine"] * 2
    assert run(["cache", "verify", "--cache", str(store.root)]) == 0


def test_ls_escapes_what_a_record_says(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    document = {"kind": "odd", "n": 2}
    said = {"seconds": "\x1b[31mred", "finished": "\u202etxt"}
    store.records.publish(Record(digest.of_json(document), "odd", document, {}, said))
    assert run(["ls", "--cache", str(store.root)]) == 0
    shown = capsys.readouterr().out
    assert "\\x1b[31mred" in shown
    assert "\x1b" not in shown
    assert "\u202e" not in shown
