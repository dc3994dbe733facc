"""Answers to prompts: those of the model, whatever stands beside a prompt in its batch; and what people are shown."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import make_base
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from dem_build.actions.sample import run as sample
from dem_build.actions.sample.run import greedy_answers, of_rows, of_texts
from dem_build.data.arrays import RowsWriter, TokenRows
from dem_build.data.conversations import Conversation
from dem_build.data.formats import Example
from dem_build.data.tokenise import Style, tokenise
from dem_build.digest import of_bytes
from dem_build.errors import EvaluationError, InterruptedBuildError
from dem_build.machine import Machine
from dem_build.model.generation import continued
from dem_build.model.tokenizer import BaseTokenizer
from dem_build.step import Context, Inputs

TEMPLATE = (
    "{% for m in messages %}{{ '[' + m['role'] + ']\n' + m['content'] + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant]\n' }}{% endif %}"
)
CHAT = Style(chat=True, system=None, train_prompt=False, max_length=200, truncate=False)
BARE = Style(chat=False, system=None, train_prompt=False, max_length=200, truncate=False)
EOS, ROOM = 2, 12


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return make_base(tmp_path_factory.mktemp("asked") / "base", dtype="float32", chat_template=TEMPLATE)


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> BaseTokenizer:
    return BaseTokenizer(make_base(tmp_path_factory.mktemp("plain") / "base"))


@pytest.fixture(scope="module", params=["rotary", "table"])
def model(request):
    """Weights so large that every token before changes what comes next; positions computed, or looked up."""
    torch.set_num_threads(1)
    torch.manual_seed(3)
    sizes = {"vocab_size": 211, "bos_token_id": 1, "eos_token_id": EOS, "initializer_range": 0.4}
    if request.param == "table":
        return GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=64, **sizes)).eval()
    config = LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, **sizes
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def tokenizer(base) -> BaseTokenizer:
    return BaseTokenizer(base)


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    rng = np.random.default_rng(1)
    return [rng.integers(3, 200, size).tolist() for size in (3, 17, 40, 9, 25)]


def context_of(folder, batch=8, **more) -> Context:
    work = folder / "work"
    work.mkdir(parents=True, exist_ok=True)
    return Context(work=work, out=work / "out", machine=Machine(eval_batch_size=batch), **more)


@torch.inference_mode()
def alone(model, prompt: list[int], room: int = ROOM) -> list[int]:
    """The likeliest token each time, by the whole row anew: no padding, no cache."""
    ids = list(prompt)
    for _ in range(room):
        ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def write_rows(path: Path, tokenizer: BaseTokenizer, examples, style: Style = CHAT) -> Path:
    with RowsWriter(path.parent / "spool") as writer:
        for example, rows in zip(examples, tokenise(tokenizer, examples, style), strict=True):
            for row in rows:
                writer.append(row.input_ids, row.labels, bytes.fromhex(of_bytes(example.split_key.encode())))
        writer.save(path)
    return path


def asked(tmp_path, tokenizer, examples, style=CHAT, most=9):
    return of_rows(tokenizer, TokenRows.open(write_rows(tmp_path / "rows", tokenizer, examples, style)), most)


def run(base: Path, folder: Path, wanted, *, rows: Path | None = None, batch: int = 8, **params):
    (folder / "settings").mkdir(parents=True)
    settings = folder / "settings" / "generation_config.json"
    settings.write_text(json.dumps({"eos_token_id": [EOS], "do_sample": True, "temperature": 9.0}))
    paths = {"model/weights": base, "model/config": base / "config.json", "model/tokenizer": base}
    paths |= {"model/generation_config": settings} | ({} if rows is None else {"data/rows": rows})
    inputs = Inputs(paths, dict.fromkeys(paths, "w"))
    context = context_of(folder, batch)
    told = sample.run(inputs, {"prompts": wanted, "max_new_tokens": 6, "dtype": "float32"} | params, context)
    return json.loads((context.out / "answers").read_bytes())["answers"], told, context


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_a_prompt_is_answered_as_if_it_were_alone(model, prompts, tmp_path, batch):
    """Rows of other lengths stand beside it, padded on the left: neither mask nor positions may let them in."""
    wanted = [alone(model, prompt) for prompt in prompts]
    assert all(len(set(answer)) > 3 for answer in wanted)
    rooms = [ROOM] * len(prompts)
    assert greedy_answers(model, prompts, rooms, [999], context_of(tmp_path, batch)) == wanted


def test_an_answer_ends_at_the_first_stop(model, prompts, tmp_path):
    wanted = [alone(model, prompt) for prompt in prompts]
    stop = wanted[1][4]
    made = greedy_answers(model, prompts, [ROOM] * len(prompts), [999, stop], context_of(tmp_path))
    ends = [answer.index(stop) + 1 if stop in answer else ROOM for answer in wanted]
    assert made == [answer[:end] for answer, end in zip(wanted, ends, strict=True)]
    assert min(ends) < ROOM


def test_each_answer_has_its_own_room(model, prompts, tmp_path):
    rooms = [2, 5, 2, 7, 5]
    made = greedy_answers(model, prompts, rooms, [999], context_of(tmp_path))
    assert made == [alone(model, p, room) for p, room in zip(prompts, rooms, strict=True)]


def test_what_the_model_says_of_generation_plays_no_part(model, prompts, tmp_path):
    plain = greedy_answers(model, prompts, [ROOM] * len(prompts), [999], context_of(tmp_path / "a"))
    own = model.generation_config
    own.repetition_penalty, own.do_sample = 9.0, True
    try:
        made = greedy_answers(model, prompts, [ROOM] * len(prompts), [999], context_of(tmp_path / "b"))
        assert model.generation_config is own
    finally:
        own.repetition_penalty, own.do_sample = None, None
    assert made == plain


def test_a_user_who_asks_to_stop_waits_for_no_answer(model, prompts, tmp_path):
    context = context_of(tmp_path, stopping=lambda: True)
    with pytest.raises(InterruptedBuildError):
        greedy_answers(model, prompts, [ROOM] * len(prompts), [999], context)


def test_of_a_row_in_a_template_the_question_alone_is_shown(tmp_path, tokenizer):
    [prompt] = asked(tmp_path, tokenizer, [Example("2 + 2?\nQuick!", "4, of course")])
    assert prompt.asked == "2 + 2?\nQuick!"
    assert prompt.reference == "4, of course"
    assert tokenizer.decode(prompt.ids) == "[user]\n2 + 2?\nQuick!</s>\n[assistant]\n"


def test_a_system_prompt_is_read_and_not_shown(tmp_path, tokenizer):
    style = Style(chat=True, system="Be brief.", train_prompt=False, max_length=200, truncate=False)
    [prompt] = asked(tmp_path, tokenizer, [Example("2 + 2?", "4")], style)
    assert prompt.asked == "2 + 2?"
    assert "Be brief." in tokenizer.decode(prompt.ids)


def test_of_a_conversation_the_first_answer_is_asked_for(tmp_path, tokenizer):
    turns = [("user", "hi"), ("assistant", "hello"), ("user", "bye"), ("assistant", "so long")]
    talk = Conversation(tuple({"role": r, "content": c} for r, c in turns), (1, 3))
    [prompt] = asked(tmp_path, tokenizer, [talk])
    assert (prompt.asked, prompt.reference) == ("hi", "hello")


def test_a_row_without_a_template_is_shown_as_it_is(tmp_path, plain):
    [prompt] = asked(tmp_path, plain, [Example("2 + 2 =", " 4")], BARE)
    assert (prompt.asked, prompt.reference) == ("2 + 2 =", " 4")


def test_a_text_is_begun_with_its_beginning(tmp_path, plain):
    text = "It was a dark night, and nobody had put the light on in the hall."
    [prompt] = asked(tmp_path, plain, [Example("", text)], BARE)
    assert prompt.asked == text[:32]
    assert prompt.asked + str(prompt.reference) == text


def test_of_a_chat_all_of_which_is_trained_the_first_question_is_asked(tmp_path, tokenizer):
    turns = [("user", "hi " * 20), ("assistant", "hello"), ("user", "bye"), ("assistant", "so long")]
    talk = Conversation(tuple({"role": r, "content": c} for r, c in turns), (1, 3))
    style = Style(chat=True, system=None, train_prompt=True, max_length=200, truncate=False)
    [prompt] = asked(tmp_path, tokenizer, [talk], style)
    assert (prompt.asked, prompt.reference) == ("hi " * 20, "hello")


def test_no_prompt_is_asked_twice_and_the_same_ones_are_asked_every_time(tmp_path, plain):
    examples = [Example(f"{i % 5} + 1 =", f" {i}") for i in range(20)]
    every = [p.asked for p in asked(tmp_path, plain, examples, BARE)]
    assert len(every) == len(set(every)) == 5
    (tmp_path / "back").mkdir()
    assert [p.asked for p in asked(tmp_path / "back", plain, examples[::-1], BARE, 3)] == every[:3]


def test_texts_are_put_in_the_template_where_there_is_one(tokenizer, plain):
    [prompt] = of_texts(tokenizer, ["hello"])
    assert tokenizer.decode(prompt.ids) == "[user]\nhello</s>\n[assistant]\n"
    [bare] = of_texts(plain, ["hello"])
    assert plain.decode(bare.ids) == "hello"


def test_a_continuation_keeps_the_space_it_begins_with(plain):
    before, more = plain.encode(["one", " two"])
    assert continued(plain, before, more) == " two"


def test_answers_do_not_depend_on_how_rows_are_batched(base, tokenizer, tmp_path):
    examples = [Example("why? " * i, f"because {i}") for i in range(1, 6)]
    rows = write_rows(tmp_path / "rows", tokenizer, examples)
    one, told, _ = run(base, tmp_path / "one", 4, rows=rows, batch=1)
    many, _, _ = run(base, tmp_path / "many", 4, rows=rows, batch=8)
    assert one == many
    assert [a["reference"] for a in one] == sorted((a["reference"] for a in one), key=_hash_of(examples))
    assert (told["prompts"], told["new_tokens"]) == (4, sum(a["tokens"] + a["ended"] for a in one))


def _hash_of(examples):
    digests = {e.completion: of_bytes(e.split_key.encode()) for e in examples}
    return lambda reference: digests[reference]


def test_a_prompt_leaves_room_for_its_answer_in_the_context(base, tmp_path):
    frame = len("[user]\n</s>\n[assistant]\n") - len("</s>") + 1
    [answer], _, _ = run(base, tmp_path / "fits", ["x" * (256 - frame - 2)])
    assert answer["tokens"] + answer["ended"] <= 2
    with pytest.raises(EvaluationError, match=r"the model takes 256 tokens, and the prompt 'xxx.* has 256 "):
        run(base, tmp_path / "full", ["x" * (256 - frame)])


def test_without_held_out_rows_nothing_is_asked_and_that_is_said(base, tokenizer, tmp_path):
    answers, _, context = run(base, tmp_path / "none", 5, rows=write_rows(tmp_path / "rows", tokenizer, []))
    assert answers == []
    assert "no held-out rows" in (context.work / "events.jsonl").read_text()
