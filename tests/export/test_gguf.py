"""GGUF files of every family that is written, loaded back by transformers' own reader; what is refused, and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import make_base
from tokenizer_samples import TEXT, edit, post_process, write_tokenizer
from tokenizers import pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from dem_build.errors import UsageError
from dem_build.export import gguf_model
from dem_build.export.gguf_model import write_gguf

IDS = torch.arange(3, 67).reshape(4, 16)
ROWS = 270  # of embeddings: more than there are tokens, as published models have
SHAPE = {
    "vocab_size": ROWS,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
    "mistral": {"sliding_window": None, "head_dim": 32},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 128},
}
# Of the matrices' length: half a step of each format, and of q8_0 what blocks of 32 normal values lose.
MOVED = {"f32": 0.0, "f16": 3e-4, "bf16": 2.5e-3, "q8_0": 8e-3}


def make_model(folder: Path, family: str, *, digits_apart: bool = False, **changed: Any) -> Path:
    """Write a random model whose norms and biases are no ones and zeros, and a tokenizer with merges."""
    torch.manual_seed(0)
    config: Any = AutoConfig.for_model(family, **SHAPE | FAMILIES[family] | changed)
    model: Any = AutoModelForCausalLM.from_config(config).float()
    with torch.no_grad():
        for values in model.parameters():
            values.add_(torch.randn_like(values), alpha=0.1)
    model.save_pretrained(folder)
    write_tokenizer(folder, digits_apart=digits_apart)
    return folder


def logits(folder: Path, **more: Any) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **more).eval()
    with torch.no_grad():
        return model(IDS).logits


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("models")
    return {family: make_model(home / family, family) for family in FAMILIES}


@pytest.fixture(scope="module")
def llama(models: dict[str, Path]) -> Path:
    return models["llama"]


@pytest.mark.parametrize("family", FAMILIES)
def test_in_float32_every_family_is_the_same_model_after_it_is_loaded_back(family, models, tmp_path):
    written = write_gguf(tmp_path / "m.gguf", models[family], "a name", "f32")
    assert written.error == 0
    assert torch.equal(logits(tmp_path, gguf_file="m.gguf"), logits(models[family]))
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    assert reader.fields["general.name"].contents() == "a name"
    names = {tensor.name for tensor in reader.tensors}
    assert ("output.weight" in names) == (family != "qwen2")  # where it is tied, there is one table


@pytest.mark.parametrize("kind", ["f16", "bf16", "q8_0"])
def test_rounding_is_told_and_moves_the_logits_little(kind, llama, tmp_path, monkeypatch):
    monkeypatch.setattr(gguf_model, "PIECE", 640)  # ten rows at a time
    written = write_gguf(tmp_path / "m.gguf", llama, "m", kind)
    ours = load_file(llama / "model.safetensors")
    read = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf", dtype=torch.float32)
    theirs = read.state_dict()
    matrices = [name for name, values in ours.items() if values.dim() == 2]
    lost = sum((theirs[n] - ours[n]).double().square().sum() for n in matrices)
    length = sum(ours[n].double().square().sum() for n in matrices)
    assert written.error == pytest.approx(float((lost / length).sqrt()), rel=1e-3)
    assert MOVED[kind] / 8 < written.error < MOVED[kind]
    assert all(torch.equal(theirs[n], ours[n]) for n in ours if n not in matrices)
    reference = logits(llama)
    with torch.no_grad():
        moved = (read.eval()(IDS).logits - reference).abs().max()
    assert moved < 0.05 * reference.abs().max()


def test_rows_that_are_no_whole_blocks_stay_in_float16(tmp_path):
    model = make_model(tmp_path / "odd", "llama", intermediate_size=72)
    write_gguf(tmp_path / "m.gguf", model, "m", "q8_0")
    types = {t.name: t.tensor_type.name for t in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    assert types["blk.0.ffn_down.weight"] == "F16"
    assert types["blk.0.ffn_up.weight"] == "Q8_0"
    assert types["blk.0.attn_norm.weight"] == "F32"


class TestTokenizer:
    def test_ids_and_template_survive(self, llama, tmp_path):
        model = copied(llama, tmp_path / "model")
        template = "{% for m in messages %}{{ m['content'] }}</s>{% endfor %}"
        (model / "chat_template.jinja").write_text(template)
        post_process(model, "<s> $A")
        assert write_gguf(tmp_path / "m.gguf", model, "m", "f16").notes == []
        ours, read = (
            AutoTokenizer.from_pretrained(folder, **more)
            for folder, more in ((model, {}), (tmp_path, {"gguf_file": "m.gguf"}))
        )
        assert read(TEXT).input_ids == ours(TEXT).input_ids
        assert read(TEXT).input_ids[0] == 1
        assert read.chat_template == template

    def test_where_transformers_alone_reads_it_otherwise_that_is_said(self, tmp_path):
        """The way to cut text of SmolLM, which llama.cpp and dem know by its name, and transformers does not."""
        model = make_model(tmp_path / "model", "llama", digits_apart=True)
        [note] = write_gguf(tmp_path / "m.gguf", model, "m", "f16").notes
        assert note.startswith("llama.cpp and dem cut text as the model does; transformers (gguf_file) not")
        field = gguf.GGUFReader(tmp_path / "m.gguf").fields["tokenizer.ggml.pre"]
        assert field.contents() == "smollm"

    @pytest.mark.parametrize(
        ("rule", "value", "why"),
        [
            ("pre_tokenizer", pre_tokenizers.Whitespace(), "no name for: Whitespace"),
            ("normalizer", {"type": "Lowercase"}, "the normalizer Lowercase"),
            (
                "post_processor",
                processors.TemplateProcessing(single="</s> $A", pair=None, special_tokens=[("</s>", 2)]),
                "other tokens around a text",
            ),
        ],
    )
    def test_a_rule_that_a_file_cannot_say_is_refused_by_name(self, rule, value, why, llama, tmp_path):
        model = copied(llama, tmp_path / "model")
        said = value if isinstance(value, dict) else json.loads(value.__getstate__())
        edit(model / "tokenizer.json", {rule: said})
        self.refuses(model, tmp_path, why)

    def test_a_word_that_a_file_cannot_hold_is_refused_by_name(self, llama, tmp_path):
        """A special token with a sign that no byte stands for is lost by every reader."""
        model = copied(llama, tmp_path / "model")
        tokenizer = AutoTokenizer.from_pretrained(model)
        tokenizer.add_special_tokens({"additional_special_tokens": ["<‖end‖>"]})
        tokenizer.save_pretrained(model)
        self.refuses(model, tmp_path, "the token '<‖end‖>'")

    def test_no_merges_are_refused(self, tmp_path):
        self.refuses(make_base(tmp_path / "base"), tmp_path, "no merges")

    def refuses(self, model: Path, folder: Path, why: str) -> None:
        with pytest.raises(UsageError, match=why):
            write_gguf(folder / "m.gguf", model, "m", "f16")
        assert not [*folder.glob("*gguf*")]


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"model_type": "gpt_neox"}, "is a model of the family 'gpt_neox'"),
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
            r"a scaled rotary embedding \(linear\)",
        ),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ({"attention_bias": True}, r"self_attn\.k_proj\.bias, for which GGUF's llama has no name"),
    ],
)
def test_what_a_file_of_the_family_cannot_say_is_refused_by_name(changed, why, llama, tmp_path):
    model = copied(llama, tmp_path / "model")
    edit(model / "config.json", changed)
    if "attention_bias" in changed:
        tensors = load_file(model / "model.safetensors")
        tensors["model.layers.0.self_attn.k_proj.bias"] = torch.ones(32)
        save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match=why):
        write_gguf(tmp_path / "m.gguf", model, "m", "f16")


def test_a_sliding_window_and_another_width_of_heads_are_refused(models, tmp_path):
    for family, changed in (("mistral", {"sliding_window": 8}), ("qwen3", {"head_dim": 64})):
        model = copied(models[family], tmp_path / family)
        edit(model / "config.json", changed)
        with pytest.raises(UsageError, match=r"a sliding window of 8|heads of 64"):
            write_gguf(tmp_path / "m.gguf", model, "m", "f16")


def test_weights_beyond_float16_are_refused_and_leave_nothing(llama, tmp_path):
    model = copied(llama, tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = 7e4
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match=r"beyond F16 in model\.layers\.1\.mlp\.up_proj\.weight"):
        write_gguf(tmp_path / "m.gguf", model, "m", "f16")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    write_gguf(tmp_path / "m.gguf", model, "m", "bf16")
    with pytest.raises(FileExistsError):
        write_gguf(tmp_path / "m.gguf", model, "m", "bf16")


def copied(source: Path, target: Path) -> Path:
    """Copy a model's folder, to change it."""
    target.mkdir()
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target
