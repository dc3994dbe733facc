"""Answers token by token: those of the same model at once, told whole, and drawn from the model's probabilities."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tiny import make_base

from dem_build.model.generation import Sampling, _drawn, _Heard, answer_prompt, prompt_of
from dem_build.model.load import load_model
from dem_build.model.tokenizer import BaseTokenizer

TEMPLATE = (
    "{% for m in messages %}{{ '[' + m['role'] + ']\n' + m['content'] + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant]\n' }}{% endif %}"
)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("generation") / "base", dtype="float32", chat_template=TEMPLATE)


@pytest.fixture(scope="module")
def tokenizer(base):
    return BaseTokenizer(base)


@pytest.fixture(scope="module")
def model(base):
    return load_model(base, base / "config.json", dtype=torch.float32, device=torch.device("cpu"))


def ask(
    model, tokenizer, text="hello", *, room=24, stops=(2,), told=None, stopping=lambda: False, **sampling
):
    ids = prompt_of(tokenizer, [{"role": "user", "content": text}])
    pieces = [] if told is None else told
    return answer_prompt(
        model,
        tokenizer,
        ids,
        room=room,
        stops=stops,
        sampling=Sampling(**sampling),
        tell=pieces.append,
        stopping=stopping,
    )


def test_what_is_told_is_the_answer_and_greedy_is_what_generate_does(model, tokenizer):
    told: list[str] = []
    answer = ask(model, tokenizer, told=told)
    assert "".join(told) == answer.text
    ids = torch.tensor([prompt_of(tokenizer, [{"role": "user", "content": "hello"}])])
    own = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False, pad_token_id=0
    )
    said = [token for token in own[0, ids.shape[1] :].tolist() if token != 2]
    assert answer.tokens == len(said)
    assert answer.text == tokenizer.decode(said)
    stop = said[5]
    cut = ask(model, tokenizer, stops=(2, stop))
    assert (cut.tokens, cut.ended) == (said.index(stop), True)


def test_a_character_of_several_tokens_is_told_when_it_is_whole(model, tokenizer, monkeypatch):
    from dem_build.model import generation

    wanted = iter([*tokenizer.encode(["é漢!"])[0], 2])
    written = lambda *_: torch.nn.functional.one_hot(torch.tensor([next(wanted)]), 259).float()  # noqa: E731
    monkeypatch.setattr(generation, "_drawn", lambda _: generation.LogitsProcessorList([written]))
    told: list[str] = []
    answer = ask(model, tokenizer, told=told)
    assert told == ["é", "漢", "!"]
    assert (answer.text, answer.ended) == ("é漢!", True)


def test_what_telling_a_token_costs_does_not_grow_with_the_conversation(tokenizer):
    decoded: list[int] = []
    counting = SimpleNamespace(decode=lambda ids: decoded.append(len(ids)) or tokenizer.decode(ids))
    [before], told = tokenizer.encode(["a long conversation " * 1000]), []
    heard = _Heard(counting, before, [2], told.append)
    heard.put(torch.tensor([before]))
    for token in tokenizer.encode(["né!"])[0]:
        heard.put(torch.tensor([token]))
    assert "".join(told) == "né!"
    assert max(decoded) < 100


def test_whoever_is_asked_to_stop_stops_and_what_telling_raises_ends_it(model, tokenizer):
    told: list[str] = []
    assert ask(model, tokenizer, told=told, stopping=lambda: len(told) >= 3).tokens < 10

    class Full(list):
        def append(self, _):
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        ask(model, tokenizer, told=Full())
    assert ask(model, tokenizer).tokens  # the model is as it was


def test_draws_are_of_the_probabilities_and_the_same_for_one_seed(model, tokenizer):
    [temper, noise] = _drawn(Sampling(temperature=0.5, seed=1))
    logits = torch.tensor([[1.0, 0.0, -1.0, 0.5]])
    drawn = [int(noise(None, temper(None, logits)).argmax()) for _ in range(4000)]
    shares = torch.bincount(torch.tensor(drawn), minlength=4) / len(drawn)
    assert torch.allclose(shares, torch.softmax(logits[0] / 0.5, 0), atol=0.03)
    first, second, other = (ask(model, tokenizer, temperature=1.0, seed=seed).text for seed in (3, 3, 4))
    assert first == second != other
    # What top_p leaves is one token here: the likeliest.
    assert ask(model, tokenizer, temperature=1.0, top_p=1e-6).text == ask(model, tokenizer).text


def test_a_base_without_a_template_is_given_the_last_text_alone(tokenizer, tiny_base):
    plain = BaseTokenizer(tiny_base)
    turns = [{"role": "user", "content": t} for t in ("one", "two")]
    assert plain.decode(prompt_of(plain, turns)) == "two"
    assert tokenizer.decode(prompt_of(tokenizer, turns)).endswith("[user]\ntwo</s>\n[assistant]\n")
