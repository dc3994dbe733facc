"""Vectors from a hub: pinned by the lock, judged before any weights are downloaded, downloaded to be extracted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hub_server import HubServer, serving
from peft import LoraConfig, get_peft_model
from project import Project, files_of, of_hub, ran
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from weight_samples import trained_elsewhere

# peft asks models for what transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")

CODE, STYLE = "org/code", "org/style"
RECIPE = """\
[base]
model = "base"

[train]
vector_dtype = "float32"

[vectors.code]
checkpoint = "org/code"
omega = 0.5

[vectors.style]
adapter = "org/style"
revision = "v1"
omega = 0.25

[compose]
dtype = "float32"
"""
EXTRACT = ("--", "vector:code", "vector:style")
JUDGED = {"config.json", "adapter_config.json"}
WEIGHTS = {"model.safetensors", "adapter_model.safetensors"}


@pytest.fixture(scope="module")
def fine_tunes(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> dict[str, dict[str, bytes]]:
    """The files of a checkpoint and of an adapter, with what else hubs hold beside them."""
    folder = tmp_path_factory.mktemp("theirs")
    trained_elsewhere(tiny_base, folder / "code")
    model = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    adapted = get_peft_model(model, LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj"]))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data += 0.01
    adapted.save_pretrained(folder / "style")
    beside = {"tokenizer.json": b"{}", "pytorch_model.bin": b"not for dem", "runs/log.json": b"{}"}
    return {
        CODE: files_of(folder / "code") | beside,
        STYLE: files_of(folder / "style") | {"optimizer.pt": b"not for dem"},
    }


@pytest.fixture
def hub(fine_tunes: dict[str, dict[str, bytes]]) -> Iterator[HubServer]:
    with serving() as server:
        publish(server, fine_tunes)
        yield server


def publish(server: HubServer, fine_tunes: dict[str, dict[str, bytes]]) -> None:
    server.commit("models", CODE, fine_tunes[CODE])
    server.commit("models", STYLE, fine_tunes[STYLE], "v1")


@pytest.fixture
def project(tmp_path: Path, hub: HubServer, tiny_base: Path) -> Project:
    shutil.copytree(tiny_base, tmp_path / "base")
    return of_hub(Project(tmp_path), hub, RECIPE)


def pins(project: Project) -> dict[str, dict]:
    vectors = json.loads((project.home / "tiny.lock").read_text())["vectors"]
    return {name: entry["hub"] for name, entry in vectors.items()}


class TestLocking:
    def test_commit_and_digests_are_pinned_and_no_weights_downloaded(self, project, hub):
        project.call("lock", "tiny.toml")
        code, style = pins(project)["code"], pins(project)["style"]
        assert (code["checkpoint"], code["revision"]) == (CODE, "main")
        assert code["commit"] == hub.repositories["models", CODE].branches["main"]
        assert (style["adapter"], style["revision"]) == (STYLE, "v1")
        assert {f["tag"] for f in code["files"]} == {"config.json", "model.safetensors"}
        assert {f["tag"] for f in style["files"]} == {"adapter_config.json", "adapter_model.safetensors"}
        assert set(hub.downloads()) == JUDGED

    def test_what_is_locked_is_not_asked_for_again_under_any_name(self, project, hub):
        project.call("lock", "tiny.toml")
        asked = len(hub.asked)
        project.write(RECIPE.replace("vectors.code", "vectors.other"))
        project.call("lock", "tiny.toml")
        assert pins(project).keys() == {"other", "style"}
        assert len(hub.asked) == asked

    def test_a_branch_that_moves_moves_the_lock_only_when_asked_to(self, project, hub, fine_tunes):
        project.call("lock", "tiny.toml")
        before = pins(project)
        later = hub.commit("models", CODE, fine_tunes[CODE] | {"README.md": b"A card."})
        assert "nothing changed" in project.call("lock", "tiny.toml").stdout
        assert "vectors.code" in project.call("lock", "tiny.toml", "--upgrade").stdout
        after = pins(project)
        assert after["code"]["commit"] == later != before["code"]["commit"]
        assert after["code"]["files"] == before["code"]["files"]
        assert after["style"] == before["style"]

    def test_locked_without_a_pin_is_4_and_asks_nothing(self, project, hub):
        project.call("lock", "tiny.toml")
        asked = len(hub.asked)
        project.write(RECIPE.replace('"v1"', '"v2"'))
        failed = project.call("build", "tiny.toml", "--locked", status=4).stderr
        assert "not what is locked: vectors.style" in failed
        assert len(hub.asked) == asked

    def test_one_name_as_checkpoint_and_as_adapter_is_two_questions(self, project):
        project.call("lock", "tiny.toml")
        project.write(RECIPE.replace('checkpoint = "org/code"', 'adapter = "org/code"'))
        failed = project.call("lock", "tiny.toml", status=2).stderr
        assert "vectors.code.adapter: org/code at" in failed
        assert "is a whole model, not an adapter" in failed


class TestRefused:
    def test_every_one_is_refused_at_once_by_its_config_alone(self, project, hub, fine_tunes):
        config = json.loads(fine_tunes[CODE]["config.json"]) | {
            "quantization_config": {"quant_method": "awq"}
        }
        hub.commit("models", CODE, fine_tunes[CODE] | {"config.json": json.dumps(config).encode()})
        adapter = json.loads(fine_tunes[STYLE]["adapter_config.json"]) | {"peft_type": "IA3"}
        changed = {"adapter_config.json": json.dumps(adapter).encode()}
        hub.commit("models", STYLE, fine_tunes[STYLE] | changed, "v1")
        failed = project.call("plan", "tiny.toml", status=2).stderr
        assert "tiny.toml:8: error: vectors.code.checkpoint: org/code at" in failed
        assert "is a quantised model (awq)" in failed
        assert "vectors.style.adapter: org/style at" in failed
        assert "is an adapter of type IA3" in failed
        assert set(hub.downloads()) == JUDGED

    def test_a_pickled_adapter_is_refused_with_the_mend(self, project, hub, fine_tunes):
        kept = {n: d for n, d in fine_tunes[STYLE].items() if n not in WEIGHTS}
        hub.commit("models", STYLE, kept | {"adapter_model.bin": b"\x80"}, "v1")
        failed = project.call("lock", "tiny.toml", status=2).stderr
        assert "PeftModel.from_pretrained(BASE, 'org/style').save_pretrained(NEW_FOLDER)" in failed

    def test_a_name_that_is_nowhere_is_said_with_its_line(self, project):
        project.write(RECIPE.replace("org/code", "org/coda"))
        failed = project.call("lock", "tiny.toml", status=2).stderr
        assert "tiny.toml:8: error: vectors.code.checkpoint: there is no folder `org/coda` here" in failed
        assert "the hub has no model 'org/coda' that you may read" in failed

    def test_offline_without_a_pin_says_how_to_get_one(self, project, hub):
        failed = project.call("build", "tiny.toml", "--offline", status=2).stderr
        assert "the model 'org/code' is not in the lock, and this build is offline" in failed
        assert hub.asked == []


@pytest.fixture(scope="module")
def extracted(
    tmp_path_factory: pytest.TempPathFactory, fine_tunes: dict[str, dict[str, bytes]], tiny_base: Path
) -> Path:
    """A project whose vectors are extracted from a hub that is gone."""
    home = tmp_path_factory.mktemp("extracted")
    shutil.copytree(tiny_base, home / "base")
    with serving() as hub:
        publish(hub, fine_tunes)
        project = of_hub(Project(home), hub, RECIPE)
        project.call("build", "tiny.toml", *EXTRACT)
        assert set(hub.downloads()) == JUDGED | WEIGHTS
    return home


@pytest.fixture
def again(extracted: Path, tmp_path: Path, hub: HubServer) -> Project:
    """A copy of it, with a hub that has the same."""
    shutil.copytree(extracted, tmp_path / "again", symlinks=True)
    return of_hub(Project(tmp_path / "again"), hub, RECIPE)


def built(project: Project, *options: str) -> list[str]:
    return ran(json.loads(project.call("build", "tiny.toml", "--json", *options, *EXTRACT).stdout))


class TestExtracted:
    def test_the_vector_is_fine_tune_minus_base_and_names_its_commit(self, again, fine_tunes):
        record = json.loads(again.call("show", "tiny.toml", "vector:code", "--json").stdout)
        assert record["provenance"]["fetched"] == [{"model": CODE, "commit": pins(again)["code"]["commit"]}]
        digest = record["outputs"]["delta"]["digest"]
        made = load_file(again.home / "cache" / "cas" / "sha256" / digest[:2] / digest)
        (again.home / "code.safetensors").write_bytes(fine_tunes[CODE]["model.safetensors"])
        tuned = load_file(again.home / "code.safetensors")
        base = load_file(again.home / "base" / "model.safetensors")
        for name, values in made.items():
            assert torch.equal(values, tuned[name].float() - base[name].float())

    def test_a_build_with_nothing_due_asks_the_hub_nothing(self, again, hub):
        assert built(again, "--locked") == []
        assert hub.asked == []

    def test_a_folder_with_the_same_files_is_the_same_vector(self, again, fine_tunes):
        folder = again.home / "org" / "code"
        folder.mkdir(parents=True)
        for name in ("config.json", "model.safetensors"):
            (folder / name).write_bytes(fine_tunes[CODE][name])
        assert built(again) == []
        assert "files" in json.loads((again.home / "tiny.lock").read_text())["vectors"]["code"]

    def test_a_commit_that_changes_the_card_alone_extracts_nothing(self, again, hub, fine_tunes):
        hub.commit("models", CODE, fine_tunes[CODE] | {"README.md": b"A card."})
        again.call("lock", "tiny.toml", "--upgrade")
        assert built(again) == []

    def test_the_hubs_cache_serves_an_offline_build_and_a_missing_file_is_named(self, again):
        shutil.rmtree(again.home / "cache")
        for snapshot in again.home.glob("hf/hub/models--*/snapshots/*/model.safetensors"):
            snapshot.unlink()
        made = again.call("build", "tiny.toml", "--json", "--offline", "--keep-going", *EXTRACT, status=1)
        assert ran(json.loads(made.stdout)) == ["base", "vector:style"]
        assert "model.safetensors of the model 'org/code' is not on this machine" in made.stderr
