"""What the tests of whole builds share: a recipe that builds in seconds, and `dem` called in real processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import warm
from tiny import make_data

if TYPE_CHECKING:
    from hub_server import HubServer


def recipe(*tables: str, name: str = "tiny", rate: str = "1e-3", steps: int = 4) -> str:
    """A recipe on the tiny base whose trainings take moments, and whose other tables are given."""
    head = f'name = "{name}"\n\n[base]\nmodel = "base"\n'
    train = f"[train]\nlearning_rate = {rate}\nmax_steps = {steps}\nglobal_batch_size = 4\nmax_length = 64\n"
    return "\n".join((head, train, *tables))


def dataset(name: str, **keys: object) -> str:
    """The table of a dataset of `make_data`; numbers and strings are written alike in JSON and in TOML."""
    told = "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())
    return f'[datasets.{name}]\npath = "data/{name}.jsonl"\n{told}'


EVALUATE = '[evaluate]\nmodels = ["composed", "base"]\nprompts = 0\n'
RECIPE = recipe(
    dataset("add", omega=0.5, test=0.2),
    dataset("copy", omega=0.5, test=0.2),
    '[compose]\ndtype = "bfloat16"\n',
    EVALUATE,
)
# What a build with nothing to do loads none of: it draws no report, asks no hub, starts no process, and looks for
# the word that a mistake may have meant only where there is one.
LATE = (
    *("torch", "transformers", "datasets", "lm_eval", "accelerate", "peft"),
    *("difflib", "huggingface_hub", "jinja2", "numpy", "rich.live", "subprocess", "typer", "yaml"),
    *("dem_build.data.rows", "dem_build.lock.hub_splits", "dem_build.data.template"),
    *("dem_build.engine.build", "dem_build.report.html.page", "dem_build.lock.tasks"),
    *("click.shell_completion", "dem_build.cli.setup.completion", "dem_build.recipe.json_schema"),
)


def _heeds_ctrl_c() -> None:
    """For a child: whoever runs the tests in the background of a script has the signal ignored, and so would it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Project:
    """A folder with a recipe, and `dem` called in it.

    Attributes:
        home: The folder.
        cold: Whether each call and each worker is a new interpreter; `warm` tells what else they are.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.cold = False
        self.environment = {**os.environ, "DEM_HINTS": str(home / "hints"), "NO_COLOR": "1"}
        self.environment.pop("DEM_CACHE", None)

    def write(self, text: str, name: str = "tiny.toml") -> None:
        (self.home / name).write_text(text)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "dem_build", *arguments],
            cwd=self.home,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=_heeds_ctrl_c,  # noqa: PLW1509
        )

    def call(self, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        if self.cold:
            process = self.start(*arguments)
            out, err = process.communicate(timeout=240)
            found = process.returncode
        else:
            found, out, err = warm.dem(arguments, self.home, self.environment)
        assert found == status, f"{arguments}: {found}\n{out}\n{err}"
        assert "Traceback" not in err
        return subprocess.CompletedProcess(arguments, found, out, err)

    def build(self, text: str = RECIPE, *options: str, status: int = 0) -> dict[str, object]:
        self.write(text)
        document: dict[str, object] = json.loads(
            self.call("build", "tiny.toml", "--json", *options, status=status).stdout
        )
        return document


def ran(document: dict[str, object]) -> list[str]:
    return sorted(a["name"] for a in document["actions"] if a["status"] == "ran")  # type: ignore[attr-defined]


def vector_of(project: Project, name: str) -> str:
    """Return the digest of a vector that is recorded."""
    shown = json.loads(project.call("show", "tiny.toml", f"vector:{name}", "--json").stdout)
    return str(shown["outputs"]["delta"]["digest"])


def fresh(tmp_path: Path, base: Path) -> Project:
    shutil.copytree(base, tmp_path / "base")
    make_data(tmp_path / "data")
    return Project(tmp_path)


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def of_hub(project: Project, hub: HubServer, recipe: str) -> Project:
    """Give a project a recipe, and a hub with a cache of its own whatever hub the user of the tests has."""
    project.environment |= {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(project.home / "hf"),
        "COLUMNS": "300",
    }
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE"):
        project.environment.pop(name, None)
    project.write(recipe)
    return project


def null_build_imports_nothing(project: Project, recipe: str) -> None:
    """Assert that a build with nothing to do, in a process of its own, loads none of what it does not need."""
    assert all(find_spec(name) for name in LATE if name.startswith("dem_build")), "a module was renamed"
    project.write(recipe)
    code = (
        "import sys; from dem_build.cli.app import run; status = run(['build', 'tiny.toml', '--json']);"
        f"assert status == 0; assert not set({LATE!r}) & set(sys.modules), set({LATE!r}) & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=project.home,
        env=project.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert ran(json.loads(done.stdout)) == []


# A package of the long way tells which was taken.
WAY = """
import atexit, sys
from dem_build.cli import main
atexit.register(lambda: sys.stderr.write("\\nlong way" if "pydantic" in sys.modules else "\\nwitness"))
main()
"""


class Said(NamedTuple):
    """What a call ended with, and how it got there."""

    status: int
    out: str
    error: str
    way: str


class Calls:
    """`dem`, called in a folder, and which way each call went."""

    def __init__(self, home: Path, **environment: str) -> None:
        self.home = home
        clean = {
            k: v
            for k, v in os.environ.items()
            if k not in ("DEM_CACHE", "DEM_MACHINE", "PYTEST_CURRENT_TEST")
        }
        self.environment = {**clean, "DEM_HINTS": str(home / "hints"), "COLUMNS": "120", **environment}
        self.strangers = 0

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-P", "-c", WAY, *arguments],
            cwd=self.home,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=_heeds_ctrl_c,  # noqa: PLW1509
        )

    def call(self, *arguments: str, **environment: str) -> Said:
        process = self.start(*arguments, **environment)
        out, err = process.communicate(timeout=240)
        assert "Traceback" not in err
        error, _, way = err.rpartition("\n")
        return Said(process.returncode, out, error, way)

    def truth(self, *arguments: str) -> Said:
        """Return what a host says that has never seen any of this."""
        self.strangers += 1
        return self.call(*arguments, DEM_HINTS=str(self.home / f"hints-{self.strangers}"))

    def settled(self, *arguments: str) -> Said:
        """Call until a witness answers."""
        for _ in range(4):
            if (said := self.call(*arguments)).way == "witness":
                return said
        raise AssertionError(f"no witness answers: {said}")


def record(recipe: Path) -> None:
    """Record made-up results for every action of a recipe."""
    code = (
        "import sys; from pathlib import Path; from scaled import record_made_up as r; r(Path(sys.argv[1]))"
    )
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"DEM_HINTS": str(recipe.parent / "hints"), "PYTHONPATH": path}
    subprocess.run([sys.executable, "-c", code, recipe], check=True, env=environment, cwd=recipe.parent)
