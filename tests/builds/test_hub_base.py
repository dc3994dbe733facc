"""A base from a hub: pinned by the lock, judged by its config, downloaded when it is imported, then not asked for."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import HubServer, serving
from project import Project, files_of, of_hub, ran
from tiny import make_base

from dem_build.checkpoint.reader import open_checkpoint

NAME = "org/tiny"
RECIPE = """\
[base]
model = "org/tiny"
"""
WEIGHTS = "model.safetensors"
PLANNED = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}


@pytest.fixture(scope="module")
def files(tiny_base: Path) -> dict[str, bytes]:
    return files_of(tiny_base) | {"README.md": b"A card.", "onnx/model.onnx": b"not for dem"}


@pytest.fixture
def hub(files: dict[str, bytes]) -> Iterator[HubServer]:
    with serving() as server:
        server.commit("models", NAME, files)
        yield server


@pytest.fixture
def project(tmp_path: Path, hub: HubServer) -> Project:
    return of_hub(Project(tmp_path), hub, RECIPE)


def commit_in(project: Project) -> str:
    return str(json.loads((project.home / "tiny.lock").read_text())["base"]["hub"]["commit"])


def plan(project: Project, *options: str) -> dict[str, object]:
    document: dict[str, object] = json.loads(project.call("plan", "tiny.toml", "--json", *options).stdout)
    return document


def due(project: Project) -> list[str]:
    return [a["name"] for a in plan(project)["actions"] if a["status"] == "run"]


class TestLocking:
    def test_the_commit_and_the_digests_are_pinned_and_no_weights_downloaded(self, project, hub):
        project.call("lock", "tiny.toml")
        pinned = json.loads((project.home / "tiny.lock").read_text())["base"]["hub"]
        assert (pinned["model"], pinned["revision"]) == (NAME, "main")
        assert pinned["commit"] == hub.repositories["models", NAME].branches["main"]
        assert {f["tag"] for f in pinned["files"]} == PLANNED | {WEIGHTS}
        assert set(hub.downloads()) == PLANNED

    def test_what_is_locked_is_not_asked_for_again(self, project, hub):
        project.call("lock", "tiny.toml")
        asked = len(hub.asked)
        assert due(project) == ["base"]
        assert len(hub.asked) == asked

    def test_shards_are_found_by_their_index(self, project, hub, tmp_path):
        base = make_base(tmp_path / "sharded", shards=2)
        hub.commit("models", NAME, base)
        project.call("lock", "tiny.toml")
        pinned = json.loads((project.home / "tiny.lock").read_text())["base"]["hub"]
        assert len([f for f in pinned["files"] if f["tag"].endswith(".safetensors")]) > 1

    @pytest.mark.parametrize("count_is_told", [True, False])
    def test_of_shards_that_are_not_downloaded_the_index_tells_how_many_parameters(
        self, project, hub, tmp_path, count_is_told
    ):
        base = make_base(tmp_path / "sharded", shards=2)
        index = json.loads((base / f"{WEIGHTS}.index.json").read_text())
        if not count_is_told:  # as transformers wrote it before 4.50
            del index["metadata"]["total_parameters"]
        (base / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
        hub.commit("models", NAME, base)
        project.write(RECIPE + 'dtype = "float32"\n')
        project.call("lock", "tiny.toml")
        [told] = [e for e in plan(project)["estimates"] if e["name"] == "base"]
        sizes = [tensor.size for tensor in open_checkpoint(base).tensors.values()]
        assert told["disk"] == 4 * sum(sizes)
        assert not [name for name in hub.downloads() if name.endswith(".safetensors")]

    def test_one_weights_file_counts_before_an_index_and_named_templates_are_pinned(
        self, project, hub, files
    ):
        shards = {
            "model.safetensors.index.json": b'{"weight_map": {"a": "model-1.safetensors"}}',
            "model-1.safetensors": b"",
        }
        extra = {
            "additional_chat_templates/tool_use.jinja": b"{{ tools }}",
            "additional_chat_templates/note.txt": b"",
        }
        hub.commit("models", NAME, files | shards | extra)
        project.call("lock", "tiny.toml")
        pinned = json.loads((project.home / "tiny.lock").read_text())["base"]["hub"]
        named = "additional_chat_templates/tool_use.jinja"
        assert {f["tag"] for f in pinned["files"]} == PLANNED | {WEIGHTS, named}

    def test_a_branch_that_moves_moves_the_lock_only_when_asked_to(self, project, hub, files):
        project.call("lock", "tiny.toml")
        before = commit_in(project)
        later = hub.commit("models", NAME, files | {"README.md": b"Another card."})
        project.call("lock", "tiny.toml")
        assert commit_in(project) == before
        project.call("lock", "tiny.toml", "--upgrade")
        assert commit_in(project) == later

    def test_another_revision_in_the_recipe_is_asked_for(self, project, hub, files):
        project.call("lock", "tiny.toml")
        tagged = hub.commit("models", NAME, files | {"config.json": files["config.json"] + b"\n"}, "v2")
        project.write(RECIPE + 'revision = "v2"\n')
        project.call("lock", "tiny.toml")
        assert commit_in(project) == tagged

    def test_locked_without_a_pin_is_4_and_asks_nothing(self, project, hub):
        failed = project.call("build", "tiny.toml", "--locked", status=4)
        assert "there is no lock" in failed.stderr
        project.call("lock", "tiny.toml")
        asked = len(hub.asked)
        project.write(RECIPE + 'revision = "v2"\n')
        assert "not what is locked: base" in project.call("build", "tiny.toml", "--locked", status=4).stderr
        assert len(hub.asked) == asked


class TestRefused:
    @pytest.mark.parametrize(
        ("config", "said"),
        [
            ({"quantization_config": {"quant_method": "gptq"}}, "is a quantised model (gptq)"),
            ({"vision_config": {}}, "is a vision model (llama)"),
            ({"architectures": ["LlamaForSequenceClassification"]}, "is no causal language model"),
        ],
    )
    def test_a_kind_of_model_is_refused_by_its_config_alone(self, project, hub, files, config, said):
        other = json.dumps(json.loads(files["config.json"]) | config).encode()
        hub.commit("models", NAME, files | {"config.json": other})
        failed = project.call("plan", "tiny.toml", status=2)
        assert "tiny.toml:2: error: base.model: org/tiny at" in failed.stderr
        assert said in failed.stderr
        assert hub.downloads() == ["config.json"]

    def test_pickled_weights_are_refused_with_the_mend(self, project, hub, files):
        kept = {name: data for name, data in files.items() if name != WEIGHTS}
        hub.commit("models", NAME, kept | {"pytorch_model.bin": b""})
        failed = project.call("lock", "tiny.toml", status=2).stderr
        assert "has its weights in pytorch_model.bin" in failed
        assert "from_pretrained('org/tiny').save_pretrained(NEW_FOLDER)" in failed

    def test_a_name_that_nobody_has_is_said_with_its_line(self, project):
        project.write(RECIPE.replace("tiny", "tinny"))
        failed = project.call("lock", "tiny.toml", status=2).stderr
        assert "tiny.toml:2: error: base.model: there is no folder `org/tinny` here" in failed
        assert "the hub has no model 'org/tinny' that you may read" in failed

    def test_a_revision_that_is_not_there_is_said(self, project):
        project.write(RECIPE + 'revision = "v9"\n')
        assert "has no revision 'v9'" in project.call("lock", "tiny.toml", status=2).stderr

    def test_a_hub_out_of_reach_is_said(self, project):
        project.environment["HF_ENDPOINT"] = "http://127.0.0.1:9"
        failed = project.call("build", "tiny.toml", status=2).stderr
        assert "the hub cannot be asked for the model 'org/tiny'" in failed

    def test_offline_without_a_pin_says_how_to_get_one(self, project, hub):
        failed = project.call("build", "tiny.toml", "--offline", status=2).stderr
        assert "is not in the lock, and this build is offline" in failed
        assert "dem lock" in failed
        assert hub.asked == []

    def test_a_gated_model_needs_a_token_which_is_printed_nowhere(self, project, hub):
        hub.repositories["models", NAME].gated = True
        failed = project.call("lock", "tiny.toml", status=2).stderr
        assert "is gated" in failed
        assert "HF_TOKEN" in failed
        project.environment["HF_TOKEN"] = hub.token
        done = project.call("lock", "tiny.toml")
        assert hub.token not in done.stdout + done.stderr + (project.home / "tiny.lock").read_text()


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]) -> Path:
    """A project whose base is imported from a hub that is gone."""
    home = tmp_path_factory.mktemp("imported")
    with serving() as hub:
        hub.commit("models", NAME, files)
        of_hub(Project(home), hub, RECIPE).call("build", "tiny.toml", "--", "base")
    return home


@pytest.fixture
def again(imported: Path, tmp_path: Path, hub: HubServer) -> Project:
    """A copy of it, with a hub that has the same."""
    shutil.copytree(imported, tmp_path / "again", symlinks=True)
    return of_hub(Project(tmp_path / "again"), hub, RECIPE)


class TestImported:
    def test_a_build_with_nothing_due_asks_the_hub_nothing(self, again, hub):
        project = again
        assert "base" not in due(project)
        assert ran(json.loads(project.call("build", "tiny.toml", "--json", "--", "base").stdout)) == []
        assert hub.asked == []

    def test_what_it_was_fetched_as_is_shown(self, again):
        record = json.loads(again.call("show", "tiny.toml", "base", "--json").stdout)
        assert record["provenance"]["fetched"] == [{"model": NAME, "commit": commit_in(again)}]

    def test_a_folder_with_the_same_files_is_the_same_base(self, again, tiny_base):
        again.write(f'[base]\nmodel = "{tiny_base}"\n')
        assert "base" not in due(again)

    def test_a_commit_that_changes_the_card_alone_imports_nothing(self, again, hub, files):
        before = commit_in(again)
        hub.commit("models", NAME, files | {"README.md": b"Another card."})
        again.call("lock", "tiny.toml", "--upgrade")
        assert commit_in(again) != before
        assert "base" not in due(again)

    def test_how_far_a_download_is_stands_in_the_log(self, again):
        assert "bytes of model.safetensors" in again.call("logs", "tiny.toml", "base").stdout

    def test_the_hubs_cache_serves_an_offline_build_and_a_missing_file_is_named(self, again):
        shutil.rmtree(again.home / "cache")
        again.call("build", "tiny.toml", "--offline", "--", "base")
        shutil.rmtree(again.home / "cache")
        for snapshot in again.home.glob("hf/hub/models--*/snapshots/*/model.safetensors"):
            snapshot.unlink()
        failed = again.call("build", "tiny.toml", "--offline", "--", "base", status=1)
        said = failed.stdout + failed.stderr
        assert "model.safetensors of the model 'org/tiny' is not on this machine" in said

    def test_a_commit_that_is_gone_says_how_to_pin_another(self, again, hub, files):
        shutil.rmtree(again.home / "cache")
        shutil.rmtree(again.home / "hf")
        hub.repositories["models", NAME].commits.clear()
        hub.commit("models", NAME, files | {"README.md": b"Another card."})
        failed = again.call("build", "tiny.toml", "--", "base", status=1)
        assert "dem lock --upgrade" in failed.stdout + failed.stderr


def test_a_plan_makes_no_cache(project):
    project.call("plan", "tiny.toml", "--cache", "typo")
    assert not (project.home / "typo").exists()


OVERRIDDEN = """
import sys
from dem_build.session.session import Call, open_session

mine = open_session("tiny.toml", Call(overrides=['base.model="org/tiny"']))
mine.store.make()
mine.save_root()
open_session("tiny.toml", Call()).save_root()
print("begun", flush=True)
sys.stdin.readline()
print(mine.superseded)
"""


def test_what_an_override_brings_in_is_not_asked_for_again_at_the_end(project, hub, files):
    """A hub's `main` that has moved meanwhile, or no longer answers, keeps no build from publishing."""
    config = json.loads(files["config.json"])
    hub.commit("models", "org/other", files | {"config.json": json.dumps(config | {"note": 2}).encode()})
    project.write(RECIPE.replace(NAME, "org/other"))
    with subprocess.Popen(
        [sys.executable, "-c", OVERRIDDEN],
        cwd=project.home,
        env=project.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        hub.commit("models", NAME, files | {"config.json": json.dumps(config | {"note": 1}).encode()})
        assert process.communicate("\n")[0] == "False\n"
