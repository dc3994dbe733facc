"""Each way to fail is one line or a few, an exit status and no traceback; `docs/errors.md` is the list of them.

What a case prints is compared whole. The cases are in `*_cases.py`, and in `tests/recipes/` where the recipe alone
is at fault.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import error_page
import pytest
import warm
from base_cases import BASES
from build_cases import AFTER_A_BUILD, BROKEN_DATA, BUILDS
from call_cases import CALLS
from diff_cases import DIFFS
from edit_cases import EDITS
from error_cases import RECIPE, sketch
from review_cases import REVIEWS
from store_cases import STORES
from vector_cases import STRANGERS, VECTORS

from dem_build.cli.app import run

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "tests" / "recipes").iterdir())


def normal(text: str, home: Path) -> str:
    """Take out of a text what differs between two runs: folders, seconds, digests; and trailing spaces."""
    text = text.replace(f"{home}/", "").replace(str(home), ".")
    text = re.sub(r"\b[0-9a-f]{64}\b", "DIGEST", text)
    text = re.sub(r"cache/work/\S+?/out/", "cache/work/…/out/", text)
    text = re.sub(r"(after|in) [0-9.]+ ?m?s\b", r"\1 … s", text)
    text = re.sub(r"/[0-9a-f]{2}/DIGEST", "/…/DIGEST", text)
    text = re.sub(r"optimizer step \d+", "optimizer step …", text)
    text = re.sub(r"(loss on \w+:) [0-9.]+", r"\1 …", text)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to fail in, which is the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEM_HINTS", str(tmp_path / "hints"))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("DEM_CACHE", raising=False)
    monkeypatch.delenv("DEM_MACHINE", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    "case", [*CALLS, *EDITS, *DIFFS, *REVIEWS, *BASES, *VECTORS, *STORES], ids=lambda c: c.what
)
def test_a_call_that_cannot_run_says_why(case, home, capsys, monkeypatch):
    if case.absent:
        monkeypatch.setitem(sys.modules, case.absent, None)
    sketch(home)
    case.setup(home)
    (home / "recipe.toml").write_text(case.recipe)
    capsys.readouterr()
    assert run(case.call.split()) == case.status
    assert normal(capsys.readouterr().err, home) == case.says


@pytest.mark.parametrize("folder", RECIPES, ids=lambda f: f.name)
def test_a_recipe_with_a_mistake_is_told_by_the_command(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("NO_COLOR", "1")
    assert run(["check", "recipe.toml"]) == 2
    told = capsys.readouterr().err
    for line in (folder / "expected.txt").read_text(encoding="utf-8").splitlines():
        place, what = line.split(": ", maxsplit=1)
        assert f"{place}: error: {what.partition(' (')[0]}" in told


def test_ctrl_c_while_the_plan_is_made_is_status_130(home, monkeypatch, capsys):
    sketch(home)
    (home / "recipe.toml").write_text(RECIPE)
    monkeypatch.setattr("dem_build.session.session.make_plan", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    assert run(["build", "recipe.toml"]) == 130
    assert normal(capsys.readouterr().err, home) == "error: stopped"


# Builds that fail in their worker


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """A folder with a real base and rows, whose recipe is built."""
    home = tmp_path_factory.mktemp("built")
    sketch(home)
    shutil.rmtree(home / "base")
    shutil.copytree(tiny_base, home / "base")
    (home / "recipe.toml").write_text(RECIPE)
    out, status = call(home, "build recipe.toml")
    assert status == 0, out
    return home


@pytest.fixture(scope="module")
def broken(built: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, int]:
    """What one build of all broken datasets says, which goes on after each failure."""
    home = tmp_path_factory.mktemp("broken") / "home"
    shutil.copytree(built, home)
    text = RECIPE.partition("[datasets.add]")[0]
    for case in BROKEN_DATA:
        (home / "data" / case.file).write_bytes(case.content)
        name = case.file.partition(".")[0]
        text += f'[datasets.{name}]\npath = "data/{case.file}"\nomega = 0.1\n{case.more}\n'
    (home / "broken.toml").write_text(text)
    return call(home, "build broken.toml --keep-going")


@pytest.fixture(scope="module")
def estranged(built: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, int]:
    """What one build of vectors of other bases says, which goes on after each failure."""
    home = tmp_path_factory.mktemp("estranged") / "home"
    shutil.copytree(built, home)
    (home / "theirs").mkdir()
    text = RECIPE.partition("[train]")[0]
    for case in STRANGERS:
        case.make(home / "base", home / "theirs" / case.name)
        text += f'[vectors.{case.name}]\n{case.source} = "./theirs/{case.name}"\nomega = 0.1\n'
    (home / "strangers.toml").write_text(text)
    return call(home, "build strangers.toml --keep-going")


def environment_in(home: Path) -> dict[str, str]:
    ours = {"DEM_HINTS": str(home / "hints"), "NO_COLOR": "1", "COLUMNS": "200"}
    return {name: value for name, value in os.environ.items() if name != "DEM_CACHE"} | ours


def start(
    home: Path, arguments: str, file_limit: int | None = None, memory_limit: int | None = None
) -> subprocess.Popen[str]:
    def limited() -> None:
        if file_limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
        if memory_limit is not None:
            resource.setrlimit(resource.RLIMIT_AS, (memory_limit, memory_limit))

    return subprocess.Popen(
        [sys.executable, "-m", "dem_build", *arguments.split()],
        cwd=home,
        env=environment_in(home),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=limited,  # noqa: PLW1509  no thread runs yet
    )


def call(home: Path, arguments: str) -> tuple[str, int]:
    status, out, _ = warm.dem(arguments.split(), home, environment_in(home), together=True)
    return normal(out, home), status


@pytest.mark.parametrize("case", BROKEN_DATA, ids=lambda c: c.what)
def test_data_that_cannot_be_used_say_where_and_how_to_mend_it(case, broken):
    out, status = broken
    assert status == 1
    assert "Traceback" not in out
    assert failure_of(out, f"{case.action}:{case.file.partition('.')[0]}") == case.says


@pytest.mark.parametrize("case", STRANGERS, ids=lambda c: c.what)
def test_a_vector_of_another_base_says_why_it_is_none(case, estranged):
    out, status = estranged
    assert status == 1
    assert "Traceback" not in out
    assert failure_of(out, f"vector:{case.name}") == case.says


@pytest.mark.parametrize("case", AFTER_A_BUILD, ids=lambda c: c.what)
def test_what_is_built_and_not_good_enough_says_so(case, built, tmp_path):
    home = tmp_path / "home"
    shutil.copytree(built, home)
    case.setup(home)
    (home / "recipe.toml").write_text(RECIPE.replace(*case.replaced) if case.replaced[0] else RECIPE)
    if case.before:
        assert call(home, case.before)[1] == 0
    if case.file_limit is None and case.memory_limit is None:
        out, status = call(home, case.call)
    else:
        process = start(home, case.call, case.file_limit, case.memory_limit)
        out, status = normal(process.communicate(timeout=240)[0], home), process.returncode
    assert (reason_in(out), status) == (case.says, case.status)


@pytest.mark.parametrize("case", BUILDS, ids=lambda c: c.what)
def test_a_mishap_of_a_build_says_what_to_do(case, built, tmp_path):
    home = tmp_path / "home"
    shutil.copytree(built, home)
    if not case.mishap:
        shutil.rmtree(home / "cache")
    case.setup(home)
    (home / "recipe.toml").write_text(RECIPE.replace(*case.replaced) if case.replaced[0] else RECIPE)
    if case.file_limit is None and not case.mishap:
        out, status = call(home, case.call)
    else:
        process = start(home, case.call, case.file_limit)
        if case.mishap:
            wait_for(home, process)
            stopped = process.pid if case.mishap == "interrupt" else worker_of(process.pid)
            os.kill(stopped, STOPS[case.mishap])
        out, status = normal(process.communicate(timeout=120)[0], home), process.returncode
    assert (reason_in(out), status) == (case.says, case.status)


TELLING = ("✗ ", "error:", "stopping:", "- ", "interrupted:", "cache/", "6 damaged")
STOPS = {"interrupt": signal.SIGINT, "kill": signal.SIGKILL}


def wait_for(home: Path, process: subprocess.Popen[str]) -> None:
    """Wait until a training has taken steps."""
    deadline = time.monotonic() + 120
    while not any('"steps"' in p.read_text() for p in home.glob("cache/work/*/*/events.jsonl")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def worker_of(driver: int) -> int:
    """Return the process of the one worker of a build."""
    [worker] = Path(f"/proc/{driver}/task/{driver}/children").read_text().split()
    return int(worker)


def failure_of(out: str, action: str) -> str:
    """Return what a build says of an action that failed."""
    lines = out.splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith("✗") and line.split()[1] == action)
    said = [line.strip() for line in lines[at + 1 :]]
    end = next(n for n, line in enumerate(lines[at + 1 :]) if not line.startswith("    "))
    return "\n".join(said[:end])


def reason_in(out: str) -> str:
    """Return the lines of an output that tell of a failure."""
    lines = out.splitlines()
    told = [n for n, line in enumerate(lines) if line.startswith(TELLING)]
    kept = [
        line for n, line in enumerate(lines) if n in told or (told and n > told[0] and line.startswith("  "))
    ]
    return "\n".join(kept)


# Ctrl-C where no training is stopped


def forget(home, action):
    """Take an action's record away, so that it is due again."""
    plan = json.loads(warm.dem(["plan", "recipe.toml", "--json"], home, environment_in(home))[1])
    key = next(a["key"] for a in plan["actions"] if a["name"] == action)
    [record] = (home / "cache" / "actions").rglob(f"{key}.json")
    record.unlink()


@pytest.mark.parametrize(
    "action", ["base", "data:add", "loss:base:add"], ids=["import", "prepare", "evaluate"]
)
def test_ctrl_c_publishes_nothing_half_and_the_next_build_goes_on(built, tmp_path, action):
    """The cache holds whole results or none."""
    home = tmp_path / "home"
    shutil.copytree(built, home)
    (home / "recipe.toml").write_text(RECIPE)
    forget(home, action)
    process = start(home, "build recipe.toml")
    said = []
    while not (said and action in said[-1] and "started" in said[-1]):
        said.append(process.stdout.readline())
        assert process.poll() is None, said
    os.kill(process.pid, signal.SIGINT)
    rest, _ = process.communicate(timeout=120)
    out = "".join(said) + rest
    assert process.returncode == 130, out
    assert "interrupted: the next build goes on from here" in out
    assert "Traceback" not in out
    assert call(home, "cache verify")[1] == 0
    again, status = call(home, "build recipe.toml")
    assert status == 0, again
    assert call(home, "plan recipe.toml --check")[1] == 0


def test_the_page_of_errors_is_current():
    assert (ROOT / "docs" / "errors.md").read_text(encoding="utf-8") == error_page.page()
