"""Composing by Gram matrices: they are those of the fine-tuned model, and each layer is the least squares' solution."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from families import make_family
from match_samples import damped, shares_of
from safetensors.torch import load_file, save_file
from weight_samples import (
    DIGEST,
    PARTS,
    bytes_of,
    import_base,
    load,
    make_context,
    random_vector,
    store_vector,
)

from dem_build.actions.gram import run as gram
from dem_build.actions.gram.stored import Grams
from dem_build.actions.regmean import run as regmean
from dem_build.data.arrays import RowsWriter
from dem_build.errors import CheckpointError, DataError
from dem_build.estimate.memory import Shape, gram_disk
from dem_build.step import Group, Inputs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LAYER = "model.layers.1."
MODULES = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)
SHARED = {
    "self_attn.k_proj": "self_attn.q_proj",
    "self_attn.v_proj": "self_attn.q_proj",
    "mlp.up_proj": "mlp.gate_proj",
}


def random_rows(seed: int, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    for _ in range(count):
        ids = rng.integers(3, 250, int(rng.integers(5, 40))).astype(np.int32)
        labels = np.where(np.arange(len(ids)) < len(ids) // 3, -100, ids).astype(np.int32)
        yield ids, labels


def sample(home: Path, seed: int, count: int = 6) -> Path:
    with RowsWriter(home / "spool") as writer:
        for ids, labels in random_rows(seed, count):
            writer.append(ids, labels, bytes(32))
        writer.save(home / "sample")
    return home / "sample"


class Made:
    """A tiny base, two vectors, and the Gram matrices of each."""

    def __init__(self, home: Path, source: Path) -> None:
        self.base = import_base(source, home / "import")
        self.vectors = [store_vector(home / f"d{i}", random_vector(self.base, seed=i)) for i in range(2)]
        self.samples = []
        for i in range(2):
            (home / f"{i}").mkdir()
            self.samples.append(sample(home / f"{i}", i))
        self.grams = [self.gram(home / f"gram-{i}", i) for i in range(2)]

    def gram(self, folder: Path, i: int, threads: int = 2, rows: int = 4) -> Path:
        context = make_context(folder, threads)
        paths = {f"base/{part}": self.base / part for part in ("weights", "config")}
        paths |= {"delta": self.vectors[i], "data/sample": self.samples[i]}
        digests = {"base/weights": DIGEST, "delta": f"{i}" * 64}
        gram.run(Inputs(paths=paths, digests=digests), {"rows": rows, "dtype": "float32"}, context)
        return context.out / "gram"

    def term(self, i: int, importance: float = 1.0, name: str = "", **paths: Path) -> Group:
        found = {"delta": self.vectors[i], "gram": self.grams[i]} | paths
        digests = {"delta": f"{i}" * 64, "gram": f"{i}" * 64}
        return Group(name or f"vector {i}", {"importance": importance}, found, digests)

    def composed(self, folder: Path, *groups: Group, threads: int = 2, **params: Any) -> Path:
        context = make_context(folder, threads)
        inputs = Inputs(
            {f"base/{part}": self.base / part for part in PARTS}, {"base/weights": DIGEST}, groups=groups
        )
        regmean.run(inputs, {"dtype": "float32", "ridge": 2.0} | params, context)
        return context.out

    def weights(self, outputs: Path) -> dict[str, torch.Tensor]:
        return load_file(outputs / "weights" / "model.safetensors")

    def single(self, i: int) -> dict[str, torch.Tensor]:
        delta = load_file(self.vectors[i])
        return {name: t.float() + delta[name].float() for name, t in self.weights(self.base).items()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Made:
    return Made(tmp_path_factory.mktemp("regmean"), tiny_base)


def gram_by_hand(made: Made, folder: Path) -> dict[str, torch.Tensor]:
    """Σ s_t x_t x_tᵀ of the first vector's model, by hooks on the whole of it."""
    model = load(made.base, folder, dtype=torch.float32)
    model.load_state_dict(made.single(0), strict=False)
    rows = list(random_rows(0, 4))
    given: dict[str, list[torch.Tensor]] = {module: [] for module in MODULES}
    for module, found in given.items():
        model.get_submodule(LAYER + module).register_forward_pre_hook(
            lambda _, inputs, found=found: found.append(inputs[0][0].double())
        )
    for ids, _ in rows:
        with torch.no_grad():
            model(torch.from_numpy(ids.astype("int64"))[None])
    inputs = {module: torch.cat(found) for module, found in given.items()}
    return {module: x.T @ (x * damped(shares_of(rows), x)[:, None]) for module, x in inputs.items()}


def test_the_matrices_are_those_of_the_fine_tuned_models_inputs(made: Made, tmp_path: Path) -> None:
    wanted = gram_by_hand(made, tmp_path / "model")
    with ExitStack() as stack:
        grams = Grams(made.grams[0], {"base": DIGEST, "delta": "0" * 64}, "math", stack)
        assert len(grams.of) == 2 * len(MODULES)
        for module in MODULES:
            weight = f"{LAYER}{module}.weight"
            assert grams.of[weight] == f"{LAYER}{SHARED.get(module, module)}.weight"
            found = torch.from_numpy(grams.read(grams.of[weight]))
            assert torch.allclose(found, wanted[module], rtol=1e-4, atol=1e-6)


def test_a_plan_knows_what_they_take_on_disk(made: Made) -> None:
    shape = Shape.of(json.loads((made.base / "config").read_text()))
    assert shape is not None
    stored = sum(path.stat().st_size for path in made.grams[0].iterdir())
    assert stored == pytest.approx(gram_disk(shape), rel=0.05)


def solved(made: Made, folder: Path, *, turned: bool) -> None:
    """Compose, and hold every layer against its least squares in float64; `turned`: weights are [width, outputs]."""
    importances, ridge = (1.0, 3.0), 0.1
    groups = [made.term(i, a) for i, a in enumerate(importances)]
    weights = made.weights(made.composed(folder, *groups, ridge=ridge))
    singles = [{n: t.double() for n, t in made.single(i).items()} for i in range(2)]
    mean = {n: (singles[0][n] + 3 * singles[1][n]) / 4 for n in weights}
    with ExitStack() as stack:
        grams = [Grams(made.grams[i], {"base": DIGEST, "delta": f"{i}" * 64}, "", stack) for i in range(2)]
        assert grams[0].of.keys() <= weights.keys()
        for name, found in weights.items():
            wanted = mean[name]
            if name in grams[0].of:
                of = [
                    a * torch.from_numpy(g.read(g.of[name])) for a, g in zip(importances, grams, strict=True)
                ]
                total = of[0] + of[1]
                total += ridge * total.diagonal().median() * torch.eye(len(total), dtype=total.dtype)
                moved = [s[name] - wanted for s in singles]
                pull = sum((m.T if turned else m) @ g for m, g in zip(moved, of, strict=True))
                correction = torch.linalg.solve(total, pull, left=False)
                wanted = wanted + (correction.T if turned else correction)
                assert (found - mean[name]).abs().max() > 1e-3
            assert torch.allclose(found.double(), wanted, rtol=1e-5, atol=1e-6), name


def test_each_layer_is_the_solution_of_its_least_squares(made: Made, tmp_path: Path) -> None:
    solved(made, tmp_path / "composed", turned=False)


def test_weights_that_lie_the_other_way_are_solved_as_they_lie(tmp_path: Path, tiny_base: Path) -> None:
    make_family("gpt2", tiny_base, tmp_path / "base")
    made = Made(tmp_path, tmp_path / "base")
    solved(made, tmp_path / "composed", turned=True)


def test_a_vector_alone_and_the_same_one_twice_are_its_own_model(made: Made, tmp_path: Path) -> None:
    alone = made.weights(made.composed(tmp_path / "alone", made.term(0, 0.3)))
    twice = made.weights(
        made.composed(tmp_path / "twice", made.term(0, 1.0, "one"), made.term(0, 1.0, "other"))
    )
    for name, tensor in made.single(0).items():
        assert torch.equal(alone[name], tensor)
        assert torch.allclose(twice[name], tensor, rtol=1e-6, atol=1e-7)


def test_what_one_vector_alone_changes_is_as_that_one_has_it(made: Made, tmp_path: Path) -> None:
    def half(i: int) -> Path:
        delta = load_file(made.vectors[i])
        save_file(
            {n: t if (LAYER in n) == bool(i) else torch.zeros_like(t) for n, t in delta.items()},
            tmp_path / f"half-{i}",
            {"dem": "delta/1", "base": DIGEST},
        )
        return tmp_path / f"half-{i}"

    groups = [made.term(i, delta=half(i)) for i in range(2)]
    weights = made.weights(made.composed(tmp_path / "composed", *groups))
    singles = [made.single(i) for i in range(2)]
    assert all(torch.equal(found, singles[LAYER in n][n]) for n, found in weights.items())


def test_what_no_row_passes_is_the_mean(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lacking, opened = f"{LAYER}self_attn.k_proj.weight", Grams.__init__

    def without(grams: Grams, *given: Any) -> None:
        opened(grams, *given)
        del grams.of[lacking]

    monkeypatch.setattr(Grams, "__init__", without)
    weights = made.weights(made.composed(tmp_path / "composed", made.term(0), made.term(1)))
    far = {
        name: (weights[name] - (made.single(0)[name] + made.single(1)[name]) / 2).abs().max()
        for name in (lacking, f"{LAYER}self_attn.v_proj.weight")
    }
    assert far[lacking] < 1e-6
    assert far[f"{LAYER}self_attn.v_proj.weight"] > 1e-3


def test_threads_order_and_names_reach_no_byte(made: Made, tmp_path: Path) -> None:
    assert bytes_of(made.gram(tmp_path / "gram", 0, threads=1)) == bytes_of(made.grams[0])
    one, other = made.term(0), made.term(1, 0.5)
    renamed = made.term(0, name="zeta")
    first = made.composed(tmp_path / "first", one, other, dtype="bfloat16")
    second = made.composed(tmp_path / "second", other, renamed, dtype="bfloat16", threads=1)
    assert bytes_of(first / "weights") == bytes_of(second / "weights")


def test_matrices_of_another_vector_are_refused(made: Made, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="are no Gram matrices of this vector"):
        made.composed(tmp_path / "composed", made.term(0, gram=made.grams[1]), made.term(1))


def test_no_rows_are_refused(made: Made, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    made.samples.append(sample(tmp_path / "empty", 0, count=0))
    made.vectors.append(made.vectors[0])
    with pytest.raises(DataError, match="no training rows"):
        made.gram(tmp_path / "gram", 2)
