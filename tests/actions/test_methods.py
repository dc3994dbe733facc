"""A way to compose is an entry of its own: what it may look at, and what follows from what it says of itself."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pytest

from dem_build.actions import SPECS
from dem_build.actions.compose.methods import METHODS, Chunk, Method, Tensor
from dem_build.actions.compose.methods.dare import DARE
from dem_build.actions.compose.methods.slerp import SLERP
from dem_build.actions.compose.methods.ties import TIES
from dem_build.checkpoint.combine import Combination, combine, result_specs
from dem_build.checkpoint.delta import write_delta
from dem_build.checkpoint.reader import open_checkpoint
from dem_build.checkpoint.writer import weights_writer
from dem_build.graph import ComposingSpec
from dem_build.recipe.docs import markdown
from dem_build.recipe.schema import Compose

if TYPE_CHECKING:
    Models = list[Any]

BASE = "b" * 64
SIZE = 1001


def test_a_recipe_may_name_each_and_its_documentation_says_each_formula() -> None:
    assert get_args(Compose.model_fields["method"].annotation) == tuple(METHODS)
    page = markdown()
    assert all(method.formula in page and method.sentence in page for method in METHODS.values())


def test_every_key_of_a_way_to_compose_is_read_by_one() -> None:
    read = {key for method in METHODS.values() for key in method.keys}
    assert read == Compose.model_fields.keys() - {"method", "dtype", "salt"}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_way_to_compose_sums_or_is_made_by_a_kind_of_its_own(method: Method) -> None:
    makers = [spec.COMPOSES for spec in SPECS if isinstance(spec, ComposingSpec)]
    assert (method.combine is None) == (method.name in makers)


def composed(folder: Path, method: Method, models: Models, **options: Any) -> np.ndarray:
    """One tensor `w`, composed of a base and its vectors.

    Args:
        folder: For files.
        method: How.
        models: The base, and each vector with its ω.
        options: `chunk` of the sum; all others are the method's keys.
    """
    base, *terms = models
    folder, files = Path(tempfile.mkdtemp(dir=folder)), []
    for name, values in [("base", base), *((f"{i}", vector) for i, (vector, _) in enumerate(terms))]:
        files.append(folder / f"{name}.safetensors")
        stored = np.asarray(values, np.float32)
        write_delta(files[-1], BASE, {"w": stored.shape}, iter([("w", stored)]), "float32")
    opened = [open_checkpoint(file) for file in files]
    chunk, omegas = options.pop("chunk", 64), [omega for _, omega in terms]
    named = [f"vector {i}" for i, _ in enumerate(terms)]
    what = Combination(opened[0], opened[1:], omegas, method, "F32", params=options, digests=named)
    with ExitStack() as stack:
        for checkpoint in opened:
            stack.enter_context(checkpoint)
        writer = stack.enter_context(weights_writer(folder / "out", result_specs(opened[0], "F32")))
        combine(what, writer, chunk=chunk)
    with open_checkpoint(folder / "out") as made:
        return made.read("w")


def halves(tensor: Tensor) -> list[float]:
    """Half of the largest change in each vector."""
    return [np.abs(tensor.vector(i, 0, tensor.size)).max() / 2 for i in range(len(tensor.terms))]


def large(chunk: Chunk) -> np.ndarray:
    """Θ + Σ ω ΔΘ, without changes below half of the largest of their tensor."""
    so_far = chunk.base
    for (vector, omega), least in zip(chunk.terms(), chunk.prepared, strict=True):
        vector[np.abs(vector) < least] = 0
        so_far = chunk.add(so_far, vector, omega)
    return so_far


@pytest.mark.parametrize("chunk", [64, SIZE])
def test_a_method_may_look_at_the_whole_of_a_tensor_first(tmp_path: Path, chunk: int) -> None:
    rng = np.random.default_rng(0)
    base, *vectors = (rng.normal(size=SIZE).astype(np.float32) for _ in range(4))
    vectors[2][-1] = 9  # what is prepared is of all elements, and those of one chunk do not tell
    omegas = [0.5, 0.0, 2.0]  # one that is no term here: the other two keep what was prepared of them
    method = Method("large", "", "", "", "", 1.0, combine=large, prepare=halves)
    made = composed(tmp_path, method, [base, *zip(vectors, omegas, strict=True)], chunk=chunk)
    wanted = base.copy()
    for vector, omega in zip(vectors, omegas, strict=True):
        kept = np.where(np.abs(vector) < np.abs(vector).max() / 2, np.float32(0), vector)
        wanted = wanted + kept * np.float32(omega)
    assert np.array_equal(made, wanted)


class TestTies:
    BASE = (1.0, 1.0, 1.0, 1.0, 1.0)
    ONE = (0.5, -0.75, 0.25, 0.0, -1.0)
    OTHER = (1.0, 0.5, -0.5, 0.0, 0.125)

    @pytest.mark.parametrize(
        ("density", "omegas", "changes"),
        [
            # Of each element the mean of those that have the sign of the sum.
            (1.0, (1.0, 1.0), (0.75, -0.75, -0.5, 0, -1)),
            # 0.5 and 1 agree, 3 to 1; 3 · 0.25 is more than 0.5.
            (1.0, (3.0, 1.0), ((3 * 0.5 + 1) / 4, -0.75, 0.25, 0, -1)),
            # Three of five elements: 0.25 of the one and 0.125 of the other are dropped.
            (0.6, (1.0, 1.0), (0.75, -0.75, -0.5, 0, -1)),
            # Two: -0.75 and -1; 1, and both of 0.5 and -0.5, which are alike.
            (0.4, (1.0, 1.0), (1, -0.75, -0.5, 0, -1)),
            # At least one.
            (0.01, (1.0, 1.0), (1, 0, 0, 0, -1)),
            # ω counts beside another: a vector alone is as it is, but for what is trimmed.
            (0.2, (0.3, 0.0), (0, 0, 0, 0, -1)),
        ],
    )
    def test_the_changes_that_agree_are_averaged(
        self, tmp_path: Path, density: float, omegas: tuple[float, float], changes: tuple[float, ...]
    ) -> None:
        models = [self.BASE, *zip((self.ONE, self.OTHER), omegas, strict=True)]
        made = composed(tmp_path, TIES, models, density=density, scale=1.0)
        assert made == pytest.approx(1 + np.array(changes), abs=1e-7)
        scaled = composed(tmp_path, TIES, models, density=density, scale=0.5)
        assert scaled == pytest.approx(1 + np.array(changes) / 2, abs=1e-7)

    def test_opposite_changes_that_cancel_go_up(self, tmp_path: Path) -> None:
        made = composed(tmp_path, TIES, [(1.0,), ((0.5,), 1.0), ((-0.5,), 1.0)], density=1.0, scale=1.0)
        assert made.tolist() == [1.5]

    def test_as_many_are_kept_as_the_density_says_whatever_the_size(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("dem_build.actions.compose.methods.method.PIECE", 100)
        vector = np.random.default_rng(0).normal(size=SIZE).astype(np.float32)
        for density in (0.001, 0.2, 0.9, 1.0):
            made = composed(tmp_path, TIES, [np.zeros(SIZE), (vector, 1.0)], density=density, scale=1.0)
            least = np.sort(np.abs(vector))[-max(1, int(density * SIZE))]
            assert np.array_equal(made, np.where(np.abs(vector) >= least, vector, np.float32(0)))


class TestDare:
    MANY = 40_000

    def kept(self, folder: Path, omegas: tuple[float, ...], **options: Any) -> np.ndarray:
        """Which elements are kept of vectors that change each by 1, 2, 4 …; told apart in their sum."""
        terms = [(np.full(self.MANY, 2.0**i), omega) for i, omega in enumerate(omegas)]
        params = {"density": 0.25, "seed": 1} | options
        made = composed(folder, DARE, [np.zeros(self.MANY), *terms], **params) * params["density"]
        return (made[:, None].astype(int) >> np.arange(len(omegas)) & 1).astype(bool).T

    def test_each_change_is_kept_with_its_chance_and_divided_by_it(self, tmp_path: Path) -> None:
        one, other = self.kept(tmp_path, (1.0, 1.0))
        for found, chance in (
            (one, 0.25),
            (other, 0.25),
            (one & other, 0.0625),
            (one[1:] & one[:-1], 0.0625),
        ):
            assert abs(found.mean() - chance) < 5 * (chance * (1 - chance) / self.MANY) ** 0.5
        rare = self.kept(tmp_path, (1.0,), density=2**-7)
        assert abs(rare.mean() - 2**-7) < 5 * (2**-7 / self.MANY) ** 0.5

    def test_what_is_kept_follows_from_seed_vector_and_place_alone(self, tmp_path: Path) -> None:
        one, _ = self.kept(tmp_path, (1.0, 1.0))
        alone, _ = self.kept(tmp_path, (1.0, 0.0), chunk=1001)
        assert np.array_equal(one, alone)
        assert (self.kept(tmp_path, (1.0,), seed=2) != one).any()

    def test_all_are_kept_at_density_one(self, tmp_path: Path) -> None:
        assert self.kept(tmp_path, (1.0,), density=1.0).all()


class TestSlerp:
    @pytest.mark.parametrize("omegas", [(2.0, 1.0), (0.5, 0.25)])
    def test_it_goes_along_the_arc(self, tmp_path: Path, omegas: tuple[float, float]) -> None:
        # From (2, 0) to (0, 4), a right angle: a third of the way, sin 60° of the one and sin 30° of the other.
        models = [(1.0, 0.0), ((1.0, 0.0), omegas[0]), ((-1.0, 4.0), omegas[1])]
        made = composed(tmp_path, SLERP, models)
        assert made == pytest.approx([2 * 0.75**0.5, 4 * 0.5], rel=1e-6)

    def test_models_that_point_alike_are_joined_by_a_line(self, tmp_path: Path) -> None:
        models = [(1.0, 2.0), ((0.01, 0.0), 1.0), ((0.0, 0.04), 3.0)]
        assert composed(tmp_path, SLERP, models) == pytest.approx([1 + 0.01 / 4, 2 + 0.04 * 3 / 4], rel=1e-6)

    def test_with_nothing_of_the_other_a_model_is_as_it_is(self, tmp_path: Path) -> None:
        assert composed(tmp_path, SLERP, [(1.0, 2.0), ((0.5, 0.0), 0.0), ((0.0, 0.5), 0.7)]).tolist() == [
            1,
            2.5,
        ]

    def test_a_tensor_without_a_direction_adds_nothing(self, tmp_path: Path) -> None:
        models = [(1.0, 1.0), ((-1.0, -1.0), 1.0), ((0.0, 1.0), 1.0)]
        assert composed(tmp_path, SLERP, models) == pytest.approx([0.5**0.5, 2 * 0.5**0.5], rel=1e-6)
