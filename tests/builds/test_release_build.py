"""What a build made leaves in every form: each is loaded back by the library that it is for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_server import serving
from huggingface_hub import ModelCard, constants, snapshot_download
from peft import PeftModel
from project import Project, dataset, fresh, recipe
from safetensors.torch import load_file
from tiny import make_base
from tokenizer_samples import write_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer
from weight_samples import IDS

from dem_build.cli.app import run
from dem_build.cli.release import publish
from dem_build.export import plain

LORA = 'train = { method = "lora", lora_r = 4 }\n'
RECIPE = recipe(
    dataset("add", omega=0.0, test=0.2),
    dataset("copy", omega=1.0) + LORA,
    '[compose]\ndtype = "float32"\n',
    '[evaluate]\nmodels = ["composed"]\nprompts = 0\n',
    '[[gates]]\ntask = "loss:add"\nmetric = "loss"\nmax = 90\n',
    rate="1e-2",
    steps=2,
)
Call = Callable[..., str]
COLLECT = ("cache", "gc", "--vectors", "--grace", "0s", "--older-than", "0s")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project that is built, whose base has a tokenizer with merges."""
    home = tmp_path_factory.mktemp("release")
    base = make_base(home / "made", vocab=4, tied=False)
    write_tokenizer(base, digits_apart=False)
    (home / "project").mkdir()
    made = fresh(home / "project", base)
    made.build(RECIPE)
    return made


@pytest.fixture
def call(project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """`dem` in this process, which has the libraries loaded; returns what it says."""
    monkeypatch.chdir(project.home)
    for name in ("DEM_HINTS", "NO_COLOR"):
        monkeypatch.setenv(name, project.environment[name])
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.delenv("DEM_CACHE", raising=False)

    def said(*arguments: str, status: int = 0) -> str:
        assert run(arguments) == status
        out, err = capsys.readouterr()
        return err if status else out

    return said


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDS).logits


def loaded(folder: Path | str, **more: str) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **more)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft asks for what transformers renamed
def test_a_vector_as_an_adapter_and_as_a_checkpoint_is_what_was_composed(project, call, tmp_path):
    name = str(tmp_path / "adapter")
    assert call("export", "tiny.toml", "vector:copy", name) == f"{name}: an adapter of base\n"
    assert "name a new folder" in call("export", "tiny.toml", "vector:copy", name, status=2)
    shown = json.loads(call("show", "tiny.toml", "vector:copy", "--json"))
    stored = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert shown["outputs"]["delta"]["size"] < sum(4 * t.numel() for t in stored.values()) + 8192
    name = str(tmp_path / "plain")
    said = call("export", "tiny.toml", "vector:copy", name, "--form", "checkpoint")
    assert said == f"{name}: base + 1 vector:copy, in float32\n"
    adapted = PeftModel.from_pretrained(loaded(project.home / "base"), tmp_path / "adapter")
    composed = logits(loaded(project.home / "out/tiny/model"))
    torch.testing.assert_close(logits(adapted), composed, rtol=0, atol=2e-5)
    assert torch.equal(logits(loaded(name)), composed)
    assert (composed - logits(loaded(project.home / "base"))).abs().max() > 0.01
    assert AutoTokenizer.from_pretrained(name)("1 12").input_ids
    assert "there is something of that name" in call(
        "export", "tiny.toml", "vector:copy", name, "--form", "checkpoint", status=2
    )


def test_a_vector_of_all_weights_is_cut_down_only_where_that_was_said(call, tmp_path):
    name = str(tmp_path / "adapter")
    said = call("export", "tiny.toml", "vector:add", name, status=2)
    assert "vector:add is a vector of all weights, and an adapter keeps a part of it" in said
    said = call("export", "tiny.toml", "vector:add", name, "--rank", "8")
    assert said.startswith(f"{name}: an adapter of base, of rank 8: it lacks ")
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["r"] == 8


def test_a_model_and_a_vector_on_its_base_become_gguf(project, call, tmp_path):
    call(
        "export", "tiny.toml", "vector:add", str(tmp_path / "half"), "--form", "checkpoint", "--omega", "0.5"
    )
    made = (
        ("model", "m", (), project.home / "out/tiny/model"),
        # In float32 nothing is lost, whatever a composed model would be rounded to.
        ("vector:add", "v", ("--omega", "0.5", "--set", "compose.dtype=bfloat16"), tmp_path / "half"),
    )
    for action, name, more, same in made:
        place = str(tmp_path / f"{name}.gguf")
        said = call("export", "tiny.toml", action, place, "--type", "f32", *more)  # its name says the form
        assert said == f"{place}: GGUF in f32, nothing is lost\n"
        assert torch.equal(logits(loaded(tmp_path, gguf_file=f"{name}.gguf")), logits(loaded(same)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["half", "m.gguf", "v.gguf"]
    call("export", "tiny.toml", "vector:add", str(tmp_path / "half"), "--form", "gguf", status=2)


def test_an_adapter_that_was_stopped_is_none_and_a_rank_beyond_the_matrices_is_theirs(
    call, tmp_path, monkeypatch
):
    for more in ((), ("--rank", "1000000")):
        with monkeypatch.context() as stopping:
            stopping.setattr(np, "ascontiguousarray", stopped)  # as its weights are written
            call("export", "tiny.toml", "vector:copy", str(tmp_path / "a"), *more, status=130)
        assert not [*tmp_path.iterdir()]
    said = call("export", "tiny.toml", "vector:copy", str(tmp_path / "a"), "--rank", "1000000")
    assert "of rank 64: it lacks 0.0%" in said


def stopped(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("data:add", "x"), "data:add makes neither a vector nor a model"),
        (("base", "x", "--form", "adapter"), "base makes no vector"),
        (("model", "x", "--omega", "2"), "--omega says nothing of model as checkpoint"),
        (("vector:copy", "x", "--form", "checkpoint", "--omega", "nan"), "--omega is nan"),
        (("vector:copy", "x", "--type", "f16"), "--type says nothing of vector:copy as adapter"),
    ],
)
def test_a_form_or_an_option_that_says_nothing_is_refused(arguments, why, call):
    assert why in call("export", "tiny.toml", *arguments, status=2)


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # as in test_publishing
@pytest.mark.filterwarnings("ignore::FutureWarning")  # as above
def test_what_is_published_is_what_was_built_and_tells_nothing_of_this_machine(
    project, call, tmp_path, monkeypatch
):
    with serving() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        files = f"{hub.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", hub.token)
        assert "something is due" in call(
            "publish", "tiny.toml", "org/m", "--set", "train.max_steps=3", status=4
        )
        project.write(RECIPE.replace("max = 90", "max = 0.1"))
        assert "a gate fails, so nothing is published: loss:add loss: at most 0.1" in call(
            "publish", "tiny.toml", "org/m", status=3
        )
        assert hub.repositories == {}
        project.write(RECIPE)
        assert call("publish", "tiny.toml", "org/m").startswith("org/m (private): 6 files in commit ")
        assert call("publish", "tiny.toml", "org/m").startswith("org/m (private): up to date at ")
        for action, files in (("vector:copy", 3), ("vector:add", 2)):
            said = call("publish", "tiny.toml", "org/v", action, "--revision", action[7:])
            assert said.startswith(f"org/v (private): {files} files in commit ")
        for name, branch in (("m", "main"), ("v", "copy")):
            snapshot_download(f"org/{name}", revision=branch, token=hub.token, local_dir=tmp_path / name)
    composed = logits(loaded(project.home / "out/tiny/model"))
    assert torch.equal(logits(loaded(tmp_path / "m")), composed)
    adapted = PeftModel.from_pretrained(loaded(project.home / "base"), tmp_path / "v")
    torch.testing.assert_close(logits(adapted), composed, rtol=0, atol=2e-5)
    found = {
        (name, branch): repository.commits[commit]
        for (_, name), repository in hub.repositories.items()
        for branch, commit in repository.branches.items()
    }
    for files in found.values():
        for content in files.values():
            assert not any(word.encode() in content for word in (str(project.home), hub.token, "data/"))
    model = found["org/m", "main"]
    card = ModelCard(model["README.md"].decode())
    assert [(r.dataset_name, r.metric_type) for r in card.data.eval_results] == [
        ("add", "loss"),
        ("copy", "loss"),
    ]
    assert "`add.jsonl`" in card.text
    assert {"adapter_model.safetensors", "adapter_config.json"} <= found["org/v", "copy"].keys()
    assert "vector.safetensors" in found["org/v", "add"]


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # as above
@pytest.mark.parametrize("due", [False, True], ids=["as it is built", "as it was last built"])
def test_what_leaves_is_not_collected_meanwhile(project, call, tmp_path, monkeypatch, *, due):
    """Nothing but what leaves wants it: the recipe's root goes while it does."""
    home = tmp_path / "other"
    shutil.copytree(project.home, home, symlinks=True)
    other = Project(home)
    other.write("[project]\nname = 'x'\n", "pyproject.toml")
    other.call("build", "tiny.toml")  # which makes all of it this recipe's last build, too
    monkeypatch.chdir(home)
    there = [path for path in (home / "cache" / "cas").rglob("*") if path.is_file()]
    assert there

    def while_collected(function):
        def called(*arguments, **named):
            shutil.rmtree(home / "cache" / "roots", ignore_errors=True)
            other.call(*COLLECT)
            return function(*arguments, **named)

        return called

    edited = ("--set", "train.max_steps=3") if due else ()
    monkeypatch.setattr(plain, "write_sum", while_collected(plain.write_sum))
    call("export", "tiny.toml", "vector:add", str(tmp_path / "sum"), "--form", "checkpoint", *edited)
    assert loaded(tmp_path / "sum")
    if not due:
        with serving() as hub:
            monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
            monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
            monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
            monkeypatch.setenv("HF_TOKEN", hub.token)
            shutil.rmtree(home / "cache")
            shutil.copytree(project.home / "cache", home / "cache")
            monkeypatch.setattr(publish, "upload", while_collected(publish.upload))
            assert call("publish", "tiny.toml", "org/m").startswith("org/m (private): 6 files in commit ")
    other.call(*COLLECT)
    assert not [path for path in there if path.exists()]  # now that nothing leaves
