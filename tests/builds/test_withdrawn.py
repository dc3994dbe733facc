"""`dem withdraw`: what it takes out, what it attests, and a check of that which uses nothing of dem."""

from __future__ import annotations

import hashlib
import json
import shutil
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
import rfc8785
from project import EVALUATE, Project, dataset, fresh, recipe, vector_of
from scaled import record_made_up, scaled_project

from dem_build.cli.edit import withdraw as withdrawing
from dem_build.cli.edit.withdraw import withdraw
from dem_build.engine.outcome import Outcome
from dem_build.errors import UsageError
from dem_build.session.session import Call, open_session

if TYPE_CHECKING:
    from pathlib import Path

RECIPE = recipe(
    dataset("add", omega=0.5),
    "# said by the customer\n" + dataset("copy", omega=0.5),
    '[trunk]\ndatasets = ["add"]\ntrain = { max_steps = 2 }\n',
    EVALUATE,
    steps=2,
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    made = fresh(tmp_path_factory.mktemp("project"), tiny_base)
    made.build(RECIPE)
    return made.home


@pytest.fixture
def project(built: Path, tmp_path: Path) -> Project:
    """A copy of the project with its cache, in which nothing is due."""
    return Project(shutil.copytree(built, tmp_path / "project"))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def attested(project: Project) -> dict[str, Any]:
    return json.loads((project.home / "out" / "tiny" / "attestation.json").read_text())


def withdrawn(project: Project) -> list[dict[str, Any]]:
    return json.loads((project.home / "tiny.withdrawn.json").read_text())["withdrawn"]


def taken(preimage: dict[str, Any]) -> set[str]:
    lists = [preimage["inputs"], preimage["sources"], *(g["inputs"] for g in preimage.get("groups", []))]
    return {entry["sha256"] for entries in lists for entry in entries}


def check_by_hand(document: dict[str, Any], cache: Path, forbidden: set[str]) -> set[str]:
    """Follow the model back to files from outside, over the records in the cache; return the digests of those files."""
    outside: set[str] = set()
    known: dict[str, str] = {}
    for action in document["actions"]:
        record = json.loads((cache / "actions" / action["key"][:2] / f"{action['key']}.json").read_text())
        assert record["preimage"] == action["preimage"]
        assert {n: o["sha256"] for n, o in record["outputs"].items()} == action["outputs"]
        assert hashlib.sha256(rfc8785.dumps(action["preimage"])).hexdigest() == action["key"]
        sources = {entry["sha256"] for entry in action["preimage"]["sources"]}
        assert taken(action["preimage"]) - sources <= known.keys()  # all else was made by an action before it
        assert not taken(action["preimage"]) & forbidden
        known |= dict.fromkeys(action["outputs"].values(), action["name"])
        outside |= sources
    assert document["model"] == document["actions"][-1]["outputs"]
    return outside


def test_the_model_of_a_withdrawal_has_nothing_of_it_and_anyone_can_check_that(project):
    data = {name: sha256(project.home / "data" / f"{name}.jsonl") for name in ("add", "copy")}
    vector = vector_of(project, "copy")
    told = project.call("withdraw", "tiny.toml", "copy").stdout
    assert "withdrawn copy: the model has no file, vector, ω or Gram matrix of it" in told
    text = (project.home / "tiny.toml").read_text()
    assert "datasets.copy" not in text
    assert "datasets.add" in text
    [one] = withdrawn(project)
    assert (one["name"], one["files"]) == ("copy", [data["copy"]])
    assert vector in one["made"]
    document = attested(project)
    assert document["entered"] == []
    outside = check_by_hand(document, project.home / "cache", {*one["files"], *one["made"]})
    assert data["add"] in outside
    assert data["copy"] not in outside
    assert document["unknown"] == ["base"]
    # Nothing that is made without it either, such as the tokenizer of every model, is taken for it.
    assert not {*document["model"].values()} & {*one["made"]}


def test_what_is_part_of_other_data_too_is_found(project):
    shutil.copy(project.home / "data" / "copy.jsonl", project.home / "data" / "again.jsonl")
    project.write(RECIPE.replace("[trunk]", dataset("again", omega=0.2) + "\n[trunk]"))
    told = project.call("withdraw", "tiny.toml", "copy", status=1).stdout
    assert "withdrawn copy: the model has it still, by data:again" in told
    found = {(one["name"], one["action"]) for one in attested(project)["entered"]}
    assert ("copy", "data:again") in found
    # Once that is withdrawn as well, so is the first.
    assert "has it still" not in project.call("withdraw", "tiny.toml", "again").stdout
    # And whoever brings it back is told.
    project.write(RECIPE)
    project.build(RECIPE)
    assert (
        "withdrawn copy: the model has it still, by data:copy"
        in project.call("withdraw", "tiny.toml", status=1).stdout
    )


def test_prompts_that_other_data_has_are_said(project):
    rows = (project.home / "data" / "copy.jsonl").read_text().splitlines()
    (project.home / "data" / "some.jsonl").write_text("\n".join(rows[:20]) + "\n")
    project.build(RECIPE.replace("[trunk]", dataset("some", omega=0.2) + "\n[trunk]"))
    told = project.call("withdraw", "tiny.toml", "copy").stdout
    assert "stood in rows of some too, which has them still" in told
    [one] = withdrawn(project)
    assert one["shared"]["some"] > 0


def test_a_recipe_that_would_not_check_keeps_what_it_has_and_nothing_is_withdrawn(project):
    before = (project.home / "tiny.toml").read_text()
    told = project.call("withdraw", "tiny.toml", "add", status=2).stderr  # the trunk is of it
    assert "trunk" in told
    assert (project.home / "tiny.toml").read_text() == before
    assert not (project.home / "tiny.withdrawn.json").exists()


def test_a_withdrawal_that_was_stopped_goes_on(project):
    assert project.call("withdraw", "tiny.toml", "copy", "--dry-run").returncode == 0
    assert not (project.home / "tiny.withdrawn.json").exists()
    data = project.home / "data" / "add.jsonl"
    lines = data.read_text()
    data.write_text(lines + "{broken\n")
    project.call("withdraw", "tiny.toml", "copy", status=1)  # the recipe is without it, and is not built
    assert len(withdrawn(project)) == 1
    data.write_text(lines)
    assert "withdrawn copy" in project.call("withdraw", "tiny.toml", "copy").stdout
    assert "withdrawn copy" in project.call("withdraw", "tiny.toml").stdout
    assert len(withdrawn(project)) == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("copi",), "did you mean `copy`?"),
        ((), "nothing was withdrawn from it"),
        (("add", "copy"), "one name at a time"),
    ],
)
def test_what_cannot_be_withdrawn_is_refused(tmp_path, tiny_base, words, told):
    project = fresh(tmp_path, tiny_base)
    project.write(RECIPE)
    assert told in project.call("withdraw", "tiny.toml", *words, status=2).stderr
    assert (project.home / "tiny.toml").read_text() == RECIPE


def test_a_list_that_is_damaged_is_not_written_over(project):
    place = project.home / "tiny.withdrawn.json"
    place.write_text('{"dem_withdrawn": 1, "withdrawn": [{"name": "x"}]}')
    told = project.call("withdraw", "tiny.toml", "copy", status=2).stderr
    assert "it says what must not come back" in told
    assert "datasets.copy" in (project.home / "tiny.toml").read_text()


def test_what_the_last_build_made_is_listed_though_the_recipe_has_changed_since(tmp_path, monkeypatch):
    path = scaled_project(tmp_path, 2, baselines=0)
    record_made_up(path)
    session = open_session(str(path), Call())
    session.save_root(Outcome({}))
    records = {name: verdict.record for name, verdict in session.plan.verdicts.items()}
    made = {name: record.outputs for name, record in records.items() if record is not None}
    path.write_text(path.read_text().replace("max_steps = 1", "max_steps = 2"))
    monkeypatch.setattr("dem_build.cli.edit.withdraw.build", lambda *_: 1)
    assert withdraw([str(path), "d1"], Call(), dry_run=False) == 1
    [one] = json.loads(path.with_suffix(".withdrawn.json").read_text())["withdrawn"]
    [weights] = made["model"]["weights"].files.values()
    assert {made["vector:d1"]["delta"].digest, weights.digest} <= {*one["made"]}
    assert made["vector:d0"]["delta"].digest not in one["made"]


def test_a_withdrawal_that_was_stopped_once_the_recipe_is_written_stays_on_the_list(
    tmp_path, tiny_base, monkeypatch
):
    project = fresh(tmp_path, tiny_base)
    project.write(RECIPE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEM_HINTS", str(tmp_path / "hints"))

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(withdrawing, "show", stopped)
    with pytest.raises(KeyboardInterrupt):
        withdraw(["tiny.toml", "copy"], Call(), dry_run=False)
    assert "datasets.copy" not in (tmp_path / "tiny.toml").read_text()
    assert [one["name"] for one in withdrawn(project)] == ["copy"]
    # What another call withdraws while this one plans stays on the list too, though this one is refused then.
    project.write(RECIPE + dataset("upper", omega=0.1))
    place, planned = tmp_path / "tiny.withdrawn.json", withdrawing.open_session

    def slow(*asked: Any) -> Any:
        found = planned(*asked)
        place.write_text(json.dumps({"dem_withdrawn": 1, "withdrawn": [{**one, "name": "upper"}]}))
        project.write(RECIPE)
        return found

    [one] = withdrawn(project)
    place.unlink()
    monkeypatch.setattr(withdrawing, "open_session", slow)
    with pytest.raises(UsageError, match="changed by somebody else"):
        withdraw(["tiny.toml", "copy"], Call(), dry_run=False)
    assert [listed["name"] for listed in withdrawn(project)] == ["upper"]
    monkeypatch.setattr(withdrawing, "open_session", planned)
    place.unlink()
    # Stopped before the recipe was written, it is not listed twice by the next call.
    for _ in range(2):
        project.write(RECIPE)
        with pytest.raises(KeyboardInterrupt):
            withdraw(["tiny.toml", "copy"], Call(), dry_run=False)
    assert len(withdrawn(project)) == 1


def test_of_two_withdrawals_at_once_one_is_refused_and_what_the_other_took_out_is_listed(
    tmp_path, tiny_base, monkeypatch
):
    project = fresh(tmp_path, tiny_base)
    project.write(RECIPE + dataset("upper", omega=0.1))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEM_HINTS", str(tmp_path / "hints"))
    monkeypatch.setattr(withdrawing, "build", lambda *_: 1)
    write, refused = withdrawing._write, []

    def other() -> None:
        try:
            withdraw(["tiny.toml", "upper"], Call(), dry_run=False)
        except UsageError as error:
            refused.append(str(error))

    thread = Thread(target=other)

    def meanwhile(*arguments: Any) -> None:
        write(*arguments)
        if not thread.ident:  # the other one comes between the list and the recipe
            thread.start()
            thread.join(1)

    monkeypatch.setattr(withdrawing, "_write", meanwhile)
    assert withdraw(["tiny.toml", "copy"], Call(), dry_run=False) == 1
    thread.join()
    assert "has been changed by somebody else just now" in refused[0]
    text = (tmp_path / "tiny.toml").read_text()
    assert ("datasets.copy" in text, "datasets.upper" in text) == (False, True)
    assert [one["name"] for one in withdrawn(project)] == ["copy"]
