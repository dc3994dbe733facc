"""What the recipe gives the base before any vector exists: chat template, padding token, added tokens."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from tiny import make_base
from transformers import AutoTokenizer
from weight_samples import bytes_of, import_base, load

from dem_build.errors import UsageError

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
HELLO = [{"role": "user", "content": "hello"}]
ROWS = 259  # of the tiny base's embeddings, a token each
IDS = torch.arange(3, 35).reshape(2, 16)


@pytest.fixture
def template(tmp_path):
    path = tmp_path / "chat.jinja"
    path.write_text(TEMPLATE)
    return path


def tokenizer_of(outputs):
    return AutoTokenizer.from_pretrained(outputs / "tokenizer")


def config_of(outputs, name="config"):
    return json.loads((outputs / name).read_text())


def weights_of(outputs):
    return load_file(outputs / "weights" / "model.safetensors")


def test_the_recipes_chat_template_takes_the_place_of_the_bases_own(tmp_path, template):
    source = make_base(tmp_path / "base", chat_template="{{ messages[0]['content'] }}")
    outputs = import_base(source, tmp_path / "import", template=template)
    written = tokenizer_of(outputs).apply_chat_template(HELLO, tokenize=False, add_generation_prompt=True)
    assert written == "<user>hello</s><assistant>"


def test_a_template_alone_reaches_no_weight_and_no_config(tmp_path, tiny_base, template):
    one = import_base(tiny_base, tmp_path / "one", template=template)
    two = import_base(tiny_base, tmp_path / "two")
    assert bytes_of(one / "weights") == bytes_of(two / "weights")
    assert (one / "config").read_bytes() == (two / "config").read_bytes()


def test_a_padding_token_of_the_tokenizer_is_set_everywhere(tmp_path, tiny_base):
    outputs = import_base(tiny_base, tmp_path / "import", pad_token="<s>")
    assert tokenizer_of(outputs).pad_token == "<s>"
    assert config_of(outputs)["pad_token_id"] == config_of(outputs, "generation_config")["pad_token_id"] == 1


def test_a_base_without_a_generation_config_gets_none_by_its_padding_token(tmp_path):
    source = make_base(tmp_path / "base")
    (source / "generation_config.json").unlink()
    outputs = import_base(source, tmp_path / "import", pad_token="<s>")
    assert config_of(outputs, "generation_config") == {}


def test_a_padding_token_that_is_nowhere_is_refused_with_the_mend(tmp_path, tiny_base):
    with pytest.raises(UsageError, match=r"no token of the base's tokenizer.*added_tokens = \[\"<fill>\"\]"):
        import_base(tiny_base, tmp_path / "import", pad_token="<fill>")


def test_a_padding_token_that_ordinary_text_has_is_refused(tmp_path, tiny_base):
    with pytest.raises(UsageError, match="ordinary text"):
        import_base(tiny_base, tmp_path / "import", pad_token="a")


def test_the_end_token_as_padding_is_warned_of(tmp_path, tiny_base):
    import_base(tiny_base, tmp_path / "import", pad_token="</s>")
    events = (tmp_path / "import" / "work" / "events.jsonl").read_text()
    assert "pad_token is the end token" in events


@pytest.mark.parametrize("dtype", [None, "float32"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_new_tokens_get_the_mean_row_of_the_known_ones(tmp_path, tied, dtype):
    source = make_base(tmp_path / "base", tied=tied)
    outputs = import_base(source, tmp_path / "import", dtype, added=["<tool>", "<end>"], pad_token="<tool>")
    tokenizer, model = tokenizer_of(outputs), load(outputs, tmp_path / "model")
    assert tokenizer("<tool>a<end>").input_ids[:1] == [ROWS]
    assert (len(tokenizer), model.config.vocab_size, tokenizer.pad_token_id) == (ROWS + 2, ROWS + 2, ROWS)
    before = load_file(source / "model.safetensors")
    for name in ["model.embed_tokens.weight", *([] if tied else ["lm_head.weight"])]:
        made, old = weights_of(outputs)[name], before[name]
        assert made.shape == (ROWS + 2, 64)
        assert torch.equal(made[:ROWS], old.to(made.dtype))
        mean = old.double().mean(dim=0).float().to(made.dtype)
        assert torch.equal(made[ROWS], mean)
        assert torch.equal(made[ROWS + 1], mean)
    assert model(IDS).logits.shape[-1] == ROWS + 2


def test_rows_are_added_to_shards_too(tmp_path):
    one = import_base(make_base(tmp_path / "a"), tmp_path / "one", added=["<tool>"])
    two = import_base(make_base(tmp_path / "b", shards=2), tmp_path / "two", added=["<tool>"])
    assert bytes_of(one / "weights") == bytes_of(two / "weights")
    assert bytes_of(one / "tokenizer") == bytes_of(two / "tokenizer")


def test_spare_rows_of_the_embeddings_are_used_as_they_are(tmp_path):
    source = make_base(tmp_path / "base", vocab=1)
    plain = import_base(source, tmp_path / "plain")
    outputs = import_base(source, tmp_path / "import", added=["<tool>"])
    assert bytes_of(outputs / "weights") == bytes_of(plain / "weights")
    assert config_of(outputs)["vocab_size"] == ROWS + 1
    assert tokenizer_of(outputs)("<tool>").input_ids == [ROWS]


def test_tokens_that_are_there_already_add_nothing(tmp_path, tiny_base):
    outputs = import_base(tiny_base, tmp_path / "import", added=["<pad>", "</s>"])
    assert bytes_of(outputs / "weights") == bytes_of(import_base(tiny_base, tmp_path / "two") / "weights")
    assert len(tokenizer_of(outputs)) == ROWS


def test_a_template_that_this_tokenizer_cannot_render_is_refused(tmp_path, tiny_base):
    path = tmp_path / "chat.jinja"
    path.write_text("{% if eos_token != '<eos>' %}{{ raise_exception('not mine') }}{% endif %}")
    with pytest.raises(UsageError, match="cannot be rendered with this tokenizer: not mine"):
        import_base(tiny_base, tmp_path / "import", template=path)
