"""Several recipes in one call: whatever can be told of the last is told before the first is built."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file

from dem_build.cli.app import run
from dem_build.engine.preflight import refuse_unmergeable
from dem_build.errors import CheckpointError
from dem_build.session.session import Call, open_session

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FIRST = '[base]\nmodel = "{}"\n[datasets.a]\npath = "rows.jsonl"\nomega = 1.0\n'
ADAPTER = FIRST + '[vectors.style]\nadapter = "{}"\nomega = 1.0\n'
LORA = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}


@pytest.fixture
def both(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """Write a recipe that can be built and a second one; return the call of both."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEM_HINTS", str(tmp_path / "hints"))
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n')

    def write(second: str, *, base: str = str(tiny_base), adapter: str = "") -> list[str]:
        (tmp_path / "a.toml").write_text(FIRST.format(tiny_base))
        (tmp_path / "b.toml").write_text(second.format(base, adapter))
        return ["build", "--json", "a.toml", "b.toml"]

    return write


def write_adapter(folder: Path, width: int = 64, rank: int = 4, **config: object) -> str:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps(LORA | config))
    stem = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"
    shapes = {"A": (rank, width), "B": (width, rank)}
    tensors = {stem.format(n, h): torch.zeros(shape) for n in (0, 1) for h, shape in shapes.items()}
    save_file(tensors, folder / "adapter_model.safetensors")
    return str(folder)


def refused(call: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, status: int) -> str:
    assert run(call) == status
    first, second = json.loads(capsys.readouterr().out)
    assert first["error"]["what"] == "not built, as b.toml cannot be"
    assert not (tmp_path / "cache").exists()
    return json.dumps(second["error"])


@pytest.mark.parametrize(
    ("adapter", "status", "what"),
    [
        ({"init_lora_weights": "pissa"}, 2, "was started by 'pissa'"),
        ({"width": 128}, 1, "of shape (128, 128), and the base's is (64, 64)"),
        ({"rank": 2}, 1, "has rank 2, and its config says r = 4"),
    ],
    ids=["kind", "shape", "rank"],
)
def test_an_adapter_that_cannot_be_merged_is_told_first(both, capsys, tmp_path, adapter, status, what):
    call = both(ADAPTER, adapter=write_adapter(tmp_path / "adapter", **adapter))
    assert what in refused(call, capsys, tmp_path, status)


def test_rows_of_tokens_that_the_recipe_adds_are_the_bases_as_well(both, tmp_path):
    adapter = tmp_path / "adapter"
    write_adapter(adapter, target_modules=["embed_tokens"])
    stem = "base_model.model.model.embed_tokens.lora_embedding_"
    tensors = {
        f"{stem}A": torch.zeros(4, 260),
        f"{stem}B": torch.zeros(64, 4),
    }  # the base's files have 259 rows
    save_file(tensors, adapter / "adapter_model.safetensors")
    both(ADAPTER, adapter=str(adapter))
    with pytest.raises(CheckpointError, match=r"of shape \(260, 64\), and the base's is \(259, 64\)"):
        refuse_unmergeable(open_session("b.toml", Call()).plan)
    refuse_unmergeable(open_session("b.toml", Call(overrides=['base.added_tokens=["<tool>"]'])).plan)


def test_an_adapters_file_that_is_cut_off_is_left_to_who_says_so(both, tmp_path):
    both(ADAPTER, adapter=write_adapter(tmp_path / "adapter"))
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    refuse_unmergeable(open_session("b.toml", Call()).plan)


def test_memory_that_is_not_there_is_told_first(both, capsys, tmp_path, monkeypatch):
    both_fit = both(FIRST + '[baselines.mix]\nmethod = "mixing"\n')
    monkeypatch.setattr("dem_build.estimate.fits.least_memory", lambda *_: 10**18)
    (tmp_path / "a.toml").write_text(f'[base]\nmodel = "{tmp_path}/none"\n' + FIRST.split("\n", 2)[2])
    assert run(both_fit) == 2  # the gravest of both
    first, second = json.loads(capsys.readouterr().out)
    assert "no such folder" in json.dumps(first["error"])
    assert "cannot fit" in second["error"]["what"]


def test_a_target_that_the_second_has_not_is_told_first(both, capsys, tmp_path):
    call = [*both(FIRST.replace("datasets.a", "datasets.b")), "--", "vector:a"]
    assert "vector:a" in refused(call, capsys, tmp_path, 2)


def test_what_an_earlier_recipe_publishes_is_waited_for(both, capsys, tmp_path):
    call = both(FIRST + "seed = 1\n", base="out/a/model")
    said = refused(call, capsys, tmp_path, 2)
    assert "datasets.a.seed" in said
    assert "base.model" not in said


def test_what_none_publishes_is_missed_in_every_recipe(both, capsys, tmp_path):
    assert "no such folder" in refused(both(FIRST, base="out/c/model"), capsys, tmp_path, 2)
