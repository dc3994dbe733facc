"""Adapters that are cut out of vectors of all weights: the best of their rank, with what they lack told."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tiny import make_base
from transformers import AutoModelForCausalLM
from weight_samples import DIGEST, IDS, import_base, random_vector

from dem_build.checkpoint.adapter import write_adapter
from dem_build.checkpoint.delta import delta_shapes, open_delta, write_delta
from dem_build.checkpoint.factors import write_factors
from dem_build.checkpoint.reader import open_checkpoint
from dem_build.export.low_rank import layers_of, truncate, truncated
from dem_build.export.plain import write_config, write_sum


@pytest.mark.parametrize("shape", [(24, 40), (40, 24)])
@pytest.mark.parametrize("rank", [1, 5, 24, 30])
def test_no_matrix_of_the_rank_is_nearer(shape, rank):
    matrix = np.random.default_rng(0).standard_normal(shape)
    found, missing = truncate(matrix, rank)
    assert (found.b.shape, found.a.shape) == ((shape[0], rank), (rank, shape[1]))
    singular = np.linalg.svd(matrix, compute_uv=False)
    assert missing == pytest.approx((singular[rank:] ** 2).sum(), abs=1e-9)
    left = matrix - found.b.astype(np.float64) @ found.a
    assert (left**2).sum() == pytest.approx(missing, rel=1e-5, abs=1e-9)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft asks for what transformers renamed
def test_base_adapter_and_sum_agree_where_the_rank_is_whole(tmp_path):
    """A vector of linear layers alone: at full rank peft's model is base plus vector, which transformers loads."""
    base = import_base(make_base(tmp_path / "source", dtype="float32", tied=False), tmp_path / "import")
    weights = open_checkpoint(base / "weights")
    places = layers_of(base / "config", weights.tensors, "base")
    assert len(places) == 14
    assert places["model.layers.1.mlp.up_proj.weight"].module == "model.layers.1.mlp.up_proj"
    vector = {n: v if n in places else np.zeros_like(v) for n, v in random_vector(base, 1).items()}
    delta = written(tmp_path / "linear", weights, vector)
    factors, loss = truncated(delta, places, 64)
    assert loss.beside == 0
    assert loss.total < 1e-6
    write_factors(tmp_path / "factors", DIGEST, factors)
    write_adapter(tmp_path / "factors", tmp_path / "adapter", None, "v")
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["r"] == 64
    write_sum(tmp_path / "sum", weights, delta, 1.0, "float32")
    write_config(tmp_path / "sum", base / "config", "float32")
    summed = AutoModelForCausalLM.from_pretrained(tmp_path / "sum")
    assert summed.dtype == torch.float32
    original = AutoModelForCausalLM.from_pretrained(tmp_path / "source")
    with torch.no_grad():
        before = original.eval()(IDS).logits
        adapted = PeftModel.from_pretrained(original, tmp_path / "adapter").eval()(IDS).logits
        assert (adapted - before).abs().max() > 0.05
        torch.testing.assert_close(adapted, summed.eval()(IDS).logits, rtol=0, atol=2e-5)


def test_what_no_adapter_holds_is_told_apart(tmp_path):
    base = import_base(make_base(tmp_path / "source", dtype="float32"), tmp_path / "import")
    weights = open_checkpoint(base / "weights")
    places = layers_of(base / "config", weights.tensors, "base")
    vector = random_vector(base, 2)
    factors, loss = truncated(written(tmp_path / "all", weights, vector), places, 3)
    square = {n: float((v.astype(np.float64) ** 2).sum()) for n, v in vector.items()}
    lost = sum((np.linalg.svd(vector[n], compute_uv=False)[3:] ** 2).sum() for n in places)
    beside = sum(v for n, v in square.items() if n not in places)
    whole = sum(square.values())
    assert loss.beside == pytest.approx((beside / whole) ** 0.5, rel=1e-5)
    assert loss.total == pytest.approx(((lost + beside) / whole) ** 0.5, rel=1e-5)
    assert {found.a.shape[0] for found, _ in factors.values()} == {3}


def test_half_of_a_vector_is_half_of_it(tmp_path):
    base = import_base(make_base(tmp_path / "source"), tmp_path / "import")
    weights = open_checkpoint(base / "weights")
    vector = random_vector(base, 3)
    write_sum(tmp_path / "sum", weights, written(tmp_path / "v", weights, vector), 0.5, "float32")
    stored, theta = (
        load_file(tmp_path / "sum" / "model.safetensors"),
        load_file(base / "weights" / "model.safetensors"),
    )
    for name, values in vector.items():
        torch.testing.assert_close(stored[name], theta[name].float() + 0.5 * torch.from_numpy(values))


def written(path, weights, vector):
    """A vector as a build stores one, in float32."""
    write_delta(path, DIGEST, delta_shapes(weights), vector.items(), "float32")
    return open_delta(path, weights, DIGEST, "v")
