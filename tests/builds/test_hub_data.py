"""Datasets and probes on a hub: a small server on loopback, asked by the real client through the real command line."""

from __future__ import annotations

import io
import json
import shutil
from typing import TYPE_CHECKING

import pytest
from hub_server import HubServer, serving
from project import Project, fresh, of_hub, ran, recipe

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RECIPE = recipe(
    """\
[datasets.math]
hub = "org/math"
config = "main"
validation = { split = "dev" }
test = { split = "test" }
omega = 0.5

[probes.words]
hub = "org/words"
""",
    steps=2,
)
CARD = """\
---
configs:
- config_name: main
  data_files:
  - split: train
    path: main/train-*
  - split: dev
    path: main/dev.jsonl
  - split: test
    path: main/test.csv
- config_name: hard
  data_files: hard/*.jsonl
---
# Sums
"""


def rows(start: int, count: int) -> list[dict[str, str]]:
    return [{"prompt": f"{i} and {i} make", "completion": f" {2 * i}"} for i in range(start, start + count)]


def jsonl(start: int, count: int) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows(start, count)).encode()


def csv(start: int, count: int) -> bytes:
    lines = [f"{row['prompt']},{row['completion']}\n" for row in rows(start, count)]
    return "".join(["prompt,completion\n", *lines]).encode()


def parquet(start: int, count: int) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows(start, count)), file)
    return file.getvalue()


MATH = {
    "README.md": CARD.encode(),
    "main/train-00000-of-00002.parquet": parquet(0, 20),
    "main/train-00001-of-00002.parquet": parquet(20, 20),
    "main/dev.jsonl": jsonl(100, 6),
    "main/test.csv": csv(200, 6),
    "hard/train.jsonl": jsonl(300, 6),
}


def fill(server: HubServer) -> HubServer:
    """Make the same commits on every server: they have the same names, as the cache of another server knows them."""
    server.commit("datasets", "org/math", MATH)
    server.commit("datasets", "org/words", {"words.jsonl": jsonl(400, 5)})
    return server


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> tuple[Path, dict[str, object]]:
    with serving() as server:
        home = tmp_path_factory.mktemp("project")
        project = of_hub(fresh(home, tiny_base), fill(server), RECIPE)
        return home, prepared(project)


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with serving() as server:
        yield fill(server)


@pytest.fixture
def project(tmp_path: Path, hub: HubServer, built: tuple[Path, dict[str, object]]) -> Project:
    """A copy of the built project, with another server that has the same."""
    home, _ = built
    shutil.copytree(home, tmp_path / "project", symlinks=True)
    return of_hub(Project(tmp_path / "project"), hub, RECIPE)


@pytest.fixture
def unlocked(project: Project) -> Project:
    """A project that has asked the hub for nothing yet."""
    (project.home / "tiny.lock").unlink()
    shutil.rmtree(project.home / "hf")
    return project


def due(project: Project, *options: str) -> dict[str, str]:
    document = json.loads(project.call("plan", "tiny.toml", "--json", *options).stdout)
    return {a["name"]: a["status"] for a in document["actions"]}


def prepared(project: Project, *options: str) -> dict[str, object]:
    call = project.call("build", "tiny.toml", "--json", *options, "--", "data:math", "data:words")
    document: dict[str, object] = json.loads(call.stdout)
    return document


def refused(project: Project, text: str, *options: str, status: int = 2) -> str:
    project.write(text)
    return " ".join(project.call("lock", "tiny.toml", *options, status=status).stderr.split())


def splits(project: Project, name: str) -> dict[str, int]:
    shown = json.loads(project.call("show", "tiny.toml", f"data:{name}", "--json").stdout)
    return {split: counts["rows"] for split, counts in shown["provenance"]["splits"].items()}


def test_a_dataset_and_a_probe_are_prepared_and_nothing_is_asked_again(
    built: tuple[Path, dict[str, object]], project: Project, hub: HubServer
) -> None:
    assert ran(built[1]) == ["base", "data:math", "data:words"]
    assert splits(project, "math") == {"train": 40, "validation": 6, "test": 6}
    assert splits(project, "words") == {"train": 0, "validation": 0, "test": 5}
    assert ran(prepared(project)) == []
    assert hub.asked == []


def test_a_plan_downloads_no_data_that_the_hub_knows_the_digest_of(unlocked: Project, hub: HubServer) -> None:
    assert due(unlocked)["data:math"] == "hit"
    assert set(hub.downloads()) == {"README.md", "main/dev.jsonl", "main/test.csv", "words.jsonl"}
    assert not list((unlocked.home / "hf").rglob("*.parquet"))


def test_what_is_recorded_needs_neither_the_hub_nor_its_files(project: Project) -> None:
    shutil.rmtree(project.home / "hf")
    project.environment["HF_ENDPOINT"] = "http://127.0.0.1:9"
    assert ran(prepared(project)) == []
    assert ran(prepared(project, "--offline", "--locked")) == []


def test_a_commit_that_changes_no_data_moves_the_lock_and_prepares_nothing(
    project: Project, hub: HubServer
) -> None:
    commit = hub.commit("datasets", "org/math", MATH | {"README.md": CARD.encode() + b"More words.\n"})
    assert "nothing changed" in project.call("lock", "tiny.toml").stdout
    assert "changed: datasets.math" in project.call("lock", "tiny.toml", "--upgrade").stdout
    assert pin(project, "math")["commit"] == commit
    assert due(project)["data:math"] == "hit"


def test_upgrading_to_other_rows_prepares_them(project: Project, hub: HubServer) -> None:
    hub.commit("datasets", "org/math", MATH | {"main/dev.jsonl": jsonl(900, 7)})
    assert due(project)["data:math"] == "hit"
    project.call("lock", "tiny.toml", "--upgrade")
    found = due(project)
    assert (found["data:math"], found["data:words"], found["vector:math"]) == ("run", "hit", "pending")


def pin(project: Project, name: str) -> dict[str, object]:
    document = json.loads((project.home / "tiny.lock").read_text())
    found: dict[str, object] = document["datasets"][name]["hub"]
    return found


def test_another_name_and_another_split_stay_at_the_locked_commit(project: Project, hub: HubServer) -> None:
    before = pin(project, "math")["commit"]
    hub.commit("datasets", "org/math", {"gone.jsonl": jsonl(0, 1)})
    project.write(RECIPE.replace("datasets.math", "datasets.sums").replace('test = { split = "test" }\n', ""))
    project.call("lock", "tiny.toml")
    assert pin(project, "sums")["commit"] == before


def test_locked_and_unpinned_exits_with_4_and_asks_nothing(project: Project, hub: HubServer) -> None:
    project.write(RECIPE.replace('"main"', '"hard"').replace('{ split = "dev" }', "0.1"))
    call = project.call("build", "tiny.toml", "--locked", status=4)
    assert "not what is locked: datasets.math" in call.stderr
    (project.home / "tiny.lock").unlink()
    assert "there is no lock" in project.call("build", "tiny.toml", "--locked", status=4).stderr
    assert hub.asked == []


def test_offline_uses_what_is_cached_and_names_what_is_missing(project: Project, hub: HubServer) -> None:
    options = ("--offline", "--rebuild", "data:math", "--rebuild", "data:words")
    assert ran(prepared(project, *options)) == ["data:math", "data:words"]
    shutil.rmtree(project.home / "hf")
    call = project.call("build", "tiny.toml", *options, "--", "data:math", "data:words", status=1)
    said = " ".join((call.stdout + call.stderr).split())
    assert "of the dataset 'org/math' is not on this machine, and this build is offline" in said
    (project.home / "tiny.lock").unlink()
    said = " ".join(project.call("build", "tiny.toml", "--offline", status=2).stderr.split())
    assert "the dataset 'org/math' is not in the lock, and this build is offline" in said
    assert hub.asked == []


def test_shares_and_files_hold_out_of_a_hub_dataset_too_and_repeats_are_counted(
    project: Project, hub: HubServer
) -> None:
    (project.home / "dev.jsonl").write_bytes(jsonl(800, 4))
    hub.commit("datasets", "org/math", MATH | {"main/test.csv": csv(0, 6)}, "repeats")
    project.write(
        RECIPE.replace('{ split = "dev" }', '"dev.jsonl"').replace('{ split = "test" }', "0.2")
        + """
[datasets.again]
hub = "org/math"
config = "main"
revision = "repeats"
validation = 0
test = { split = "test" }
omega = 0.5
"""
    )
    project.call("build", "tiny.toml", "--", "data:math", "data:again")
    found = splits(project, "math")
    assert found["validation"] == 4
    assert 0 < found["test"] < 40
    assert found["test"] + found["train"] == 40
    shown = json.loads(project.call("show", "tiny.toml", "data:again", "--json").stdout)
    assert shown["provenance"]["overlap"] == {"validation": 0, "test": 6}


def test_a_split_that_is_also_trained_on_is_refused(project: Project) -> None:
    said = refused(project, RECIPE.replace('split = "test"', 'split = "train"'))
    assert "datasets.math.test: train-00000-of-00002.parquet is also what is trained on for math" in said
    assert "is also the validation set of math" in refused(project, RECIPE.replace('"test" }', '"dev" }'))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("org/math", "org/maths", "datasets.math.hub: the hub has no dataset 'org/maths' that you may read"),
        ("org/math", "not a name", "datasets.math.hub: the hub cannot be asked for the dataset 'not a name'"),
        ('"main"', '"mian"', "no config 'mian' hint: did you mean main? the configs are main, hard"),
        (
            'config = "main"\n',
            "",
            "has several configs, and none is named hint: set `config` to one of main, hard",
        ),
        ('"dev" }', '"dve" }', "no split 'dve' hint: did you mean dev? the splits are train, dev, test"),
        (
            'config = "main"',
            'config = "main"\nrevision = "v9"',
            "the dataset 'org/math' has no revision 'v9'",
        ),
    ],
)
def test_a_name_that_the_hub_does_not_know_is_told_at_its_key(
    unlocked: Project, old: str, new: str, told: str
) -> None:
    said = refused(unlocked, RECIPE.replace(old, new, 1))
    assert told in said
    assert "tiny.toml:13" in said


def test_all_that_the_hub_does_not_have_is_told_at_once(unlocked: Project) -> None:
    said = refused(unlocked, RECIPE.replace("org/", "nobody/"))
    assert "nobody/math" in said
    assert "nobody/words" in said


def test_a_gated_dataset_says_how_to_be_let_in(unlocked: Project, hub: HubServer) -> None:
    hub.repositories["datasets", "org/words"].gated = True
    assert "'org/words' is gated, and you may not read it hint: ask for access" in refused(unlocked, RECIPE)
    unlocked.environment["HF_TOKEN"] = hub.token
    unlocked.call("lock", "tiny.toml")


def test_a_gated_dataset_is_noticed_before_its_large_files_are_wanted(
    unlocked: Project, hub: HubServer
) -> None:
    hub.commit("datasets", "org/words", {"train.parquet": parquet(400, 5)})
    hub.repositories["datasets", "org/words"].gated = True
    assert "is gated" in refused(unlocked, RECIPE)


def test_a_hub_out_of_reach_is_said(unlocked: Project) -> None:
    unlocked.environment["HF_ENDPOINT"] = "http://127.0.0.1:9"
    assert "the hub cannot be asked for the dataset 'org/math'" in refused(unlocked, RECIPE)


def test_a_dataset_made_by_a_script_is_had_from_the_hubs_parquet_files(
    unlocked: Project, hub: HubServer
) -> None:
    hub.commit("datasets", "org/words", {"words.py": b"import os\n", "words.txt": b"a\n"})
    assert "made by a script, words.py, which dem does not run" in refused(unlocked, RECIPE)
    hub.commit("datasets", "org/words", {"en/train/0000.parquet": parquet(400, 5)}, "refs/convert/parquet")
    unlocked.write(RECIPE + 'revision = "refs/convert/parquet"\n')
    unlocked.call("lock", "tiny.toml")
    [file] = json.loads((unlocked.home / "tiny.lock").read_text())["datasets"]["words"]["hub"]["files"]
    assert (file["tag"], file["path"]) == ("test:parquet", "en/train/0000.parquet")


def test_a_card_that_is_no_yaml_is_said(unlocked: Project, hub: HubServer) -> None:
    hub.commit("datasets", "org/words", {"README.md": b"---\n{a: [\n---\n", "a.jsonl": jsonl(0, 1)})
    assert "the card of the dataset 'org/words' cannot be read" in refused(unlocked, RECIPE)


def test_a_downloaded_file_that_was_changed_is_not_prepared(project: Project) -> None:
    blob = next((project.home / "hf").rglob("train-00000*")).resolve()
    blob.chmod(0o644)
    blob.write_bytes(parquet(0, 3))
    options = ("--rebuild", "data:math", "--", "data:math")
    call = project.call("build", "tiny.toml", *options, status=1)
    said = "".join((call.stdout + call.stderr).split())
    assert f"{blob.name}:isnotwhatthelockpins" in said
    blob.unlink()
    project.call("build", "tiny.toml", *options)


def test_a_lock_whose_pin_is_not_whole_is_refused(project: Project) -> None:
    document = json.loads((project.home / "tiny.lock").read_text())
    del document["datasets"]["math"]["hub"]["commit"]
    (project.home / "tiny.lock").write_text(json.dumps(document))
    assert "no whole lock" in project.call("plan", "tiny.toml", status=2).stderr
