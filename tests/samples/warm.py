"""Processes that need not import anything: copies of one that has imported all of `dem`, torch and transformers.

What a build of tiny models takes is nine tenths imports, once in each of its workers. `dem` here is a real process
with its own folder, environment and streams, which ends as it does for a user. Its workers are copies of it, made as a
driver copies itself for a light action, and speak with it as any others.

Not for what is about imports, start-up, signals or witnesses (where torch is loaded, a call leaves none), nor for
variables that are read when a library is imported or a process begins; but where the hub is, is read anew.
"""

from __future__ import annotations

import functools
import importlib
import multiprocessing
import os
import pkgutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

import dem_build
from dem_build.engine.copied import POSSIBLE, Copied
from dem_build.engine.pool import QUIET, Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from multiprocessing.context import ForkServerContext, ForkServerProcess

SECONDS = 240
READ_AT_IMPORT = ("PYTHON", "TRANSFORMERS_")
"""How variables begin that are looked at once."""
BESIDE = ("transformers.models.auto.tokenization_auto", "transformers.models.llama.modeling_llama")
"""What no module of `dem` names, but every build loads."""


class Ended(NamedTuple):
    """How a process ended: its status, or minus the signal that ended it, and what it wrote."""

    status: int
    out: str
    err: str


class Loaded:
    """A worker that is a copy of its driver, for actions of every kind: the pool takes it for a new process."""

    def __init__(self, worker: Worker) -> None:
        self._copied = Copied(worker._places, QUIET | worker.slot.environment())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._copied, name)


def dem(
    arguments: Sequence[str], home: Path, environment: Mapping[str, str], *, together: bool = False
) -> Ended:
    """Call `dem` in a folder, with these variables alone; its errors may go where its output goes."""
    if POSSIBLE and _fits(environment):
        return run(_dem, [*arguments], home, {**environment}, together=together)
    done = subprocess.run(
        [sys.executable, "-m", "dem_build", *arguments],
        cwd=home,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if together else subprocess.PIPE,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr or "")


def python(code: str, home: Path, environment: Mapping[str, str]) -> Ended:
    """Run code in a folder, as a script without a guard, with these variables alone."""
    return run(_python, code, home, {**environment})


def run(function: Callable[..., object], *arguments: object, together: bool = False) -> Ended:
    """Call a function of a module in a process of its own, and wait for its end."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "out" if together else "err")
        process = start(_writing, (out, err), function, arguments)
        process.join(SECONDS)
        if process.exitcode is None:
            process.kill()
            process.join()
        assert process.exitcode is not None
        return Ended(process.exitcode, out.read_text(), "" if together else err.read_text())


def start(function: Callable[..., object], *arguments: object) -> ForkServerProcess:
    """Begin a call of a function of a module in a process of its own."""
    process = _loaded().Process(target=function, args=arguments)
    process.start()
    return process


@functools.cache
def _loaded() -> ForkServerContext:
    """Start what is copied, once in each process that tests."""
    context = multiprocessing.get_context("forkserver")
    ours = (module.name for module in pkgutil.walk_packages(dem_build.__path__, "dem_build."))
    context.set_forkserver_preload([*(name for name in ours if not name.endswith("__main__")), *BESIDE])
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**QUIET, "PYTHONSAFEPATH": "1"}.items():  # as workers are started
            patch.setenv(name, value)
        multiprocessing.forkserver.ensure_running()
    return context


def _fits(environment: Mapping[str, str]) -> bool:
    """Whether what has imported all would have found the same in this environment."""
    names = {n for n in {*environment, *os.environ} if n.startswith(READ_AT_IMPORT)}
    return all(environment.get(name) == os.environ.get(name) for name in names)


def _writing(streams: Sequence[Path], function: Callable[..., object], arguments: Sequence[object]) -> None:
    """Call a function with files for its output and its errors."""
    for number, path in enumerate(streams, start=1):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(opened, number)
        os.close(opened)
    function(*arguments)


def _dem(arguments: list[str], home: Path, environment: dict[str, str]) -> None:
    """Be `dem`."""
    _settle(home, environment, tasks="--trust-tasks" in arguments and "--offline" not in arguments)
    sys.argv = ["dem", *arguments]
    from dem_build.cli import main

    main()


def _python(code: str, home: Path, environment: dict[str, str]) -> None:
    """Be a script."""
    _settle(home, environment)
    exec(code, {"__name__": "__main__"})


def _settle(home: Path, environment: dict[str, str], *, tasks: bool = False) -> None:
    """Be as a process that was started in a folder with these variables, and whose workers are copies.

    Args:
        home: The folder.
        environment: The variables.
        tasks: Whether tasks are run: `datasets` cannot be loaded twice, and knows the client that it was loaded with.
    """
    os.chdir(home)
    os.environ.clear()
    os.environ.update(environment)
    # The hub's client and `datasets` know where the hub and its cache are from its variables.
    if tasks:
        for name in ("huggingface_hub.constants", "datasets.config"):  # in which all of both looks
            if name in sys.modules:
                importlib.reload(sys.modules[name])
        if (client := sys.modules.get("huggingface_hub.hf_api")) is not None:
            client.api.endpoint = client.constants.ENDPOINT  # of its functions, made when it was loaded
    else:
        for name in [name for name in sys.modules if name.partition(".")[0] == "huggingface_hub"]:
            del sys.modules[name]  # some variables are set by `dem`, before it loads it
    Worker._new = lambda worker: Loaded(worker)  # noqa: PLW0108  a method
