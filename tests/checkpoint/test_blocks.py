"""Vectors in blocks of int8: what is lost, what is read by whatever reads a vector, what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dem_build.actions.compose.methods import METHODS
from dem_build.checkpoint.blocks import quantise, run_of
from dem_build.checkpoint.combine import Combination, combine, result_specs
from dem_build.checkpoint.delta import (
    DELTA_FORMAT,
    delta_shapes,
    delta_writer,
    open_delta,
    write_delta,
    write_difference,
)
from dem_build.checkpoint.floats import from_bfloat16
from dem_build.checkpoint.header import TensorSpec
from dem_build.checkpoint.products import sum_products
from dem_build.checkpoint.reader import open_checkpoint
from dem_build.checkpoint.writer import weights_writer
from dem_build.errors import CheckpointError
from dem_build.model.mapped import MappedVector

BASE = "b" * 64
# Whole blocks; a block that is cut by each row's end; less than one block, of an odd and an even number of rows; three
# dimensions; too short; one dimension.
SHAPES = {
    "whole": (40, 192),
    "odd": (31, 101),
    "small": (9, 33),
    "even": (8, 33),
    "experts": (3, 5, 70),
    "short": (50, 31),
    "norm": (192,),
    "none": (0, 64),
}
PARAMS = {"density": 0.3, "scale": 0.9, "seed": 1}


def write_base(folder, shapes=SHAPES):
    rng = np.random.default_rng(0)
    with weights_writer(folder, [TensorSpec(n, "F32", s) for n, s in shapes.items()]) as writer:
        for name, shape in shapes.items():
            writer.write(name, 0, rng.standard_normal(shape).astype(np.float32).reshape(-1))
    return open_checkpoint(folder)


def values(seed, shapes=SHAPES):
    rng = np.random.default_rng(seed)
    return {
        n: (rng.standard_normal(s) * 10.0 ** rng.integers(-9, 0, s)).astype(np.float32)
        for n, s in shapes.items()
    }


def store(path, tensors, dtype="int8"):
    return write_delta(path, BASE, {n: t.shape for n, t in tensors.items()}, iter(tensors.items()), dtype)


def dequantised(path):
    """What a file of int8 stands for, by its documented format alone: value = q · scale of its block of 64."""
    stored, found = load_file(path), {}
    for name, tensor in stored.items():
        if tensor.dtype == torch.int8:
            scales = stored[name + "_scale"].float().numpy()
            columns = np.arange(tensor.shape[-1]) // 64
            found[name] = tensor.numpy().astype(np.float32) * scales[..., columns]
        elif not name.endswith("_scale"):
            found[name] = tensor.float().numpy()
    return found


@pytest.fixture
def base(tmp_path):
    return write_base(tmp_path / "base")


class TestQuantising:
    def test_each_value_is_within_half_a_step_of_its_block(self):
        rows = np.concatenate([values(1)["whole"], np.eye(40, 192, dtype=np.float32) * 7])
        stored, scales = quantise(rows)
        steps = np.repeat(from_bfloat16(scales), 64, axis=1)
        largest = np.repeat(np.abs(rows).reshape(-1, 3, 64).max(axis=2), 64, axis=1)
        assert stored.min() >= -127
        assert (np.abs(stored * steps - rows) <= steps / 2 * (1 + 1e-6)).all()
        assert (steps <= largest / 127 * (1 + 2**-8)).all()

    def test_zeros_an_outlier_and_the_smallest_numbers(self):
        rows = np.zeros((4, 64), np.float32)
        rows[1, 3], rows[1, 5] = (
            1000.0,
            3.0,
        )  # 3 is less than half of a step: it is lost, and nothing beside it moves
        rows[2] = 1e-45
        rows[3] = np.finfo(np.float32).max  # which would be infinite if its scale were rounded up
        stored, scales = quantise(rows)
        made = stored * from_bfloat16(scales)
        assert not stored[0].any()
        assert not scales[0].any()
        assert made[1, 3] == pytest.approx(1000, rel=2**-8)
        assert np.count_nonzero(made[1]) == 1
        assert not made[2].any()
        assert np.allclose(made[3], np.finfo(np.float32).max, rtol=2**-8)

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_what_is_not_finite_is_refused_by_tensor(self, tmp_path, bad):
        tensors = values(1) | {"odd": np.full((31, 101), bad, np.float32)}
        with pytest.raises(CheckpointError, match="odd holds values that are not finite"):
            store(tmp_path / "delta", tensors)

    def test_the_same_values_are_the_same_bytes_in_pieces_or_whole(self, tmp_path, monkeypatch):
        store(tmp_path / "whole", values(1))
        monkeypatch.setattr("dem_build.checkpoint.delta.CHUNK", 300)
        store(tmp_path / "pieces", values(1))
        assert (tmp_path / "whole").read_bytes() == (tmp_path / "pieces").read_bytes()

    def test_what_storing_lost_is_told(self, tmp_path):
        tensors = values(1)
        told = store(tmp_path / "delta", tensors)
        made = dequantised(tmp_path / "delta")
        lost = np.concatenate([(made[n] - t).astype(np.float64).ravel() for n, t in tensors.items()])
        assert told.rounding_error == pytest.approx(np.linalg.norm(lost), rel=1e-4)
        shown = told.provenance("int8")
        assert shown["relative_rounding_error"] == pytest.approx(told.rounding_error / told.norm)
        assert shown["dtype"] == "int8"

    def test_a_matrix_of_a_model_takes_at_most_1_1_bytes_an_element(self, tmp_path):
        for width in (32, 33, 64, 65, 576):
            store(tmp_path / f"{width}", {"w": np.ones((1000, width), np.float32)})
            assert (tmp_path / f"{width}").stat().st_size <= 1.1 * 1000 * width

    def test_a_name_that_the_base_has_is_left_to_it(self, tmp_path):
        shapes = {"w": (8, 64), "w_scale": (8, 64)}
        base = write_base(tmp_path / "base", shapes)
        store(tmp_path / "delta", values(1, shapes))
        with open_delta(tmp_path / "delta", base, BASE, "v") as delta:
            assert {n: t.dtype for n, t in delta.tensors.items()} == {"w": "BF16", "w_scale": "I8"}


class TestReading:
    def test_is_what_the_documented_format_says_from_any_element_on(self, tmp_path, base):
        store(tmp_path / "delta", values(1))
        expected = dequantised(tmp_path / "delta")
        rng = np.random.default_rng(0)
        header = open_delta(tmp_path / "delta", base, BASE, "v")
        mapped = MappedVector(header)
        with header as delta:
            for name, tensor in delta.tensors.items():
                flat = expected[name].ravel()
                assert np.array_equal(delta.read(name), expected[name])
                cuts = [sorted(rng.integers(0, tensor.size + 1, 2)) for _ in range(20)] if tensor.size else []
                for start, stop in [*cuts, (0, tensor.size), (0, min(64, tensor.size))]:
                    assert np.array_equal(delta.floats(tensor, start, stop - start), flat[start:stop])
                    assert np.array_equal(mapped.part(name, start, stop).numpy(), flat[start:stop])

    @pytest.mark.skipif(sys.platform != "linux", reason="memory is read in /proc")
    def test_what_was_looked_at_is_let_go_of_and_is_there_again(self, tmp_path):
        shapes = {"whole": (1 << 14, 1 << 10)}  # 32 MiB in bfloat16
        base = write_base(tmp_path / "base", shapes)
        difference = np.random.default_rng(1).random(shapes["whole"], np.float32)
        write_delta(tmp_path / "delta", BASE, shapes, [("whole", difference)], "bfloat16")
        mapped = MappedVector(open_delta(tmp_path / "delta", base, BASE, "v"))

        def resident() -> int:
            lines = Path("/proc/self/status").read_text().splitlines()
            return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssFile"))

        def total() -> float:
            return sum(
                float(mapped.part("whole", i, i + (1 << 20)).sum()) for i in range(0, 1 << 24, 1 << 20)
            )

        before, found = resident(), total()
        assert resident() - before > 28 << 20
        mapped.release()
        assert resident() - before < 4 << 20
        assert total() == found

    def test_rows_and_zeros_as_torch_has_them(self, tmp_path, base):
        store(tmp_path / "delta", values(1) | {"whole": np.zeros((40, 192), np.float32)})
        expected = dequantised(tmp_path / "delta")
        mapped = MappedVector(open_delta(tmp_path / "delta", base, BASE, "v"))
        chosen = torch.tensor([3, 0, 3, 30])
        for name in ("whole", "odd", "short"):
            assert np.array_equal(mapped.rows(name, chosen).numpy(), expected[name][chosen.numpy()])
        assert [mapped.is_zero(n) for n in ("whole", "odd", "norm")] == [True, False, False]

    def test_an_inner_product_is_that_of_the_dequantised_vectors(self, tmp_path, base):
        opened = []
        for kind in ("int8", "float32"):
            for seed in (1, 2):
                path = tmp_path / f"{kind}{seed}"
                store(path, values(seed) if kind == "int8" else dequantised(tmp_path / f"int8{seed}"), kind)
                opened.append(open_delta(path, base, BASE, "v"))
        with base, opened[0], opened[1], opened[2], opened[3]:
            one, other = (sum_products(base, part, threads=2) for part in (opened[:2], opened[2:]))
        assert {n: s.gram.tolist() for n, s in one.items()} == {n: s.gram.tolist() for n, s in other.items()}

    @pytest.mark.parametrize("method", [m.name for m in METHODS.values() if m.combine is not None])
    def test_composing_is_that_of_the_dequantised_vectors_bit_for_bit(self, tmp_path, base, method):
        made = []
        for kind, chunk in (("int8", 1 << 16), ("int8", 640), ("int8", 37), ("float32", 1 << 16)):
            files = []
            for seed in (1, 2):
                store(tmp_path / f"int8{seed}{chunk}{kind}", values(seed))
                files.append(tmp_path / f"int8{seed}{chunk}{kind}")
                if kind == "float32":
                    files[-1] = tmp_path / f"plain{seed}"
                    store(files[-1], dequantised(tmp_path / f"int8{seed}{chunk}{kind}"), kind)
            first, second = (open_delta(path, base, BASE, "v") for path in files)
            out, specs = tmp_path / f"{kind}{chunk}", result_specs(base, "BF16")
            with base, first, second, weights_writer(out, specs) as writer:
                what = Combination(
                    base,
                    [first, second],
                    [0.3, 0.7],
                    METHODS[method],
                    "BF16",
                    params=PARAMS,
                    digests=["1", "2"],
                )
                combine(what, writer, threads=2, chunk=chunk)
            made.append((out / "model.safetensors").read_bytes())
        assert len(set(made)) == 1


class TestDifference:
    def test_of_a_checkpoint_is_that_of_its_tensors(self, tmp_path, base, monkeypatch):
        monkeypatch.setattr("dem_build.checkpoint.delta.CHUNK", 1000)
        shapes, tuned = delta_shapes(base), tmp_path / "tuned"
        changed = values(3)
        with base:
            theta = {name: base.read(name) for name in shapes}
        with weights_writer(tuned, [TensorSpec(n, "F32", s) for n, s in shapes.items()]) as writer:
            for name in shapes:
                writer.write(name, 0, (theta[name] + changed[name]).reshape(-1))
        with (
            base,
            open_checkpoint(tuned) as fine,
            delta_writer(tmp_path / "d", BASE, shapes, "int8") as writer,
        ):
            write_difference(writer, base, fine)
        store(tmp_path / "expected", {n: (theta[n] + changed[n]) - theta[n] for n in shapes})
        assert (tmp_path / "d").read_bytes() == (tmp_path / "expected").read_bytes()

    def test_how_far_long_tensors_moved_is_a_share_of_their_length(self, tmp_path):
        """Of which float32 holds no square."""
        for name, value in (("base", 1e19), ("tuned", 1.1e19)):
            with weights_writer(tmp_path / name, [TensorSpec("a", "F32", (16,))]) as writer:
                writer.write("a", 0, np.full(16, value, np.float32))
        with (
            open_checkpoint(tmp_path / "base") as base,
            open_checkpoint(tmp_path / "tuned") as tuned,
            delta_writer(tmp_path / "d", BASE, {"a": (16,)}, "float32") as writer,
        ):
            norms, moved = write_difference(writer, base, tuned)
        assert norms.norm == pytest.approx(4e18)
        assert moved == {"a": pytest.approx(0.1, rel=1e-5)}


class TestRefused:
    @pytest.fixture
    def path(self, tmp_path):
        store(tmp_path / "delta", values(1))
        return tmp_path / "delta"

    def rewrite(self, path, change, **metadata):
        tensors, said = load_file(path), {**open_checkpoint(path).metadata, **metadata}
        save_file(change(tensors), path, said)

    @pytest.mark.parametrize(
        ("change", "what"),
        [
            (lambda t: {n: v for n, v in t.items() if n != "odd_scale"}, "odd is I8 .* without scales"),
            (
                lambda t: t | {"odd_scale": t["odd_scale"][:, :1].clone()},
                r"odd_scale is BF16 \(31, 1\), and should",
            ),
            (lambda t: t | {"odd_scale": t["odd_scale"].float()}, "odd_scale is F32 .* should be BF16"),
            (lambda t: t | {"odd": t["odd"].float()}, "not in both base and vector, first odd_scale"),
            (lambda t: t | {"norm": t["norm"].to(torch.int8)}, "norm is I8 .* without scales"),
            (lambda t: t | {"norm": t["norm"].to(torch.int64)}, "norm is I64 .* without scales"),
        ],
    )
    def test_a_file_whose_integers_say_nothing(self, path, base, change, what):
        self.rewrite(path, change)
        with pytest.raises(CheckpointError, match=what):
            open_delta(path, base, BASE, "vector x")

    def test_integers_under_the_format_of_floats_and_other_blocks(self, path, base):
        self.rewrite(path, dict, block="32")
        with pytest.raises(CheckpointError, match="has blocks of 32 elements, and dem reads those of 64"):
            open_delta(path, base, BASE, "vector x")
        self.rewrite(path, dict, dem=DELTA_FORMAT)
        with pytest.raises(CheckpointError, match=r"is I8 .* and the base's is"):
            open_delta(path, base, BASE, "vector x")

    def test_a_file_that_was_cut_before_or_after_it_was_opened(self, path, base):
        whole = path.read_bytes()
        path.write_bytes(whole[:-1])
        with pytest.raises(CheckpointError, match="cut off inside"):
            open_delta(path, base, BASE, "vector x")
        path.write_bytes(whole)
        with open_delta(path, base, BASE, "vector x") as delta:
            path.write_bytes(whole[:3000])
            with pytest.raises(CheckpointError, match="ends inside"):
                delta.read("whole")


def test_a_run_of_rows_lies_in_ranges_of_both_tensors():
    # What several processes need that each write their own rows: no block is in two of them.
    run = run_of((31, 101), 5 * 101, 3 * 101)
    assert (run.first, run.scales, run.skipped) == (10, 6, 0)
