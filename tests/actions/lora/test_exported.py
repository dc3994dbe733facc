"""What leaves as an adapter is taken back as the vector that it was, by the formula of adapters."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tiny import make_base
from weight_samples import DIGEST, import_base, run_extract

from dem_build.checkpoint.adapter import write_adapter
from dem_build.checkpoint.delta import open_delta
from dem_build.checkpoint.factors import LowRank, Place, write_factors
from dem_build.checkpoint.reader import open_checkpoint
from dem_build.errors import CheckpointError

NAMES = {"model.layers.0.mlp.down_proj.weight": (64, 128), "model.layers.1.self_attn.q_proj.weight": (64, 64)}


def test_an_adapter_holds_the_vector(tmp_path):
    imported = import_base(make_base(tmp_path / "base"), tmp_path / "import")
    rng, vector, weights = np.random.default_rng(0), tmp_path / "vector", imported / "weights"
    factors = {
        name: (
            LowRank(
                rng.standard_normal((rows, 3)).astype(np.float32) * 0.02,
                rng.standard_normal((3, columns)).astype(np.float32) * 0.02,
                8 / 3,
            ),
            Place(name.removesuffix(".weight")),
        )
        for name, (rows, columns) in NAMES.items()
    }
    write_factors(vector, DIGEST, factors)
    write_adapter(vector, tmp_path / "adapter", "org/base", "vector:math")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["fan_in_fan_out"]) == (3, 8, False)
    assert config["base_model_name_or_path"] == "org/base"

    taken, _, said = run_extract(imported, tmp_path / "extract", tmp_path / "adapter", source="adapter")
    assert said == []
    base = open_checkpoint(weights)
    with base, open_delta(vector, base, DIGEST, "ours") as ours, open_checkpoint(taken) as theirs:
        for name in ours.tensors:
            # W + ΔW - W in float32, and r products and sums on either side, of at most 2e-3 here.
            error = 2 * np.spacing(np.abs(base.read(name)) + np.abs(ours.read(name))) + 5e-9
            assert (np.abs(ours.read(name) - theirs.read(name)) <= error).all()
        assert all(ours.read(name).any() for name in NAMES)


def test_a_vector_of_all_weights_is_no_adapter(tmp_path):
    imported = import_base(make_base(tmp_path / "base"), tmp_path / "import")
    with pytest.raises(CheckpointError, match="is no vector of low rank: its format is None"):
        write_adapter(imported / "weights" / "model.safetensors", tmp_path / "adapter", None, "vector:math")


@pytest.mark.parametrize("taken", ["adapter_config.json", "adapter_model.safetensors"])
def test_nothing_is_written_beside_half_of_another_adapter(taken, tmp_path):
    ones = LowRank(np.ones((4, 2), np.float32), np.ones((2, 3), np.float32), 0.5)
    write_factors(tmp_path / "vector", DIGEST, {"up.weight": (ones, Place("up"))})
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / taken).write_bytes(b"another's")
    with pytest.raises(FileExistsError):
        write_adapter(tmp_path / "vector", tmp_path / "adapter", None, "vector:math")
    assert [(f.name, f.read_bytes()) for f in (tmp_path / "adapter").iterdir()] == [(taken, b"another's")]
