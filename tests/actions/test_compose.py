"""Composing: the model is base plus weighted vectors, whole, and its bytes depend on nothing else."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import make_base
from transformers import AutoModelForCausalLM, AutoTokenizer
from weight_samples import (
    DIGEST,
    PARTS,
    bytes_of,
    import_base,
    load,
    make_context,
    random_vector,
    run_compose,
    store_vector,
)

from dem_build.action import Input
from dem_build.actions.compose import run as compose
from dem_build.actions.tune.omega import write_omega
from dem_build.checkpoint.floats import from_bfloat16, to_bfloat16
from dem_build.checkpoint.reader import open_checkpoint
from dem_build.errors import CheckpointError, InterruptedBuildError
from dem_build.step import Inputs, StoredFile

IDS = torch.arange(3, 35).reshape(2, 16)


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    home = tmp_path_factory.mktemp("imported")
    return import_base(make_base(home / "base"), home / "import")


@pytest.fixture(scope="module")
def vectors(imported, tmp_path_factory):
    home = tmp_path_factory.mktemp("vectors")
    return [store_vector(home / f"delta-{i}", random_vector(imported, seed=i)) for i in range(3)]


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("shards", [1, 2], ids=["whole", "sharded"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_are_those_of_an_independent_float64_composition(tmp_path, tied, shards, dtype):
    source = make_base(tmp_path / "base", tied=tied, shards=shards)
    outputs = import_base(source, tmp_path / "import")
    stored = [store_vector(tmp_path / f"d{i}", random_vector(outputs, seed=i)) for i in range(2)]
    made = run_compose(outputs, tmp_path / "composed", zip(stored, (0.7, 0.4), strict=True), dtype=dtype)
    composed = load(made.out, tmp_path / "model", dtype=torch.float64)

    expected = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float64).eval()
    deltas = [load_file(path) for path in stored]
    parameters = dict(expected.named_parameters())
    assert set(deltas[0]) == set(parameters)
    with torch.no_grad():
        for name, parameter in parameters.items():
            total = parameter + 0.7 * deltas[0][name].double() + 0.4 * deltas[1][name].double()
            parameter.copy_(total if dtype == "float32" else total.to(torch.bfloat16))
        expected_logits, logits = expected(IDS).logits, composed(IDS).logits
    # The float32 sum may round to the other of two neighbouring bfloat16 where the float64 sum is all but between.
    tolerance = 1e-5 if dtype == "float32" else 2e-3
    assert (expected_logits - logits).abs().max() < tolerance * expected_logits.abs().max()
    assert composed.config.tie_word_embeddings is tied


def test_the_published_folder_is_the_base_but_for_weights_and_dtype(tmp_path, imported, vectors):
    made = run_compose(imported, tmp_path / "composed", [(vectors[0], 1.0)], dtype="float16")
    model = load(made.out, tmp_path / "model")
    assert model.dtype == torch.float16
    base_config = json.loads((imported / "config").read_text())
    assert json.loads((made.out / "config").read_text()) == base_config | {"dtype": "float16"}
    assert bytes_of(made.out / "tokenizer") == bytes_of(imported / "tokenizer")
    assert (made.out / "generation_config").read_bytes() == (imported / "generation_config").read_bytes()
    assert AutoTokenizer.from_pretrained(tmp_path / "model").decode([3, 4]) is not None


def test_interpolation_equals_dem_where_the_omegas_sum_to_one(tmp_path, imported, vectors):
    terms = list(zip(vectors, (0.5, 0.3, 0.2), strict=True))
    dem = run_compose(imported, tmp_path / "dem", terms, dtype="float32")
    mean = run_compose(imported, tmp_path / "mean", terms, dtype="float32", method="interpolation")
    with open_checkpoint(dem.out / "weights") as a, open_checkpoint(mean.out / "weights") as b:
        for name in a.tensors:
            assert np.allclose(a.read(name), b.read(name), rtol=0, atol=1e-6), name
    assert not [e for e in mean.events if e["event"] == "warning"]


def test_one_float32_vector_at_one_is_the_fine_tuned_model(tmp_path, imported):
    with open_checkpoint(imported / "weights") as base:
        theta = {name: base.read(name) for name in base.tensors}
    rng = np.random.default_rng(5)
    tuned = {n: (t + rng.standard_normal(t.shape) * 1e-3).astype(np.float32) for n, t in theta.items()}
    path = store_vector(tmp_path / "delta", {n: tuned[n] - theta[n] for n in theta}, "float32")
    made = run_compose(imported, tmp_path / "composed", [(path, 1.0)])
    with open_checkpoint(made.out / "weights") as composed:
        differing = sum((composed.read(n) != from_bfloat16(to_bfloat16(tuned[n]))).sum() for n in theta)
        total = sum(t.size for t in theta.values())
    # A float32 difference may lack the last bit, which moves a bfloat16 only where it decides which one is nearer.
    assert differing <= total / 50_000


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float16"])
def test_no_terms_give_the_bases_bytes(tmp_path, tiny_base, dtype):
    outputs = import_base(tiny_base, tmp_path / "import", dtype)
    made = run_compose(outputs, tmp_path / "composed", [], dtype=dtype)
    assert bytes_of(made.out / "weights") == bytes_of(outputs / "weights")
    assert (made.out / "config").read_bytes() == (outputs / "config").read_bytes()


def test_threads_do_not_reach_a_byte_or_the_provenance(tmp_path, imported, vectors):
    terms = list(zip(vectors, (0.5, 0.3, 0.7), strict=True))
    made = [run_compose(imported, tmp_path / f"{n}", terms, threads=n) for n in (1, 2, 4)]
    assert len({json.dumps([b.hex() for b in bytes_of(m.out / "weights").values()]) for m in made}) == 1
    assert (
        len({json.dumps({k: v for k, v in m.told.items() if k not in ("seconds", "threads")}) for m in made})
        == 1
    )


def test_another_bases_vector_is_refused_and_nothing_is_written(tmp_path, imported):
    path = store_vector(tmp_path / "delta", random_vector(imported, seed=1), digest="c" * 64)
    with pytest.raises(CheckpointError, match="made for the base cccccccccccc"):
        run_compose(imported, tmp_path / "composed", [(path, 1.0)])
    assert not (tmp_path / "composed" / "out" / "weights").exists()


def test_a_truncated_vector_is_refused(tmp_path, imported, vectors):
    (tmp_path / "delta").write_bytes(vectors[0].read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cut off inside"):
        run_compose(imported, tmp_path / "composed", [(tmp_path / "delta", 1.0)])


def test_a_vector_of_other_shapes_is_refused(tmp_path, imported):
    vector = random_vector(imported, seed=1)
    vector["model.embed_tokens.weight"] = vector["model.embed_tokens.weight"][:-1]
    path = store_vector(tmp_path / "delta", vector)
    with pytest.raises(CheckpointError, match=r"model\.embed_tokens\.weight"):
        run_compose(imported, tmp_path / "composed", [(path, 1.0)])


def test_an_interpolation_of_nothing_is_refused(tmp_path, imported):
    with pytest.raises(CheckpointError, match="model of zeros"):
        run_compose(imported, tmp_path / "composed", [], method="interpolation")


def test_an_interpolation_whose_omegas_do_not_sum_to_one_is_said(tmp_path, imported, vectors):
    made = run_compose(imported, tmp_path / "composed", [(vectors[0], 0.5)], method="interpolation")
    assert any("sum to 0.5" in e["message"] for e in made.events if e["event"] == "warning")


@pytest.mark.parametrize(
    ("scale", "dtype", "warned"),
    [(1e-7, "bfloat16", True), (1e-7, "float32", False), (0.1, "bfloat16", False)],
)
def test_rounding_that_leaves_only_the_base_is_said_with_the_mend(tmp_path, imported, scale, dtype, warned):
    path = store_vector(tmp_path / "delta", random_vector(imported, seed=1, scale=scale))
    made = run_compose(imported, tmp_path / "composed", [(path, 1.0)], dtype=dtype)
    assert any('dtype = "float32"' in e.get("message", "") for e in made.events) is warned
    assert (made.told["relative_rounding_error"] > 0.99) is warned


def test_rounding_that_makes_another_model_is_recorded_and_no_warning(tmp_path, imported):
    """At half the least step of most weights a third of the vector's length is rounded away, and the rest is there."""
    path = store_vector(tmp_path / "delta", random_vector(imported, seed=1, scale=1e-4))
    made = run_compose(imported, tmp_path / "composed", [(path, 1.0)])
    assert 0.1 < made.told["relative_rounding_error"] < 0.99
    assert not any(e["event"] == "warning" for e in made.events)


def test_provenance_holds_each_vector_with_its_omega_and_length(tmp_path, imported, vectors):
    made = run_compose(imported, tmp_path / "composed", [(vectors[0], 0.5), (vectors[1], -0.25)])
    assert [(t["vector"], t["omega"]) for t in made.told["terms"]] == [("0" * 64, 0.5), ("1" * 64, -0.25)]
    length = np.sqrt(
        sum(np.square(t.float().numpy(), dtype=np.float64).sum() for t in load_file(vectors[0]).values())
    )
    assert made.told["terms"][0]["norm"] == pytest.approx(length, rel=1e-5)


def enormous(imported, path, weight, name="model.norm.weight"):
    vector = random_vector(imported, seed=1, scale=1e-4)
    vector[name].reshape(-1)[3] = weight
    return store_vector(path, vector)


def test_a_vector_too_large_to_compute_with_is_refused_with_its_omega(tmp_path, imported, vectors):
    """What is made of it is finite, and its length is in no float32."""
    path = enormous(imported, tmp_path / "delta", 2e38)
    with pytest.raises(
        CheckpointError,
        match=r"by 1\.99e\+38 in length, most of all vector 111111111111…, whose length is 1\.99e\+38, with ω 1",
    ) as caught:
        run_compose(imported, tmp_path / "composed", [(vectors[0], 0.5), (path, 1.0)])
    assert caught.value.hint.startswith("lower `omega` of vector 111111111111… in the recipe")


def test_a_sum_that_overflows_names_the_element_the_vector_and_its_omega(tmp_path, imported, vectors):
    path = enormous(imported, tmp_path / "delta", 2e38)
    with pytest.raises(CheckpointError) as caught:
        run_compose(imported, tmp_path / "composed", [(vectors[0], 0.5), (path, 4.0)])
    assert caught.value.what.startswith("model.norm.weight is not finite in ")
    assert re.search(
        r"element 3 is \S+ in the base and 1\.99e\+38 in vector 111111111111…, of ω 4$", caught.value.what
    )
    assert "lower `omega` of vector 111111111111… in the recipe" in caught.value.hint


def test_a_sum_that_overflows_is_not_laid_to_a_larger_share_that_does_not(tmp_path, imported):
    vectors = [random_vector(imported, seed=seed, scale=1e-4) for seed in (1, 2)]
    for vector in vectors:
        vector["model.norm.weight"].reshape(-1)[3] = 2e38
    vectors[0]["model.norm.weight"].reshape(-1)[5] = 3e38
    paths = [store_vector(tmp_path / str(i), vector) for i, vector in enumerate(vectors)]
    with pytest.raises(CheckpointError, match=r"element 3 is \S+ in the base and 1\.99e\+38 in "):
        run_compose(imported, tmp_path / "composed", [(path, 1.0) for path in paths])


def test_a_small_omega_makes_an_enormous_weight_harmless_and_its_length_is_told(tmp_path, imported):
    path = enormous(imported, tmp_path / "delta", 2e38)
    made = run_compose(imported, tmp_path / "composed", [(path, 1e-38)])
    assert made.told["terms"][0]["norm"] == pytest.approx(2e38, rel=1e-2)
    assert 1 < made.told["edit_norm"] < 3


def test_progress_is_told_in_bytes_up_to_the_last(tmp_path, imported, vectors):
    made = run_compose(imported, tmp_path / "composed", [(vectors[0], 0.5)])
    last = [e for e in made.events if e["event"] == "progress"][-1]
    assert last["done"] == last["total"] > 0
    assert last["unit"] == "bytes"


def test_a_user_who_stops_it_is_obeyed(tmp_path, imported, vectors):
    with pytest.raises(InterruptedBuildError):
        run_compose(imported, tmp_path / "composed", [(vectors[0], 0.5)], stopping=lambda: True)


MEMORY = """
import pathlib, sys
import numpy as np
from dem_build.checkpoint.delta import write_delta
from dem_build.checkpoint.floats import from_bfloat16, to_bfloat16
from dem_build.checkpoint.header import TensorSpec
from dem_build.checkpoint.writer import weights_writer
home = pathlib.Path(sys.argv[1])
rng = np.random.default_rng(0)
specs = [TensorSpec(f"w{i}", "BF16", (4096, 2500)) for i in range(10)]
bits = to_bfloat16(rng.standard_normal(4096 * 2500, dtype=np.float32))
with weights_writer(home / "base", specs) as writer:
    for spec in specs:
        writer.write(spec.name, 0, bits)
shapes = {s.name: s.shape for s in specs}
delta = (from_bfloat16(bits) * np.float32(0.01)).reshape(4096, 2500)
write_delta(home / "delta", "b" * 64, shapes, ((n, delta) for n in shapes), "bfloat16")
"""
COMPOSE = """
import pathlib, sys
from dem_build.machine import Machine
from dem_build.actions.compose import run as compose
from dem_build.action import Input
from dem_build.step import Context, Inputs, StoredFile
home = pathlib.Path(sys.argv[1])
(home / "tokenizer").mkdir()
for name in ("config", "generation_config"):
    (home / name).write_text("{}")
(home / "out").mkdir()
paths = {"base/weights": home / "base"} | {f"base/{n}": home / n for n in ("config", "tokenizer", "generation_config")}
terms = tuple(Input("delta", StoredFile(home / "delta", f"{i}" * 64), 0.25) for i in range(3))
before = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
context = Context(work=home, out=home / "out", machine=Machine(), threads=2)
compose.run(Inputs(paths, {"base/weights": "b" * 64}, terms), {"method": "dem", "dtype": "bfloat16"}, context)
print(int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_model_and_torch_is_not_imported(tmp_path):
    """A model of 205 MB and three vectors; one of its tensors alone is 41 MB in float32."""
    subprocess.run([sys.executable, "-c", MEMORY, str(tmp_path)], check=True)
    check = "\nassert 'torch' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", COMPOSE + check, str(tmp_path)], check=True, capture_output=True, text=True
    )
    assert int(done.stdout) < 32 * 1024, f"grew by {done.stdout.strip()} KiB"


def test_omega_that_name_no_vector_of_the_model_are_refused(imported, tmp_path):
    delta = store_vector(tmp_path / "delta", random_vector(imported, 1))
    write_omega(tmp_path / "omega", {"f" * 64: 0.5})
    context = make_context(tmp_path / "out")
    inputs = Inputs(
        paths={f"base/{part}": imported / part for part in PARTS} | {"omega": tmp_path / "omega"},
        digests={"base/weights": DIGEST},
        terms=(Input("delta", StoredFile(delta, "0" * 64), None),),
    )
    with pytest.raises(CheckpointError, match="name no vector 0000"):
        compose.run(inputs, {"method": "dem", "dtype": "float32"}, context)


def test_a_layers_omega_reaches_that_layer_alone(imported, tmp_path):
    vector = random_vector(imported, 1)
    delta = store_vector(tmp_path / "delta", vector, "float32")
    write_omega(tmp_path / "omega", {"0" * 64: {"embeddings": 0.0, "0": 0.5, "1": 0.0, "final": 0.0}})
    context = make_context(tmp_path / "out")
    inputs = Inputs(
        paths={f"base/{part}": imported / part for part in PARTS} | {"omega": tmp_path / "omega"},
        digests={"base/weights": DIGEST},
        terms=(Input("delta", StoredFile(delta, "0" * 64), None),),
    )
    compose.run(inputs, {"method": "dem", "dtype": "float32"}, context)
    with open_checkpoint(imported / "weights") as base, open_checkpoint(context.out / "weights") as made:
        for name, change in vector.items():
            wanted = base.read(name) + (np.float32(0.5) * change if ".layers.0." in name else 0)
            np.testing.assert_array_equal(made.read(name), wanted)
