"""A push and a pull with nothing to do ask the remote what the last ones asked, and say the same by their witness."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from bucket_servers import credentials
from faulty import Fault, Proxy, faulty
from project import Calls, dataset, recipe, record
from tiny import make_data

from dem_build.store.remote.address import open_bucket

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dem_build.store.remote.bucket import Bucket

PUSH = ("cache", "push", "tiny.toml")
PULL = ("cache", "pull", "tiny.toml")


class Shared(NamedTuple):
    """A machine that has made all of a recipe and pushed it, one that has pulled it, and what lies between them."""

    one: Calls
    two: Calls
    bucket: Bucket
    proxy: Proxy

    def record_of_model(self) -> str:
        """Return the name of the composed model's record in the remote."""
        names = [item.name for item in self.bucket.list("trusted/actions/")]
        return next(n for n in names if json.loads(self.bucket.get(n) or b"")["kind"] == "compose")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """A project all of whose results are made up; read-only by agreement."""
    home = tmp_path_factory.mktemp("made") / "one"
    shutil.copytree(tiny_base, home / "base")
    make_data(home / "data")
    (home / "tiny.toml").write_text(recipe(dataset("add", omega=0.5), "[evaluate]\nprompts = 0\n"))
    record(home / "tiny.toml")
    return home


@pytest.fixture(scope="module")
def shared(made: Path, moto: str) -> Iterator[Shared]:
    with faulty(moto) as proxy, pytest.MonkeyPatch.context() as patch:
        for name, value in credentials().items():
            patch.setenv(name, value)
        url = f"s3://team-models/{os.urandom(4).hex()}"
        machine = f'[[remotes]]\nurl = "{url}"\nendpoint = "{proxy.endpoint}"\nwrite = "trusted"\n'
        two = made.parent / "two"
        two.mkdir()
        shutil.copy(made / "tiny.toml", two)
        shutil.copy(made / "tiny.lock", two)
        for home in (made, two):
            (home / "machine.toml").write_text(machine)
        machines = [Calls(home, **credentials()) for home in (made, two)]
        assert machines[0].call("cache", "remote", "init").status == 0
        assert " 0 were there" in machines[0].call(*PUSH).out
        assert machines[1].call(*PULL).status == 0
        yield Shared(*machines, open_bucket(url, proxy.endpoint), proxy)


def test_it_says_what_the_long_way_says_after_asking_the_same(shared):
    for calls, what in ((shared.one, PUSH), (shared.two, PULL)):
        quick = calls.settled(*what)
        shared.proxy.forget()
        assert calls.truth(*what)._replace(way="witness") == quick
        asked = shared.proxy.count("^GET")
        shared.proxy.forget()
        assert calls.call(*what) == quick
        assert shared.proxy.count("^GET") == asked == shared.proxy.count()
    assert shared.one.call(*PUSH).out.startswith("tiny.toml: 0 sent")


def test_what_a_collection_took_is_pushed_again(shared):
    shared.one.settled(*PUSH)
    shared.bucket.delete([shared.record_of_model()])
    said = shared.one.call(*PUSH)
    assert (said.way, "tiny.toml: 1 sent" in said.out) == ("long way", True)
    assert shared.one.settled(*PUSH).out.startswith("tiny.toml: 0 sent")


def test_what_somebody_pushed_since_is_pulled(shared):
    name = shared.record_of_model()
    data = shared.bucket.get(name)
    shared.bucket.delete([name])
    shutil.rmtree(shared.two.home / "cache")
    assert shared.two.call(*PULL).way == "long way"
    assert " 0 results elsewhere" in shared.two.settled(*PULL).out
    assert shared.bucket.create(name, data)
    said = shared.two.call(*PULL)
    assert (said.way, " 0 results elsewhere" in said.out) == ("long way", False)


def test_of_another_result_in_its_place_the_long_way_tells(shared):
    shared.one.settled(*PUSH)
    name = shared.record_of_model()
    data = shared.bucket.get(name)
    shared.bucket.delete([name])
    shared.bucket.create(name, data.replace(b"compose", b"COMPOSE"))
    assert shared.one.call(*PUSH).way == "long way"
    shared.bucket.delete([name])
    shared.bucket.create(name, data)


@contextmanager
def broken(shared: Shared, fault: Fault) -> Iterator[None]:
    shared.proxy.faults.append(fault)
    try:
        yield
    finally:
        shared.proxy.forget()


@pytest.mark.parametrize("fault", [Fault(status=503), Fault(vanish=True), Fault(wrong=True)])
def test_a_remote_that_fails_leaves_it_to_the_long_way(shared, fault):
    quick = shared.one.settled(*PUSH)
    with broken(shared, fault):
        said = shared.one.call(*PUSH)
    assert (said.way, said.status) == ("long way", 1)
    assert shared.one.call(*PUSH) == quick


def test_who_stops_a_call_that_waits_for_an_answer_is_heard(shared):
    shared.one.settled(*PUSH)
    with broken(shared, Fault(delay=2)):
        process = shared.one.start(*PUSH)
        while not shared.proxy.running:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=20)
        assert shared.proxy.running
    assert (process.returncode, error) == (130, "error: stopped\n")


def test_a_folder_is_looked_at(made, tmp_path):
    one = shutil.copytree(made, tmp_path / "one", ignore=shutil.ignore_patterns("hints*", "machine.toml"))
    (one / "machine.toml").write_text('[[remotes]]\nurl = "../remote"\nwrite = "trusted"\n')
    calls = Calls(one)
    assert calls.call("cache", "remote", "init").status == 0
    calls.call(*PUSH)
    assert calls.settled(*PUSH).out.startswith("tiny.toml: 0 sent")
    next((tmp_path / "remote").rglob("actions/*/*.json")).unlink()
    said = calls.call(*PUSH)
    assert (said.way, "tiny.toml: 1 sent" in said.out) == ("long way", True)
