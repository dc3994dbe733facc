"""Saliency: how much what a layer puts out of a token moves the loss, and what it weighs where layers are fitted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from families import make_family
from match_samples import by_hand, random_rows, run_match
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D
from weight_samples import DIGEST, bytes_of, import_base, load, make_context, random_vector, store_vector

from dem_build.actions.saliency import run as saliency
from dem_build.actions.saliency.stored import read_saliency, write_saliency
from dem_build.data.arrays import RowsWriter
from dem_build.errors import CheckpointError, DataError
from dem_build.machine import Machine
from dem_build.step import Inputs

# In what they differ: what shares an input, how modules lie in files, and what is beside them.
ARCHITECTURES = {
    "llama": {},
    "gpt2": {"num_hidden_layers": 1},  # Conv1D
    "phi3": {"num_hidden_layers": 1},  # fused qkv and gate_up
    "gemma2": {"head_dim": 8, "sliding_window": 8},  # soft caps, norms before and after, scaled embeddings
}


@pytest.fixture(scope="module")
def vectors(imported, home):
    files = [store_vector(home / f"d{i}", random_vector(imported, seed=i)) for i in range(2)]
    return [(file, random_rows(i), 1.0) for i, file in enumerate(files)]


def belongs(delta):
    return {"base": DIGEST, "delta": delta.name.ljust(64, "0")}


def run_saliency(imported, folder, delta, rows, *, dtype="float32", most=32, **machine):
    """Take the saliency of rows in a vector's model; return its file."""
    context = replace(make_context(folder, 1), machine=Machine(**machine))
    with RowsWriter(folder / "spool") as writer:
        for ids, labels in rows:
            writer.append(ids, labels, bytes(16))
        writer.save(folder / "rows")
    paths = {f"base/{part}": imported / part for part in ("weights", "config")}
    paths |= {"delta": delta, "data/sample": folder / "rows"}
    digests = {"base/weights": DIGEST, "delta": belongs(delta)["delta"]}
    saliency.run(Inputs(paths=paths, digests=digests), {"rows": most, "dtype": dtype}, context)
    return context.out / "saliency"


def taken_by_hand(base, delta, rows):
    """Name of a linear module → the norm of the loss' gradient in all that comes of its input, [tokens], float64."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64).eval()
    with torch.no_grad():
        for name, tensor in delta.items():
            model.state_dict()[name] += torch.from_numpy(np.asarray(tensor, np.float64))
    parts = []
    given, made = {}, {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | Conv1D) and name != "lm_head":

            def note(_, inputs, output, name=name):
                given[name], made[name] = inputs[0], output

            module.register_forward_hook(note)
    for ids, labels in rows:
        wanted = torch.from_numpy(labels.astype("int64"))
        logits = model(torch.from_numpy(ids.astype("int64"))[None]).logits[0]
        loss = nn.functional.cross_entropy(logits[:-1], wanted[1:], reduction="sum")
        found = dict(zip(made, torch.autograd.grad(loss, list(made.values())), strict=True))
        squares = {name: gradient.square().sum(-1).view(-1) for name, gradient in found.items()}
        parts.append(
            {
                name: sum(squares[other] for other in squares if given[other] is given[name]).sqrt()
                for name in squares
            }
        )
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_it_is_the_gradient_in_what_modules_make_of_an_input_and_layers_are_fitted_by_it(home, family):
    make_family(family, home / "base", home / family, **ARCHITECTURES[family])
    outputs = import_base(home / family, home / f"{family}-import")
    deltas = [random_vector(outputs, seed=i, scale=0.03) for i in range(2)]
    rows = [random_rows(0, (12, 20)), random_rows(1, (30,))]
    files = [store_vector(home / f"{family}-{i}", v, "float32") for i, v in enumerate(deltas)]
    paths, wanted = [], []
    for i, (file, delta, found) in enumerate(zip(files, deltas, rows, strict=True)):
        paths.append(run_saliency(outputs, home / f"{family}-saliency-{i}", file, found))
        wanted.append(taken_by_hand(home / family, delta, found))
        stored = read_saliency(paths[i], belongs(file), "math", sum(len(ids) for ids, _ in found))
        assert {name.removesuffix(".weight") for name in stored} == wanted[i].keys()
        for name, values in wanted[i].items():
            assert stored[f"{name}.weight"] == pytest.approx(values.numpy(), rel=1e-3, abs=1e-6), name
            assert values.max() > 2 * values.min()
    given = [(file, found, 1.0) for file, found in zip(files, rows, strict=True)]
    matched = load(
        run_match(outputs, home / f"{family}-matched", given, saliency=paths).out, home / f"{family}-m"
    )
    plain = load(run_match(outputs, home / f"{family}-plain", given).out, home / f"{family}-p").state_dict()
    expected = by_hand(home / family, deltas, rows, saliency=wanted).state_dict()
    moved = 0
    for name, values in expected.items():
        assert (matched.state_dict()[name] - values).norm() <= 2e-4 * values.norm(), name
        moved += (plain[name] - values).norm() > 1e-3 * values.norm()
    assert moved > 3


def test_saliency_is_of_the_weights_that_are_published(tmp_path, home, imported, vectors):
    file, rows, _ = vectors[0]
    rounded = read_saliency(
        run_saliency(imported, tmp_path / "rounded", file, rows, dtype="bfloat16"), belongs(file), "", 57
    )
    base = AutoModelForCausalLM.from_pretrained(home / "base", dtype=torch.float32).state_dict()
    made = {}
    for name, values in random_vector(imported, seed=0).items():
        delta = torch.from_numpy(np.asarray(values, np.float32)).bfloat16().float()
        made[name] = ((base[name] + delta).bfloat16().double() - base[name].double()).numpy()
    wanted = taken_by_hand(home / "base", made, rows)
    for name, values in wanted.items():
        assert rounded[f"{name}.weight"] == pytest.approx(values.numpy(), rel=1e-3, abs=1e-6), name


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_where_all_tokens_are_as_salient_they_weigh_as_without(tmp_path, imported, vectors, value):
    paths = []
    for i, (file, rows, _) in enumerate(vectors):
        real = run_saliency(imported, tmp_path / f"s{i}", file, rows)
        found = read_saliency(real, belongs(file), "", tokens := sum(len(ids) for ids, _ in rows))
        paths.append(tmp_path / f"even-{i}")
        even = {name: np.full(tokens, value, np.float32) for name in found}
        write_saliency(paths[i], belongs(file), {name: name for name in found}, even)
    plain = run_match(imported, tmp_path / "plain", vectors, prior="fit")
    made = run_match(imported, tmp_path / "made", vectors, prior="fit", saliency=paths)
    assert bytes_of(made.out / "weights") == bytes_of(plain.out / "weights")


def test_order_names_and_threads_reach_no_byte(tmp_path, imported, vectors):
    paths = [
        run_saliency(imported, tmp_path / f"s{i}", file, rows) for i, (file, rows, _) in enumerate(vectors)
    ]
    for i, path in enumerate(paths):
        paths[i] = path.rename(path.with_name(f"saliency-{i}"))
    one = run_match(imported, tmp_path / "one", vectors, threads=1, saliency=paths)
    other = run_match(imported, tmp_path / "other", vectors[::-1], threads=3, saliency=paths[::-1])
    assert bytes_of(one.out / "weights") == bytes_of(other.out / "weights")


def test_the_same_vector_and_rows_twice_give_that_vector(tmp_path, imported, vectors):
    path, params = (
        run_saliency(imported, tmp_path / "s", *vectors[0][:2]),
        {"dtype": "bfloat16", "prior": "fit"},
    )
    twice = run_match(imported, tmp_path / "twice", [vectors[0]] * 2, saliency=[path] * 2, **params)
    alone = run_match(imported, tmp_path / "alone", vectors[:1], saliency=[path], **params)
    assert bytes_of(twice.out / "weights") == bytes_of(alone.out / "weights")


def test_layers_that_are_computed_again_give_the_same(tmp_path, imported, vectors):
    plain, again = (
        run_saliency(imported, tmp_path / str(on), *vectors[0][:2], gradient_checkpointing=on)
        for on in (False, True)
    )
    assert plain.read_bytes() == again.read_bytes()


def test_rows_of_which_no_token_counts_have_none(tmp_path, imported, vectors):
    file, rows, _ = vectors[0]
    silent = [(ids, np.full_like(labels, -100)) for ids, labels in rows[:1]]
    sizes = [len(ids) for ids, _ in rows[:2]]
    path = run_saliency(imported, tmp_path / "s", file, silent + rows[1:2])
    found = read_saliency(path, belongs(file), "", sum(sizes))
    assert {float(values[: sizes[0]].max()) for values in found.values()} == {0.0}
    assert min(float(values[sizes[0] :].max()) for values in found.values()) > 0


def test_saliency_of_another_vector_or_of_other_rows_is_refused(tmp_path, imported, vectors):
    paths = [
        run_saliency(imported, tmp_path / f"s{i}", file, rows) for i, (file, rows, _) in enumerate(vectors)
    ]
    with pytest.raises(CheckpointError, match="is no saliency of this vector") as refused:
        run_match(imported, tmp_path / "swapped", vectors, saliency=paths[::-1])
    assert refused.value.hint == "`--rebuild saliency:d0` makes it again"
    with pytest.raises(CheckpointError, match="is of 57 tokens, and the rows have 32"):
        run_match(imported, tmp_path / "fewer", vectors, saliency=paths, rows=2)
    with pytest.raises(DataError, match="no training rows"):
        run_saliency(imported, tmp_path / "none", vectors[0][0], [])
