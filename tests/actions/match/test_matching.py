"""Matching: the model does on each dataset's rows what its single does; its bytes depend on nothing else."""

from __future__ import annotations

import shutil
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from families import make_family
from match_samples import by_hand, random_rows, run_match
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode
from weight_samples import bytes_of, import_base, load, random_vector, run_compose, store_vector

from dem_build.actions.match.normal import dot, factor_of
from dem_build.actions.match.rows import token_weights
from dem_build.actions.match.sums import ModelSums
from dem_build.checkpoint.reader import open_checkpoint
from dem_build.data.tokenise import MASKED
from dem_build.errors import CheckpointError, DataError, InterruptedBuildError

# In what they differ: what a layer computes beside its linear modules, how these are fused, and which have biases.
ARCHITECTURES = {
    "llama": {},
    "gpt2": {"num_hidden_layers": 1},  # Conv1D, biases, positions that are looked up
    "gpt_neox": {
        "num_hidden_layers": 1,
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
    },  # parallel residual
    "phi3": {"num_hidden_layers": 1},  # fused qkv and gate_up
    "gemma2": {"head_dim": 8, "sliding_window": 8},  # norms before and after, soft caps, two sorts of masks
    "qwen2": {"num_hidden_layers": 1},  # biases of q, k and v
}
INPUTS_OF_THE_FIRST = ("q_proj", "k_proj", "v_proj", "qkv_proj", "c_attn", "query_key_value")


@pytest.fixture(scope="module")
def vectors(imported, home):
    """Three vectors with rows of their own."""
    files = [store_vector(home / f"d{i}", random_vector(imported, seed=i)) for i in range(3)]
    return [(file, random_rows(i), 1.0) for i, file in enumerate(files)]


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_every_linear_layer_is_the_one_by_hand(home, family):
    make_family(family, home / "base", home / family, **ARCHITECTURES[family])
    outputs = import_base(home / family, home / f"{family}-import")
    deltas = [random_vector(outputs, seed=i, scale=0.03) for i in range(2)]
    rows = [random_rows(0, (12, 20)), random_rows(1, (30,))]
    for ids, _ in rows[0]:
        ids[:4] = 5, 6, 7, 8  # as a system prompt
    files = [store_vector(home / f"{family}-{i}", v, "float32") for i, v in enumerate(deltas)]
    given = [(file, found, 1.0) for file, found in zip(files, rows, strict=True)]
    made = run_match(outputs, home / f"{family}-matched", given, prior="fit")
    matched = load(made.out, home / f"{family}-model").state_dict()
    expected = by_hand(home / family, deltas, rows, prior="fit").state_dict()
    for name, values in expected.items():
        # What a module of the first layer is given first is exact; later inputs are those of a float32 pass.
        parts = set(name.split("."))
        exact = "0" in parts and not parts.isdisjoint(INPUTS_OF_THE_FIRST)
        assert (matched[name] - values).norm() <= (1e-6 if exact else 5e-5) * values.norm(), name


def test_a_long_row_is_taken_in_pieces(home):
    make_family("llama", home / "base", home / "long", num_hidden_layers=1, max_position_embeddings=1024)
    outputs = import_base(home / "long", home / "long-import")
    deltas = [random_vector(outputs, seed=i, scale=0.03) for i in range(2)]
    rows = [random_rows(0, (700, 300)), random_rows(1, (30, 1050))]
    files = [store_vector(home / f"long-{i}", v, "float32") for i, v in enumerate(deltas)]
    with pytest.raises(DataError, match="the model takes 1024 tokens at most"):
        run_match(outputs, home / "too-long", [(files[1], rows[1], 1.0)])
    rows[1] = random_rows(1, (30, 513))
    given = [(file, found, 1.0) for file, found in zip(files, rows, strict=True)]
    made = run_match(outputs, home / "long-matched", given)
    matched = load(made.out, home / "long-model").state_dict()
    for name, values in by_hand(home / "long", deltas, rows).state_dict().items():
        assert (matched[name] - values).norm() <= 5e-5 * values.norm(), name


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_one_dataset_alone_gives_its_own_model_back(tmp_path, imported, vectors, dtype):
    alone = run_match(imported, tmp_path / "matched", vectors[:1], dtype=dtype)
    single = run_compose(imported, tmp_path / "single", [(vectors[0][0], 1.0)], dtype=dtype)
    for part in ("weights", "tokenizer"):
        assert bytes_of(alone.out / part) == bytes_of(single.out / part)
    for part in ("config", "generation_config"):
        assert (alone.out / part).read_bytes() == (single.out / part).read_bytes()
    assert [term["residual"] for term in alone.told["terms"]] == [0.0]


def test_the_same_vector_and_rows_twice_give_that_vector(tmp_path, imported, vectors):
    twice = run_match(imported, tmp_path / "matched", [vectors[0], vectors[0]], dtype="bfloat16", prior="fit")
    single = run_compose(imported, tmp_path / "single", [(vectors[0][0], 1.0)])
    assert bytes_of(twice.out / "weights") == bytes_of(single.out / "weights")


def test_vectors_of_disjoint_layers_are_both_kept_exactly(tmp_path, imported):
    parts = []
    for i, layer in enumerate(("layers.0.", "layers.1.")):
        values = random_vector(imported, seed=7 + i)
        kept = {n: t if layer in n else np.zeros_like(t) for n, t in values.items()}
        parts.append(store_vector(tmp_path / f"d{i}", kept))
    matched = run_match(imported, tmp_path / "matched", [(part, random_rows(1), 1.0) for part in parts])
    both = run_compose(imported, tmp_path / "both", [(part, 1.0) for part in parts], dtype="float32")
    assert bytes_of(matched.out / "weights") == bytes_of(both.out / "weights")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_order_names_and_threads_reach_no_byte(tmp_path, imported, vectors, dtype):
    one = run_match(imported, tmp_path / "one", vectors, threads=1, dtype=dtype, prior="fit")
    other = run_match(imported, tmp_path / "other", vectors[::-1], threads=3, dtype=dtype, prior="fit")
    assert bytes_of(one.out / "weights") == bytes_of(other.out / "weights")
    assert one.told["terms"] == other.told["terms"]


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_no_more_than_a_layer_of_the_files_stays_in_memory(monkeypatch, tmp_path, imported, vectors):
    """A page that was looked at is this process' until it is let go of: else they grow to all of base and vectors."""
    shutil.copytree(imported, tmp_path / "import")
    given = [(shutil.copy(file, tmp_path), rows, importance) for file, rows, importance in vectors]
    release, seen = ModelSums.release, []

    def released(self):
        before = pages_of(tmp_path)
        release(self)
        seen.append((before, pages_of(tmp_path)))

    monkeypatch.setattr(ModelSums, "release", released)
    plain = run_match(imported, tmp_path / "plain", vectors)
    seen.clear()
    made = run_match(tmp_path / "import", tmp_path / "made", [(Path(f), r, a) for f, r, a in given])
    assert bytes_of(made.out / "weights") == bytes_of(plain.out / "weights")
    written = len(load_file(made.out / "weights" / "model.safetensors"))
    assert len(seen) == 2 + written - 2 * 7  # at each layer, and at each tensor that is not fitted
    assert {after for _, after in seen} == {0}
    assert all(before for before, _ in seen[:2])


def pages_of(folder):
    """Kilobytes of files in a folder that are mapped and in memory."""
    found, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            ours = str(folder) in line
        elif ours and line.startswith("Rss:"):
            found += int(line.split()[1])
    return found


def test_a_vector_is_followed_as_far_as_it_matters(tmp_path, imported, vectors):
    plain = run_match(imported, tmp_path / "plain", vectors)
    much = run_match(imported, tmp_path / "much", [(*vectors[0][:2], 100.0), *vectors[1:]])
    assert much.told["terms"][0]["importance"] == 100.0
    assert much.told["terms"][0]["residual"] < 0.1 * plain.told["terms"][0]["residual"]
    without = run_match(imported, tmp_path / "without", [(*vectors[0][:2], 0.0), *vectors[1:]])
    never = run_match(imported, tmp_path / "never", vectors[1:])
    assert bytes_of(without.out / "weights") == bytes_of(never.out / "weights")


def test_matched_states_are_nearer_to_each_single_than_the_mean(tmp_path, imported, vectors):
    matched = run_match(imported, tmp_path / "matched", vectors, dtype="bfloat16")
    # With a ridge that lets nothing move, what is left is the prior.
    mean = run_match(imported, tmp_path / "mean", vectors, dtype="bfloat16", ridge=1e9)
    thirds = run_compose(imported, tmp_path / "thirds", [(file, 1 / 3) for file, *_ in vectors])
    assert bytes_of(mean.out / "weights") == bytes_of(thirds.out / "weights")
    for near, far in zip(matched.told["terms"], mean.told["terms"], strict=True):
        assert near["residual"] < 0.5 * far["residual"]


def test_only_the_prior_knows_a_vector_without_rows(tmp_path, imported, vectors):
    files = [file for file, *_ in vectors]
    made = run_match(imported, tmp_path / "matched", [(file, None, 1.0) for file in files], prior=1.5)
    half = run_compose(imported, tmp_path / "half", [(file, 0.5) for file in files], dtype="float32")
    assert bytes_of(made.out / "weights") == bytes_of(half.out / "weights")
    warned = [event["message"] for event in made.events if event["event"] == "warning"]
    assert warned == [f"d{i} has no rows: of its vector only the prior knows" for i in range(3)]


def test_an_input_that_is_always_0_keeps_the_prior(tmp_path, home):
    make_family("llama", home / "base", tmp_path / "base", num_hidden_layers=1)
    outputs = import_base(tmp_path / "base", tmp_path / "import")
    with open_checkpoint(outputs / "weights") as base:
        up = base.read("model.layers.0.mlp.up_proj.weight")
    files = []
    for i in range(2):
        values = random_vector(outputs, seed=i)
        values["model.layers.0.mlp.up_proj.weight"][0] = -up[0]
        files.append(store_vector(tmp_path / f"d{i}", values, "float32"))
    given = [(file, random_rows(i), 1.0) for i, file in enumerate(files)]
    made = run_match(outputs, tmp_path / "matched", given)
    down = load_file(made.out / "weights" / "model.safetensors")["model.layers.0.mlp.down_proj.weight"]
    mean = run_match(outputs, tmp_path / "mean", [(file, None, 1.0) for file in files])
    prior = load_file(mean.out / "weights" / "model.safetensors")["model.layers.0.mlp.down_proj.weight"]
    assert torch.equal(down[:, 0], prior[:, 0])
    assert not torch.isclose(down[:, 1:], prior[:, 1:]).all(dim=0).any()


@pytest.mark.parametrize(
    ("family", "what"),
    [
        (
            "mixtral",
            r"model\.layers\.0\.mlp\.\w+.*, a tensor of a Mixtral\w+, is the weight of no linear module",
        ),
        ("openai-gpt", "OpenAIGPTModel has no list of decoder layers"),
    ],
)
def test_what_has_other_weights_than_those_of_linear_layers_is_refused_by_name(tmp_path, home, family, what):
    make_family(family, home / "base", tmp_path / "base")
    outputs = import_base(tmp_path / "base", tmp_path / "import")
    file = store_vector(tmp_path / "d", random_vector(outputs, seed=0))
    with pytest.raises(CheckpointError, match=what) as refused:
        run_match(outputs, tmp_path / "matched", [(file, random_rows(0), 1.0)])
    assert refused.value.hint == 'compose this model with method = "dem"'


def test_a_vector_of_another_base_and_one_that_is_not_finite_are_refused(tmp_path, imported, vectors):
    other = store_vector(tmp_path / "other", random_vector(imported, seed=0), digest="c" * 64)
    with pytest.raises(CheckpointError, match="was made for the base cccccccccccc"):
        run_match(imported, tmp_path / "strange", [vectors[0], (other, random_rows(0), 1.0)])
    values = random_vector(imported, seed=3)
    # Each alone is in range, and so are its outputs; their scores are not.
    huge = {n: t * 1e30 if "q_proj" in n or "k_proj" in n else t for n, t in values.items()}
    file = store_vector(tmp_path / "huge", huge, "float32")
    with pytest.raises(
        CheckpointError, match=r"the inputs of model\.layers\.0\.self_attn\.o_proj are not finite"
    ):
        run_match(imported, tmp_path / "huge-matched", [vectors[0], (file, random_rows(0), 1.0)])


def test_a_stop_ends_every_pass(tmp_path, imported, vectors):
    asked = []

    def stopping():
        asked.append(True)
        return len(asked) > 5

    with pytest.raises(InterruptedBuildError):
        run_match(imported, tmp_path / "matched", vectors, stopping=stopping)
    assert not [thread for thread in threading.enumerate() if thread.name == "dem-pass"]


def test_what_rows_begin_with_counts_once_and_few_counting_tokens_weigh_eight_times_as_much():
    """Three rows begin with 1, two of them with 1 2; one of 20 tokens of the last counts."""
    rows = [([1, 2, 3, 4], [3]), ([1, 2, 5], [5]), ([1, *range(6, 25)], [24])]
    given = [
        (np.array(ids), np.array([token if token in counts else MASKED for token in ids]))
        for ids, counts in rows
    ]
    first, second, last = (found.double().numpy() for found in token_weights(given, 3.0))
    # Counted: 2 in two rows, a half each, and 23. Others: 1 in three rows, a third each; 3 and 4; 5; the last row's.
    one = 3.0 / (8 * (0.5 + 0.5 + 1) + 1 + 2 + 1 + 18)
    assert first == pytest.approx([one / 3, 4 * one, one, one])
    assert second == pytest.approx([one / 3, 4 * one, one])
    assert last == pytest.approx([one / 3, *[one] * 17, 8 * one, one])


def test_of_plain_text_the_last_tokens_of_rows_weigh_no_more_than_eight_times_as_much_as_others():
    """Nothing comes after them that could count: as half of a dataset a few tokens would outweigh all the others."""
    ids = [np.arange(start, start + 100) for start in (0, 200)]
    for found in token_weights([(row, row) for row in ids], 1.0):
        assert found.tolist() == pytest.approx([1 / (2 * (99 + 8))] * 99 + [8 / (2 * (99 + 8))])


class Largest(TorchDispatchMode):
    """Notes the elements of the largest tensor that is made and has memory of its own."""

    def __init__(self, *given):
        super().__init__()
        self.known, self.most = {t.untyped_storage().data_ptr() for t in given}, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made.untyped_storage().data_ptr() not in self.known:
            self.most = max(self.most, made.numel())
        return made


def test_how_much_longer_a_prior_should_be_takes_no_further_matrix():
    draw = torch.Generator().manual_seed(0)
    inputs, edit, sums = (
        torch.randn(size, dtype=torch.float64, generator=draw) for size in ((900, 700), (700, 90), (700, 90))
    )
    gram = inputs.T @ inputs
    factor = factor_of(gram.clone(), 2.0, one_by_one)
    with Largest(factor._lower, edit, sums) as seen:
        found = factor.square(edit, one_by_one), dot(edit, sums, one_by_one)
    assert found == pytest.approx(
        ((edit * (gram @ edit)).sum().item(), (edit * sums).sum().item()), rel=1e-12
    )
    assert seen.most == 256 * 256


def one_by_one(function, of):
    return [function(each) for each in of]


@pytest.mark.parametrize("ridge", [1e-9, 0.03])
def test_a_ridge_too_small_for_inputs_that_are_alike_is_refused(ridge):
    """All inputs are one, but for what float32 rounds off: some eigenvalues of G are below 0."""
    noise = torch.from_numpy(np.random.default_rng(0).normal(0, 1e-6, (300, 300)))
    gram = 1 + (noise + noise.T) / 2
    if ridge > 1e-3:
        solved = factor_of(gram.clone(), ridge, one_by_one).solve(torch.eye(300).double(), one_by_one)
        expected = torch.linalg.inv(gram + ridge * gram.diagonal().median() * torch.eye(300))
        assert (solved - expected).norm() <= 1e-6 * expected.norm()
        return
    with pytest.raises(
        CheckpointError, match="with ridge = 1e-09 the least squares of a layer of 300 inputs"
    ):
        factor_of(gram, ridge, one_by_one)
