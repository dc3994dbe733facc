"""Files that are not here: what a lock tells of them, and where it tells nothing."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from dem_build.errors import RecipeError
from dem_build.graph import build_graph
from dem_build.lock import lock
from dem_build.lock.absent import Absent
from dem_build.lock.pin import ModelRef
from dem_build.recipe import load_recipe
from dem_build.store import Hints

RECIPE = """\
name = "r"
[base]
model = "base"
chat_template = "chat.jinja"
[train]
max_steps = 1
[datasets.add]
path = "data/**/*.jsonl"
omega = 0.5
test = "held/test.jsonl"
[datasets.plain]
path = "plain/rows[1].jsonl"
omega = 0.5
[probes.chat]
path = "probe.jsonl"
[vectors.code]
checkpoint = "org/tuned"
omega = 0.25
[vectors.thin]
adapter = "./thin"
omega = 0.25
[evaluate]
prompts = 0
include_path = "tasks"
tasks = ["words"]
"""
FILES = {
    "base/config.json": json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}),
    "base/tokenizer.json": "{}",
    "base/model.safetensors.index.json": json.dumps({"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}),
    "base/m-1.safetensors": "1",
    "base/m-2.safetensors": "2",
    "base/additional_chat_templates/short.jinja": "short",
    "chat.jinja": "{{ messages }}",
    "data/one.jsonl": "one",
    "data/deep/two.jsonl": "two",
    "held/test.jsonl": "test",
    "plain/rows[1].jsonl": "plain",
    "probe.jsonl": "probe",
    "org/tuned/config.json": json.dumps({"model_type": "llama"}),
    "org/tuned/model.safetensors": "tuned",
    "thin/adapter_config.json": json.dumps({"peft_type": "LORA", "r": 1}),
    "thin/adapter_model.safetensors": "thin",
    "tasks/words.yaml": "task: words\ninclude: _base\nprocess_docs: !function helpers.process\ntest_split: test\n",
    "tasks/_base": "dataset_path: json\ndataset_kwargs: {data_files: {test: docs/*.jsonl}}\n",
    "tasks/helpers.py": "def process(docs):\n    return docs\n",
    "tasks/docs/one.jsonl": "document",
}  # fmt: skip


class Folder:
    """A recipe with local files of every sort, and its lock."""

    def __init__(self, home: Path) -> None:
        self.home = home
        for name, text in FILES.items():
            self.write(name, text)
        self.write("r.toml", RECIPE)
        self.first = self.resolved()
        lock.update(home / "r.lock", self.first, lock.read(home / "r.lock"))

    def write(self, name: str, text: str) -> None:
        (self.home / name).parent.mkdir(parents=True, exist_ok=True)
        (self.home / name).write_text(text)

    def edit(self, old: str, new: str) -> None:
        assert old in RECIPE
        self.write("r.toml", RECIPE.replace(old, new))

    def remove(self, *names: str) -> None:
        for name in names:
            path = self.home / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def resolved(self, *, alone: bool = False) -> lock.Lock:
        hints = Hints(self.home / "hints")
        recipe = load_recipe(self.home / "r.toml")
        document = lock.read(self.home / "r.lock")
        return lock.resolve(
            lock.locate(recipe, Absent(document, recipe.folder, hints, alone=alone)), hints, document
        )

    def absent(self, *, alone: bool = False) -> set[str]:
        graph = build_graph(load_recipe(self.home / "r.toml"), self.resolved(alone=alone))
        found = {s.path for action in graph for s in action.sources if s.absent}
        return {path.relative_to(self.home).as_posix() for path in found}

    def is_locked(self, found: lock.Lock) -> bool:
        """Whether a lock is the one that was written, byte for byte."""
        return lock.document(found, self.home) == lock.read(self.home / "r.lock")

    def mistakes(self) -> set[tuple[str, str]]:
        with pytest.raises(RecipeError) as caught:
            self.resolved()
        return {(problem.key, problem.what) for problem in caught.value.problems}


def told(found: lock.Lock) -> lock.Lock:
    """What a lock's file says: it does not say which files of a task are scored."""
    return replace(found, tasks={name: replace(task, scored=()) for name, task in found.tasks.items()})


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "project")


@pytest.mark.parametrize(
    "gone",
    [
        ("base", "chat.jinja", "data", "held", "plain", "probe.jsonl", "org", "thin", "tasks"),
        ("base",),
        ("base/m-1.safetensors", "base/m-2.safetensors"),
        ("base/m-2.safetensors",),
        ("base/model.safetensors.index.json",),
        ("base/model.safetensors.index.json", "base/m-1.safetensors"),
        ("base/config.json",),
        ("base/config.json", "base/additional_chat_templates", "base/tokenizer.json"),
        ("chat.jinja",),
        ("data",),
        ("held/test.jsonl",),
        ("plain",),
        ("probe.jsonl",),
        ("org",),
        ("org/tuned/model.safetensors",),
        ("thin",),
        ("thin/adapter_config.json",),
        ("thin/adapter_model.safetensors",),
        ("tasks",),
        ("tasks/docs",),
        ("tasks/words.yaml",),
        ("tasks/_base",),
        ("tasks/words.yaml", "tasks/helpers.py"),
    ],
    ids=" ".join,
)
def test_what_is_not_here_is_what_was_locked(folder: Folder, gone: tuple[str, ...]) -> None:
    missing = {name for name in FILES if any(Path(name).is_relative_to(each) for each in gone)}
    folder.remove(*gone)
    found = folder.resolved()
    assert told(found) == told(folder.first)  # all tags and digests, and with them all keys
    assert folder.is_locked(found)
    assert folder.absent() == missing
    (folder.home / "r.lock").unlink()
    assert folder.mistakes()


def test_a_link_that_leads_nowhere_is_not_here(folder: Folder) -> None:
    for name in ("data/one.jsonl", "data/deep/two.jsonl", "base/m-1.safetensors", "probe.jsonl"):
        folder.remove(name)
        (folder.home / name).symlink_to("../.annex/content")
    assert folder.resolved() == folder.first
    assert folder.absent() == {"data/one.jsonl", "data/deep/two.jsonl", "base/m-1.safetensors", "probe.jsonl"}


@pytest.mark.parametrize(
    ("gone", "old", "new", "key"),
    [
        ("base", 'model = "base"', 'model = "bases"', "base.model"),
        ("base", 'model = "base"', 'model = "base/additional_chat_templates"', "base.model"),
        ("base", 'model = "base"', 'model = "base.gguf"', "base.model"),
        ("chat.jinja", "chat.jinja", "talk.jinja", "base.chat_template"),
        ("plain", "rows[1]", "rows[2]", "datasets.plain.path"),
        ("data", "data/**/*.jsonl", "data/**/*.json", "datasets.add.path"),
        ("data", "data/**/*.jsonl", "data/*.jsonl", "datasets.add.path"),  # one of two
        ("data", "data/**/*.jsonl", "data/deep/*.jsonl", "datasets.add.path"),
        ("held", "held/test.jsonl", "held/tests.jsonl", "datasets.add.test"),
        ("probe.jsonl", "probe.jsonl", "probes.jsonl", "probes.chat.path"),
        ("thin", "./thin", "./thinner", "vectors.thin.adapter"),
        ("thin", 'adapter = "./thin"', 'checkpoint = "./thin"', "vectors.thin.checkpoint"),
        ("tasks", 'include_path = "tasks"', 'include_path = "jobs"', "evaluate.tasks"),
    ],
)  # fmt: skip
def test_a_name_that_has_changed_since_is_not_in_the_lock(
    folder: Folder, gone: str, old: str, new: str, key: str
) -> None:
    folder.remove(gone)
    folder.edit(old, new)
    with_lock = folder.mistakes()
    assert {where for where, _ in with_lock} == {key}
    (folder.home / "r.lock").unlink()
    assert folder.mistakes() == with_lock  # the same error as ever


def test_a_pattern_that_means_more_than_was_locked_is_not_in_the_lock(folder: Folder) -> None:
    folder.remove("data", "held", "plain", "probe.jsonl", "tasks")
    folder.edit("data/**/*.jsonl", "**/*.jsonl")  # probes, tests and another dataset too
    [(key, what)] = folder.mistakes()
    assert (key, what) == ("datasets.add.path", "no file matches `**/*.jsonl`")


def test_what_is_here_counts_whatever_was_locked(folder: Folder) -> None:
    folder.remove("base/m-1.safetensors", "data/one.jsonl")
    folder.write("base/tokenizer.json", "{ }")
    found = folder.resolved()
    # A pattern that matches something means what it matches: a file that was deleted is an edit.
    assert [f.path.name for f in found.datasets["add"]] == ["two.jsonl", "test.jsonl"]
    changed = {f.tag for f in found.base.files} - {
        f.tag for f in found.base.files if f in folder.first.base.files
    }
    assert changed == {"tokenizer.json"}
    assert lock.changes(lock.read(folder.home / "r.lock"), found, folder.home) == ["base", "datasets.add"]
    assert lock.dropped(lock.read(folder.home / "r.lock"), found, folder.home) == ["data/one.jsonl"]
    folder.remove("probe.jsonl")
    (folder.home / "probe.jsonl").mkdir()
    assert {key for key, _ in folder.mistakes()} == {"probes.chat.path"}


def test_weights_of_another_layout_are_not_mixed_with_locked_ones(folder: Folder) -> None:
    folder.remove("org/tuned/model.safetensors")
    index = {"weight_map": {"a": "m-1.safetensors"}}
    folder.write("org/tuned/model.safetensors.index.json", json.dumps(index))
    [(key, what)] = folder.mistakes()
    assert key == "vectors.code.checkpoint"
    assert "lacks 1 of 1 shards" in what


def test_a_model_that_dem_does_not_take_is_refused_whatever_is_missing(folder: Folder) -> None:
    folder.remove("base/m-1.safetensors")
    folder.write("base/config.json", json.dumps({"model_type": "llama", "quantization_config": {}}))
    [(_, what)] = folder.mistakes()
    assert "is a quantised model" in what


def test_a_task_that_is_here_and_was_changed_says_itself_what_it_needs(folder: Folder) -> None:
    folder.remove("tasks/docs")
    folder.write("tasks/_base", FILES["tasks/_base"].replace("docs", "texts"))
    [(key, what)] = folder.mistakes()
    assert key == "evaluate.tasks"
    assert "names the data texts/*.jsonl" in what


def test_a_renamed_dataset_is_known_by_its_path(folder: Folder) -> None:
    folder.remove("data", "plain")
    folder.write(
        "r.toml", RECIPE.replace("datasets.add", "datasets.sums").replace("datasets.plain", "datasets.rows")
    )
    found = folder.resolved()
    assert found.datasets["sums"] == folder.first.datasets["add"]
    assert found.datasets["rows"] == folder.first.datasets["plain"]


def test_a_folder_that_was_locked_is_no_hubs_unless_a_revision_says_so(folder: Folder) -> None:
    folder.remove("org")
    assert not lock.locate(
        load_recipe(folder.home / "r.toml"), Absent(lock.read(folder.home / "r.lock"), folder.home)
    ).refs
    folder.edit('"org/tuned"', '"org/tuned"\nrevision = "main"')
    located = lock.locate(
        load_recipe(folder.home / "r.toml"), Absent(lock.read(folder.home / "r.lock"), folder.home)
    )
    assert located.refs == {"vectors.code": ModelRef("checkpoint", "org/tuned", "main")}


def test_an_absolute_path_is_known_from_a_folder_at_another_depth(folder: Folder, tmp_path: Path) -> None:
    far = tmp_path / "far" / "base"
    shutil.move(folder.home / "base", far)
    folder.edit('model = "base"', f"model = {json.dumps(str(far))}")
    first = folder.resolved()
    # A lock far below says the way up to the root of the file system.
    deep = Path("/", *["x"] * 40)
    document = lock.document(first, folder.home)
    for file in document["base"]["files"]:
        if file["tag"] != "chat_template":
            file["path"] = os.path.relpath(far / file["tag"], deep)
    (folder.home / "r.lock").write_text(json.dumps(document))
    shutil.rmtree(far)
    assert folder.resolved() == first
    folder.edit('model = "base"', f"model = {json.dumps(str(far.parent / 'other'))}")
    assert {key for key, _ in folder.mistakes()} == {"base.model"}


@pytest.mark.parametrize("part", [{"path": 3}, {"path": "../x\0"}, {"sha256": "0" * 63}, {"tag": None}])
def test_an_entry_with_a_part_that_is_none_tells_of_no_file(folder: Folder, part: dict[str, object]) -> None:
    document = lock.read(folder.home / "r.lock")
    for entry in (document["base"], *document["datasets"].values()):
        entry["files"][0] |= part
    (folder.home / "r.lock").write_text(json.dumps(document))
    folder.remove("base", "data", "plain", "probe.jsonl")
    keys = {key for key, _ in folder.mistakes()}
    assert keys >= {"base.model", "datasets.add.path", "datasets.plain.path", "probes.chat.path"}


def test_alone_a_lock_tells_all_and_nothing_that_lies_here_counts(folder: Folder) -> None:
    for name in FILES:
        folder.write(name, "other bytes")
    folder.write("data/three.jsonl", "more")
    found = folder.resolved(alone=True)
    assert told(found) == told(folder.first)
    assert folder.absent(alone=True) == {*FILES}
