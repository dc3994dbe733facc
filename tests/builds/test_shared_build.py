"""Two machines and a folder that they share: one trains and pushes, the other has recipe, lock and machine file alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from project import EVALUATE, Project, dataset, fresh, ran, recipe

RECIPE = recipe(dataset("add", omega=0.5, test=0.2), EVALUATE, steps=1)
MACHINE = '[[remotes]]\nurl = "../remote"\nread = ["trusted"]\nwrite = "trusted"\n'


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_base):
    """The machine that trains, and what it pushed; nobody writes to either."""
    home = tmp_path_factory.mktemp("shared")
    (home / "one").mkdir()
    (home / "remote").mkdir()
    one = fresh(home / "one", tiny_base)
    (one.home / "machine.toml").write_text(MACHINE)
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


def lose(project: Project, action: str, output: str) -> None:
    """Take an output of an action out of the remote, and leave its record."""
    found = json.loads(record_of(project, action).read_text())["outputs"][output]
    [name] = [blob["sha256"] for blob in found.get("files", {"": found}).values()]
    (project.home.parent / "remote" / "trusted" / "cas" / "sha256" / name[:2] / name).unlink()


def test_a_plan_fetches_records_alone_and_says_what_would_come_from_where(two):
    document = json.loads(two.call("plan", "tiny.toml", "--json", "--check").stdout)
    assert {a["status"] for a in document["actions"]} == {"hit"}
    assert all(a["not_here"]["from"].endswith("remote (trusted)") for a in document["actions"])
    assert objects(two.home) == {}
    said = two.call("plan", "tiny.toml").stdout
    assert "to fetch: " in said
    assert "not here" in said
    assert not (two.home / "cache").exists(), "who only looks makes no cache"


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


def test_a_build_with_nothing_to_do_asks_nobody(two):
    built(two)
    shutil.rmtree(two.home.parent / "remote")
    said = two.call("build", "tiny.toml", "--no-train")
    assert "warning" not in said.stderr
    assert "up to date" in said.stdout


def test_composing_anew_fetches_vectors_and_evaluates(two):
    text = (two.home / "tiny.toml").read_text().replace("omega = 0.5", "omega = 0.25")
    document = two.build(text, "--no-train")
    assert ran(document) == ["loss:composed:add", "model"]
    assert document["pushed"]["sent"] == 2
    # What it made, a third machine finds.
    three = Project(two.home.parent / "three")
    three.home.mkdir()
    for name in ("tiny.toml", "tiny.lock", "machine.toml"):
        shutil.copy(two.home / name, three.home / name)
    again = built(three)
    assert ran(again) == []
    assert again["model_digest"] == document["model_digest"]


def test_a_model_that_is_lost_there_is_composed_in_the_same_build(trained, two):
    lose(two, "model", "weights")
    document = built(two, "--no-train")
    assert ran(document) == ["model"]
    assert document["model_digest"] == trained[1]["model_digest"]


def test_metrics_that_are_lost_there_are_measured_in_the_same_build(trained, two):
    lose(two, "loss:base:add", "metrics")
    document = built(two, "--no-train")
    assert ran(document) == ["loss:base:add"]
    assert document["results"] == trained[1]["results"]


def test_a_vector_that_is_lost_there_is_missed_where_it_is_needed(two):
    lose(two, "vector:add", "delta")
    assert ran(built(two, "--no-train")) == [], "the model is there"
    text = (two.home / "tiny.toml").read_text().replace("omega = 0.5", "omega = 0.25")
    two.write(text)
    failed = two.call("build", "tiny.toml", "--no-train", status=4).stdout
    assert "vector:add" in failed


def test_a_remote_that_is_not_there_is_a_warning_and_a_local_build(trained, two):
    shutil.rmtree(two.home.parent / "remote")
    one, _ = trained
    shutil.copytree(one.home / "base", two.home / "base")
    shutil.copytree(one.home / "data", two.home / "data")
    said = two.call("build", "tiny.toml", "--", "base")
    assert said.stderr.count("the folder is not there") == 1
    assert "dem cache push tiny.toml" in said.stdout
    two.call("build", "tiny.toml", "--require-remote", "--", "data:add", status=1)
    assert "warning" not in two.call("build", "tiny.toml", "--offline", "--", "data:add").stderr


def test_offline_asks_nobody(two):
    document = json.loads(two.call("plan", "tiny.toml", "--json", "--offline").stdout)
    assert {a["status"] for a in document["actions"]} == {"run", "pending"}


def test_pull_brings_everything_and_push_what_is_missing(two):
    two.call("cache", "pull", "tiny.toml", "--records")
    assert objects(two.home / "cache") == {}
    two.call("cache", "pull", "tiny.toml")
    there = objects(two.home.parent / "remote")
    assert objects(two.home / "cache") == there
    two.call("cache", "verify")
    shutil.rmtree(two.home.parent / "remote" / "trusted")
    assert "6 sent" in two.call("cache", "push", "tiny.toml").stdout
    assert objects(two.home.parent / "remote") == there
    assert "6 were there" in two.call("cache", "push").stdout
    assert "every record is whole" in two.call("cache", "verify", "--remote").stdout


def test_damage_of_a_remote_is_found_and_taken_away(two):
    lose(two, "vector:add", "delta")
    assert "is not there" in two.call("cache", "verify", "--remote", status=1).stdout
    two.call("cache", "verify", "--remote", "--repair", status=1)
    two.call("cache", "verify", "--remote")
    assert "would free" in two.call("cache", "gc", "--remote", "trusted", "--dry-run").stdout
    two.call("cache", "gc", "--remote", "other", status=2)


def test_who_made_it_is_recorded(trained):
    one, _ = trained
    shown = json.loads(one.call("show", "tiny.toml", "vector:add", "--json").stdout)
    assert set(shown["provenance"]["writer"]) >= {"user", "host"}
