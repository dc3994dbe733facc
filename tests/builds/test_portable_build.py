"""On a machine that is not Linux `dem` does the same: tested on Linux, of which all is taken that `elsewhere` takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from project import dataset, fresh, recipe

from dem_build.engine.copied import POSSIBLE

SAMPLES = Path(__file__).parents[1] / "samples"
TEXT = recipe(
    dataset("add", omega=0.5, test=0.2),
    dataset("copy", omega=0.5, test=0.2).replace("[datasets.copy]", "[datasets.Add]"),
    '[evaluate]\nmodels = ["composed"]\nprompts = 0\n',
    steps=2,
)
COMMANDS = (
    "check tiny.toml",
    "plan tiny.toml",
    "build tiny.toml",
    "build tiny.toml",
    "show tiny.toml model",
    "cache verify",
    "cache gc --grace 0s",
    "doctor --offline",
)
# Calls `dem` again and again, and says what each call answered.
CODE = """
import contextlib, io, json, os, sys
from dem_build import cli
from dem_build.engine import copied
from dem_build.store import files, filesystem
from dem_build.store.leases import Holder
from pathlib import Path

me = Holder.me()
told = {"copies": copied.POSSIBLE, "boot": me.boot_id, "start": me.start_time, "direct": files._DIRECT}
Path("large").write_bytes(b"x" * (1 << 21))
files.copy(Path("large"), Path("copied"))
told["copied"] = Path("copied").read_bytes() == Path("large").read_bytes()
told["can"] = filesystem.abilities(Path())
answers = []
for command in sys.argv[1:]:
    sys.argv = ["dem", *command.split(), "--json"]
    out, status = io.StringIO(), 0
    with contextlib.redirect_stdout(out):
        try:
            cli.main()
        except SystemExit as end:
            status = end.code
    answers.append({"status": status, "out": out.getvalue()})
print(json.dumps([told, answers]))
"""


@pytest.mark.skipif(not POSSIBLE, reason="it takes from Linux what other systems have not")
def test_a_machine_that_is_not_linux_checks_plans_builds_and_looks_after_its_cache(
    tmp_path: Path, tiny_base: Path
) -> None:
    project = fresh(tmp_path, tiny_base)
    project.write(TEXT)
    paths = os.pathsep.join([str(SAMPLES / "elsewhere"), str(SAMPLES)])
    done = subprocess.run(
        [sys.executable, "-c", CODE, *COMMANDS],
        cwd=project.home,
        env={**project.environment, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told, answers = json.loads(done.stdout)
    assert told == {
        "copies": False,
        "boot": "",
        "start": 0,
        "direct": 0,
        "copied": True,
        "can": [True, True, False],
    }
    assert [answer["status"] for answer in answers] in ([0] * len(COMMANDS), [None] * len(COMMANDS)), answers
    _, plan, built, again, shown, verified, collected, doctor = (
        json.loads(answer["out"]) for answer in answers
    )
    assert {action["status"] for action in built["actions"]} == {"ran"}
    assert {action["status"] for action in again["actions"]} == {"hit"}
    assert {action["status"] for action in plan["actions"]} == {"run", "pending"}
    assert shown["action"] == "model"
    assert (verified, collected["freed"]) == ([], {})
    assert {finding["state"] for finding in doctor} == {"good"}
    # Where file systems do not tell case, names that differ in nothing else share no file.
    for place in ("cache", "out"):
        made = [str(path.relative_to(tmp_path)).lower() for path in (tmp_path / place).rglob("*")]
        assert len(made) == len(set(made)) > 5
