"""`dem` in a clone that has recipe, lock and cache, and neither base nor data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from project import EVALUATE, RECIPE, Project, dataset, files_of, fresh, ran
from tiny import make_data

from dem_build.errors import NotUpToDateError
from dem_build.lock import lock
from dem_build.plan import History
from dem_build.session.session import planned
from dem_build.store import Store

UPPER = dataset("upper", omega=0.25, test=0.2)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> tuple[Project, dict[str, object]]:
    project = fresh(tmp_path_factory.mktemp("whole"), tiny_base)
    return project, project.build(RECIPE)


@pytest.fixture
def clone(built: tuple[Project, dict[str, object]], tmp_path: Path) -> Project:
    """A folder elsewhere with what git has, and a copy of the cache."""
    home = tmp_path / "clone"
    home.mkdir()
    for name in ("tiny.toml", "tiny.lock"):
        shutil.copy(built[0].home / name, home / name)
    shutil.copytree(built[0].home / "cache", home / "cache")
    return Project(home)


def keys(project: Project) -> dict[str, str]:
    plan = json.loads(project.call("plan", "tiny.toml", "--json").stdout)
    return {action["name"]: action["key"] for action in plan["actions"]}


def record_of(project: Project, action: str) -> Path:
    key = keys(project)[action]
    return project.home / "cache" / "actions" / key[:2] / f"{key}.json"


def digest_in(project: Project, name: str) -> str:
    files = lock.read(project.home / "tiny.lock")["datasets"][name]["files"]
    return str(files[0]["sha256"])


def test_a_clone_publishes_what_was_built_elsewhere(
    built: tuple[Project, dict[str, object]], clone: Project
) -> None:
    first, document = built
    before = (clone.home / "tiny.lock").read_bytes()
    assert keys(clone) == keys(first)
    assert "no mistakes" in clone.call("check", "tiny.toml").stdout
    again = json.loads(clone.call("build", "--locked", "--no-train", "tiny.toml", "--json").stdout)
    assert {action["status"] for action in again["actions"]} == {"hit"}
    assert again["results"] == document["results"]
    assert files_of(clone.home / "out/tiny/model") == files_of(first.home / "out/tiny/model")
    clone.call("report", "tiny.toml")
    assert clone.call("why", "tiny.toml", "vector:add").stdout == "vector:add: hit, recorded\n"
    said = clone.call("lock", "tiny.toml").stdout
    assert "tiny.lock: nothing changed" in said
    assert "not here, and kept as locked: " in said
    assert str(clone.home / "data/add.jsonl") in said.replace("\n", "")
    clone.call("build", "tiny.toml")
    assert (clone.home / "tiny.lock").read_bytes() == before


def test_a_plan_says_what_is_not_here(clone: Project) -> None:
    said = " ".join(clone.call("plan", "tiny.toml").stdout.split())
    assert f"note: not here, and nothing has to read it: {clone.home}/base/config.json, " in said
    plan = json.loads(clone.call("plan", "tiny.toml", "--json").stdout)
    assert plan["absent"][-2:] == [
        {
            "action": f"data:{name}",
            "path": str(clone.home / "data" / f"{name}.jsonl"),
            "sha256": digest_in(clone, name),
        }
        for name in ("add", "copy")
    ]
    record_of(clone, "data:copy").unlink()
    said = " ".join(clone.call("plan", "tiny.toml").stdout.split())
    assert f"warning: data:copy has to read what is not here: {clone.home}/data/copy.jsonl" in said


def test_a_dataset_that_is_here_trains_nothing_else(clone: Project) -> None:
    make_data(clone.home / "made")
    (clone.home / "data").mkdir()
    shutil.copy(clone.home / "made/upper.jsonl", clone.home / "data")
    locked = lock.read(clone.home / "tiny.lock")
    document = clone.build(RECIPE.replace("[compose]", f"{UPPER}\n[compose]"))
    assert ran(document) == sorted(
        ["data:upper", "vector:upper", "model"]
        + [f"loss:composed:{name}" for name in ("add", "copy", "upper")]
        + ["loss:base:upper"]
    )
    now = lock.read(clone.home / "tiny.lock")
    assert now["base"] == locked["base"]
    assert {name: now["datasets"][name] for name in ("add", "copy")} == locked["datasets"]


def test_what_has_to_read_a_file_that_is_not_here_fails_alone(clone: Project) -> None:
    for record in [record_of(clone, name) for name in ("data:add", "model")]:
        record.unlink()
    call = ("build", "tiny.toml", "--locked", "--keep-going", "--json")
    document = json.loads(clone.call(*call, status=1).stdout)
    failed = {a["name"] for a in document["actions"] if a["status"] == "failed"}
    assert failed == {"data:add"}
    path, digest = clone.home / "data/add.jsonl", digest_in(clone, "add")
    assert document["error"]["what"] == f"{path}: is not on this machine; its SHA-256 is {digest}"
    assert document["error"]["hint"] == (
        "put there what was locked, or use a cache that has what data:add makes"
    )
    make_data(clone.home / "data")
    assert ran(clone.build(RECIPE, "--locked")) == ["data:add", "model"]


def test_a_file_that_is_here_and_is_another_is_no_longer_what_was_locked(clone: Project) -> None:
    make_data(clone.home / "data")
    with (clone.home / "data/add.jsonl").open("a") as file:
        file.write('{"prompt": "one more", "completion": " row"}\n')
    refused = clone.call("build", "tiny.toml", "--locked", status=4)
    assert "not what is locked: datasets.add" in refused.stderr
    (clone.home / "data/add.jsonl").unlink()
    assert "0 actions to run" in clone.call("plan", "tiny.toml", "--check").stdout


def test_a_witness_of_a_build_without_files_sees_them_come(clone: Project) -> None:
    clone.cold = True  # a warm call leaves no witness
    for _ in range(3):
        assert "up to date" in clone.call("build", "tiny.toml").stdout
    make_data(clone.home / "data")
    with (clone.home / "data/copy.jsonl").open("a") as file:
        file.write('{"prompt": "one more", "completion": " row"}\n')
    clone.call("plan", "tiny.toml", "--check", status=4)
    assert "datasets.copy" in clone.call("build", "tiny.toml", "--locked", status=4).stderr


@pytest.mark.parametrize("lost", [False, True])
def test_a_vector_to_train_first_is_told_from_a_failure(clone: Project, lost: bool) -> None:
    if lost:
        record_of(clone, "data:copy").unlink()  # whose file is not here
    document = clone.build(
        RECIPE.replace("omega = 0.5\ntest = 0.2", "omega = 0.5\ntest = 0.2\ntrain = {max_steps = 5}", 1),
        *("--no-train", "--keep-going"),
        status=1 if lost else 4,
    )
    failed = [a["name"] for a in document["actions"] if a["status"] == "failed"]  # type: ignore[attr-defined]
    assert failed == ["data:copy", "vector:add"][not lost :]


# What lies nowhere: the recipe and the lock of a revision.


def test_a_revision_is_planned_from_its_text_and_lock_alone(
    built: tuple[Project, dict[str, object]], tmp_path: Path
) -> None:
    project, _ = built
    written = (project.home / "tiny.toml").read_bytes()
    locked = lock.parse((project.home / "tiny.lock").read_bytes(), Path("tiny.lock"))
    store = Store.open(project.home / "cache", make=False)
    for home in (project.home, tmp_path / "nowhere"):
        found = planned(home / "tiny.toml", written, locked, store.records)
        assert {name: v.key for name, v in found.plan.verdicts.items()} == keys(project)
        assert found.plan.up_to_date
        assert found.stale == ()
    # The working tree has other bytes by now.
    make_data(tmp_path / "data")
    (tmp_path / "data/add.jsonl").write_text("{}\n")
    (tmp_path / "tiny.toml").write_text("no recipe")
    assert planned(tmp_path / "tiny.toml", written, locked, store.records).plan.up_to_date
    edited = written.replace(b"omega = 0.5", b"omega = 0.25", 1)
    history = History({name: v.key for name, v in found.plan.verdicts.items() if v.key})
    verdicts = planned(tmp_path / "tiny.toml", edited, locked, store.records, history).plan.verdicts
    assert [n for n, v in verdicts.items() if v.status == "run"] == ["model"]
    assert "0.25 × vector:add" in str(verdicts["model"].reason)


@pytest.mark.parametrize(
    ("old", "new", "missing"),
    [
        ("data/add.jsonl", "data/sums.jsonl", "datasets.add.path"),
        ('model = "base"', 'model = "org/base"', "base"),
        ('model = "base"', 'model = "bases"', "base.model"),
        ("[evaluate]", '[evaluate]\ntasks = ["arc_easy"]', "evaluate.tasks"),
    ],
)
def test_a_lock_that_lacks_what_a_recipe_names_is_out_of_date(
    built: tuple[Project, dict[str, object]], old: str, new: str, missing: str
) -> None:
    project, _ = built
    locked = lock.read(project.home / "tiny.lock")
    store = Store.open(project.home / "cache", make=False)
    text = (project.home / "tiny.toml").read_text().replace(old, new)
    with pytest.raises(NotUpToDateError, match=f"does not tell of {missing}"):
        planned(project.home / "tiny.toml", text.encode(), locked, store.records)
    with pytest.raises(NotUpToDateError, match="there is no lock"):
        planned(project.home / "tiny.toml", text.encode(), None, store.records)


def test_a_lock_that_has_more_than_a_recipe_names_says_so(
    built: tuple[Project, dict[str, object]],
) -> None:
    project, _ = built
    locked = lock.read(project.home / "tiny.lock")
    store = Store.open(project.home / "cache", make=False)
    text = (project.home / "tiny.toml").read_text().split("[datasets.copy]")[0] + EVALUATE
    found = planned(project.home / "tiny.toml", text.encode(), locked, store.records)
    assert found.stale == ("datasets.copy",)
