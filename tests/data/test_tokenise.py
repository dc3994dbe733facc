"""Which tokens a row has, and exactly which of them are trained: on real tokenizers."""

from __future__ import annotations

import pytest
from data_samples import BOS, CHATML, EOS, make_sentencepiece, make_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from dem_build.data.chat import pin_date
from dem_build.data.formats import Example
from dem_build.data.tokenise import MASKED, Style, tokenise
from dem_build.errors import DataError
from dem_build.model.tokenizer import BaseTokenizer

RAW = Style(chat=False, system=None, train_prompt=False, max_length=1000, truncate=False)
CHAT = Style(chat=True, system=None, train_prompt=False, max_length=1000, truncate=False)
# Spaces on both sides of the boundary, and letters that merge over it.
MERGES = (("Ġ", "4"), ("a", "b"), ("Ġ", "Ġ"), ("Ċ", "Ċ"))
SENTENCEPIECE_MERGES = (("▁", "4"), ("a", "b"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return BaseTokenizer(make_tokenizer(tmp_path_factory.mktemp("plain"), merges=MERGES))


@pytest.fixture(scope="module")
def with_bos(tmp_path_factory):
    return BaseTokenizer(make_tokenizer(tmp_path_factory.mktemp("bos"), merges=MERGES, bos=True))


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory):
    return BaseTokenizer(make_sentencepiece(tmp_path_factory.mktemp("sp"), merges=SENTENCEPIECE_MERGES))


@pytest.fixture(scope="module")
def chatml(tmp_path_factory):
    return BaseTokenizer(
        make_tokenizer(tmp_path_factory.mktemp("chat"), merges=MERGES, bos=True, chat_template=CHATML)
    )


def one(tokenizer, example, style=RAW):
    return tokenise(tokenizer, [example], style)[0][0]


def trained_text(tokenizer, row):
    return tokenizer.decode(row.input_ids[row.labels != MASKED].tolist())


def test_raw_trains_the_completion_and_one_eos(plain):
    row = one(plain, Example("2+2=", " 4"))
    assert plain.decode(row.input_ids.tolist()) == "2+2= 4</s>"
    assert trained_text(plain, row) == " 4</s>"
    assert row.labels[:4].tolist() == [MASKED] * 4
    assert row.labels[4:].tolist() == row.input_ids[4:].tolist()


def test_loss_on_all_trains_the_prompt_but_its_first_token(plain):
    style = Style(chat=False, system=None, train_prompt=True, max_length=1000, truncate=False)
    assert trained_text(plain, one(plain, Example("2+2=", " 4"), style)) == "+2= 4</s>"


def test_text_is_trained_whole_but_its_first_token(plain):
    assert trained_text(plain, one(plain, Example("", "hello"))) == "ello</s>"


def test_text_after_bos_is_trained_whole(with_bos):
    row = one(with_bos, Example("", "hello"))
    assert row.input_ids[0] == BOS
    assert trained_text(with_bos, row) == "hello</s>"


def test_bos_is_added_where_the_tokenizer_adds_it(plain, with_bos):
    assert BOS not in one(plain, Example("a", "b")).input_ids
    assert one(with_bos, Example("a", "b")).input_ids.tolist().count(BOS) == 1


def test_bos_that_is_in_the_text_is_not_doubled(with_bos):
    row = one(with_bos, Example("<s>a", "b"))
    assert row.input_ids.tolist().count(BOS) == 1
    assert trained_text(with_bos, row) == "b</s>"


def test_eos_that_is_in_the_text_is_not_doubled(plain):
    assert one(plain, Example("a", "b</s>")).input_ids.tolist().count(EOS) == 1


def test_a_prompt_that_ends_in_eos_does_not_end_the_completion(plain):
    assert trained_text(plain, one(plain, Example("a</s>", "b"))) == "b</s>"


def test_an_empty_completion_teaches_eos_even_after_eos(plain):
    assert trained_text(plain, one(plain, Example("a</s>", ""))) == "</s>"


def test_a_token_over_the_boundary_is_taken_apart(plain):
    """A model that is asked "2+2= " sees the space as a token of the prompt, and answers "4"."""
    row = one(plain, Example("2+2= ", "4"))
    assert row.apart
    assert trained_text(plain, row) == "4</s>"
    assert not one(plain, Example("2+2=", " 4")).apart


def test_sentencepiece_adds_no_space_before_a_completion(sentencepiece):
    row = one(sentencepiece, Example("2+2= ", "4"))
    assert row.apart
    assert sentencepiece.decode(row.input_ids.tolist()) == "<s> 2+2= 4</s>"
    assert sentencepiece.decode(row.input_ids[row.labels != MASKED].tolist()).lstrip() == "4</s>"
    assert row.trained == 2


WORDS = st.text(alphabet="ab4 \n=", max_size=12)


@given(prompt=WORDS, completion=WORDS)
def test_rows_begin_with_what_the_model_is_asked(with_bos, prompt, completion):
    """The prompt's own tokens come first, nothing else is masked, and no character is lost."""
    row = one(with_bos, Example(prompt, completion))
    asked = [BOS, *with_bos.encode([prompt])[0]]
    masked = int((row.labels == MASKED).sum())
    assert row.input_ids[:masked].tolist() == asked
    assert with_bos.decode(row.input_ids[masked:].tolist()) == completion + "</s>"


@given(prompt=WORDS.filter(str.strip), completion=WORDS)
def test_chat_rows_begin_with_what_the_model_is_asked(chatml, prompt, completion):
    row = one(chatml, Example(prompt, completion), CHAT)
    masked = int((row.labels == MASKED).sum())
    assert row.input_ids[:masked].tolist() == chatml.encode([f"[user]\n{prompt}</s>\n[assistant]\n"])[0]
    assert chatml.decode(row.input_ids[masked:].tolist()) == completion + "</s>"


def test_chat_trains_the_answer_and_its_end_of_turn_once(chatml):
    """The line break that ChatML writes after the turn is nothing a model is asked to say."""
    row = one(chatml, Example("2+2?", "4"), CHAT)
    assert chatml.decode(row.input_ids.tolist()) == "[user]\n2+2?</s>\n[assistant]\n4</s>"
    assert trained_text(chatml, row) == "4</s>"


def test_chat_leaves_bos_to_the_template(chatml, tmp_path):
    assert BOS not in one(chatml, Example("a", "b"), CHAT).input_ids
    spelled = BaseTokenizer(make_tokenizer(tmp_path, bos=True, chat_template="{{ bos_token }}" + CHATML))
    assert one(spelled, Example("a", "b"), CHAT).input_ids.tolist().count(BOS) == 1


def test_chat_puts_the_system_turn_first(chatml):
    style = Style(chat=True, system="Be brief.", train_prompt=False, max_length=1000, truncate=False)
    row = one(chatml, Example("2+2?", "4"), style)
    assert chatml.decode(row.input_ids.tolist()).startswith("[system]\nBe brief.</s>\n[user]\n2+2?</s>")
    assert trained_text(chatml, row) == "4</s>"


def test_chat_appends_eos_where_the_template_ends_without_it(tmp_path):
    template = CHATML.replace("eos_token", "'<end>'")
    tokenizer = BaseTokenizer(make_tokenizer(tmp_path, chat_template=template))
    assert trained_text(tokenizer, one(tokenizer, Example("a", "b"), CHAT)) == "b<end>\n</s>"


def test_a_template_that_rewrites_the_prompt_is_refused(tmp_path):
    template = "{{ messages | length }}" + CHATML
    tokenizer = BaseTokenizer(make_tokenizer(tmp_path, chat_template=template))
    with pytest.raises(DataError, match=r"not prefix-preserving.*chat = false"):
        one(tokenizer, Example("a", "b"), CHAT)


def test_a_role_that_the_template_refuses_is_named(tmp_path):
    template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML
    )
    tokenizer = BaseTokenizer(make_tokenizer(tmp_path, chat_template=template))
    style = Style(chat=True, system="x", train_prompt=False, max_length=1000, truncate=False)
    with pytest.raises(DataError, match="refuses the turns system → user: no system role"):
        one(tokenizer, Example("a", "b"), style)


def test_a_date_in_the_template_is_pinned(tmp_path):
    dated = "{% set today = strftime_now('%d %b %Y') %}{{ today }}|{{ strftime_now('%Y-%m-%d') }}\n" + CHATML
    tokenizer = BaseTokenizer(make_tokenizer(tmp_path, chat_template=dated))
    row = one(tokenizer, Example("a", "b"), CHAT)
    assert tokenizer.decode(row.input_ids.tolist()).startswith("01 Jan 2025|2025-01-01\n[user]")


@pytest.mark.parametrize(
    "start", ["", "\n", "  ", "  {% if true %}x{% endif %}\n", "\n\n{% if true %}x{% endif %}"]
)
def test_pinning_a_date_changes_nothing_else(start, tmp_path):
    """Jinja strips white space before a block at the start of a line, and a line break after one."""

    def rendered(name, template):
        tokenizer = BaseTokenizer(make_tokenizer(tmp_path / name, chat_template=template))
        return tokenizer.render([[{"role": "user", "content": "a"}]], add_generation_prompt=True)

    template = start + CHATML
    assert pin_date(template) == template
    unused = "{% if false %}{{ strftime_now('') }}{% endif %}"
    assert rendered("with", template + unused) == rendered("without", template)


def test_a_row_over_the_length_is_dropped(plain):
    style = Style(chat=False, system=None, train_prompt=False, max_length=7, truncate=False)
    rows = tokenise(plain, [Example("2+2=", "45"), Example("2+2=", "456")], style)
    assert [row is not None for [row] in rows] == [True, False]


def test_a_row_that_is_cut_keeps_no_eos(plain):
    style = Style(chat=False, system=None, train_prompt=False, max_length=6, truncate=True)
    row = one(plain, Example("2+2=", "456"), style)
    assert plain.decode(row.input_ids.tolist()) == "2+2=45"
    assert trained_text(plain, row) == "45"
    assert row.length == 8


def test_a_prompt_that_fills_the_length_leaves_nothing_to_train(plain):
    style = Style(chat=False, system=None, train_prompt=False, max_length=4, truncate=True)
    assert one(plain, Example("2+2=", "4"), style).trained == 0


def test_unicode_comes_back_as_it_was(plain):
    row = one(plain, Example("naïve 東京", " 🦉\u200d\u0301"))
    assert plain.decode(row.input_ids.tolist()) == "naïve 東京 🦉\u200d\u0301</s>"
    assert trained_text(plain, row) == " 🦉\u200d\u0301</s>"


def test_a_tokenizer_without_eos_is_refused(tmp_path):
    folder = make_tokenizer(tmp_path)
    config = folder / "tokenizer_config.json"
    config.write_text(config.read_text().replace('"eos_token": "</s>",', ""))
    with pytest.raises(DataError, match=r"no EOS token.*set eos_token"):
        BaseTokenizer(folder)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(DataError, match="tokenizer cannot be loaded"):
        BaseTokenizer(tmp_path)
