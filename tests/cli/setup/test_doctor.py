"""What `dem doctor` finds, of folders, packages, interpreters and remotes that are made for it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import sys
from pathlib import Path

import pytest
from hub_server import serving

from dem_build.cli.app import run
from dem_build.cli.setup import doctor
from dem_build.cli.setup.doctor import Diagnosis, of_folder, of_hub, of_packages, of_remote, of_torch
from dem_build.machine import Remote
from dem_build.store import files, filesystem
from dem_build.store.filesystem import Abilities, abilities


def fails(number: int):
    def call(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


def test_a_file_system_is_tried_and_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = abilities(tmp_path)
    assert (found.links, found.locks) == (True, True)
    monkeypatch.setattr(
        files, "share", lambda read, write: write.write(read.read()) and write.flush() is None
    )
    assert abilities(tmp_path).shares
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_file_system_without_links_locks_and_reflinks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(filesystem.os, "link", fails(number))
    monkeypatch.setattr(filesystem.fcntl, "flock", fails(number))
    monkeypatch.setattr(files, "share", lambda *_: False)
    assert abilities(tmp_path) == Abilities(links=False, locks=False, shares=False)
    told = {
        finding.name: finding for finding in of_folder("cache", tmp_path / "cache", "--cache names another")
    }
    assert [told[name].state for name in ("links", "locks", "disk")] == ["bad", "note", "good"]
    assert told["links"].remedy == "--cache names another"


def test_locks_that_everybody_gets_and_links_that_replace_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filesystem.fcntl, "flock", lambda *_: None)
    monkeypatch.setattr(filesystem.os, "link", lambda first, second: second.write_bytes(first.read_bytes()))
    found = abilities(tmp_path)
    assert (found.links, found.locks) == (False, False)
    assert fcntl.LOCK_EX


def test_of_a_cache_that_is_not_there_its_disk_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [cache, disk] = of_folder("cache", tmp_path / "a/b/cache", "elsewhere")
    assert (cache.state, disk.name) == ("good", "disk")
    assert cache.what.startswith(f"{tmp_path}/a/b/cache, ")
    assert not (tmp_path / "a").exists()
    monkeypatch.setattr(doctor, "LITTLE_DISK", float("inf"))
    [cache, _] = of_folder("cache", tmp_path / "cache", "elsewhere")
    assert (cache.state, cache.remedy) == ("note", "`dem cache gc` makes room; elsewhere")
    (tmp_path / "file").write_text("")
    [wrong] = of_folder("cache", tmp_path / "file", "elsewhere")
    assert wrong == Diagnosis(
        "cache", "bad", f"{tmp_path}/file cannot be written: is no folder", "mend its permissions; elsewhere"
    )


@pytest.mark.parametrize(
    ("script", "state", "what"),
    [
        ('echo \'{"version": "9", "threads": 3, "gpus": [], "bf16": false}\'', "good", "CPU, 3 threads"),
        (
            'echo \'{"version": "9", "threads": 3, "gpus": [["A GPU", 80000000000]], "bf16": true}\'',
            "good",
            "A GPU (80.0 GB)",
        ),
        (
            'echo \'{"version": "9", "threads": 3, "gpus": [["Old", 8000000000]], "bf16": false}\'',
            "note",
            "without bfloat16",
        ),
        (
            "echo 'ImportError: libcudart.so.12' >&2; exit 1",
            "bad",
            "cannot be imported: ImportError: libcudart.so.12",
        ),
        ("kill -SEGV $$", "bad", "it ended with -11"),
        ("echo nonsense", "bad", "does not answer"),
    ],
)
def test_torch_is_asked_in_a_process_of_its_own(tmp_path: Path, script: str, state: str, what: str) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    found = of_torch(str(python), [])
    assert found.state == state
    assert what in found.what
    assert bool(found.remedy) == (state != "good")


def test_gpus_that_torch_does_not_see_are_told(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho \'{"version": "9+cpu", "threads": 1, "gpus": [], "bf16": false}\'\n')
    python.chmod(0o755)
    found = of_torch(str(python), ["0", "1"])
    assert (found.state, "sees none of 2 GPUs" in found.what) == ("bad", True)


def test_packages_are_held_against_what_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "asking-1.0.dist-info"
    info.mkdir()
    lines = [
        *(
            "Metadata-Version: 2.1",
            "Name: asking",
            "Version: 1.0",
            "Provides-Extra: more",
            "Provides-Extra: none",
        ),
        *("Requires-Dist: click>=8", "Requires-Dist: pytest<1", "Requires-Dist: nobody-has-this"),
        *('Requires-Dist: rich; extra == "more"', 'Requires-Dist: nobody-has-that; extra == "none"'),
        'Requires-Dist: nobody-has-those; sys_platform == "win32"',
    ]
    (info / "METADATA").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = of_packages("asking")
    assert (
        found.what
        == f"not as asked: pytest<1 ({pytest.__version__}), nobody-has-this (missing); extras: more"
    )
    monkeypatch.setattr(doctor, "find_spec", lambda _: None)
    wrong = "'pytest<1' nobody-has-this"
    assert of_packages("asking").remedy == f"uv pip install --python {sys.executable} {wrong}"
    monkeypatch.setattr(doctor, "find_spec", lambda _: True)
    assert of_packages("asking").remedy == f"{sys.executable} -m pip install {wrong}"
    assert of_packages("nobody-has-this").state == "note"


def test_a_remote_is_read_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remote = Remote(url=str(tmp_path / "shared"), read=("trusted",), write="trusted")
    (tmp_path / "shared").mkdir()
    assert of_remote(remote).remedy == "dem cache remote init"
    (tmp_path / "machine.toml").write_text('[[remotes]]\nurl = "shared"\nwrite = "trusted"\n')
    monkeypatch.chdir(tmp_path)
    assert run(["cache", "remote", "init"]) == 0
    assert (
        of_remote(remote).what == f"{tmp_path}/shared is read, and written in trusted; records: conditional"
    )
    only = remote.model_copy(update={"write": None})
    assert of_remote(only).what == f"{tmp_path}/shared is read; records: conditional"
    (tmp_path / "shared/dem-remote.json").write_text("{")
    assert of_remote(only).state == "bad"


def test_a_hub_that_answers_and_one_that_does_not() -> None:
    with serving() as hub:
        answers = hub.endpoint
    assert of_hub(answers)[:2] == ("hub", "note")
    assert "does not answer" in of_hub("http://127.0.0.1:1").what


def test_all_is_said_and_a_mistake_is_a_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEM_HINTS", str(tmp_path / "hints"))
    monkeypatch.setattr(doctor, "of_torch", lambda *_: Diagnosis("torch", "good", "9"))
    monkeypatch.setattr(doctor, "of_packages", lambda: Diagnosis("packages", "good", "all"))
    assert run(["doctor", "--offline", "--json"]) == 0
    told = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    assert {*told} >= {
        "python",
        "torch",
        "memory",
        "machine",
        "cache",
        "disk",
        "store",
        "hints",
        "hub",
        "remote",
    }
    Path("machine.toml").write_text("jbos = 2\n")
    assert run(["doctor", "--offline"]) == 1
    out = capsys.readouterr().out
    assert f"✗ machine   {tmp_path}/machine.toml:1: jbos: unknown key (did you mean `jobs`?)" in out
    assert "docs/recipe.md has every key of a machine file" in out


def test_a_folder_that_this_user_may_not_enter_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, locked = os.stat, tmp_path / "locked"

    def stat(path: object, *more: object, **named: object) -> os.stat_result:
        if str(path).startswith(str(locked)):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *more, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "stat", stat)
    monkeypatch.setattr(doctor, "abilities", fails(errno.EACCES))
    [found] = of_folder("cache", locked / "in/cache", "--cache names another")
    assert (found.state, found.what) == ("bad", f"{locked}/in/cache cannot be written: Permission denied")
    assert doctor._of_store(locked / "in/cache").state == "good"
