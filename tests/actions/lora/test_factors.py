"""A vector of low rank is read, by all that read vectors, as one whose file holds every element of its product."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from match_samples import random_rows, run_match
from tiny import make_base
from weight_samples import DIGEST, bytes_of, import_base, random_vector, run_compose, store_vector

from dem_build.actions.match.frames import empty_model
from dem_build.actions.match.sums import ModelSums, Vectors
from dem_build.actions.tune.candidates import Candidates
from dem_build.checkpoint.delta import delta_shapes, open_delta
from dem_build.checkpoint.factors import FactoredDelta, LowRank, Place, squared_norm, write_factors
from dem_build.checkpoint.products import sum_products
from dem_build.checkpoint.reader import open_checkpoint
from dem_build.errors import CheckpointError
from dem_build.model.load import load_model
from dem_build.model.mapped import MappedVector
from dem_build.model.weight_layout import WeightLayout
from dem_build.step import StoredFile

RANK = 4


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    home = tmp_path_factory.mktemp("imported")
    return import_base(make_base(home / "base"), home / "import")


def random_factors(imported, seed=0):
    """Factors of every matrix of the layers."""
    rng = np.random.default_rng(seed)
    shapes = delta_shapes(open_checkpoint(imported / "weights"))
    return {
        name: LowRank(
            rng.standard_normal((shape[0], RANK)).astype(np.float32),
            rng.standard_normal((RANK, shape[1])).astype(np.float32) * 0.01,
            0.3,
        )
        for name, shape in shapes.items()
        if "layers" in name and len(shape) == 2
    }


def store(path, factors, digest=DIGEST):
    write_factors(path, digest, {n: (f, Place(n.removesuffix(".weight"))) for n, f in factors.items()})
    return path


@pytest.fixture(scope="module")
def lora(imported, tmp_path_factory):
    return store(tmp_path_factory.mktemp("lora") / "delta", random_factors(imported))


@pytest.fixture(scope="module")
def dense(imported, lora, tmp_path_factory):
    """The same vector, every element stored in float32."""
    shapes = delta_shapes(open_checkpoint(imported / "weights"))
    with opened(imported, lora) as delta:
        values = {name: delta.read(name) for name in shapes}
    return store_vector(tmp_path_factory.mktemp("dense") / "delta", values, "float32")


@pytest.fixture(scope="module")
def other(imported, tmp_path_factory):
    return store_vector(tmp_path_factory.mktemp("other") / "delta", random_vector(imported, seed=9))


def opened(imported, path, digest=DIGEST):
    return open_delta(path, open_checkpoint(imported / "weights"), digest, "vector math")


def test_an_element_is_the_sum_of_its_products_and_of_other_tensors_zero(imported, lora):
    factors = random_factors(imported)
    with opened(imported, lora) as delta:
        for name in delta_shapes(open_checkpoint(imported / "weights")):
            found = delta.read(name)
            if name not in factors:
                assert not found.any()
                continue
            b, a, scale = factors[name].b.astype(float), factors[name].a.astype(float), factors[name].scale
            # Each of r products and sums is rounded once, and the scale: an error of as many units in the last place.
            bound = (RANK + 2) * np.finfo(np.float32).eps * scale * (np.abs(b) @ np.abs(a))
            assert (np.abs(found - scale * (b @ a)) <= bound).all()
            assert found.any()


def test_any_piece_has_the_bits_of_the_whole_in_numpy_and_in_torch(imported, lora):
    with opened(imported, lora) as delta:
        torch_tensors = MappedVector(delta)
        for name, columns in (
            ("model.layers.0.mlp.down_proj.weight", 128),
            ("model.layers.1.mlp.up_proj.weight", 64),
        ):
            whole, tensor = delta.read(name).reshape(-1), delta.tensors[name]
            for start, size in (
                (0, 7),
                (3, columns),
                (columns - 1, 2),
                (5, 3 * columns + 9),
                (2 * columns, 5000),
            ):
                wanted = whole[start : start + size]
                assert delta.floats(tensor, start, len(wanted)).tobytes() == wanted.tobytes()
                assert torch_tensors.part(name, start, start + size).numpy().tobytes() == wanted.tobytes()
            rows = torch.tensor([3, 0, 3])
            assert torch.equal(
                torch_tensors.rows(name, rows), torch.from_numpy(whole.reshape(tensor.shape))[rows]
            )
        assert not torch_tensors.rows("model.embed_tokens.weight", rows).any()
        assert torch_tensors.is_zero("model.embed_tokens.weight")
        assert not torch_tensors.is_zero("model.layers.0.mlp.down_proj.weight")


def test_its_file_is_small_and_its_length_is_that_of_its_product(imported, lora, dense):
    factors = random_factors(imported)
    elements = sum(f.a.size + f.b.size for f in factors.values())
    assert 4 * elements < lora.stat().st_size < 4 * elements + 8192
    assert lora.stat().st_size < dense.stat().st_size / 4
    with opened(imported, dense) as delta:
        squares = sum(float((delta.read(n).astype(float) ** 2).sum()) for n in delta.tensors)
    assert sum(map(squared_norm, factors.values())) == pytest.approx(squares, rel=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_composed_with_a_full_vector_it_gives_the_bytes_of_its_dense_twin(
    imported, lora, dense, other, dtype, tmp_path
):
    made = [
        run_compose(imported, tmp_path / f"{i}", [(one, 0.7), (other, 0.4)], dtype=dtype, threads=threads)
        for i, (one, threads) in enumerate([(lora, 1), (lora, 3), (dense, 2)])
    ]
    first, *rest = (bytes_of(one.out / "weights") for one in made)
    assert all(found == first for found in rest)
    assert made[0].told["terms"][0]["norm"] == pytest.approx(made[2].told["terms"][0]["norm"])


def test_it_lies_to_other_vectors_as_its_dense_twin_does(imported, lora, dense, other):
    sums = []
    for one in (lora, dense):
        base = open_checkpoint(imported / "weights")
        with base, opened(imported, one) as first, opened(imported, other) as second:
            sums.append(sum_products(base, [first, second], threads=2))
    for name, found in sums[0].items():
        assert (found.gram == sums[1][name].gram).all()
        assert (found.both == sums[1][name].both).all()


def test_a_search_meets_the_same_candidates_and_slopes(imported, lora, dense, other):
    found = []
    for one in (lora, dense):
        model = load_model(
            imported / "weights", imported / "config", dtype=torch.float32, device=torch.device("cpu")
        )
        candidates = Candidates(model, imported / "weights", DIGEST, {"a": one, "b": other})
        candidates.become(np.full((2, len(candidates.layers)), 0.6), torch.bfloat16)
        state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        model(input_ids=torch.arange(3, 35)[None], labels=torch.arange(3, 35)[None]).loss.backward()
        found.append((state, candidates.take_slopes()))
    assert all(torch.equal(tensor, found[1][0][name]) for name, tensor in found[0][0].items())
    # BLAS adds a dot product in an order that goes by where in memory its numbers lie.
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-4, atol=1e-7)
    assert np.abs(found[0][1]).max() > 1e-4


def test_layers_are_matched_as_with_its_dense_twin(imported, lora, dense, other, tmp_path):
    made = []
    for i, one in enumerate((lora, dense)):
        same = tmp_path / f"{i}" / "vector"  # in the tests, a vector's digest is its file's name
        same.parent.mkdir()
        same.symlink_to(one)
        vectors = [(same, random_rows(1), 1.0), (other, random_rows(2), 1.0)]
        made.append(bytes_of(run_match(imported, tmp_path / f"run{i}", vectors).out / "weights"))
    assert made[0] == made[1]


def test_a_tensor_that_one_vector_alone_changes_is_as_that_one_has_it(imported, lora, other):
    base = open_checkpoint(imported / "weights")
    model = empty_model(json.loads((imported / "config").read_text()), None)
    files = [StoredFile(path, str(i) * 64) for i, path in enumerate((lora, other))]
    deltas = [opened(imported, path) for path in (lora, other)]
    layout = WeightLayout(model, delta_shapes(base))
    sums = ModelSums(base, Vectors(files, [1.0, 1.0], 1.0), deltas, "float32", layout)
    assert sums.changers("model.embed_tokens.weight") == (1,)
    assert sums.changers("model.layers.0.mlp.up_proj.weight") == (0, 1)


def test_a_file_that_is_not_of_this_base_or_damaged_is_refused(imported, lora, tmp_path):
    with pytest.raises(CheckpointError, match="was made for the base bbbb"):
        opened(imported, lora, "c" * 64)
    factors = random_factors(imported)
    name = "model.layers.0.mlp.up_proj.weight"
    wide = {name: LowRank(factors[name].b, np.zeros((RANK, 65), np.float32), 1.0)}
    with pytest.raises(CheckpointError, match=r"is a product of .* and the base's is"):
        opened(imported, store(tmp_path / "wide", wide))
    with pytest.raises(CheckpointError, match="the base has none"):
        opened(imported, store(tmp_path / "strange", {"model.layers.7.mlp.up_proj.weight": factors[name]}))
    broken = {name: LowRank(factors[name].b * np.nan, factors[name].a, 1.0)}
    with pytest.raises(CheckpointError, match="lora_B holds values that are not finite"):
        store(tmp_path / "nan", broken)
    assert isinstance(opened(imported, lora), FactoredDelta)
    text = lora.read_bytes()
    (tmp_path / "undescribed").write_bytes(text.replace(b'\\"module\\"', b'\\"nodule\\"'))
    with pytest.raises(CheckpointError, match="does not say what its factors are of"):
        opened(imported, tmp_path / "undescribed")
