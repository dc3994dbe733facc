"""Workers that are copies of the driver: which actions get one, what it shares with the driver, and its end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import pytest

from dem_build.action import Action, key_of, preimage
from dem_build.actions import KINDS
from dem_build.engine.copied import POSSIBLE, Copied
from dem_build.engine.pool import Message, Pool
from dem_build.engine.protocol import Answer, Request
from dem_build.machine import Machine
from dem_build.slots import Slot
from dem_build.store import Store

pytestmark = pytest.mark.skipif(not POSSIBLE, reason="processes are not copied on this system")

DRIVER = """
import sys, time
from pathlib import Path
from dem_build.engine.copied import Copied
copy = Copied([Path(sys.argv[1])], {})
print(copy.pid, flush=True)
time.sleep(600)
"""


def request(kind: str, params: dict[str, object]) -> Request:
    """An action without inputs: it ends at once, as a failure."""
    document = preimage(Action("any", KINDS[kind], params), ())
    return Request(kind, key_of(document), document, (), (), Machine(), threads=1)


MIX = request("mix", {})
EXTRACT = request("extract", {"source": "checkpoint", "vector_dtype": "float32"})


@pytest.fixture
def pool(tmp_path: Path):
    made = Pool([Slot((), 1)], Store.open(tmp_path / "cache").root)
    yield made
    made.kill()


def run(pool: Pool, wanted: Request) -> Message:
    [worker] = pool.workers
    worker.submit(wanted)
    while (message := pool.inbox.get(timeout=120)).stale or message.reply.answer is Answer.STARTED:
        pass
    worker.request = None
    return message


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def named(link: Path) -> str:
    """Return what an open file of a process is; nothing where it is closed by now."""
    with contextlib.suppress(FileNotFoundError):
        return str(link.readlink())
    return ""


def pipe_of(stream: TextIO) -> str:
    return named(Path(f"/proc/self/fd/{stream.fileno()}"))


def is_over(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


@pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if kind.light])
def test_the_step_of_a_light_kind_loads_nothing_heavy(kind: str) -> None:
    heavy = {"torch", "transformers", "datasets", "lm_eval", "tokenizers", "pyarrow", "sklearn", "scipy"}
    code = f"import sys, {KINDS[kind].module}; print(*({heavy!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_composing_is_light_and_training_is_not() -> None:
    assert KINDS["compose"].light
    assert not KINDS["finetune"].light


def test_a_light_action_runs_in_a_copy_which_runs_the_next_one_as_well(pool: Pool) -> None:
    first, second = run(pool, MIX), run(pool, MIX)
    assert isinstance(first.process, Copied)
    assert first.reply.answer is Answer.FAILED
    assert second.process is first.process


def test_another_action_gets_a_worker_of_its_own_which_then_runs_light_ones(pool: Pool) -> None:
    first, second, third = run(pool, MIX), run(pool, EXTRACT), run(pool, MIX)
    assert isinstance(second.process, subprocess.Popen)
    assert first.process.poll() == -signal.SIGKILL
    assert third.process is second.process
    assert {first.reply.answer, second.reply.answer, third.reply.answer} == {Answer.FAILED}


def test_a_copy_has_none_of_the_drivers_files_and_no_terminals_signals(tmp_path: Path) -> None:
    with (tmp_path / "held").open("w"):
        copy = Copied([Store.open(tmp_path / "cache").root], {})
        try:
            links = Path(f"/proc/{copy.pid}/fd")
            wait_until(lambda: os.getsid(copy.pid) == copy.pid and named(links / "0") == pipe_of(copy.stdin))
            wait_until(lambda: not any("held" in named(link) for link in links.iterdir()))
            pipes = {name for link in links.iterdir() if (name := named(link)).startswith("pipe:")}
            mine = {named(Path(f"/proc/self/fd/{n}")) for n in range(3)}
            assert pipes <= {pipe_of(copy.stdin), pipe_of(copy.stdout)} | mine
        finally:
            copy.kill()
            assert copy.wait() == -signal.SIGKILL
            copy.stdin.close()
            copy.stdout.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_copy_ends_with_its_driver(tmp_path: Path, number: int) -> None:
    store = Store.open(tmp_path / "cache").root
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(store)], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    pid = int(driver.stdout.readline())
    assert Path(f"/proc/{pid}").exists()
    driver.send_signal(number)
    driver.wait()
    driver.stdout.close()
    wait_until(lambda: is_over(pid))


def test_a_copy_ends_where_its_driver_hangs_up(tmp_path: Path) -> None:
    copy = Copied([Store.open(tmp_path / "cache").root], {})
    copy.stdin.close()
    assert copy.wait() == -signal.SIGKILL
    assert copy.poll() == -signal.SIGKILL
    copy.stdout.close()


def test_a_copy_that_cannot_serve_ends_with_a_status(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("no folder")
    copy = Copied([tmp_path / "cache"], {})
    assert copy.wait() == 70
    copy.stdin.close()
    copy.stdout.close()
