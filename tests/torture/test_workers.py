"""Workers without torch: who makes what on one store or one remote, what failures stop, and when a worker ends."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from light import Builder
from light_trials import RECIPE, lay_out
from stand_ins import FAILING, TRAINED

from dem_build.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

LONG = RECIPE.replace("max_steps = 5", "max_steps = 200")
MACHINE = '[[remotes]]\nurl = "../remote"\nread = ["trusted"]\nwrite = "trusted"\n'
ACTIONS = ["base", "data:add", "data:copy", "model", "vector:add", "vector:copy"]


class Workers:
    """Programs that `dem` is called in, side by side, and what the trainings of all of them wrote down."""

    def __init__(self, builders: Sequence[Builder]) -> None:
        self._builders = builders

    def work(
        self, home: Path, *arguments: str, at: int = 0, status: int = 0, failing: str = ""
    ) -> list[dict[str, Any]]:
        """Start a worker and wait for its end; return its events."""
        variables = {TRAINED: str(home.parent / "trained"), FAILING: failing}
        found = self._builders[at].call(home, ("work", "--json", *arguments), variables=variables)
        out, err = (Path(f"{home}{end}").read_text() for end in (".out", ".err"))
        assert found == status, f"{arguments}: {found}\n{out}\n{err}"
        assert "Traceback" not in err
        return [json.loads(line) for line in out.splitlines()]

    def at_once(self, homes: Iterable[Path], *arguments: str) -> list[list[dict[str, Any]]]:
        with ThreadPoolExecutor(len(self._builders)) as pool:
            given = enumerate(homes)
            return list(pool.map(lambda one: self.work(one[1], *arguments, at=one[0]), given))


def names(events: Iterable[dict[str, Any]], status: str) -> list[str]:
    return sorted(e["action"] for e in events if e["event"] == "ended" and e["status"] == status)


def keys_that_ran(events: Iterable[dict[str, Any]]) -> list[str]:
    return [e["key"] for e in events if e["event"] == "ended" and e["status"] == "ran"]


def steps(home: Path) -> Counter[str]:
    """How often each step of each training was taken, by all."""
    return Counter((home.parent / "trained").read_text().splitlines())


@pytest.fixture(scope="module")
def workers():
    with ExitStack() as stack:
        yield Workers([stack.enter_context(closing(Builder())) for _ in range(2)])


@pytest.fixture
def home(tmp_path):
    lay_out(tmp_path / "one")
    (tmp_path / "one" / "tiny.toml").write_text(RECIPE)
    return tmp_path / "one"


def test_one_worker_makes_all_records_and_publishes_nothing(workers, home):
    events = workers.work(home, "tiny.toml")
    assert events[0].items() >= {"event": "began", "actions": 6, "due": 6}.items()
    assert names(events, "ran") == ACTIONS
    assert events[-1].items() >= {"event": "end", "status": 0, "ran": 6, "failed": 0, "left": 0}.items()
    assert not (home / "out").exists()
    assert not (home / "tiny.lock").exists(), "who may be one of a hundred writes nothing beside the recipe"
    again = workers.work(home, "tiny.toml")
    assert again[-1].items() >= {"ran": 0, "recorded": 6}.items()


def test_two_on_one_store_take_each_step_once(workers, home):
    (home / "tiny.toml").write_text(LONG)
    found = workers.at_once((home, _beside(home)), "tiny.toml")
    ran = [key for events in found for key in keys_that_ran(events)]
    assert len(ran) == len({*ran}) == 6
    assert {*steps(home).values()} == {1}
    assert len(steps(home)) == 2 * 200


def _beside(home: Path) -> Path:
    """A second host's view of one project: the folder under another name, so that what is printed goes elsewhere."""
    other = home.with_name("two")
    other.symlink_to(home)
    return other


def test_machines_that_share_a_remote_alone_train_nothing_twice(workers, home):
    (home / "tiny.toml").write_text(LONG)
    (home / "machine.toml").write_text(MACHINE)
    shutil.copytree(home, home.with_name("two"))
    assert workers._builders[0].call(home, ("cache", "remote", "init")) == 0
    found = workers.at_once((home, home.with_name("two")), "tiny.toml")
    heavy = [
        e["key"]
        for events in found
        for e in events
        if e["event"] == "ended" and e["status"] == "ran" and not e["action"].startswith("model")
    ]
    assert len(heavy) == len({*heavy}) == 5
    assert {*steps(home).values()} == {1}
    assert not [p for p in home.parent.glob("remote/trusted/leases/*/*") if p.is_file()]
    third = home.with_name("three")
    shutil.copytree(home, third, ignore=shutil.ignore_patterns("cache", "hints"))
    assert workers.work(third, "tiny.toml")[-1].items() >= {"ran": 0, "recorded": 6}.items()


def test_a_failure_stops_what_depends_on_it_alone_and_a_worker_that_can_goes_on_from_there(workers, home):
    events = workers.work(home, "tiny.toml", status=1, failing="copy")
    assert names(events, "failed") == ["data:copy"]
    assert names(events, "ran") == ["base", "data:add", "vector:add"]
    assert events[-1].items() >= {"failed": 1, "left": 2}.items()
    assert events[-1]["error"]["what"] == "1 of 6 actions failed: data:copy"
    assert names(workers.work(home, "tiny.toml"), "ran") == ["data:copy", "model", "vector:copy"]


def test_what_failed_here_and_another_made_is_gone_on_with(workers, home):
    workers.work(home, "tiny.toml", "--", "data:add")
    store = Store.open(home / "cache")
    [key] = [key for name, key in _due(workers, home).items() if name == "vector:add"]
    with ThreadPoolExecutor(1) as pool:
        with store.leases.take(key):
            failing = pool.submit(workers.work, home, "tiny.toml", failing="copy")
            _wait_for(lambda: '"failed"' in Path(f"{home}.out").read_text())
            beside = workers.work(_beside(home), "tiny.toml", "--until-idle", "0s", at=1)
            assert names(beside, "ran") == ["data:copy", "vector:copy"]
            _wait_for(lambda: '"vector:copy"' in Path(f"{home}.out").read_text())
        events = failing.result()
    assert names(events, "failed") == ["data:copy"]
    assert names(events, "hit") == ["data:copy", "vector:copy"]
    assert names(events, "ran") == ["model", "vector:add"]
    assert events[-1].items() >= {"status": 0, "failed": 0}.items()


def _wait_for(there: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not there():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_two_recipes_are_one_graph_and_what_they_share_runs_once(workers, home):
    (home / "other.toml").write_text(RECIPE.replace('"tiny"', '"other"').replace("0.25", "0.75"))
    events = workers.work(home, "tiny.toml", "other.toml", "./tiny.toml")
    assert events[0]["actions"] == 12
    ran = names(events, "ran")
    assert [n for n in ran if n.startswith("vector:")] == ["vector:add@tiny", "vector:copy@tiny"]
    assert [n for n in ran if n.startswith("model")] == ["model@other", "model@tiny"]
    assert len(names(events, "hit")) == 5
    assert {*steps(home).values()} == {1}


def test_recipes_of_one_name_are_told_apart_and_two_stores_are_refused(workers, home):
    (home / "sub").mkdir()
    (home / "sub" / "tiny.toml").write_text(
        RECIPE.replace('"base"', '"../base"').replace('"data/', '"../data/')
    )
    refused = workers.work(home, "tiny.toml", "sub/tiny.toml", status=2)
    assert "a worker has one store" in refused[-1]["error"]["hint"]
    events = workers.work(home, "tiny.toml", "sub/tiny.toml", "--cache", "shared")
    assert events[-1].items() >= {"ran": 6, "recorded": 6}.items()
    assert {name.partition("@")[2] for name in names(events, "hit")} == {"sub-tiny.toml"}
    (home / "sub-tiny.toml").write_text(RECIPE)
    events = workers.work(home, "tiny.toml", "sub/tiny.toml", "sub-tiny.toml", "--cache", "shared")
    assert events[-1]["recorded"] == 18


def test_who_has_nothing_to_do_for_long_ends_well_and_says_what_it_left(workers, home):
    workers.work(home, "tiny.toml", "--", "base")
    store = Store.open(home / "cache")
    with ExitStack() as held:
        for key in _due(workers, home).values():
            held.enter_context(store.leases.take(key))
        events = workers.work(home, "tiny.toml", "--until-idle", "1s")
    assert events[-1].items() >= {"status": 0, "ran": 0, "left": 5}.items()
    assert [e["action"] for e in events if e["event"] == "waits"] == ["data:add", "data:copy"]
    assert workers.work(home, "tiny.toml", "--until-idle", "1s")[-1]["ran"] == 5


def _due(workers: Workers, home: Path) -> dict[str, str]:
    """The actions that may start now, and their keys."""
    assert workers._builders[0].call(home, ("plan", "tiny.toml", "--json")) == 0
    plan = json.loads(Path(f"{home}.out").read_text())
    return {a["name"]: a["key"] for a in plan["actions"] if a["key"] and a["status"] == "run"}


def test_what_only_a_hub_can_tell_must_be_locked(workers, home):
    (home / "tiny.toml").write_text(RECIPE.replace('model = "base"', 'model = "org/model"'))
    events = workers.work(home, "tiny.toml", status=4)
    assert "not what is locked: base" in events[-1]["error"]["what"]
    assert "dem lock" in events[-1]["error"]["hint"]
