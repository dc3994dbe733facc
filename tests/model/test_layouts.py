"""Bases and fine-tunes in the layout in which models are published, and in that in which transformers holds them.

What is right is asked of transformers alone: what its `from_pretrained` makes of base, fine-tune and published model.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from families import FAMILIES, VOCABULARY, make_family, move, state_of
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from weight_samples import DIGEST, bytes_of, import_base, make_context, run_compose

from dem_build.action import SourceFile
from dem_build.actions.extract import run as extract
from dem_build.actions.finetune import run as finetune
from dem_build.actions.loss import run as loss
from dem_build.actions.tune.candidates import Candidates
from dem_build.checkpoint.reader import open_checkpoint
from dem_build.data.arrays import RowsWriter
from dem_build.errors import CheckpointError
from dem_build.lock.finetuned import local_files
from dem_build.machine import Machine
from dem_build.model.load import load_model
from dem_build.step import Context, Inputs

CPU = torch.device("cpu")
TRAINING = {
    "method": "full",
    "optim": "adamw_torch_fused",
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_epsilon": 1e-3,  # so large that a gradient of rounding moves nothing
    "learning_rate": 0.05,
    "max_steps": 1,
    "global_batch_size": 2,
    "bf16": False,
    "lr_scheduler_type": "constant",
    "weight_decay": 0.0,
    "max_grad_norm": 1e9,
    "vector_dtype": "float32",
    "seed": 42,
}
TRAINED, TAKEN = 0.75, 0.5  # ω of the trained and of the extracted vector
IDS = torch.tensor(np.random.default_rng(3).integers(3, 200, (2, 12)))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("families")


def pair(home, tokenizer, family, *, fused=False) -> tuple[Path, Path, Path]:
    """Return a base, a fine-tune of it in the other layout, and the base as dem imports it."""
    folder = home / f"{family}-{'fused' if fused else 'published'}"
    if not folder.exists():
        model = make_family(family, tokenizer, folder / "base", fused=fused)
        move(model, 0.02)
        model.save_pretrained(folder / "tuned", save_original_format=fused)
        import_base(folder / "base", folder / "import")
    return folder / "base", folder / "tuned", folder / "import" / "out"


def names_of(folder: Path) -> set[str]:
    return {name for file in folder.glob("*.safetensors") for name in safe_open(file, "pt").keys()}  # noqa: SIM118


def write_rows(path: Path) -> Path:
    with RowsWriter(path.with_suffix(".spool")) as writer:
        for i, row in enumerate(IDS.numpy().astype(np.int32)):
            writer.append(row, row, bytes([i] * 32))
        writer.save(path)
    return path


def paths_of(imported: Path, of: str = "base") -> dict[str, Path]:
    return {f"{of}/{part}": imported / part for part in ("weights", "config")}


def train(imported: Path, folder: Path) -> Path:
    """Train one step as a worker does; return the vector."""
    context = make_context(folder, threads=1)
    paths = paths_of(imported) | {"data/train": write_rows(folder / "rows")}
    finetune.run(Inputs(paths=paths, digests={"base/weights": DIGEST}), TRAINING, context)
    return context.out / "delta"


def take(imported: Path, tuned: Path, folder: Path, kind: str = "checkpoint") -> Path:
    """Extract as a worker does; return the vector."""
    context = make_context(folder, threads=1)
    sources = tuple(SourceFile(tag, "0" * 64, path) for tag, path in local_files(kind, tuned))
    inputs = Inputs(paths=paths_of(imported), digests={"base/weights": DIGEST}, sources=sources)
    extract.run(inputs, {"source": kind, "vector_dtype": "float32"}, context)
    return context.out / "delta"


def published(outputs: Path, folder: Path) -> Path:
    """Lay outputs out as publishing does."""
    shutil.copytree(outputs / "weights", folder)
    shutil.copyfile(outputs / "config", folder / "config.json")
    return folder


def one_step(base: Path) -> dict[str, torch.Tensor]:
    """Return the weights after a step of plain torch."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, eps=1e-3, weight_decay=0.0)
    mean_nll(model).backward()
    optimizer.step()
    return {name: t.double() for name, t in model.state_dict().items() if t.is_floating_point()}


def mean_nll(model) -> torch.Tensor:
    logits = model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), IDS[:, 1:].flatten())


@pytest.mark.parametrize("fused", [False, True], ids=["published", "fused"])
@pytest.mark.parametrize("family", FAMILIES)
def test_trained_extracted_and_composed_it_is_the_sum_in_float64_in_the_layout_of_its_base(
    home, tiny_base, tmp_path, family, fused
):
    base, tuned, imported = pair(home, tiny_base, family, fused=fused)
    vectors = [train(imported, tmp_path / "train"), take(imported, tuned, tmp_path / "take")]
    terms = list(zip(vectors, (TRAINED, TAKEN), strict=True))
    made = run_compose(imported, tmp_path / "compose", terms, dtype="float32")
    model = published(made.out, tmp_path / "model")
    theta, moved, stepped, found = state_of(base), state_of(tuned), one_step(base), state_of(model)
    assert found.keys() == theta.keys()
    for name, values in found.items():
        exact = theta[name] + TRAINED * (stepped[name] - theta[name]) + TAKEN * (moved[name] - theta[name])
        assert torch.allclose(values, exact, rtol=0, atol=2e-6), name
    assert names_of(model) == names_of(base) != names_of(tuned)

    context = Context(work=tmp_path, out=tmp_path / "loss", machine=Machine(eval_batch_size=1))
    paths = paths_of(made.out, "model") | {"data/rows": tmp_path / "train" / "rows"}
    loss.run(
        Inputs(paths=paths, digests={"model/weights": "m", "model/config": "c"}),
        {"dtype": "float32"},
        context,
    )
    told = json.loads((context.out / "metrics").read_bytes())["loss"]
    with torch.no_grad():
        exact = float(mean_nll(AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)))
    assert told == pytest.approx(exact, abs=1e-5)


@pytest.mark.parametrize("family", ["gpt_neox", "mixtral", "hrm_text"])
def test_a_fine_tune_in_either_layout_is_the_same_vector(home, tiny_base, tmp_path, family):
    _, tuned, imported = pair(home, tiny_base, family)
    model = AutoModelForCausalLM.from_pretrained(tuned, dtype=torch.float32)
    model._weight_conversions = None  # so that it is saved as published
    model.save_pretrained(tmp_path / "same")
    assert names_of(tmp_path / "same") != names_of(tuned)
    vectors = [
        take(imported, folder, tmp_path / folder.name.upper()) for folder in (tuned, tmp_path / "same")
    ]
    assert vectors[0].read_bytes() == vectors[1].read_bytes()


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "deepseek_v3", "hrm_text"])
def test_a_candidate_of_a_search_is_the_composed_model_and_its_slopes_are_those_of_the_loss(
    home, tiny_base, tmp_path, family
):
    base, tuned, imported = pair(home, tiny_base, family)
    delta = take(imported, tuned, tmp_path / "take")
    model = load_model(*paths_of(imported).values(), dtype=torch.float32, device=CPU)
    candidates = Candidates(model, imported / "weights", DIGEST, {"v": delta})
    candidates.become(np.full((1, len(candidates.layers)), 0.5))
    made = run_compose(imported, tmp_path / "compose", [(delta, 0.5)], dtype="float32")
    exact = AutoModelForCausalLM.from_pretrained(published(made.out, tmp_path / "model"), dtype=torch.float32)
    for name, values in exact.state_dict().items():
        assert torch.equal(model.state_dict()[name], values), name
    for one in (model, exact):
        mean_nll(one).backward()
    theta, moved = state_of(base), state_of(tuned)
    slope = sum(
        float((p.grad.double() * (moved[name] - theta[name])).sum())
        for name, p in exact.named_parameters()
        if p.grad is not None
    )
    assert candidates.take_slopes().sum() == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize(
    ("family", "lost"), [("mixtral", "block_sparse_moe.experts.3.w3"), ("gpt_neox", "embed_out")]
)
def test_a_tensor_that_the_files_lack_is_named_as_they_name_it(home, tiny_base, tmp_path, family, lost):
    folder = shutil.copytree(pair(home, tiny_base, family)[0], tmp_path / "base")
    tensors = load_file(folder / "model.safetensors")
    [name] = [name for name in tensors if lost in name and "layers.1." not in name]
    del tensors[name]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    wanted = name if family == "mixtral" else "lm_head.weight"  # nothing is left to tell the layout by
    with pytest.raises(CheckpointError, match=f"has {wanted}, and the files do not"):
        import_base(folder, tmp_path / "import")


def test_an_expert_more_than_the_config_has_is_named(home, tiny_base, tmp_path):
    folder = shutil.copytree(pair(home, tiny_base, "qwen2_moe")[0], tmp_path / "base")
    tensors = load_file(folder / "model.safetensors")
    more = "model.layers.0.mlp.experts.4.up_proj.weight"
    tensors[more] = tensors[more.replace("4", "3")].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=f"the files hold {more}, and Qwen2MoeForCausalLM does not"):
        import_base(folder, tmp_path / "import")


def test_layers_of_another_use_that_the_model_skips_are_skipped_in_the_layout_of_their_files(
    home, tiny_base, tmp_path
):
    """DeepSeek-V3 is published with a layer 61 that predicts further tokens; transformers does not load it."""
    folder = shutil.copytree(pair(home, tiny_base, "deepseek_v3")[0], tmp_path / "base")
    tensors = load_file(folder / "model.safetensors")
    more = {n.replace(".1.", ".61.", 1): t.clone() for n, t in tensors.items() if ".layers.1." in n}
    save_file(tensors | more, folder / "model.safetensors", metadata={"format": "pt"})
    assert bytes_of(import_base(folder, tmp_path / "import") / "weights") == bytes_of(
        pair(home, tiny_base, "deepseek_v3")[2] / "weights"
    )


def test_a_body_alone_gets_its_prefix_in_the_layout_that_it_came_in(home, tiny_base, tmp_path):
    base, _, imported = pair(home, tiny_base, "mixtral")
    folder = shutil.copytree(base, tmp_path / "base")
    tensors = {n.removeprefix("model."): t for n, t in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert bytes_of(import_base(folder, tmp_path / "import") / "weights") == bytes_of(imported / "weights")


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft asks for what transformers renamed
def test_a_prefix_that_transformers_takes_off_stays_in_what_is_published(tiny_base, tmp_path):
    """A text model's weights under the names that they have in a model with vision."""
    widths = {f"linear_{of}_head_dim": 8 for of in ("key", "value")} | {"head_dim": 8}
    heads = {"linear_num_key_heads": 2, "linear_num_value_heads": 2}
    kinds = {"layer_types": ["linear_attention", "full_attention"]}
    model = make_family("qwen3_5_text", tiny_base, tmp_path / "base", **widths, **heads, **kinds)
    move(model, 0.02)
    model.save_pretrained(tmp_path / "tuned")
    tensors = load_file(tmp_path / "base" / "model.safetensors")
    named = {n.replace("model.", "model.language_model."): t for n, t in tensors.items()}
    save_file(named, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    imported = import_base(tmp_path / "base", tmp_path / "import")
    delta = take(imported, tmp_path / "tuned", tmp_path / "take")
    made = run_compose(imported, tmp_path / "compose", [(delta, 1.0)], dtype="float32")
    folder = published(made.out, tmp_path / "model")
    assert names_of(folder) == set(named)
    exact = state_of(tmp_path / "tuned")
    assert all(torch.allclose(t, exact[n], rtol=0, atol=1e-6) for n, t in state_of(folder).items())

    adapted = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tmp_path / "base"), LoraConfig(r=2, target_modules=["q_proj"])
    )
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data += 0.05
    adapted.save_pretrained(tmp_path / "adapter")
    delta = take(imported, tmp_path / "adapter", tmp_path / "adapted", "adapter")
    changed = {n for n, values in load_file(delta).items() if values.abs().max() > 0}
    assert changed == {"model.language_model.layers.1.self_attn.q_proj.weight"}


def test_a_head_of_another_name_that_is_the_embeddings_is_kept_as_these(tiny_base, tmp_path):
    make_family("gpt_neox", tiny_base, tmp_path / "base", tie_word_embeddings=True)
    before = bytes_of(import_base(tmp_path / "base", tmp_path / "import") / "weights")
    tensors = load_file(tmp_path / "base" / "model.safetensors")
    tensors["embed_out.weight"] = tensors["gpt_neox.embed_in.weight"].clone()
    for copies in ("two", "second"):
        save_file(tensors, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
        assert bytes_of(import_base(tmp_path / "base", tmp_path / copies) / "weights") == before
        tensors.pop("gpt_neox.embed_in.weight", None)


def test_rows_for_added_tokens_go_to_a_head_of_another_name(home, tiny_base, tmp_path):
    base, _, _ = pair(home, tiny_base, "gpt_neox")
    made = import_base(base, tmp_path / "import", added=["<tool>"])
    tensors = load_file(made / "weights" / "model.safetensors")
    assert tensors["embed_out.weight"].shape == tensors["gpt_neox.embed_in.weight"].shape == (260, 32)
    assert state_of(published(made, tmp_path / "model"))["lm_head.weight"].shape == (260, 32)


class TestFloat32:
    """DeepSeek-V3's `e_score_correction_bias` stays in float32 in a bfloat16 model; GPT-OSS' norms in a float16 one."""

    BIAS = "model.layers.1.mlp.gate.e_score_correction_bias"

    def formats(self, folder: Path) -> dict[str, str]:
        return {name: tensor.dtype for name, tensor in open_checkpoint(folder).tensors.items()}

    @pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
    def test_what_transformers_keeps_in_float32_stays_so_in_base_and_composed_model(
        self, home, tiny_base, tmp_path, dtype
    ):
        base, tuned, imported = pair(home, tiny_base, "deepseek_v3")
        narrow = import_base(base, tmp_path / "import", dtype)
        delta = take(imported, tuned, tmp_path / "take")
        made = run_compose(imported, tmp_path / "compose", [(delta, 0.5)], dtype=dtype)
        exact = (state_of(base)[self.BIAS] + state_of(tuned)[self.BIAS]) / 2
        for outputs in (narrow, made.out):
            formats = self.formats(outputs / "weights")
            assert {n for n, code in formats.items() if code == "F32"} == {self.BIAS}
        folder = published(made.out, tmp_path / "model")
        loaded = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").state_dict()
        kept = {name for name, values in loaded.items() if values.dtype == torch.float32}
        assert kept == {self.BIAS}
        assert torch.allclose(loaded[self.BIAS].double(), exact, rtol=0, atol=1e-7)

    def test_some_only_in_float16(self, tiny_base, tmp_path):
        settings = {
            "head_dim": 8,
            "layer_types": ["full_attention", "sliding_attention"],
            "sliding_window": 8,
        }
        make_family("gpt_oss", tiny_base, tmp_path / "base", num_local_experts=2, **settings)
        narrow, half = (import_base(tmp_path / "base", tmp_path / d, d) for d in ("bfloat16", "float16"))
        assert {*self.formats(narrow / "weights").values()} == {"BF16"}
        kept = {n for n, code in self.formats(half / "weights").items() if code == "F32"}
        assert kept == {n for n in self.formats(half / "weights") if "norm" in n}

    def test_a_base_without_such_tensors_has_the_bytes_that_it_had(self, home, tiny_base):
        metadata = open_checkpoint(pair(home, tiny_base, "mixtral")[2] / "weights").metadata
        assert metadata == {"format": "pt"}

    def test_a_candidate_is_rounded_as_a_composed_model_is(self, home, tiny_base, tmp_path):
        _, tuned, imported = pair(home, tiny_base, "deepseek_v3")
        delta = take(imported, tuned, tmp_path / "take")
        model = load_model(*paths_of(imported).values(), dtype=torch.float32, device=CPU)
        candidates = Candidates(model, imported / "weights", DIGEST, {"v": delta})
        candidates.become(np.full((1, len(candidates.layers)), 0.5), torch.bfloat16)
        made = run_compose(imported, tmp_path / "compose", [(delta, 0.5)])
        exact = AutoModelForCausalLM.from_pretrained(
            published(made.out, tmp_path / "model"), dtype=torch.float32
        ).state_dict()
        for name, values in model.state_dict().items():
            assert torch.equal(values, exact[name]), name


def write_gguf(model, tokenizer: Path, path: Path) -> Path:
    """Write a Qwen2-MoE as llama.cpp's converter does: a layer's experts are three tensors."""
    config = model.config
    writer = gguf.GGUFWriter(path, "qwen2moe")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    writer.add_expert_shared_feed_forward_length(config.shared_expert_intermediate_size)
    writer.add_expert_count(config.num_experts)
    writer.add_expert_used_count(config.num_experts_per_tok)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    vocabulary = json.loads((tokenizer / "tokenizer.json").read_text())["model"]["vocab"]
    tokens = [*sorted(vocabulary, key=vocabulary.get), "ab"]  # a merge there must be
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if t.startswith("<") and len(t) > 1 else 1 for t in tokens])
    writer.add_token_merges(["a b"])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2MOE, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        parts = {name.removesuffix(".weight"): tensor}
        if name.endswith("experts.gate_up_proj"):
            gate, up = tensor.chunk(2, dim=1)
            parts = {name.replace("gate_up", "gate"): gate, name.replace("gate_up", "up"): up}
        for part, values in parts.items():
            plain, bias = part.removesuffix(".bias"), ".bias" if part.endswith(".bias") else ".weight"
            writer.add_tensor(names.get_name(plain) + bias, values.squeeze().contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_file_of_a_mixture_of_experts_is_stored_as_such_models_are_published(tiny_base, tmp_path):
    # transformers takes the widths of Qwen1.5-MoE's experts for granted
    widths = {"moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632}
    few = {"num_hidden_layers": 1, "num_experts": 2, "vocab_size": VOCABULARY + 1}
    model = make_family("qwen2_moe", tiny_base, tmp_path / "base", **widths, **few)
    made = import_base(write_gguf(model, tiny_base, tmp_path / "some.gguf"), tmp_path / "import", "float32")
    assert names_of(made / "weights") == names_of(tmp_path / "base")
    found = state_of(published(made, tmp_path / "model"))
    assert all(torch.equal(found[name], values) for name, values in state_of(tmp_path / "base").items())
