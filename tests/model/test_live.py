"""A model that is composed in memory: bit for bit the one that `compose` writes and `load_model` loads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from families import make_family
from weight_samples import DIGEST, import_base, random_vector, run_compose, store_vector

from dem_build.checkpoint.combine import combine
from dem_build.checkpoint.factors import LowRank, Place, write_factors
from dem_build.errors import CheckpointError
from dem_build.model import live as live_models
from dem_build.model.live import LiveModel, ModelFiles, load_live
from dem_build.model.load import load_model

DIGESTS = ("0" * 64, "1" * 64)
METHODS = {
    "dem": {},
    "interpolation": {},
    "ties": {"density": 0.5, "scale": 0.7},
    "dare": {"density": 0.5, "scale": 1.0, "seed": 7},
    "slerp": {},
}


@pytest.fixture(scope="module")
def imported(tmp_path_factory, tiny_base) -> Path:
    return import_base(tiny_base, tmp_path_factory.mktemp("import"))


@pytest.fixture(scope="module")
def vectors(tmp_path_factory, imported) -> list[Path]:
    folder = tmp_path_factory.mktemp("vectors")
    return [
        store_vector(folder / f"{seed}", random_vector(imported, seed), dtype)
        for seed, dtype in ((1, "bfloat16"), (2, "int8"))
    ]


def live(imported: Path, vectors: list[Path], dtype: str = "bfloat16") -> LiveModel:
    files = ModelFiles(imported / "weights", DIGEST, imported / "config")
    return load_live(files, dict(zip(DIGESTS, vectors, strict=True)), dtype)


def bits(model: torch.nn.Module) -> dict[str, bytes]:
    return {
        n: t.contiguous().view(-1).view(torch.uint8).numpy().tobytes() for n, t in model.state_dict().items()
    }


def built(imported, folder, terms, dtype="bfloat16", **how) -> dict[str, bytes]:
    out = run_compose(imported, folder, terms, dtype=dtype, **how).out
    return bits(
        load_model(out / "weights", out / "config", dtype=getattr(torch, dtype), device=torch.device("cpu"))
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_it_is_the_built_model_however_it_got_there(imported, vectors, tmp_path, dtype):
    model = live(imported, vectors, dtype)
    assert bits(model.model) == built(imported, tmp_path / "base", [], dtype)
    there = {DIGESTS[0]: 0.5, DIGESTS[1]: -0.25}
    assert model.become("dem", {}, there, threads=2)
    found = bits(model.model)
    assert found == built(imported, tmp_path / "sum", list(zip(vectors, (0.5, -0.25), strict=True)), dtype)
    assert not model.become("dem", {}, there)
    # By many small steps, the last of which leads back.
    for step in range(5):
        model.become("dem", {}, {DIGESTS[0]: 0.1 * step, DIGESTS[1]: 0.3})
    assert bits(model.model) != found
    model.become("dem", {}, there)
    assert bits(model.model) == found
    model.become("dem", {}, {})
    assert bits(model.model) == built(imported, tmp_path / "none", [], dtype)
    model.close()


@pytest.mark.parametrize("method", METHODS)
def test_each_way_that_sums_is_summed_alike(imported, vectors, tmp_path, method, monkeypatch):
    from dem_build.actions.compose import run as compose

    params = METHODS[method]
    original = compose.run
    monkeypatch.setattr(compose, "run", lambda i, p, c: original(i, p | params, c))
    wanted = built(imported, tmp_path / "sum", list(zip(vectors, (0.5, 0.75), strict=True)), method=method)
    model = live(imported, vectors)
    model.become(method, params, {DIGESTS[0]: 0.5, DIGESTS[1]: 0.75})
    assert bits(model.model) == wanted


def test_a_vector_of_low_rank(imported, vectors, tmp_path):
    rng = np.random.default_rng(3)
    drawn = lambda *shape: (0.1 * rng.standard_normal(shape)).astype(np.float32)  # noqa: E731
    factors = {
        name: (LowRank(drawn(len(of), 4), drawn(4, of.shape[1]), 0.7), Place(name.removesuffix(".weight")))
        for name, of in random_vector(imported, 9).items()
        if of.ndim == 2 and ".layers." in name
    }
    write_factors(tmp_path / "lora", DIGEST, factors)
    both = [tmp_path / "lora", vectors[1]]
    model = live(imported, both)
    for omega in (0.3, 0.5):
        model.become("dem", {}, {DIGESTS[0]: omega, DIGESTS[1]: 0.75}, threads=2)
    wanted = built(imported, tmp_path / "sum", list(zip(both, (0.5, 0.75), strict=True)))
    assert bits(model.model) == wanted


def test_each_layer_may_have_its_own_omega(imported, vectors):
    model = live(imported, vectors)
    before = bits(model.model)
    model.become("dem", {}, {DIGESTS[0]: {"0": 0.0, "1": 0.5, "embeddings": 0.0, "final": 0.0}})
    moved = {name for name, value in bits(model.model).items() if value != before[name]}
    assert moved == {name for name in before if ".layers.1." in name}


def test_a_sum_that_fails_leaves_the_model_as_it_was(imported, vectors, tmp_path, monkeypatch):
    long = store_vector(tmp_path / "long", random_vector(imported, 5, scale=2.0))
    model = live(imported, [vectors[0], long])
    model.become("dem", {}, {DIGESTS[0]: 0.5})
    before = bits(model.model)
    with pytest.raises(CheckpointError, match="is not finite"):
        model.become("dem", {}, {DIGESTS[0]: 0.5, DIGESTS[1]: 3e38})
    assert bits(model.model) == before
    assert not model.become("dem", {}, {DIGESTS[0]: 0.5})

    def stopped(*arguments, **how):  # by Ctrl-C, when all but the last of it is there
        monkeypatch.setattr(live_models, "combine", combine)
        combine(*arguments, **how)
        raise KeyboardInterrupt

    monkeypatch.setattr(live_models, "combine", stopped)
    with pytest.raises(KeyboardInterrupt):
        model.become("dem", {}, {DIGESTS[0]: 0.75})
    assert bits(model.model) == before

    def stopped_again(*arguments, **how):  # by another one, while it is put back
        combine(*arguments, **how)
        raise KeyboardInterrupt

    monkeypatch.setattr(live_models, "combine", stopped_again)
    with pytest.raises(KeyboardInterrupt):
        model.become("dem", {}, {DIGESTS[0]: 0.75})
    monkeypatch.setattr(live_models, "combine", stopped)
    with pytest.raises(KeyboardInterrupt):
        model.become("dem", {}, {DIGESTS[0]: 0.25})
    assert model.become("dem", {}, {DIGESTS[0]: 0.5})
    assert bits(model.model) == before


def test_a_layout_that_transformers_converts(tiny_base, tmp_path):
    """Experts lie one by one in files, and fused in memory: they are composed beside the model."""
    make_family("mixtral", tiny_base, tmp_path / "base")
    imported = import_base(tmp_path / "base", tmp_path / "import")
    made = [
        store_vector(tmp_path / "v", random_vector(imported, 3)),
        store_vector(tmp_path / "w", random_vector(imported, 4)),
    ]
    model = live(imported, made)
    model.become("dem", {}, {DIGESTS[0]: 0.5, DIGESTS[1]: 0.25})
    assert bits(model.model) == built(imported, tmp_path / "sum", list(zip(made, (0.5, 0.25), strict=True)))
