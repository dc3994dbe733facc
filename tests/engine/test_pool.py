"""Worker processes as the driver sees them: start-up noise, death while idle, the user's folder."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from dem_build.action import Action, key_of, preimage
from dem_build.actions import KINDS
from dem_build.engine.copied import Copied
from dem_build.engine.pool import Message, Pool
from dem_build.engine.protocol import Answer, Request
from dem_build.machine import Machine
from dem_build.slots import Slot
from dem_build.store import Store


def request() -> Request:
    """A mixture of nothing: it ends at once, as a failure, and without torch."""
    document = preimage(Action("any", KINDS["mix"], {}), ())
    return Request("data:mix", key_of(document), document, (), (), Machine(), threads=1)


def answer(pool: Pool) -> Message:
    while (message := pool.inbox.get(timeout=60)).reply.answer is Answer.STARTED:
        pass
    return message


@pytest.fixture
def pool(tmp_path: Path):
    store = Store.open(tmp_path / "cache")
    made = Pool([Slot((), 1)], store.root)
    yield made
    made.kill()


def test_modules_in_the_users_folder_are_not_the_workers(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "queue.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    pool.workers[0].submit(request())
    assert "worker ended" not in answer(pool).reply.what


def test_what_a_sites_start_up_prints_is_no_answer(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('welcome')\nprint('3')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    pool.workers[0].submit(request())
    assert answer(pool).reply.answer is Answer.FAILED


def test_the_end_of_an_idle_worker_is_not_the_end_of_its_next_action(pool: Pool) -> None:
    [worker] = pool.workers
    worker.submit(request())
    first = answer(pool)
    worker.request = None
    first.process.kill()
    first.process.wait()
    worker.submit(request())
    late = next(m for m in iter(lambda: answer(pool), None) if m.process is first.process)
    assert "signal 9" in late.reply.what
    assert late.stale


def test_a_killed_workers_action_fails(pool: Pool) -> None:
    [worker] = pool.workers
    worker.submit(request())
    worker.kill()
    message = answer(pool)
    while "signal 9" not in message.reply.what:
        message = answer(pool)
    assert not message.stale


def test_a_worker_leaves_a_schedulers_signal_to_its_driver(pool: Pool) -> None:
    pool.workers[0]._copies = False  # no copy of this process, but one of its own
    [worker] = pool.workers
    worker.submit(request())
    first = answer(pool)
    worker.request = None
    assert not isinstance(first.process, Copied)
    first.process.send_signal(signal.SIGTERM)
    worker.submit(request())
    again = answer(pool)
    assert again.process is first.process
    assert again.reply.answer is Answer.FAILED


def test_a_worker_ends_with_half_a_line_of_its_driver(pool: Pool) -> None:
    [worker] = pool.workers
    worker.submit(request())
    process = answer(pool).process
    assert process.stdin is not None
    process.stdin.write('{"run": {"na')
    process.stdin.close()
    deadline = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.poll() is not None
