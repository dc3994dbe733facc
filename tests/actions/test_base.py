"""Importing a base: the same tensors are the same bytes, and what does not fit is refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import MappingProxyType

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import make_base
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Model,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from weight_samples import bytes_of, import_base, load

from dem_build.errors import CheckpointError, UsageError
from dem_build.lock.base import base_files

TEMPLATE = "{% for message in messages %}{{ message['content'] }}</s>{% endfor %}"
SMALL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
IDS = torch.arange(3, 35).reshape(2, 16)


@pytest.fixture
def folder(tiny_base, tmp_path):
    """A copy of the tiny base, to change."""
    return shutil.copytree(tiny_base, tmp_path / "base")


def edit_config(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def edit_weights(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


class TestBytes:
    def test_sharding_reaches_no_byte(self, tmp_path):
        made = [import_base(make_base(tmp_path / f"{n}", shards=n), tmp_path / f"import-{n}") for n in (1, 2)]
        assert bytes_of(made[0] / "weights") == bytes_of(made[1] / "weights")
        assert (made[0] / "config").read_bytes() == (made[1] / "config").read_bytes()

    @pytest.mark.parametrize("whole", [True, False], ids=["old-shards", "index-alone"])
    def test_one_file_counts_before_an_index_and_its_shards(self, tmp_path, tiny_base, whole):
        """As transformers decides: what an earlier save left behind is not the model."""
        old = make_base(tmp_path / "old", seed=1, shards=2)
        shutil.copy(tiny_base / "model.safetensors", old)
        if not whole:
            for shard in old.glob("model-*"):
                shard.unlink()
        one, two = (import_base(f, tmp_path / f"import-{i}") for i, f in enumerate((old, tiny_base)))
        assert bytes_of(one / "weights") == bytes_of(two / "weights")
        assert "model.safetensors.index.json" not in dict(base_files(old))

    def test_what_does_not_touch_the_model_reaches_no_byte(self, tmp_path, folder, tiny_base):
        (folder / "README.md").write_text("A card.")
        edit_config(folder, transformers_version="4.0.0", _name_or_path="elsewhere", torch_dtype="bfloat16")
        one, two = (import_base(f, tmp_path / f"import-{i}") for i, f in enumerate((folder, tiny_base)))
        assert (one / "config").read_bytes() == (two / "config").read_bytes()
        assert bytes_of(one / "weights") == bytes_of(two / "weights")

    @pytest.mark.parametrize(
        "changes",
        [
            {"use_cache": False},
            {"use_cache": None},
            {"output_attentions": True, "output_hidden_states": True, "return_dict": False},
            {"transformers.js_config": {"dtype": "q4"}, "id2label": {"0": "A"}, "problem_type": "regression"},
        ],
        ids=["off", "absent", "outputs", "elsewhere"],
    )
    def test_settings_that_reach_no_weight_and_no_training_reach_no_config(
        self, tmp_path, folder, tiny_base, changes
    ):
        edit_config(folder, **changes)
        made = [
            import_base(f, tmp_path / f.name / "import") for f in (tiny_base, folder.rename(tmp_path / "x"))
        ]
        assert (made[0] / "config").read_bytes() == (made[1] / "config").read_bytes()
        assert json.loads((made[0] / "config").read_text())["use_cache"] is True  # as it was recorded before

    @pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
    def test_the_imported_model_is_the_model(self, tmp_path, tied):
        source = make_base(tmp_path / "base", tied=tied, chat_template=TEMPLATE)
        outputs = import_base(source, tmp_path / "import")
        ours, theirs = load(outputs, tmp_path / "model"), AutoModelForCausalLM.from_pretrained(source)
        assert ours.dtype == theirs.dtype == torch.bfloat16
        assert torch.equal(ours(IDS).logits, theirs(IDS).logits)
        assert AutoTokenizer.from_pretrained(outputs / "tokenizer").chat_template == TEMPLATE
        assert ours.generation_config.eos_token_id == 2

    def test_a_dtype_that_is_asked_for_is_stored_and_said(self, tmp_path, tiny_base):
        outputs = import_base(tiny_base, tmp_path / "import", "float32")
        assert {t.dtype for t in load_file(outputs / "weights" / "model.safetensors").values()} == {
            torch.float32
        }
        assert json.loads((outputs / "config").read_text())["dtype"] == "float32"

    def test_formats_are_kept_tensor_by_tensor(self, tmp_path, folder):
        edit_weights(folder, lambda t: t.update({"model.norm.weight": t["model.norm.weight"].float()}))
        made = load_file(import_base(folder, tmp_path / "import") / "weights" / "model.safetensors")
        assert made["model.norm.weight"].dtype == torch.float32
        assert made["model.embed_tokens.weight"].dtype == torch.bfloat16

    def test_without_a_generation_config_there_is_an_empty_one(self, tmp_path, folder):
        (folder / "generation_config.json").unlink()
        assert json.loads((import_base(folder, tmp_path / "import") / "generation_config").read_text()) == {}

    def test_a_checkpoint_of_the_body_alone_gets_the_models_names(self, tmp_path, tiny_base):
        torch.manual_seed(0)
        config = GPT2Config(vocab_size=259, n_positions=32, n_embd=32, n_layer=2, n_head=2)
        body = GPT2Model(config)
        body.save_pretrained(tmp_path / "base")
        edit_weights(tmp_path / "base", lambda t: t.update({"h.0.attn.bias": torch.ones(1, 1, 32, 32)}))
        edit_config(tmp_path / "base", architectures=["GPT2LMHeadModel"])
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(tiny_base / name, tmp_path / "base")
        model = load(import_base(tmp_path / "base", tmp_path / "import"), tmp_path / "model")
        assert isinstance(model, GPT2LMHeadModel)
        assert torch.equal(model.transformer(IDS).last_hidden_state, body.eval()(IDS).last_hidden_state)


class TestTied:
    def test_an_equal_second_copy_is_dropped(self, tmp_path, folder, tiny_base):
        edit_weights(folder, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
        one, two = (import_base(f, tmp_path / f"import-{i}") for i, f in enumerate((folder, tiny_base)))
        assert bytes_of(one / "weights") == bytes_of(two / "weights")

    def test_a_second_copy_that_differs_is_refused(self, tmp_path, folder):
        edit_weights(folder, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"] + 1}))
        with pytest.raises(CheckpointError, match=r"lm_head\.weight and model\.embed_tokens\.weight differ"):
            import_base(folder, tmp_path / "import")

    def test_stored_under_the_second_name_alone_it_gets_the_first(self, tmp_path, folder, tiny_base):
        edit_weights(folder, lambda t: t.update({"lm_head.weight": t.pop("model.embed_tokens.weight")}))
        one, two = (import_base(f, tmp_path / f"import-{i}") for i, f in enumerate((folder, tiny_base)))
        assert bytes_of(one / "weights") == bytes_of(two / "weights")

    def test_a_head_that_config_unties_and_the_files_lack_is_refused_with_the_mend(self, tmp_path, folder):
        edit_config(folder, tie_word_embeddings=False)
        with pytest.raises(CheckpointError, match=r'lm_head\.weight.*"tie_word_embeddings": true'):
            import_base(folder, tmp_path / "import")


class TestRefused:
    @pytest.mark.parametrize(
        ("change", "what"),
        [
            (
                lambda t: t.pop("model.norm.weight"),
                r"LlamaForCausalLM has model\.norm\.weight, and the files do not",
            ),
            (lambda t: t.update({"extra": torch.ones(1)}), r"the files hold extra"),
            (
                lambda t: t.update({"model.norm.weight": torch.ones(63)}),
                r"model\.norm\.weight has the shape \(63,\)",
            ),
            (
                lambda t: t.update({"model.norm.weight": torch.ones(64).double()}),
                r"model\.norm\.weight is stored as F64",
            ),
            (lambda t: t["model.norm.weight"].fill_(torch.nan), r"model\.norm\.weight is not finite"),
        ],
        ids=["missing", "extra", "shape", "format", "nan"],
    )
    def test_weights_that_are_not_the_architectures(self, tmp_path, folder, change, what):
        edit_weights(folder, change)
        with pytest.raises(CheckpointError, match=what):
            import_base(folder, tmp_path / "import")

    def test_a_truncated_shard(self, tmp_path):
        source = make_base(tmp_path / "base", shards=2)
        shard = sorted(source.glob("*-of-*"))[1]
        shard.write_bytes(shard.read_bytes()[:-10])
        with pytest.raises(CheckpointError, match="cut off inside") as refused:
            import_base(source, tmp_path / "import")
        assert refused.value.where == str(shard)

    def test_an_index_that_disagrees_with_its_shards(self, tmp_path):
        source = make_base(tmp_path / "base", shards=2)
        path = source / "model.safetensors.index.json"
        index = json.loads(path.read_text())
        del index["weight_map"]["model.norm.weight"]
        path.write_text(json.dumps(index))
        with pytest.raises(CheckpointError, match=r"does not name model\.norm\.weight"):
            import_base(source, tmp_path / "import")

    def test_a_tokenizer_with_more_tokens_than_the_embeddings(self, tmp_path, folder):
        edit_config(folder, vocab_size=200)
        edit_weights(folder, lambda t: t.update({"model.embed_tokens.weight": torch.zeros(200, 64)}))
        with pytest.raises(CheckpointError, match="259 tokens, and the embeddings 200 rows"):
            import_base(folder, tmp_path / "import")

    def test_an_unknown_architecture(self, tmp_path, folder):
        edit_config(folder, model_type="no_such_model")
        with pytest.raises(CheckpointError, match="no_such_model"):
            import_base(folder, tmp_path / "import")


class TestBaseFiles:
    def test_names_what_matters_and_nothing_else(self, folder):
        for name in ("README.md", "LICENSE", "training_args.bin", "optimizer.pt", "chat_template.jinja"):
            (folder / name).write_text("x")
        assert [tag for tag, _ in base_files(folder)] == [
            "chat_template.jinja",
            "config.json",
            "generation_config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
        ]

    def test_a_gguf_file_is_one_file(self, tmp_path):
        path = tmp_path / "some.gguf"
        path.write_bytes(b"GGUF" + bytes(20))
        assert base_files(path) == [("model.gguf", path)]

    @pytest.mark.parametrize(
        ("changes", "what"),
        [
            ({"quantization_config": {"quant_method": "gptq"}}, "quantised model .gptq"),
            ({"vision_config": {}}, "vision model"),
            ({"is_encoder_decoder": True}, "encoder-decoder"),
            ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
            ({"model_type": None}, "model_type"),
        ],
    )
    def test_kinds_of_models_that_cannot_be_composed_are_refused_by_name(self, folder, changes, what):
        edit_config(folder, **changes)
        with pytest.raises(UsageError, match=what):
            base_files(folder)

    @pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
    def test_pickled_weights_are_refused_with_the_mend(self, folder, name):
        (folder / "model.safetensors").rename(folder / name)
        with pytest.raises(UsageError, match=rf"{name}.*save_pretrained"):
            base_files(folder)

    @pytest.mark.parametrize(
        ("removed", "what"),
        [
            ("config.json", "no config.json"),
            ("tokenizer.json", "no tokenizer"),
            ("model.safetensors", "holds neither"),
        ],
    )
    def test_a_file_that_is_missing_is_said(self, folder, removed, what):
        (folder / removed).unlink()
        with pytest.raises(UsageError, match=what):
            base_files(folder)

    def test_a_missing_shard_is_named(self, tmp_path):
        source = make_base(tmp_path / "base", shards=2)
        (source / "model-00002-of-00002.safetensors").unlink()
        with pytest.raises(UsageError, match="lacks 1 of 2 shards, first model-00002"):
            base_files(source)

    def test_an_adapter_is_refused_with_the_mend(self, folder):
        (folder / "config.json").rename(folder / "adapter_config.json")
        with pytest.raises(UsageError, match=r"adapter.*trained on"):
            base_files(folder)

    def test_nothing_there_is_said(self, tmp_path):
        with pytest.raises(UsageError, match="no such folder"):
            base_files(tmp_path / "nowhere")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A tiny Llama as a folder and, in float32, as a GGUF file."""
    home = tmp_path_factory.mktemp("gguf")
    source = make_base(home / "base", dtype="float32", tied=False, vocab=1)
    return source, write_gguf(source, home / "tiny.gguf")


class TestGguf:
    def test_the_model_and_its_tokens_come_out_right(self, tmp_path, files):
        source, path = files
        outputs = import_base(path, tmp_path / "import", "float32")
        ours, theirs = load(outputs, tmp_path / "model"), AutoModelForCausalLM.from_pretrained(source)
        assert torch.allclose(ours(IDS).logits, theirs.eval()(IDS).logits, atol=1e-5)
        tokenizer = AutoTokenizer.from_pretrained(outputs / "tokenizer")
        assert tokenizer("one 12").input_ids == AutoTokenizer.from_pretrained(source)("one 12").input_ids
        assert tokenizer.chat_template == TEMPLATE
        assert json.loads((outputs / "generation_config").read_text())["eos_token_id"] == 2

    def test_it_is_stored_in_the_dtype_asked_for_and_says_so(self, tmp_path, files):
        outputs = import_base(files[1], tmp_path / "import", "bfloat16")
        assert load(outputs, tmp_path / "model").dtype == torch.bfloat16
        assert "quantization_config" not in json.loads((outputs / "config").read_text())

    def test_what_lies_beside_the_file_does_not_count(self, tmp_path, files):
        shutil.copy(files[1], tmp_path / "tiny.gguf")
        alone = import_base(tmp_path / "tiny.gguf", tmp_path / "alone", "bfloat16")
        (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<pad>"}')
        (tmp_path / "generation_config.json").write_text('{"eos_token_id": 7}')
        beside = import_base(tmp_path / "tiny.gguf", tmp_path / "beside", "bfloat16")
        assert (alone / "generation_config").read_bytes() == (beside / "generation_config").read_bytes()
        assert bytes_of(alone / "tokenizer") == bytes_of(beside / "tokenizer")

    def test_digits_stand_apart_where_the_file_says_so(self, tmp_path, files):
        """SmolLM's pre-tokenizer cuts before each digit, so that two spaces before one stay together."""
        outputs = import_base(files[1], tmp_path / "import", "bfloat16")
        pieces = AutoTokenizer.from_pretrained(outputs / "tokenizer").backend_tokenizer.pre_tokenizer
        assert [text for text, _ in pieces.pre_tokenize_str("a  12")] == ["a", "ĠĠ", "1", "2"]

    def test_a_file_is_parsed_once_for_tokenizer_config_and_weights(self, tmp_path, files, monkeypatch):
        parsed, kind = [], gguf.GGUFReader

        class Counted(kind):
            def __init__(self, path, *mode):
                parsed.append(Path(path).resolve())
                super().__init__(path, *mode)

        monkeypatch.setattr(gguf, "GGUFReader", Counted)
        outputs = import_base(files[1], tmp_path / "import", "bfloat16")
        assert parsed == [files[1].resolve()]
        assert gguf.GGUFReader is Counted
        assert (outputs / "weights").exists()

    def test_a_pre_tokenizer_that_nobody_knows_is_refused_by_name(self, tmp_path, files):
        path = write_gguf(files[0], tmp_path / "other.gguf", pre="falcon")
        with pytest.raises(
            CheckpointError, match=r"pre-tokenizer 'falcon' \(tokenizer\.ggml\.pre\)"
        ) as caught:
            import_base(path, tmp_path / "import", "bfloat16")
        assert caught.value.where == str(path)

    @pytest.mark.parametrize(
        ("pre", "cut"), [("gpt-2", ["a", "Ġ", "Ġ12"]), ("llama-bpe", ["a", "Ġ", "Ġ", "12"])]
    )
    def test_a_pre_tokenizer_that_is_known_cuts_text_as_it_should(self, tmp_path, files, pre, cut):
        path = write_gguf(files[0], tmp_path / "known.gguf", pre=pre)
        outputs = import_base(path, tmp_path / "import", "bfloat16")
        pieces = AutoTokenizer.from_pretrained(outputs / "tokenizer").backend_tokenizer.pre_tokenizer
        assert [text for text, _ in pieces.pre_tokenize_str("a  12")] == cut

    def test_the_normalizer_is_that_of_the_architectures_own_class(self, tmp_path):
        """Qwen composes letters first, of which a GGUF file has no word."""
        source = make_base(tmp_path / "base", vocab=1)
        torch.manual_seed(0)
        config = Qwen3Config(**SMALL, vocab_size=260, head_dim=128, tie_word_embeddings=False)
        Qwen3ForCausalLM(config).save_pretrained(source)
        path = write_gguf(source, tmp_path / "qwen.gguf", pre="qwen2", architecture="qwen3")
        outputs = import_base(path, tmp_path / "import", "bfloat16")
        load(outputs, tmp_path / "model")
        for folder in (outputs / "tokenizer", tmp_path / "model"):
            tokenizer = AutoTokenizer.from_pretrained(folder)
            assert tokenizer("e\u0301").input_ids == tokenizer("é").input_ids
        assert "transformers" not in (tmp_path / "import" / "work" / "events.jsonl").read_text()

    def test_a_file_that_says_no_pre_tokenizer_is_warned_of(self, tmp_path, files):
        path = write_gguf(files[0], tmp_path / "old.gguf", pre=None)
        import_base(path, tmp_path / "import", "bfloat16")
        assert "says no pre-tokenizer" in (tmp_path / "import" / "work" / "events.jsonl").read_text()

    def test_named_templates_are_taken_along(self, tmp_path, files):
        named = [{"name": "default", "template": TEMPLATE}, {"name": "tool_use", "template": "{{ tools }}"}]
        path = write_gguf(files[0], tmp_path / "named.gguf", template=named)
        outputs = import_base(path, tmp_path / "import", "bfloat16")
        read = AutoTokenizer.from_pretrained(outputs / "tokenizer").chat_template
        assert read == {"default": TEMPLATE, "tool_use": "{{ tools }}"}

    def test_a_damaged_file_is_refused(self, tmp_path, files):
        path = tmp_path / "broken.gguf"
        path.write_bytes(files[1].read_bytes()[:3000])
        with pytest.raises(CheckpointError, match="cannot be dequantised"):
            import_base(path, tmp_path / "import", "bfloat16")

    def test_a_file_without_all_weights_is_refused(self, tmp_path, files):
        path = write_gguf(files[0], tmp_path / "part.gguf", without="layers.1.mlp.up_proj")
        with pytest.raises(CheckpointError, match=r"missing: model\.layers\.1\.mlp\.up_proj\.weight \("):
            import_base(path, tmp_path / "import", "bfloat16")

    @pytest.mark.parametrize(
        ("scaling", "extra", "said"),
        [
            ("yarn", {}, r"rope\.scaling\.type = yarn"),
            (None, {"rope_freqs.weight": np.full(8, 8, np.float32)}, r"rope_freqs\.weight"),
        ],
    )
    def test_a_scaled_rotary_embedding_is_refused_and_not_lost(self, tmp_path, files, scaling, extra, said):
        path = write_gguf(files[0], tmp_path / "long.gguf", scaling=scaling, extra=extra)
        with pytest.raises(CheckpointError, match=rf"scaled rotary embedding \({said}\)") as caught:
            import_base(path, tmp_path / "import", "bfloat16")
        assert caught.value.where == str(path)

    def test_no_scaling_by_name_is_none(self, tmp_path, files):
        path = write_gguf(files[0], tmp_path / "plain.gguf", scaling="none")
        outputs = import_base(path, tmp_path / "import", "bfloat16")
        assert bytes_of(outputs / "weights") == bytes_of(
            import_base(files[1], tmp_path / "same", "bfloat16") / "weights"
        )


def write_gguf(
    source,
    path,
    without="nothing",
    scaling=None,
    extra=MappingProxyType({}),
    pre="smollm",
    template=TEMPLATE,
    architecture="llama",
):
    """Write a model as llama.cpp's converter does: a Llama's rows of q and k are permuted for its rotary embedding."""
    config = json.loads((source / "config.json").read_text())
    heads, key_values = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(key_values)
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(10000.0)
    if scaling is not None:
        writer.add_rope_scaling_type(gguf.RopeScalingType(scaling))
    writer.add_vocab_size(config["vocab_size"])
    vocabulary = json.loads((source / "tokenizer.json").read_text())["model"]["vocab"]
    tokens = [*sorted(vocabulary, key=vocabulary.get), "ab"]  # a merge there must be
    writer.add_tokenizer_model("gpt2")
    if pre is not None:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if t.startswith("<") and len(t) > 1 else 1 for t in tokens])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_chat_template(template)
    kind = next(k for k, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(kind, config["num_hidden_layers"])
    for name, values in extra.items():
        writer.add_tensor(name, values)
    for name, tensor in load_file(source / "model.safetensors").items():
        if without in name:
            continue
        values = tensor.numpy()
        if architecture == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            count = heads if "q_proj" in name else key_values
            halves = values.reshape(count, 2, values.shape[0] // count // 2, values.shape[1])
            values = np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
