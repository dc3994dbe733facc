"""safetensors tensor by tensor: what is read, what is refused, and bytes that depend on the tensors alone."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import random
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file as load_numpy
from safetensors.torch import load_file, save_file

from dem_build.actions.compose.methods import METHODS
from dem_build.checkpoint.combine import Combination, combine, result_specs
from dem_build.checkpoint.delta import delta_shapes, open_delta, write_delta
from dem_build.checkpoint.floats import from_bfloat16, to_bfloat16
from dem_build.checkpoint.header import TensorSpec
from dem_build.checkpoint.reader import Checkpoint, open_checkpoint
from dem_build.checkpoint.writer import weights_writer
from dem_build.errors import CheckpointError

BASE = "b" * 64
PARAMS = {"density": 0.3, "scale": 0.9, "seed": 1}
SUMMED = [method.name for method in METHODS.values() if method.combine is not None]
CODES = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}


def write(folder, tensors, **options):
    specs = [TensorSpec(n, CODES[t.dtype], tuple(t.shape)) for n, t in tensors.items()]
    with weights_writer(folder, specs, **options) as writer:
        for name, tensor in tensors.items():
            bits = tensor.view(torch.int16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()
            writer.write(name, 0, np.ascontiguousarray(bits).reshape(-1))
    return folder


def random_tensors(seed=0, dtype=torch.bfloat16, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"z.weight": (301, 17), "a.weight": (3,), "m.weight": (64, 33), "scalar": (), "none": (0, 4)}
    return {n: (torch.randn(s, generator=generator) * scale).to(dtype) for n, s in shapes.items()}


def delta_file(path, seed, dtype="float32", scale=0.01, base=BASE):
    tensors = {n: t.float().numpy() for n, t in random_tensors(seed, torch.float32, scale).items()}
    write_delta(path, base, {n: t.shape for n, t in tensors.items()}, iter(tensors.items()), dtype)
    return path


def summed(folder, base, deltas, omegas, *, method="dem", code="BF16", **options):
    """Combine into a new folder; return its bytes and the norms."""
    with (
        Checkpoint({**base.tensors}, {}) as opened,
        weights_writer(folder, result_specs(base, code)) as writer,
    ):
        for delta in deltas:
            delta.__enter__()
        try:
            named = [f"vector {i}" for i, _ in enumerate(deltas)]
            what = Combination(opened, deltas, omegas, METHODS[method], code, params=PARAMS, digests=named)
            norms = combine(what, writer, **options)
        finally:
            for delta in deltas:
                delta.__exit__(None, None, None)
    stored = (folder / "model.safetensors").read_bytes()
    assert writer.digests == {folder / "model.safetensors": hashlib.sha256(stored).hexdigest()}
    return stored, norms


DEEP = (100_000).to_bytes(8, "little") + b"[" * 100_000


class TestBfloat16:
    def test_rounds_as_torch_does_for_every_kind_of_value(self):
        bits = np.random.default_rng(0).integers(0, 2**32, 1_000_000, dtype=np.uint32)
        edges = np.array(
            [0, 0x80000000, 0x7F7FFFFF, 0x00000001, 0x3F808000, 0x3F818000, 0x7F800000], np.uint32
        )
        values = np.concatenate([bits, edges]).view(np.float32)
        values = values[~np.isnan(values)]
        expected = torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
        assert np.array_equal(to_bfloat16(values), expected)

    def test_every_bfloat16_survives_the_way_to_float32_and_back(self):
        every = np.arange(2**16, dtype=np.uint16)
        finite = every[(every & 0x7F80) != 0x7F80]
        assert np.array_equal(to_bfloat16(from_bfloat16(finite)), finite)

    @pytest.mark.parametrize("nan", [0x7FFFFFFF, 0x7F800001, 0xFFFFFFFF])
    def test_a_nan_stays_a_nan(self, nan):
        values = np.array([nan], np.uint32).view(np.float32)
        assert np.isnan(from_bfloat16(to_bfloat16(values))).all()

    def test_keeps_the_shape(self):
        assert from_bfloat16(to_bfloat16(np.ones((3, 5), np.float32))).shape == (3, 5)


class TestReading:
    def test_gives_what_safetensors_gives(self, tmp_path):
        tensors = random_tensors(dtype=torch.float16) | {
            "b": torch.randn(5, 2),
            "c": torch.randn(4).bfloat16(),
        }
        save_file(tensors, tmp_path / "model.safetensors")
        with open_checkpoint(tmp_path) as checkpoint:
            for name, tensor in tensors.items():
                assert np.array_equal(checkpoint.read(name), tensor.float().numpy()), name

    def test_tensors_come_in_the_order_of_the_file(self, tmp_path):
        save_file(random_tensors(), tmp_path / "x.safetensors")
        offsets = [t.offset for t in open_checkpoint(tmp_path / "x.safetensors").tensors.values()]
        assert offsets == sorted(offsets)

    def test_a_tensor_that_is_not_there_is_named(self, tmp_path):
        checkpoint = open_checkpoint(write(tmp_path / "w", random_tensors()))
        with checkpoint, pytest.raises(CheckpointError, match=r"lost\.weight"):
            checkpoint.read("lost.weight")

    @pytest.mark.parametrize("cut", [1, 4, 1000])
    def test_a_truncated_file_is_refused_by_name(self, tmp_path, cut):
        save_file(random_tensors(), tmp_path / "model.safetensors")
        whole = (tmp_path / "model.safetensors").read_bytes()
        (tmp_path / "model.safetensors").write_bytes(whole[:-cut])
        with pytest.raises(CheckpointError, match=r"cut off inside .*fetch it again") as refused:
            open_checkpoint(tmp_path)
        assert refused.value.where == str(tmp_path / "model.safetensors")

    @pytest.mark.parametrize(
        "content", [b"", b"abc", b"\xff" * 64, (8).to_bytes(8, "little") + b"not json", DEEP]
    )
    def test_what_is_no_safetensors_file_is_refused(self, tmp_path, content):
        (tmp_path / "model.safetensors").write_bytes(content)
        with pytest.raises(CheckpointError):
            open_checkpoint(tmp_path)

    @pytest.mark.parametrize(
        "entry",
        [
            {"dtype": "BF16", "shape": [2], "data_offsets": [0, 8]},
            {"dtype": "BF16", "shape": [-2], "data_offsets": [0, -4]},
            {"dtype": "BF99", "shape": [2], "data_offsets": [0, 4]},
            {"dtype": "BF16", "shape": [4], "data_offsets": [8, 16]},
            {"dtype": "BF16", "shape": [True], "data_offsets": [0, 2]},
            {"dtype": "BF16"},
            {"dtype": "BF16", "shape": [0] * 17, "data_offsets": [0, 0]},
            {"dtype": "BF16", "shape": [10**3000] * 3000, "data_offsets": [0, 0]},
            None,
        ],
        ids=lambda entry: str(entry)[:60],
    )
    def test_an_impossible_header_is_refused(self, tmp_path, entry):
        header = json.dumps({"w": entry}).encode()
        (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
        with pytest.raises(CheckpointError, match="w"):
            open_checkpoint(tmp_path)

    def test_a_shard_that_the_index_contradicts_is_refused(self, tmp_path):
        folder = write(tmp_path / "w", random_tensors(), max_shard_bytes=5000)
        index = folder / "model.safetensors.index.json"
        document = json.loads(index.read_text())
        first, second = sorted(set(document["weight_map"].values()))
        wrong = {n: second if f == first else f for n, f in document["weight_map"].items()}
        index.write_text(json.dumps(document | {"weight_map": wrong | dict.fromkeys(["extra"], first)}))
        with pytest.raises(CheckpointError, match="should be in"):
            open_checkpoint(folder)

    def test_one_tensor_in_two_files_is_refused(self, tmp_path):
        for name in ("one", "two"):
            save_file({"w": torch.ones(2)}, tmp_path / name)
        with pytest.raises(CheckpointError, match="w is also in one"):
            open_checkpoint([tmp_path / "one", tmp_path / "two"])


class TestWriting:
    def test_safetensors_and_torch_read_it(self, tmp_path):
        tensors = random_tensors()
        loaded = load_file(write(tmp_path / "w", tensors) / "model.safetensors")
        assert all(torch.equal(loaded[n], t) for n, t in tensors.items())

    def test_the_order_of_writing_does_not_reach_the_bytes(self, tmp_path):
        tensors = random_tensors() | {"wide": torch.randn(3)}
        forth = write(tmp_path / "a", tensors)
        back = write(tmp_path / "b", dict(reversed(tensors.items())))
        assert (forth / "model.safetensors").read_bytes() == (back / "model.safetensors").read_bytes()

    def test_every_tensor_is_aligned_to_its_elements(self, tmp_path):
        folder = write(
            tmp_path / "w", {"a": torch.ones(3).bfloat16(), "b": torch.ones(2), "c": torch.ones(1).half()}
        )
        for tensor in open_checkpoint(folder).tensors.values():
            assert tensor.offset % (tensor.nbytes // tensor.size) == 0

    def test_above_the_limit_come_shards_and_an_index_that_hold_the_same(self, tmp_path):
        tensors = random_tensors()
        folder = write(tmp_path / "w", tensors, max_shard_bytes=5000)
        shards = sorted(p for p in folder.iterdir() if p.suffix == ".safetensors")
        assert [p.name for p in shards] == [
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
        ]
        with open_checkpoint(folder) as checkpoint:
            assert all(np.array_equal(checkpoint.read(n), t.float().numpy()) for n, t in tensors.items())

    @pytest.mark.parametrize("limit", [10**9, 4_000], ids=["one file", "shards"])
    def test_its_digests_are_those_of_its_files_whatever_is_written_first(self, tmp_path, limit):
        tensors = random_tensors()
        specs = [TensorSpec(n, "BF16", tuple(t.shape)) for n, t in tensors.items()]
        pieces = [
            (n, s, min(s + 700, t.numel())) for n, t in tensors.items() for s in range(0, t.numel(), 700)
        ]
        with weights_writer(tmp_path / "w", specs, max_shard_bytes=limit) as writer:
            for name, start, stop in random.Random(0).sample(pieces, len(pieces)):
                bits = tensors[name].view(torch.int16).numpy().reshape(-1)
                writer.write(name, start, bits[start:stop])
        files = [*(tmp_path / "w").glob("*.safetensors")]
        assert writer.digests == {f: hashlib.sha256(f.read_bytes()).hexdigest() for f in files}
        assert len(files) == (1 if limit == 10**9 else 4)

    def test_what_is_written_twice_is_an_error(self, tmp_path):
        two = np.zeros(2, np.float32)
        with weights_writer(tmp_path / "w", [TensorSpec("w", "F32", (4,))]) as writer:
            writer.write("w", 0, two)
            with pytest.raises(ValueError, match="written twice"):
                writer.write("w", 0, two)
            writer.write("w", 2, two)

    def test_a_disk_that_fails_while_it_is_written_is_told_by_the_writer(self, tmp_path, monkeypatch):
        """The system tells of it once, to whoever flushes first."""
        tried = threading.Event()

        def fails(_descriptor):
            tried.set()
            raise OSError(errno.EIO, "the disk is gone")

        monkeypatch.setattr(os, "fdatasync", fails)
        writer = weights_writer(tmp_path / "w", [TensorSpec("w", "F32", (4,))]).__enter__()
        writer.write("w", 0, np.zeros(4, np.float32))
        assert tried.wait(30)
        with pytest.raises(OSError, match="the disk is gone"):
            writer.__exit__(None, None, None)

    def test_a_forgotten_tensor_is_an_error(self, tmp_path):
        with (
            pytest.raises(ValueError, match="4 bytes"),
            weights_writer(tmp_path / "w", [TensorSpec("a", "F32", (1,))]),
        ):
            pass


class TestVectors:
    def test_a_vector_is_stored_with_its_base_and_read_back(self, tmp_path):
        path = delta_file(tmp_path / "delta", 1)
        expected = random_tensors(1, torch.float32, 0.01)
        assert all(np.array_equal(t, expected[n].numpy()) for n, t in load_numpy(path).items())
        assert open_checkpoint(path).metadata == {"dem": "delta/1", "base": BASE}

    def test_norms_are_those_of_the_values_and_of_what_storing_lost(self, tmp_path):
        tensors = {"w": np.random.default_rng(0).standard_normal(5000).astype(np.float32)}
        told = write_delta(tmp_path / "delta", BASE, {"w": (5000,)}, iter(tensors.items()), "bfloat16")
        lost = from_bfloat16(to_bfloat16(tensors["w"])) - tensors["w"]
        assert told.norm == pytest.approx(np.linalg.norm(tensors["w"].astype(np.float64)), rel=1e-5)
        assert told.rounding_error == pytest.approx(np.linalg.norm(lost.astype(np.float64)), rel=1e-4)
        assert told.elements == 5000

    @pytest.mark.parametrize(
        ("given", "what"),
        [
            ([("w", (2, 3))], "lacks 1 .* v"),
            ([("w", (3, 2)), ("v", (4,))], "w of shape"),
            ([("w", (2, 3)), ("w", (2, 3))], "w of shape .* once"),
            ([("w", (2, 3)), ("v", (4,)), ("u", (1,))], "u of shape .* no such tensor"),
        ],
    )
    def test_tensors_that_are_not_the_bases_are_refused(self, tmp_path, given, what):
        tensors = ((name, np.zeros(shape, np.float32)) for name, shape in given)
        with pytest.raises(CheckpointError, match=what):
            write_delta(tmp_path / "delta", BASE, {"w": (2, 3), "v": (4,)}, tensors, "float32")

    def test_a_vector_that_is_not_finite_is_refused_by_tensor(self, tmp_path):
        bad = np.array([1, math.nan], np.float32)
        with pytest.raises(CheckpointError, match="w holds values that are not finite"):
            write_delta(tmp_path / "delta", BASE, {"w": (2,)}, iter([("w", bad)]), "bfloat16")

    def test_another_bases_vector_is_refused_before_a_tensor_is_read(self, tmp_path):
        base = open_checkpoint(write(tmp_path / "w", random_tensors()))
        path = delta_file(tmp_path / "delta", 1, base="c" * 64)
        with pytest.raises(CheckpointError, match=r"made for the base cccccccccccc.* is bbbbbbbbbbbb"):
            open_delta(path, base, BASE, "vector x")

    def test_weights_are_no_vector(self, tmp_path):
        folder = write(tmp_path / "w", random_tensors())
        with pytest.raises(CheckpointError, match="no distribution vector"):
            open_delta(folder / "model.safetensors", open_checkpoint(folder), BASE, "vector x")

    @pytest.mark.parametrize(
        ("change", "what"), [("drop", "only in the base"), ("add", "only in the vector"), ("shape", "F32")]
    )
    def test_names_and_shapes_that_differ_are_refused(self, tmp_path, change, what):
        base = open_checkpoint(write(tmp_path / "w", random_tensors()))
        shapes = delta_shapes(base)
        if change == "drop":
            del shapes["m.weight"]
        elif change == "add":
            shapes["new"] = (1,)
        else:
            shapes["m.weight"] = (33, 64)
        tensors = ((n, np.zeros(s, np.float32)) for n, s in shapes.items())
        write_delta(tmp_path / "delta", BASE, shapes, tensors, "float32")
        with pytest.raises(CheckpointError, match=what):
            open_delta(tmp_path / "delta", base, BASE, "vector x")


SCRIPT = """
import pathlib
import numpy as np
from dem_build.actions.compose.methods import METHODS
from dem_build.checkpoint import *
from dem_build.checkpoint.combine import Combination, combine, result_specs
from dem_build.checkpoint.reader import open_checkpoint
from dem_build.checkpoint.writer import weights_writer
base = open_checkpoint(pathlib.Path({base!r}))
deltas = [open_checkpoint(pathlib.Path(p)) for p in {deltas!r}]
for d in (base, *deltas): d.__enter__()
with weights_writer(pathlib.Path({out!r}), result_specs(base, "BF16")) as writer:
    named = ["vector 0", "vector 1"]
    way = METHODS[{method!r}]
    combine(Combination(base, deltas, [0.3, 0.7], way, "BF16", params={params!r}, digests=named), writer)
umath = np._core._multiarray_umath
print([name for name in umath.__cpu_dispatch__ if umath.__cpu_features__.get(name)])
"""


class TestCombine:
    @pytest.fixture
    def parts(self, tmp_path):
        base = open_checkpoint(write(tmp_path / "base", random_tensors()))
        deltas = [
            open_checkpoint(delta_file(tmp_path / f"d{i}", i, d))
            for i, d in ((1, "bfloat16"), (2, "float32"))
        ]
        return base, deltas

    @pytest.mark.parametrize("code", ["BF16", "F16", "F32"])
    @pytest.mark.parametrize("method", ["dem", "interpolation"])
    def test_is_the_formula_in_float32_rounded_once(self, tmp_path, parts, code, method):
        base, deltas = parts
        summed(tmp_path / "sum", base, deltas, [0.3, 0.9], code=code, method=method)
        dtype = {c: d for d, c in CODES.items()}[code]
        theta = load_file(tmp_path / "base" / "model.safetensors")
        terms = [load_file(tmp_path / "d1"), load_file(tmp_path / "d2")]
        for name, tensor in load_file(tmp_path / "sum" / "model.safetensors").items():
            start = theta[name].float()
            total = start if method == "dem" else torch.zeros_like(start)
            for omega, term in zip((0.3, 0.9), terms, strict=True):
                delta = term[name].float()
                total = total + np.float32(omega).item() * (delta if method == "dem" else start + delta)
            assert tensor.dtype == dtype
            assert torch.equal(tensor, total.to(dtype)), name

    @pytest.mark.parametrize("method", SUMMED)
    def test_threads_and_chunks_do_not_reach_the_bytes_or_the_norms(self, tmp_path, parts, method):
        made = [
            summed(
                tmp_path / f"{threads}-{chunk}",
                *parts,
                [0.3, 0.7],
                method=method,
                threads=threads,
                chunk=chunk,
            )
            for threads, chunk in ((1, 1 << 16), (2, 1 << 16), (4, 1 << 10), (3, 7), (2, 1001))
        ]
        assert len({stored for stored, _ in made}) == 1
        assert len({norms for _, norms in made[:2]}) == 1

    def test_a_tensor_that_several_threads_share_is_whole(self, tmp_path):
        values = torch.randn(2_500_000, generator=torch.Generator().manual_seed(0)).bfloat16()
        base = open_checkpoint(write(tmp_path / "base", {"w": values}))
        delta = {"w": np.full(2_500_000, 0.5, np.float32)}
        write_delta(tmp_path / "delta", BASE, {"w": (2_500_000,)}, iter(delta.items()), "bfloat16")
        summed(tmp_path / "sum", base, [open_checkpoint(tmp_path / "delta")], [2.0], threads=3)
        made = load_file(tmp_path / "sum" / "model.safetensors")["w"]
        assert torch.equal(made, (values.float() + 1).bfloat16())

    @pytest.mark.parametrize("method", SUMMED)
    def test_cpu_capability_does_not_reach_the_bytes(self, tmp_path, parts, method):
        own, _ = summed(tmp_path / "own", *parts, [0.3, 0.7], method=method)
        features = np._core._multiarray_umath.__cpu_dispatch__
        supported = np._core._multiarray_umath.__cpu_features__
        disabled = " ".join(name for name in features if supported.get(name))
        if not disabled:
            pytest.skip("numpy dispatches on no feature of this CPU")
        paths = [str(tmp_path / "d1"), str(tmp_path / "d2")]
        out = tmp_path / "plain"
        script = SCRIPT.format(
            base=str(tmp_path / "base"), deltas=paths, out=str(out), method=method, params=PARAMS
        )
        environment = os.environ | {"NPY_DISABLE_CPU_FEATURES": disabled}
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        assert done.stdout == "[]\n", "numpy still dispatches"
        assert (out / "model.safetensors").read_bytes() == own

    def test_no_terms_give_the_bases_bytes(self, tmp_path, parts):
        stored, norms = summed(tmp_path / "sum", parts[0], [], [])
        assert stored == (tmp_path / "base" / "model.safetensors").read_bytes()
        assert (norms.edit, norms.rounding_error) == (0.0, 0.0)

    def test_norms_are_those_of_a_float64_sum(self, tmp_path, parts):
        _, norms = summed(tmp_path / "sum", *parts, [0.3, 0.7])
        terms = [load_file(tmp_path / "d1"), load_file(tmp_path / "d2")]
        flat = [torch.cat([t.double().reshape(-1) for _, t in sorted(term.items())]) for term in terms]
        edit = 0.3 * flat[0] + 0.7 * flat[1]
        assert norms.edit == pytest.approx(edit.norm().item(), rel=1e-5)
        assert norms.deltas == pytest.approx([f.norm().item() for f in flat], rel=1e-5)
        base = load_file(tmp_path / "base" / "model.safetensors")
        result = load_file(tmp_path / "sum" / "model.safetensors")
        exact = torch.cat([base[n].double().reshape(-1) for n in sorted(base)]) + edit
        lost = torch.cat([result[n].double().reshape(-1) for n in sorted(result)]) - exact
        assert norms.rounding_error == pytest.approx(lost.norm().item(), rel=1e-3)

    def test_a_sum_that_is_not_finite_is_refused_by_tensor(self, tmp_path, parts):
        with pytest.raises(CheckpointError, match=r"(weight|scalar) is not finite in float16"):
            summed(tmp_path / "sum", *parts, [1e9, 1.0], code="F16")

    @pytest.mark.parametrize("bits", [0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0x7F800000])
    def test_what_is_not_finite_in_the_base_is_refused(self, tmp_path, bits):
        values = torch.ones(7)
        values.view(torch.int32)[5] = np.uint32(bits).astype(np.int32).item()
        base = open_checkpoint(write(tmp_path / "base", {"w": values}))
        with pytest.raises(CheckpointError, match="w is not finite in bfloat16"):
            summed(tmp_path / "sum", base, [], [])

    def test_an_error_whose_square_float32_cannot_hold_is_no_reason_to_refuse(self, tmp_path):
        values = torch.tensor([1.003e38, 2.007e38, -1e38])
        base = open_checkpoint(write(tmp_path / "base", {"w": values}))
        summed(tmp_path / "sum", base, [], [])
        made = load_file(tmp_path / "sum" / "model.safetensors")["w"]
        assert torch.equal(made, values.bfloat16())

    def test_no_element_is_further_than_one_ulp_from_a_float64_sum(self, tmp_path, parts):
        """One bfloat16 ulp of the largest term, or of the sum where that is larger; correct rounding is a half."""
        summed(tmp_path / "sum", *parts, [0.3, 0.9])
        theta = load_file(tmp_path / "base" / "model.safetensors")
        vectors = [load_file(tmp_path / "d1"), load_file(tmp_path / "d2")]
        for name, made in load_file(tmp_path / "sum" / "model.safetensors").items():
            terms = [theta[name].double(), 0.3 * vectors[0][name].double(), 0.9 * vectors[1][name].double()]
            exact = sum(terms)
            largest = torch.stack([*terms, exact]).abs().amax(0)
            ulp = torch.exp2(torch.floor(torch.log2(largest)) - 7)
            assert ((made.double() - exact).abs() <= 0.51 * ulp).all(), name

    def test_what_progress_raises_stops_the_work(self, tmp_path, parts):
        def stop(_):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            summed(tmp_path / "sum", *parts, [0.3, 0.7], on_progress=stop)

    def test_progress_ends_with_every_byte(self, tmp_path, parts):
        told = []
        summed(tmp_path / "sum", *parts, [0.3, 0.7], on_progress=told.append)
        assert told[-1] == sum(spec.nbytes for spec in result_specs(parts[0], "BF16"))

    def test_tensors_that_hold_no_floats_are_copied(self, tmp_path):
        save_file({"w": torch.ones(4), "ids": torch.arange(9).reshape(3, 3)}, tmp_path / "model.safetensors")
        summed(tmp_path / "sum", open_checkpoint(tmp_path), [], [])
        made = load_file(tmp_path / "sum" / "model.safetensors")
        assert torch.equal(made["ids"], torch.arange(9).reshape(3, 3))
        assert made["w"].dtype == torch.bfloat16
