"""Two machines and a folder that they share: one trains and pushes, the other has recipe, lock and machine file."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest
from project import EVALUATE, Project, dataset, fresh, ran, recipe

from dem_build.cli.app import run
from dem_build.errors import StoreError

RECIPE = recipe(dataset("add", omega=0.5, test=0.2), EVALUATE, steps=2)
MACHINE = '[[remotes]]\nurl = "../remote"\nread = ["trusted"]\nwrite = "trusted"\n'


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_base):
    """The machine that trains, and what it pushed; nobody writes to either."""
    home = tmp_path_factory.mktemp("shared")
    (home / "one").mkdir()
    one = fresh(home / "one", tiny_base)
    (one.home / "machine.toml").write_text(MACHINE)
    one.call("cache", "remote", "init")
    document = one.build(RECIPE)
    assert document["pushed"].items() >= {"sent": 6, "known": 0, "differs": 0, "failed": 0}.items()
    return one, document


@pytest.fixture
def two(trained, tmp_path):
    """A machine that has no file but a recipe, its lock and the machine file, and a remote of its own to spoil."""
    one, _ = trained
    (tmp_path / "two").mkdir()
    for name in ("tiny.toml", "tiny.lock", "machine.toml"):
        shutil.copy(one.home / name, tmp_path / "two" / name)
    shutil.copytree(one.home.parent / "remote", tmp_path / "remote")
    return Project(tmp_path / "two")


def objects(folder: Path) -> dict[str, int]:
    return {p.name: p.stat().st_size for p in folder.rglob("cas/sha256/*/*")}


def built(project: Project, *options: str, status: int = 0) -> dict[str, object]:
    return json.loads(project.call("build", "tiny.toml", "--json", *options, status=status).stdout)


def record_of(project: Project, action: str) -> Path:
    """The file of an action's record in the remote."""
    plan = json.loads(project.call("plan", "tiny.toml", "--json").stdout)
    [key] = [a["key"] for a in plan["actions"] if a["name"] == action]
    return project.home.parent / "remote" / "trusted" / "actions" / key[:2] / f"{key}.json"


def test_a_report_fetches_less_than_a_tenth_of_what_is_there(two):
    two.call("report", "tiny.toml")
    assert (two.home / "out/tiny/report.html").exists()
    there = sum(objects(two.home.parent / "remote").values())
    assert 0 < sum(objects(two.home / "cache").values()) < there / 10


def test_a_build_there_trains_nothing_and_publishes_the_same_model(trained, two):
    _, made = trained
    document = built(two, "--no-train", "--locked")
    assert ran(document) == []
    assert document["model_digest"] == made["model_digest"]
    assert document["results"] == made["results"]
    assert "pushed" not in document
    outputs = json.loads(record_of(two, "vector:add").read_text())["outputs"]
    assert outputs["delta"]["sha256"] not in objects(two.home / "cache"), (
        "the model's own bytes come, no others"
    )
    two.call("cache", "verify")


def test_what_ended_well_is_pushed_where_the_build_cannot_be_concluded(two, monkeypatch, capsys):
    """Else a vector that took hours would lie on a machine whose disk is full."""

    def full(*_):
        time.sleep(1)
        raise StoreError("no space left")

    (two.home / "tiny.toml").write_text(
        (two.home / "tiny.toml").read_text().replace("omega = 0.5", "omega = 0.25")
    )
    monkeypatch.chdir(two.home)
    monkeypatch.setattr("dem_build.session.build.conclude", full)
    assert run(["build", "tiny.toml"]) == 1
    said = capsys.readouterr()
    assert "no space left" in said.err
    assert "pushed 2 results" in said.out


def test_a_build_waits_for_who_has_the_lease_of_a_remote_and_takes_one_itself(two):
    (two.home / "tiny.toml").write_text((two.home / "tiny.toml").read_text().replace("1e-3", "2e-3"))
    remote = two.home.parent / "remote" / "trusted"
    place = remote / "leases" / record_of(two, "vector:add").stem
    place.mkdir(parents=True)
    (place / "1").write_text(json.dumps({"who": "Ada"}))
    # The base is fetched: this machine has no file of it.
    process = two.start("build", "tiny.toml", "--", "vector:add")
    assert process.stdout is not None
    assert any("vector:add" in line and "waiting: Ada is at work" in line for line in process.stdout)
    (place / "1").unlink()
    leases = set()
    while process.poll() is None:
        leases |= {path.name for path in place.iterdir() if not path.name.startswith(".")}
        time.sleep(0.02)
    out, err = process.communicate()
    assert process.returncode == 0, out + err
    assert leases == {"1"}
    assert not list(place.iterdir())  # given back, when the record was there
    assert record_of(two, "vector:add").exists()


def test_on_s3_it_is_the_same(trained, moto, store_credentials, tmp_path):  # noqa: ARG001  a fixture for its effect
    """A client with threads of its own in the driver, whose copies compose."""
    one, made = trained
    where = f'[[remotes]]\nurl = "s3://team-models/{os.urandom(4).hex()}"\nendpoint = "{moto}"\nwrite = "trusted"\n'
    (tmp_path / "two").mkdir()
    two = Project(tmp_path / "two")
    two.environment |= {n: v for n, v in os.environ.items() if n.startswith("AWS_")}
    for name in ("tiny.toml", "tiny.lock"):
        shutil.copy(one.home / name, two.home / name)
    (two.home / "machine.toml").write_text(where)
    two.call("cache", "remote", "init")
    two.call("cache", "push", "--cache", str(one.home / "cache"))
    document = two.build((two.home / "tiny.toml").read_text().replace("omega = 0.5", "omega = 0.25"))
    assert ran(document) == ["loss:composed:add", "model"]
    assert document["pushed"]["sent"] == 2
    assert built(two)["model_digest"] == document["model_digest"] != made["model_digest"]
    said = two.call("cache", "verify", "--remote").stdout
    assert "every record is whole" in said
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in said + (two.home / "machine.toml").read_text()
