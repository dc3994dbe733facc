"""The tokens are tokenizer.json's: whatever class its files name, beside config.json and without."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec

import pytest
from tiny import make_base
from tokenizer_samples import (
    TEXT,
    edit,
    ids_of_json,
    post_process,
    reads,
    write_sentencepiece,
    write_tokenizer,
)
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen2Tokenizer
from weight_samples import bytes_of, import_base, load

from dem_build.errors import CheckpointError
from dem_build.model.tokenizer import BaseTokenizer
from dem_build.model.tokenizer_files import settle

CLASSES = ("GPT2Tokenizer", "GPTNeoXTokenizer", "Qwen2Tokenizer", "GemmaTokenizer", "T5Tokenizer", None)


def settled(folder, model_type):
    """Settle a folder; return what is said, and the ids of TEXT without config.json and beside it."""
    config = {"model_type": model_type}
    told = settle(folder, config, "here")
    alone = reads(folder)
    beside = shutil.copytree(folder, folder.with_name("beside"))
    (beside / "config.json").write_text(json.dumps(config))
    return told, alone, reads(beside)


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("model_type", ["llama", "gpt2", "olmo2", "gpt_neox"])
def test_the_ids_are_tokenizer_jsons_whatever_class_is_named(tmp_path, kind, model_type):
    write_tokenizer(tmp_path / "base", kind)
    wanted = ids_of_json(tmp_path / "base")
    _, alone, beside = settled(tmp_path / "base", model_type)
    assert alone == beside == wanted
    assert ids_of_json(tmp_path / "base") == wanted


def test_files_that_are_read_as_they_are_keep_every_byte(tmp_path):
    write_tokenizer(tmp_path / "base", "LlamaTokenizerFast")
    before = bytes_of(tmp_path / "base")
    told, alone, _ = settled(tmp_path / "base", "llama")
    assert (told, bytes_of(tmp_path / "base")) == ([], before)
    assert alone == ids_of_json(tmp_path / "base")


def test_a_class_that_is_left_is_said(tmp_path):
    write_tokenizer(tmp_path / "base", "GPT2Tokenizer")
    (told,) = settle(tmp_path / "base", {"model_type": "llama"}, "here")
    assert "tokenizer_class GPT2Tokenizer" in told
    assert "now name PreTrainedTokenizerFast" in told


def test_special_tokens_are_kept_where_another_class_is_named(tmp_path):
    write_tokenizer(tmp_path / "base", "GPT2Tokenizer")
    settle(tmp_path / "base", {"model_type": "llama"}, "here")
    tokenizer = BaseTokenizer(tmp_path / "base")
    assert (tokenizer.eos_token, tokenizer.eos_id, tokenizer.backend.pad_token) == ("</s>", 2, "<pad>")


def test_properties_of_added_tokens_are_tokenizer_jsons(tmp_path):
    """This config lets </s> swallow the spaces around it, which tokenizer.json does not."""
    greedy = {"content": "</s>", "lstrip": True, "rstrip": True, "normalized": False, "special": True}
    write_tokenizer(tmp_path / "base", added_tokens_decoder={"2": greedy | {"single_word": False}})
    _, alone, beside = settled(tmp_path / "base", "llama")
    assert alone == beside == ids_of_json(tmp_path / "base")


def test_a_class_that_nothing_can_change_is_refused_by_name(tmp_path):
    """transformers takes Qwen2Tokenizer for every qwen2: it would cut 12 in two, and tokenizer.json does not."""
    write_tokenizer(tmp_path / "base", digits_apart=False)
    with pytest.raises(CheckpointError, match=r"model_type qwen2: its Qwen2Tokenizer cuts .* otherwise"):
        settle(tmp_path / "base", {"model_type": "qwen2"}, "here")


def test_a_class_that_only_composes_letters_first_is_taken_and_said(tmp_path):
    write_tokenizer(tmp_path / "base")
    theirs = json.loads(Qwen2Tokenizer().backend_tokenizer.to_str())
    edit(
        tmp_path / "base" / "tokenizer.json", {"pre_tokenizer": theirs["pre_tokenizer"]}
    )  # and no normalizer
    (told,), alone, beside = settled(tmp_path / "base", "qwen2")
    assert "makes one letter of a letter and the accent after it" in told
    assert alone == beside == ids_of_json(tmp_path / "base")
    assert reads(tmp_path / "base", "e\u0301") == reads(tmp_path / "beside", "e\u0301") != [68, 139, 224]
    assert (
        len(AutoTokenizer.from_pretrained(tmp_path / "beside")) == 263
    )  # no token that the file does not have


@pytest.mark.parametrize(("single", "said"), [("$A", "true"), ("<s> $A", "false")])
def test_what_tokenizer_json_puts_before_a_text_counts_and_a_flag_against_it_is_said(tmp_path, single, said):
    write_tokenizer(tmp_path / "base", add_bos_token=said == "true")
    post_process(tmp_path / "base", single)
    (told,), alone, beside = settled(tmp_path / "base", "llama")
    assert f"add_bos_token = {said}" in told
    assert alone == beside == ids_of_json(tmp_path / "base")
    assert BaseTokenizer(tmp_path / "base").prefix_ids == ((1,) if said == "false" else ())


def without_json(folder, kind, **said):
    """Turn a tokenizer into vocab.json and merges.txt alone, which only GPT-2's pattern can be read of."""
    write_tokenizer(folder, kind, digits_apart=False, **said)
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(m) for m in model["merges"]))
    wanted = ids_of_json(folder)
    (folder / "tokenizer.json").unlink()
    return wanted


@pytest.mark.parametrize(
    ("kind", "says"), [(models.BPE, ["tokenizer.json adds none"]), (models.WordLevel, [])]
)
def test_a_flag_of_a_tokenizer_that_has_no_letters_is_no_stumbling_block(tmp_path, kind, says):
    """Such as one of digits alone."""
    vocab = {"<s>": 0, "</s>": 1, "1": 2, "2": 3}
    raw = Tokenizer(kind(vocab, []) if kind is models.BPE else kind(vocab))
    PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>").save_pretrained(tmp_path)
    edit(tmp_path / "tokenizer_config.json", {"add_bos_token": True})
    told = settle(tmp_path, {"model_type": "llama"}, "here")
    assert len(told) == len(says)
    assert all(word in sentence for word, sentence in zip(says, told, strict=True))


def test_a_base_without_tokenizer_json_is_as_it_was(tmp_path):
    wanted = without_json(tmp_path / "base", "GPT2Tokenizer")
    before = bytes_of(tmp_path / "base")
    told, alone, beside = settled(tmp_path / "base", "gpt2")
    assert (told, alone, beside) == ([], wanted, wanted)
    assert bytes_of(tmp_path / "base") == before


def test_without_tokenizer_json_flags_are_heeded(tmp_path):
    wanted = without_json(tmp_path / "base", "GPT2Tokenizer", add_bos_token=True)
    _, alone, beside = settled(tmp_path / "base", "gpt2")
    assert alone == beside == [1, *wanted]


def test_a_tokenizer_that_only_config_json_tells_of_gets_a_tokenizer_json(tmp_path):
    wanted = without_json(tmp_path / "base", None)
    (told,), alone, beside = settled(tmp_path / "base", "gpt2")
    assert "by config.json's model_type" in told
    assert alone == beside == wanted


@pytest.mark.parametrize("model_type", ["llama", "mistral", "phi3", "stablelm"])
def test_a_sentencepiece_model_is_read_by_the_class_that_its_files_name(tmp_path, model_type):
    pytest.importorskip("sentencepiece")
    folder = tmp_path / "base"
    ((text, wanted),) = write_sentencepiece(folder, "LlamaTokenizer").items()
    settled(folder, model_type)
    assert reads(folder, text) == reads(tmp_path / "beside", text) == wanted


def test_a_sentencepiece_model_that_cannot_be_read_so_is_refused(tmp_path):
    """By this model_type spaces and line breaks would disappear."""
    pytest.importorskip("sentencepiece")
    write_sentencepiece(tmp_path / "base", "LlamaTokenizer")
    with pytest.raises(CheckpointError, match="cannot be had from transformers for the model_type qwen2"):
        settle(tmp_path / "base", {"model_type": "qwen2"}, "here")


@pytest.mark.skipif(find_spec("sentencepiece") is not None, reason="sentencepiece is installed")
def test_a_sentencepiece_model_without_the_package_that_reads_it_is_told_apart(tmp_path):
    write_sentencepiece(tmp_path / "base", "LlamaTokenizer")
    with pytest.raises(CheckpointError, match="takes the package sentencepiece") as refused:
        settle(tmp_path / "base", {"model_type": "llama"}, "here")
    assert "pip install sentencepiece" in str(refused.value.hint)


def test_the_published_model_is_read_as_tokenizer_json(tmp_path):
    """Whole bases, with a wish of the recipe and without."""
    source = make_base(tmp_path / "base", vocab=8)
    write_tokenizer(source, "GPT2Tokenizer")
    wanted = ids_of_json(source)
    for name, wishes in {"plain": {}, "wished": {"added": ["<tool>"], "pad_token": "<tool>"}}.items():
        outputs = import_base(source, tmp_path / f"import-{name}", **wishes)
        load(outputs, tmp_path / name)
        assert reads(tmp_path / name) == reads(outputs / "tokenizer") == wanted
        assert ids_of_json(tmp_path / name) == wanted
        assert BaseTokenizer(outputs / "tokenizer").encode([TEXT]) == [wanted]


def test_a_note_says_that_the_files_were_changed(tmp_path):
    source = make_base(tmp_path / "base", vocab=8)
    write_tokenizer(source, "GPT2Tokenizer")
    import_base(source, tmp_path / "import")
    assert "tokenizer_class GPT2Tokenizer" in (tmp_path / "import" / "work" / "events.jsonl").read_text()


TALK = [{"role": "user", "content": "hello"}]
TOOL = {"type": "function", "function": {"name": "sum", "parameters": {"type": "object", "properties": {}}}}
NAMED = {"default": "plain:{{ messages[0]['content'] }}", "tool_use": "tools:{{ tools | length }}"}


def in_config(folder, templates):
    listed = [{"name": name, "template": text} for name, text in templates.items()]
    edit(folder / "tokenizer_config.json", {"chat_template": listed})


def in_files(folder, templates):
    (folder / "additional_chat_templates").mkdir()
    for name, text in templates.items():
        place = "chat_template.jinja" if name == "default" else f"additional_chat_templates/{name}.jinja"
        (folder / place).write_text(text)


@pytest.mark.parametrize("wishes", [{}, {"added": ["<tool>"]}], ids=["as-it-is", "saved-anew"])
@pytest.mark.parametrize("write", [in_config, in_files])
def test_named_templates_are_carried_along_and_chosen_as_transformers_does(tmp_path, write, wishes):
    source = make_base(tmp_path / "base", vocab=8)
    write(source, NAMED)
    outputs = import_base(source, tmp_path / "import", **wishes)
    tokenizer = BaseTokenizer(outputs / "tokenizer")
    assert tokenizer.render([TALK], add_generation_prompt=True) == ["plain:hello"]
    assert tokenizer.render([TALK], add_generation_prompt=True, tools=[TOOL]) == ["tools:1"]
    assert AutoTokenizer.from_pretrained(outputs / "tokenizer").chat_template == NAMED


def test_the_recipes_template_takes_the_place_of_all_named_ones(tmp_path):
    source = make_base(tmp_path / "base")
    in_files(source, NAMED)
    mine = tmp_path / "chat.jinja"
    mine.write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    outputs = import_base(source, tmp_path / "import", template=mine)
    assert AutoTokenizer.from_pretrained(outputs / "tokenizer").chat_template == mine.read_text()


@pytest.mark.parametrize("text", [b'{"eos_token": "</s>"', b"", b'{"eos_token": "\xe9"}'])
def test_a_damaged_config_is_refused_by_name(tmp_path, text):
    write_tokenizer(tmp_path / "base")
    (tmp_path / "base" / "tokenizer_config.json").write_bytes(text)
    with pytest.raises(CheckpointError, match=r"tokenizer cannot be loaded: tokenizer_config\.json"):
        settle(tmp_path / "base", {"model_type": "llama"}, "here")
