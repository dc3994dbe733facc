"""`dem schema`: printed, or written beside a file that names it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dem_build.cli.app import run
from dem_build.recipe.json_schema import json_schema

RECIPE = '# mine\n[base]\nmodel = "m"\n'


def test_it_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["schema", "--of", "machine"]) == 0
    assert json.loads(capsys.readouterr().out) == json_schema("machine")


@pytest.mark.parametrize(("name", "of"), [("mine.toml", "recipe"), ("machine.toml", "machine")])
def test_a_file_names_the_schema_beside_it_once(
    tmp_path: Path, name: str, of: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    path.write_text(RECIPE)
    for _ in range(2):
        assert run(["schema", str(path)]) == 0
        assert path.read_text() == f"#:schema ./{of}.schema.json\n{RECIPE}"
    assert capsys.readouterr().out.endswith(f"{path}: unchanged\n")
    assert json.loads((tmp_path / f"{of}.schema.json").read_text()) == json_schema(of)


def test_of_no_file_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["schema", str(tmp_path / "none.toml")]) == 2
    assert "there is no such recipe" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_a_file_is_is_not_guessed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "laptop.toml"
    path.write_text("jobs = 1\n")
    assert run(["schema", str(path)]) == 2
    assert "--of recipe or --of machine" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["laptop.toml"]
    assert run(["schema", str(path), "--of", "machine"]) == 0
    assert path.read_text() == "#:schema ./machine.schema.json\njobs = 1\n"
