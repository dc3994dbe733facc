"""Two machines and a folder that they share, without torch: what is fetched when, and what becomes of what is lost."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from failpoints import Plan
from light import Builder
from light_trials import RECIPE, REWEIGHTED, lay_out
from project import ran
from shared_samples import whole

MACHINE = '[[remotes]]\nurl = "../remote"\nread = ["trusted"]\nwrite = "trusted"\n'
ACTIONS = ["base", "data:add", "data:copy", "model", "vector:add", "vector:copy"]


class Machine:
    """A folder of a machine, and `dem` called in it."""

    def __init__(self, home: Path, builder: Builder) -> None:
        self.home = home
        self.remote = home.parent / "remote"
        self.builder = builder

    def call(self, *arguments: str, status: int = 0) -> str:
        """Call `dem`; return what it says."""
        found = self.builder.call(self.home, arguments)
        out, err = (Path(f"{self.home}{end}").read_text() for end in (".out", ".err"))
        assert found == status, f"{arguments}: {found}\n{out}\n{err}"
        assert "Traceback" not in err
        return out + err

    def json(self, *arguments: str, status: int = 0) -> dict[str, Any]:
        self.call(*arguments, "--json", status=status)
        found: dict[str, Any] = json.loads(Path(f"{self.home}.out").read_text())
        return found

    def build(self, *options: str, status: int = 0) -> dict[str, Any]:
        return self.json("build", "tiny.toml", *options, status=status)

    def record(self, action: str) -> Path:
        """The file of an action's record in the remote."""
        [key] = [a["key"] for a in self.json("plan", "tiny.toml")["actions"] if a["name"] == action]
        return self.remote / "trusted" / "actions" / key[:2] / f"{key}.json"

    def there(self, action: str, output: str) -> Path:
        """The file of an output, or of the one file that it has, in the remote."""
        found = json.loads(self.record(action).read_text())["outputs"][output]
        [name] = [blob["sha256"] for blob in found.get("files", {"": found}).values()]
        return self.remote / "trusted" / "cas" / "sha256" / name[:2] / name

    def with_sources(self) -> Machine:
        """The machine, with the files that the recipe names."""
        lay_out(self.home.with_name("sources"))
        shutil.copytree(self.home.with_name("sources"), self.home, dirs_exist_ok=True)
        return self


def objects(folder: Path) -> dict[str, int]:
    return {p.name: p.stat().st_size for p in folder.rglob("cas/sha256/*/*")}


@pytest.fixture(scope="module")
def builder():
    with closing(Builder()) as made:
        yield made


@pytest.fixture(scope="module")
def trained(tmp_path_factory, builder):
    """The machine that trains, and what it built; nobody writes to its remote."""
    home = tmp_path_factory.mktemp("shared") / "one"
    lay_out(home)
    one = Machine(home, builder)
    (home / "machine.toml").write_text(MACHINE)
    (home / "tiny.toml").write_text(RECIPE)
    one.call("cache", "remote", "init")
    document = one.build()
    assert sorted(ran(document)) == ACTIONS
    assert document["pushed"].items() >= {"sent": 6, "known": 0, "differs": 0, "failed": 0}.items()
    assert len(whole(one.remote)) == 6
    return one, document


@pytest.fixture
def two(trained, tmp_path, builder):
    """A machine that has no file but a recipe, its lock and the machine file, and a remote of its own to spoil."""
    one, _ = trained
    (tmp_path / "two").mkdir()
    for name in ("tiny.toml", "tiny.lock", "machine.toml"):
        shutil.copy(one.home / name, tmp_path / "two" / name)
    shutil.copytree(one.remote, tmp_path / "remote")
    return Machine(tmp_path / "two", builder)


def test_a_plan_asks_for_records_alone_and_says_what_would_come_from_where(two):
    document = two.json("plan", "tiny.toml", "--check")
    assert {a["status"] for a in document["actions"]} == {"hit"}
    assert all(a["not_here"]["from"].endswith("remote (trusted)") for a in document["actions"])
    said = two.call("plan", "tiny.toml")
    assert "to fetch: " in said
    assert " not here" in said
    assert not (two.home / "cache").exists(), "who only looks makes no cache"


def test_a_build_trains_nothing_and_fetches_the_model_alone(trained, two):
    document = two.build("--no-train", "--locked")
    assert ran(document) == []
    assert document["model_digest"] == trained[1]["model_digest"]
    assert "pushed" not in document
    assert two.there("vector:add", "delta").name not in objects(two.home / "cache")
    assert two.there("data:add", "train").name not in objects(two.home / "cache")
    two.call("cache", "verify")


def test_a_build_with_nothing_to_do_asks_nobody(two):
    two.build()
    shutil.rmtree(two.remote)
    assert "warning" not in two.call("build", "tiny.toml", "--no-train")


def test_composing_anew_fetches_vectors_and_a_third_machine_finds_the_model(two, trained):
    (two.home / "tiny.toml").write_text(REWEIGHTED)
    document = two.build("--no-train")
    assert ran(document) == ["model"]
    assert document["pushed"]["sent"] == 1
    assert two.there("vector:add", "delta").name in objects(two.home / "cache")
    assert two.there("data:add", "train").name not in objects(two.home / "cache")
    three = Machine(two.home.with_name("three"), two.builder)
    shutil.copytree(two.home, three.home, ignore=shutil.ignore_patterns("cache", "out", "hints"))
    again = three.build()
    assert ran(again) == []
    assert again["model_digest"] == document["model_digest"] != trained[1]["model_digest"]


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_bytes(bytes(path.stat().st_size))])
def test_a_model_that_is_lost_or_wrong_is_composed_in_the_same_build(trained, two, spoil):
    path = two.there("model", "weights")
    path.chmod(0o644)
    spoil(path)
    document = two.build("--no-train")
    assert ran(document) == ["model"]
    assert document["model_digest"] == trained[1]["model_digest"]
    two.call("cache", "verify")


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_bytes(bytes(path.stat().st_size))])
def test_a_vector_that_is_lost_or_wrong_is_trained_in_the_build_that_needs_it(two, spoil):
    path = two.there("vector:add", "delta")
    path.chmod(0o644)
    spoil(path)
    assert ran(two.build("--no-train")) == [], "the model is there, and nothing else is opened"
    (two.home / "tiny.toml").write_text(REWEIGHTED)
    assert "vector:add" in two.call("build", "tiny.toml", "--no-train", status=4)
    document = two.build()
    assert ran(document) == ["model", "vector:add"], "data and base come from there"
    two.call("cache", "verify")


def test_whatever_is_lost_the_model_is_right(two, trained):
    """Each object in turn is not there: the build ends well, with the same model."""
    two.with_sources()
    for path in sorted((two.remote / "trusted" / "cas").rglob("*/*/*")):
        aside = path.rename(two.remote / "aside")
        for name in ("cache", "out", "hints"):
            shutil.rmtree(two.home / name, ignore_errors=True)
        document = two.build()
        assert document["model_digest"] == trained[1]["model_digest"], path
        two.call("cache", "verify")
        aside.rename(path)


def test_a_remote_that_is_not_there_is_a_warning_and_a_local_build(two, trained):
    shutil.rmtree(two.remote)
    two.with_sources()
    said = two.call("build", "tiny.toml")
    assert said.count("this call goes on without it") == 1
    assert "dem cache push tiny.toml" in said
    assert two.build("--offline")["model_digest"] == trained[1]["model_digest"]
    (two.home / "tiny.toml").write_text(REWEIGHTED)
    assert "the folder is not there" in two.call("build", "tiny.toml", "--require-remote", status=1)
    assert "warning" not in two.call("build", "tiny.toml", "--offline")


def test_offline_asks_nobody(two):
    document = two.json("plan", "tiny.toml", "--offline")
    assert {a["status"] for a in document["actions"]} == {"run", "pending"}


def test_a_machine_that_only_reads_pushes_nothing(two):
    (two.home / "machine.toml").write_text(MACHINE.replace('write = "trusted"\n', ""))
    (two.home / "tiny.toml").write_text(REWEIGHTED)
    before = len(whole(two.remote))
    assert "pushed" not in two.build()
    assert len(whole(two.remote)) == before
    two.call("cache", "push", status=2)


def test_pull_brings_everything_and_push_what_is_missing(two):
    two.call("cache", "pull", "tiny.toml", "--records")
    assert objects(two.home / "cache") == {}
    two.call("cache", "pull", "tiny.toml")
    there = objects(two.remote)
    assert objects(two.home / "cache") == there
    two.call("cache", "verify")
    assert ran(two.build("--offline")) == []
    shutil.rmtree(two.remote / "trusted")
    assert "6 sent" in two.call("cache", "push", "tiny.toml")
    assert objects(two.remote) == there
    assert "6 were there" in two.call("cache", "push")
    assert "every record is whole" in two.call("cache", "verify", "--remote")


def test_damage_of_a_remote_is_found_and_taken_away(two):
    record = two.record("vector:add")
    two.there("vector:add", "delta").unlink()
    assert "is not there" in two.call("cache", "verify", "--remote", status=1)
    two.call("cache", "verify", "--remote", "--repair", status=1)
    assert not record.exists()
    two.call("cache", "verify", "--remote")
    assert "would free" in two.call("cache", "gc", "--remote", "trusted", "--dry-run")
    assert "namespaces that are written: trusted" in two.call("cache", "gc", "--remote", "other", status=2)


def test_who_made_it_is_recorded(trained):
    shown = trained[0].json("show", "tiny.toml", "vector:add")
    assert set(shown["provenance"]["writer"]) >= {"user", "host"}


def test_unfinished_work_lies_where_the_machine_file_says(trained, tmp_path, builder):
    lay_out(tmp_path / "one")
    one = Machine(tmp_path / "one", builder)
    (one.home / "machine.toml").write_text('work = "nvme"\n')
    shutil.copy(trained[0].home / "tiny.toml", one.home)
    second = Plan(at=2, named=r"^os\.rename .*/checkpoints/")
    assert builder.call(one.home, ("build", "tiny.toml"), second) == -9
    assert list((one.home / "nvme").rglob("complete.json"))
    assert not (one.home / "cache" / "work").exists()
    assert one.json("cache", "stats")["work"]["count"] == 1
    one.build()
    assert not [p for p in (one.home / "nvme").rglob("*") if p.is_file()]


def test_a_build_that_is_killed_while_it_pushes_leaves_a_sound_remote(trained, tmp_path, builder):
    """Killed now and then while it changes the remote's folder; then it is built and pushed to its end."""
    one, _ = trained
    lay_out(tmp_path / "start")
    (tmp_path / "start" / "machine.toml").write_text(MACHINE.replace("../remote", "remote"))
    shutil.copy(one.home / "tiny.toml", tmp_path / "start")
    start = Machine(tmp_path / "start", builder)
    start.call("cache", "remote", "init")
    killed = 0
    for at in range(1, 500, 29):
        shutil.copytree(tmp_path / "start", tmp_path / "home")
        home = Machine(tmp_path / "home", builder)
        status = builder.call(home.home, ("build", "tiny.toml"), Plan(at=at, named="/remote/"))
        whole(home.home / "remote")
        home.call("build", "tiny.toml")
        home.call("cache", "push")
        assert len(whole(home.home / "remote")) == 6
        shutil.rmtree(home.home)
        if status == 0:
            break
        killed += 1
    assert killed > 2
    assert status == 0
