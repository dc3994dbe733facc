"""`dem build` as a user calls it: what runs after each edit, interruption and resumption, two builds at once.

Real processes, a real (tiny) base, real trainings. The edits share one built project, and each test leaves it as it
found it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from project import RECIPE, Project, fresh, null_build_imports_nothing, ran, vector_of


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> tuple[Project, dict[str, object]]:
    project = fresh(tmp_path_factory.mktemp("project"), tiny_base)
    return project, project.build()


def test_a_damaged_root_keeps_collection_away_until_a_whole_build_writes_it_anew(
    built: tuple[Project, dict[str, object]],
) -> None:
    project, _ = built
    [root] = (project.home / "cache" / "roots").glob("*.json")
    data = root.read_bytes()
    root.unlink()
    root.write_bytes(data.replace(b'"actions"', b'"bctions"'))
    project.call("build", "tiny.toml", "--", "data:add")
    assert (
        "this root is damaged" in project.call("cache", "gc", "--grace", "0s", "--vectors", status=1).stderr
    )
    assert ran(project.build()) == []
    project.call("cache", "gc", "--grace", "0s", "--vectors")
    assert ran(project.build()) == []


@pytest.mark.parametrize(
    "fields",
    [
        '"built": NaN, "dropped": {"a": NaN, "b": Infinity}',
        '"dropped": {"a": 1' + "0" * 400 + '}, "built": 1' + "0" * 400,
        '"overlap": {"of": {"add": NaN}, "shared": [[NaN]]}',
        '"overlap": {"of": {}, "shared": ' + "[" * 400 + "]" * 400 + "}",
        '"actions": {"model": 3}, "wanted": [NaN], "host": 4',
    ],
)
def test_a_root_that_somebody_made_up_costs_a_build_nothing_but_what_it_said(
    fields: str, built: tuple[Project, dict[str, object]]
) -> None:
    project, _ = built
    [root] = (project.home / "cache" / "roots").glob("*.json")
    root.unlink()
    root.write_text(f'{{"dem-root": 1, "recipe_id": "r", "root": {{{fields}}}}}')
    assert ran(project.build()) == []
    assert json.loads(root.read_text())["root"]["actions"]["model"]
    project.call("cache", "gc", "--dry-run")


def test_the_line_that_ends_an_action_has_the_loss_that_is_recorded(
    built: tuple[Project, dict[str, object]],
) -> None:
    project, first = built
    # Whoever looks once a minute sees nothing before it is all over.
    slow = "import dem_build.engine.build as b, dem_build.cli as c; b.TICK_SECONDS = 60; c.main()"
    process = subprocess.run(
        [sys.executable, "-c", slow, "build", "tiny.toml", "--rebuild", "loss:base:add"],
        cwd=project.home,
        env=project.environment,
        text=True,
        capture_output=True,
        check=True,
    )
    [line] = [line for line in process.stdout.splitlines() if line.startswith("✓ loss:base:add")]
    loss = first["results"]["base"]["loss:add"]["loss"]  # type: ignore[index]
    assert f"loss {loss:.3f}" in line


def test_the_first_build_runs_every_action_and_publishes_a_model(
    built: tuple[Project, dict[str, object]],
) -> None:
    project, first = built
    assert len(ran(first)) == len(first["actions"]) == 10  # type: ignore[arg-type]
    model = Path(str(first["model"]))
    assert model == project.home / "out" / "tiny" / "model"
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= {
        p.name for p in model.iterdir()
    }
    results = first["results"]
    assert set(results) == {"composed", "base"}  # type: ignore[call-overload]
    assert set(results["base"]) == {"loss:add", "loss:copy"}  # type: ignore[index]


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: "# a comment\n\n" + text,
        lambda text: text.replace(
            "learning_rate = 1e-3\nmax_steps = 4", "max_steps = 4\nlearning_rate = 0.001"
        ),
        lambda text: text.replace("datasets.add", "datasets.sums"),
        lambda text: text.replace('name = "tiny"\n', ""),
    ],
    ids=["comment", "key order", "renamed dataset", "no name"],
)
def test_an_edit_that_means_nothing_runs_nothing(built: tuple[Project, dict[str, object]], edit) -> None:
    project, _ = built
    assert ran(project.build(edit(RECIPE))) == []


def test_a_null_build_imports_no_heavy_library(built: tuple[Project, dict[str, object]]) -> None:
    null_build_imports_nothing(built[0], RECIPE)


def test_the_report_is_drawn_once_and_again_where_it_is_missing_or_cut_off(
    built: tuple[Project, dict[str, object]],
) -> None:
    project, _ = built
    report = project.home / "out" / "tiny" / "report.html"
    drawn, before = report.read_text(), report.stat()
    assert drawn.startswith("<!doctype html>")
    assert "Composing" in drawn
    project.build()
    assert (report.stat().st_ino, report.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    report.write_text(drawn[: len(drawn) // 2])
    project.build()
    assert report.read_text() == drawn
    report.unlink()
    assert str(report) in "".join(project.call("report", "tiny.toml").stdout.split())
    assert report.read_text() == drawn


def test_a_shown_model_has_a_line_for_each_vector(built: tuple[Project, dict[str, object]]) -> None:
    project, _ = built
    project.write(RECIPE)
    lines = project.call("show", "tiny.toml").stdout.splitlines()
    for name in ("add", "copy"):
        digest = vector_of(project, name)
        [line] = [x for x in lines if digest in x and x.startswith("preimage.inputs[")]
        assert '"omega": 0.5' in line


def test_a_report_before_its_build_says_what_is_due(built: tuple[Project, dict[str, object]]) -> None:
    project, _ = built
    project.write(RECIPE.replace("max_steps = 4", "max_steps = 5").replace('"tiny"', '"later"'), "later.toml")
    said = " ".join(project.call("report", "later.toml").stdout.split())
    assert "are due: `dem build` runs them" in said
    assert "actions are not recorded" in (project.home / "out" / "later" / "report.html").read_text()
    shutil.rmtree(project.home / "out" / "later")
    (project.home / "later.toml").unlink()


def test_a_deleted_out_is_published_again_and_runs_nothing(built: tuple[Project, dict[str, object]]) -> None:
    project, _ = built
    shutil.rmtree(project.home / "out")
    again = project.build()
    assert ran(again) == []
    assert (Path(str(again["model"])) / "config.json").exists()


def test_a_published_file_that_was_changed_is_put_right(built: tuple[Project, dict[str, object]]) -> None:
    project, first = built
    config = Path(str(first["model"])) / "config.json"
    before = config.read_bytes()
    config.write_text("{}")
    assert ran(project.build()) == []
    assert config.read_bytes() == before


def damage(project: Project, digest: str) -> None:
    """Flip a bit of an object, and put its times back."""
    path = project.home / "cache" / "cas" / "sha256" / digest[:2] / digest
    stat, data = path.stat(), bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def outputs_of(project: Project, name: str) -> dict[str, dict[str, object]]:
    shown: dict[str, dict[str, dict[str, object]]] = json.loads(
        project.call("show", "tiny.toml", name, "--json").stdout
    )
    return shown["outputs"]


def test_damage_that_shows_at_the_end_of_a_build_is_made_again_by_the_same_build(
    built: tuple[Project, dict[str, object]],
) -> None:
    """Nothing is due, so no action opens these: metrics are read for the table, weights are published."""
    project, first = built
    damage(project, str(outputs_of(project, "loss:base:add")["metrics"]["digest"]))
    published = Path(str(first["model"])) / "model.safetensors"
    damage(project, hashlib.sha256(published.read_bytes()).hexdigest())
    shutil.rmtree(project.home / "out")
    again = project.build()
    assert ran(again) == ["loss:base:add", "model"]
    assert again["results"] == first["results"]
    assert published.exists()


def test_a_trailing_blank_line_in_a_data_file_is_cut_off_early(
    built: tuple[Project, dict[str, object]],
) -> None:
    project, _ = built
    rows = project.home / "data" / "add.jsonl"
    before = rows.read_text()
    rows.write_text(before + "\n")
    assert ran(project.build()) == ["data:add"]
    rows.write_text(before)
    assert ran(project.build()) == []


def test_another_omega_composes_and_evaluates_what_it_composed(
    built: tuple[Project, dict[str, object]],
) -> None:
    project, _ = built
    document = project.build(RECIPE.replace("omega = 0.5", "omega = 0.25", 1))
    assert ran(document) == ["loss:composed:add", "loss:composed:copy", "model"]
    assert document["omega"] == {"add": 0.25, "copy": 0.5}


def test_all_omega_zero_gives_the_base_and_evaluates_nothing_twice(
    built: tuple[Project, dict[str, object]],
) -> None:
    project, _ = built
    document = project.build(RECIPE.replace("omega = 0.5", "omega = 0.0"))
    assert ran(document) == ["model"]
    results = document["results"]
    assert results["composed"] == results["base"]  # type: ignore[index]


def test_plan_check_tells_by_its_status_whether_something_is_due(
    built: tuple[Project, dict[str, object]],
) -> None:
    project, _ = built
    project.build()
    project.call("plan", "tiny.toml", "--check")
    project.write(RECIPE.replace("max_steps = 4", "max_steps = 5"))
    due = json.loads(project.call("plan", "tiny.toml", "--check", "--json", status=4).stdout)
    statuses = {a["name"]: a["status"] for a in due["actions"]}
    assert statuses["data:add"] == "hit"
    assert statuses["vector:add"] == "run"
    assert statuses["model"] == "pending"
    assert "params.max_steps: 4 → 5" in project.call("why", "tiny.toml", "vector:add").stdout
    project.build()


def test_no_train_fails_where_a_vector_is_missing_and_trains_nothing(
    built: tuple[Project, dict[str, object]],
) -> None:
    project, _ = built
    document = project.build(RECIPE.replace("max_steps = 4", "max_steps = 5"), "--no-train", status=4)
    assert ran(document) == []
    assert "vector:add" in document["error"]["where"]  # type: ignore[index]
    project.build()


def test_a_log_shows_figures_as_the_build_did(built: tuple[Project, dict[str, object]]) -> None:
    project, _ = built
    lines = project.call("logs", "tiny.toml", "vector:add").stdout.splitlines()
    figures = re.compile(r"4/4 steps  loss \d\.\d{3}  [\d.k]+ tok/s  [\d.]+ [MG]B")
    assert any(figures.fullmatch(line) for line in lines), lines  # what libraries print stands below


def test_the_lock_is_of_the_recipe_as_written_whatever_a_build_sets(
    built: tuple[Project, dict[str, object]], tmp_path: Path
) -> None:
    project, _ = built
    lock = (project.home / "tiny.lock").read_bytes()
    shutil.copytree(project.home / "base", tmp_path / "elsewhere")
    project.call("build", "tiny.toml", "--set", f"base.model={tmp_path / 'elsewhere'}", "--", "base")
    assert (project.home / "tiny.lock").read_bytes() == lock
    project.call("build", "tiny.toml", "--locked", "--", "base")


def test_a_trial_in_the_place_of_the_recipes_own_model_is_said_to_be_one(
    built: tuple[Project, dict[str, object]],
) -> None:
    project, _ = built
    project.build(RECIPE)
    tried = project.call("build", "tiny.toml", "--set", "datasets.add.omega=0.0").stdout
    assert (
        "note: it is the recipe's with --set, in the place of its own, which `dem build tiny.toml` puts"
        in tried
    )
    for call in (("--set", "datasets.add.omega=0.0", "--set", "name=try"), ()):
        assert "with --set" not in project.call("build", "tiny.toml", *call).stdout


def test_locked_refuses_data_that_changed_since_the_lock(built: tuple[Project, dict[str, object]]) -> None:
    project, _ = built
    project.build(RECIPE, "--locked")
    rows = project.home / "data" / "copy.jsonl"
    before = rows.read_text()
    rows.write_text(before + before.splitlines()[0] + "\n")
    document = project.build(RECIPE, "--locked", status=4)
    assert "datasets.copy" in document["error"]["what"]  # type: ignore[index]
    rows.write_text(before)
    project.build(RECIPE, "--locked")


def test_a_mistake_in_the_recipe_is_a_line_and_status_2(built: tuple[Project, dict[str, object]]) -> None:
    project, _ = built
    project.write(RECIPE.replace("learning_rate", "learning_rat"), "typo.toml")
    done = project.call("build", "typo.toml", status=2)
    assert "typo.toml:7" in done.stderr
    assert "learning_rate" in done.stderr


def test_a_missing_data_file_is_said_before_anything_runs(built: tuple[Project, dict[str, object]]) -> None:
    project, _ = built
    project.write(RECIPE.replace("add.jsonl", "ad.jsonl"), "missing.toml")
    done = project.call("check", "missing.toml", status=2)
    assert "datasets.add.path" in done.stderr


def test_a_gate_that_fails_decides_the_exit_status(built: tuple[Project, dict[str, object]]) -> None:
    project, _ = built
    gate = '[[gates]]\ntask = "loss:add"\nmetric = "loss"\nmax = 0.001\n'
    document = project.build(RECIPE + gate, status=3)
    assert document["gates"][0]["passed"] is False  # type: ignore[index]
    assert ran(document) == []


def test_rebuild_trains_again_and_comes_out_as_recorded(built: tuple[Project, dict[str, object]]) -> None:
    project, _ = built
    project.write(RECIPE)
    document = project.build(RECIPE, "--rebuild", "vector:add")
    assert ran(document) == ["vector:add"]
    notes = {a["name"]: a.get("note", "") for a in document["actions"]}  # type: ignore[attr-defined]
    assert "as recorded" in notes["vector:add"]


def test_a_damaged_vector_is_trained_again_and_the_model_is_the_same(
    built: tuple[Project, dict[str, object]],
) -> None:
    project, first = built
    digest = vector_of(project, "add")
    path = project.home / "cache" / "cas" / "sha256" / digest[:2] / digest
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    document = project.build(RECIPE.replace("omega = 0.5", "omega = 0.75", 1))
    assert "vector:add" in ran(document)
    assert project.build()["model_digest"] == first["model_digest"]


def test_a_killed_build_resumes_to_the_vector_of_an_uninterrupted_one(
    tmp_path: Path, tiny_base: Path
) -> None:
    text = RECIPE.split("[datasets.copy]", maxsplit=1)[0].replace("max_steps = 4", "max_steps = 40")
    whole = fresh(tmp_path / "whole", tiny_base)
    whole.build(text)
    killed = fresh(tmp_path / "killed", tiny_base)
    killed.write(text)
    (killed.home / "machine.toml").write_text("checkpoint_seconds = 0\n")
    process = killed.start("build", "tiny.toml")
    wait_for_checkpoint(killed, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (killed.home / "machine.toml").unlink()  # a checkpoint of every step takes longer than the step
    document = killed.build(text)
    notes = {a["name"]: a.get("note", "") for a in document["actions"]}  # type: ignore[attr-defined]
    assert "resumed from step" in notes["vector:add"]
    assert vector_of(killed, "add") == vector_of(whole, "add")


def test_ctrl_c_saves_a_checkpoint_and_exits_with_130(tmp_path: Path, tiny_base: Path) -> None:
    text = RECIPE.split("[datasets.copy]", maxsplit=1)[0].replace("max_steps = 4", "max_steps = 4000")
    project = fresh(tmp_path, tiny_base)
    project.write(text)
    process = project.start("build", "tiny.toml", "--json")
    wait_for(lambda: any(project.home.glob("cache/work/*/*/events.jsonl")), process)
    wait_for(
        lambda: "steps" in "".join(p.read_text() for p in project.home.glob("cache/work/*/*/events.jsonl")),
        process,
    )
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert json.loads(out)["error"]["what"] == "stopped"
    assert list(project.home.glob("cache/work/*/*/checkpoints/*/complete.json"))


def test_two_builds_at_once_train_each_vector_once(tmp_path: Path, tiny_base: Path) -> None:
    project = fresh(tmp_path, tiny_base)
    project.write(RECIPE)
    with ThreadPoolExecutor(2) as pool:
        builds = [pool.submit(project.call, "build", "tiny.toml") for _ in range(2)]
        said = "".join(build.result().stdout + build.result().stderr for build in builds)
    # Not what ran and ended: of two that train at a time the later one says that another has built it.
    assert sorted(re.findall(r"^▸ (vector:\S+) +started", said, re.MULTILINE)) == [
        "vector:add",
        "vector:copy",
    ]
    [digest] = set(re.findall(r"^model .* sha256 (\S+)", said, re.MULTILINE))
    assert len(digest) == 12


def wait_for_checkpoint(project: Project, process: subprocess.Popen[str]) -> None:
    wait_for(lambda: len(list(project.home.glob("cache/work/*/*/checkpoints/*/complete.json"))) > 0, process)


def wait_for(condition, process: subprocess.Popen[str], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
