"""Rows of several turns: what each format says, which tokens are trained, and what a chat template may not do."""

from __future__ import annotations

import datetime as dt

import pytest
from chat_samples import beside, cut_up, shown, style
from data_samples import CHATML, Preparer, make_tokenizer, write_rows
from hypothesis import given
from hypothesis import strategies as st

from dem_build.data.conversations import from_messages, from_sharegpt
from dem_build.data.formats import Example
from dem_build.data.tokenise import tokenise
from dem_build.errors import DataError
from dem_build.model.tokenizer import BaseTokenizer

# As Qwen 3's: the reasoning of an answer is written until somebody speaks again.
FORGETFUL = (
    "{% for m in messages %}{{ '[' + m['role'] + ']\n' }}"
    "{{ m['content'] if loop.last else m['content'].split('</think>')[-1] }}{{ eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant]\n' }}{% endif %}"
)
WITH_TOOLS = (
    "{% if tools %}{{ '[tools]' + (tools | tojson) + eos_token + '\n' }}{% endif %}"
    "{% for m in messages %}{{ '[' + m['role'] + ']\n' + m['content'] }}"
    "{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}{{ eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant]\n' }}{% endif %}"
)
TWO = [("user", "2+2?"), ("assistant", "4"), ("user", "3+3?"), ("assistant", "6")]
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": 2}}}


def said(*turns):
    return [{"role": role, "content": content} for role, content in turns]


def messages(*turns, tools=None):
    return from_messages(said(*turns), beside(tools=tools))


def rows_of(tokenizer, example, **changed):
    return [shown(tokenizer, row) for row in cut_up(tokenizer, example, **changed)]


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    def make(template, **more):
        folder = tmp_path_factory.mktemp("tokenizer")
        return BaseTokenizer(make_tokenizer(folder, chat_template=template, **more))

    return make


@pytest.fixture(scope="module")
def chatml(make):
    return make(CHATML)


@pytest.fixture
def prepare(tmp_path):
    preparer = Preparer(tmp_path)
    preparer.tokenizer = make_tokenizer(tmp_path / "chat", chat_template=CHATML)
    return preparer


@pytest.fixture
def data(tmp_path):
    return lambda *rows: write_rows(tmp_path / "rows.jsonl", rows)


# Masks


def test_every_answer_and_its_end_are_trained_and_nothing_else(chatml):
    assert rows_of(chatml, messages(*TWO)) == [
        "[user]\n2+2?</s>\n[assistant]\n⟦4</s>⟧\n[user]\n3+3?</s>\n[assistant]\n⟦6</s>⟧"
    ]


def test_loss_on_the_completion_trains_the_last_answer(chatml):
    assert rows_of(chatml, messages(*TWO), last_only=True) == [
        "[user]\n2+2?</s>\n[assistant]\n4</s>\n[user]\n3+3?</s>\n[assistant]\n⟦6</s>⟧"
    ]


def test_loss_on_all_trains_everything_but_the_first_token(chatml):
    [row] = rows_of(chatml, messages(*TWO), train_prompt=True)
    assert row == "[⟦user]\n2+2?</s>\n[assistant]\n4</s>\n[user]\n3+3?</s>\n[assistant]\n6</s>⟧"


def test_a_single_question_is_the_row_of_a_prompt_and_its_completion(chatml):
    [turned], [paired] = tokenise(chatml, [messages(*TWO[:2]), Example("2+2?", "4")], style())
    assert turned.input_ids.tolist() == paired.input_ids.tolist()
    assert turned.labels.tolist() == paired.labels.tolist()


def test_a_template_that_forgets_gives_a_row_for_each_answer(make):
    turns = [("user", "a"), ("assistant", "<think>b</think>c"), ("user", "d"), ("assistant", "e")]
    assert rows_of(make(FORGETFUL), messages(*turns)) == [
        "[user]\na</s>\n[assistant]\n⟦<think>b</think>c</s>⟧",
        "[user]\na</s>\n[assistant]\nc</s>\n[user]\nd</s>\n[assistant]\n⟦e</s>⟧",
    ]


def test_a_template_that_forgets_nothing_of_this_row_gives_one(make):
    assert len(rows_of(make(FORGETFUL), messages(*TWO))) == 1


def test_a_template_that_forgets_is_refused_where_all_is_trained(make):
    turns = [("user", "a"), ("assistant", "<think>b</think>c"), ("user", "d"), ("assistant", "e")]
    with pytest.raises(DataError, match=r'not every turn can be trained once.*loss = "assistant"'):
        rows_of(make(FORGETFUL), messages(*turns), train_prompt=True)


def test_a_template_that_rewrites_the_question_is_refused(make):
    with pytest.raises(DataError, match="not prefix-preserving"):
        rows_of(make("{{ messages | length }}" + CHATML), messages(*TWO))


def test_an_end_of_turn_that_is_not_eos_is_trained_and_eos_ends_the_row(make):
    tokenizer = make(CHATML.replace("eos_token", "'<end>'"))
    assert rows_of(tokenizer, messages(*TWO)) == [
        "[user]\n2+2?<end>\n[assistant]\n⟦4<end>\n⟧[user]\n3+3?<end>\n[assistant]\n⟦6<end>\n</s>⟧"
    ]


def test_a_token_over_a_boundary_is_taken_apart(make):
    """ "\\n" and the answer's own "\\n" would be one token, which the model that is asked never sees."""
    tokenizer = make(CHATML, merges=[("Ċ", "Ċ")])
    turns = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "\nd")]
    [[row]] = tokenise(tokenizer, [messages(*turns)], style())
    assert row.apart
    assert shown(tokenizer, row).endswith("[user]\nc</s>\n[assistant]\n⟦\nd</s>⟧")
    assert "[assistant]\n⟦b</s>⟧\n[user]" in shown(tokenizer, row)


TEXTS = st.text(alphabet="ab4 \n=", min_size=1, max_size=8).filter(str.strip)


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4))
def test_what_is_masked_and_what_is_trained_are_the_templates_own_texts(chatml, pairs):
    turns = [turn for asked, told in pairs for turn in (("user", asked), ("assistant", told))]
    expected = "\n".join(f"[user]\n{asked}</s>\n[assistant]\n⟦{told}</s>⟧" for asked, told in pairs)
    assert rows_of(chatml, messages(*turns)) == [expected]


# Turns that are odd


@pytest.mark.parametrize(
    ("turns", "expected", "odd"),
    [
        ([*TWO[:2], ("user", "and?")], "[user]\n2+2?</s>\n[assistant]\n⟦4</s>⟧", "unanswered_turns"),
        (
            [("user", "a"), ("assistant", " "), ("user", "b"), ("assistant", "c")],
            "[user]\na</s>\n[assistant]\n </s>\n[user]\nb</s>\n[assistant]\n⟦c</s>⟧",
            "empty_turns",
        ),
        (
            [("user", "a"), ("user", "b"), ("assistant", "c")],
            "[user]\na</s>\n[user]\nb</s>\n[assistant]\n⟦c</s>⟧",
            "repeated_roles",
        ),
        (
            [("user", "a"), ("assistant", "b"), ("assistant", "c")],
            "[user]\na</s>\n[assistant]\n⟦b</s>⟧\n[assistant]\n⟦c</s>⟧",
            "repeated_roles",
        ),
        (
            [("assistant", "a"), *TWO[:2]],
            "[assistant]\na</s>\n[user]\n2+2?</s>\n[assistant]\n⟦4</s>⟧",
            "unasked_answers",
        ),
    ],
)
def test_odd_turns_are_used_and_named(chatml, turns, expected, odd):
    example = messages(*turns)
    assert rows_of(chatml, example) == [expected]
    assert example.oddities == (odd,)


def test_odd_turns_are_counted_and_said(prepare, data):
    ordinary = {"messages": said(*TWO)}
    path = data(
        ordinary,
        {"messages": said(*TWO, ("user", "and?"))},
        {"messages": said(("user", "a"), ("user", "b"), ("assistant", "c"))},
        {"messages": said(("user", "nobody answers"))},
        {"messages": said(("user", "a"), ("assistant", ""))},
    )
    done = prepare(path)
    assert (done.rows["read"], done.rows["used"], done.rows["empty"]) == (5, 3, 2)
    assert (done.rows["unanswered_turns"], done.rows["repeated_roles"], done.rows["empty_turns"]) == (1, 1, 0)
    assert done.warnings == [
        "2 rows dropped: completion, text or every answer is empty",
        "1 row with turns after the last answer, which are left out",
        "1 row with two turns of the same role in a row",
    ]


def test_a_weight_of_zero_leaves_an_answer_untrained(chatml):
    turns = said(*TWO)
    turns[1]["weight"] = 0
    [row] = rows_of(chatml, from_messages(turns, beside()))
    assert row == "[user]\n2+2?</s>\n[assistant]\n4</s>\n[user]\n3+3?</s>\n[assistant]\n⟦6</s>⟧"


# System


def test_a_system_turn_of_the_row_comes_before_that_of_the_recipe(chatml):
    own = messages(("system", "mine"), *TWO[:2])
    assert rows_of(chatml, own, system="theirs")[0].startswith("[system]\nmine</s>\n[user]")
    assert rows_of(chatml, messages(*TWO[:2]), system="theirs")[0].startswith("[system]\ntheirs</s>\n[user]")


def test_a_template_that_leaves_out_the_system_is_refused(make):
    silent = "{% for m in messages if m.role != 'system' %}" + CHATML.partition("%}")[2]
    with pytest.raises(DataError, match="leaves out or changes the system's turn 'be brief'"):
        rows_of(make(silent), messages(("system", "be brief"), *TWO))


def test_the_system_does_not_decide_the_side_of_a_split():
    plain, instructed = messages(*TWO[:2]), messages(("system", "be brief"), *TWO[:2])
    assert plain.split_key == instructed.split_key == Example("2+2?", "4").split_key
    assert plain.content != instructed.content


# Tools


def test_tools_calls_and_their_results_are_the_templates(make):
    turns = [
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "4"},
        {"role": "assistant", "content": "four"},
    ]
    [row] = rows_of(make(WITH_TOOLS), from_messages(turns, beside(tools=[TOOL])))
    assert row.startswith('[tools][{"type": "function", "function": {"name": "add"')
    assert '[assistant]\n⟦{"name": "add", "arguments": {"a": 2, "b": 2}}</s>⟧\n[tool]\n4</s>' in row
    assert row.endswith("[assistant]\n⟦four</s>⟧")


def test_arguments_that_are_a_text_become_an_object():
    as_text = CALL | {"function": {"name": "add", "arguments": '{"a": 2, "b": 2}', "strict": None}}
    turn = {"role": "assistant", "content": "", "tool_calls": [as_text]}
    assert from_messages([turn], beside()).turns[0]["tool_calls"] == [CALL]


@pytest.mark.parametrize(
    ("turns", "tools", "what"),
    [
        (said(*TWO), [TOOL], "leaves out the tool `add`"),
        (
            [*said(TWO[0]), {"role": "assistant", "content": "", "tool_calls": [CALL]}],
            None,
            "leaves out the call of `add`",
        ),
    ],
)
def test_a_template_that_knows_no_tools_is_refused(chatml, turns, tools, what):
    with pytest.raises(DataError, match=what):
        rows_of(chatml, from_messages(turns, beside(tools=tools)))


def test_rows_with_and_without_tools_keep_their_order(make):
    examples = [messages(("user", f"q{i}"), ("assistant", "a"), tools=[TOOL] * (i % 2)) for i in range(4)]
    rows = tokenise(make(WITH_TOOLS), examples, style())
    texts = [shown(make(WITH_TOOLS), row) for [row] in rows]
    assert [f"q{i}" in text for i, text in enumerate(texts)] == [True] * 4
    assert [text.startswith("[tools]") for text in texts] == [False, True, False, True]


# ShareGPT


def test_sharegpt_says_what_messages_say():
    turns = [
        {"from": "system", "value": "be brief"},
        {"from": "human", "value": "2+2?"},
        {"from": "gpt", "value": "4"},
    ]
    assert from_sharegpt(turns, beside()) == messages(("system", "be brief"), *TWO[:2])
    assert from_sharegpt(turns[1:], beside(system="be brief")) == messages(("system", "be brief"), *TWO[:2])
    assert from_sharegpt(said(*TWO), beside()) == messages(*TWO)


def test_sharegpts_function_calls_are_tool_calls():
    turns = [
        {"from": "human", "value": "2+2?"},
        {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 2, "b": 2}}'},
        {"from": "observation", "value": "4"},
        {"from": "gpt", "value": "four"},
    ]
    read = from_sharegpt(turns, beside())
    assert [t["role"] for t in read.turns] == ["user", "assistant", "tool", "assistant"]
    assert read.turns[1]["tool_calls"] == [CALL]
    assert read.answers == (1, 3)


# Formats, from files


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet"])
def test_messages_and_sharegpt_files_of_the_same_turns_give_the_same_bytes(prepare, tmp_path, kind):
    names = {"user": "human", "assistant": "gpt"}
    shared = [{"from": names[role], "value": content} for role, content in TWO]
    one = write_rows(tmp_path / f"m.{kind}", [{"messages": said(*TWO), "id": 1}])
    other = write_rows(tmp_path / f"s.{kind}", [{"conversations": shared, "id": 1}])
    assert prepare(one).bytes() == prepare(other).bytes()
    assert prepare(one).provenance["format"] == "messages"
    assert prepare(other).provenance["format"] == "sharegpt"


def test_alpaca_joins_instruction_and_input_in_a_chat(prepare, data):
    path = data(
        {"instruction": "Add.", "input": "2, 2", "output": "4"},
        {"instruction": "Hi", "input": "", "output": "x"},
    )
    tokenizer, done = BaseTokenizer(prepare.tokenizer), prepare(path)
    assert [tokenizer.decode(ids) for ids, _ in done.tokens()] == [
        "[user]\nAdd.\n\n2, 2</s>\n[assistant]\n4</s>",
        "[user]\nHi</s>\n[assistant]\nx</s>",
    ]


def test_alpaca_has_its_headings_without_a_chat(prepare, data):
    path = data({"instruction": "Add.", "input": "2, 2", "output": "4"}, {"instruction": "Hi", "output": "x"})
    tokenizer, done = BaseTokenizer(prepare.tokenizer), prepare(path, chat=False)
    assert [tokenizer.decode(ids) for ids, _ in done.tokens()] == [
        "### Instruction:\nAdd.\n\n### Input:\n2, 2\n\n### Response:\n4</s>",
        "### Instruction:\nHi\n\n### Response:\nx</s>",
    ]


def test_max_samples_keeps_whole_conversations(prepare, data):
    path = data(*({"messages": said(("user", "same"), ("assistant", f"{i}"))} for i in range(8)))
    all_rows, some = prepare(path).tokens(), prepare(path, max_samples=3).tokens()
    assert len(some) == 3
    assert [row for row in all_rows if row in some] == some


def test_answers_of_a_row_that_is_one_an_answer_are_counted(prepare, data, tmp_path):
    tokenizer = make_tokenizer(tmp_path / "forgets", chat_template=FORGETFUL)
    turns = [("user", "a"), ("assistant", "<think>b</think>c"), ("user", "d" * 50), ("assistant", "e")]
    path = data({"messages": said(*turns)}, {"messages": said(*TWO)})
    done = prepare(path, tokenizer=tokenizer, max_length=60, loss="assistant")
    assert (done.rows["read"], done.rows["used"], done.rows["one_an_answer"]) == (2, 2, 1)
    assert done.rows["answers_over_max_length"] == 1
    assert done.splits["train"]["rows"] == 2
    assert "1 answers dropped: over max_length, in rows of one an answer" in done.warnings


@pytest.mark.parametrize(
    ("turns", "what"),
    [
        ("hello", "the conversation is no JSON"),
        ({"role": "user"}, "a conversation is a list of turns"),
        ([], "the conversation has no turns"),
        (["hello"], "turn 1 is no object"),
        ([{"role": "bot", "content": "x"}], "turn 1 has the role 'bot'.*system, developer, user, assistant, tool"),
        ([{"content": "x"}], "turn 1 has no role"),
        ([*said(TWO[0]), {"role": "assistant"}], "turn 2 has no content"),
        ([{"role": "user", "content": 3}], "the text of turn 1 is of type int"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "turn 1 holds a part of type image_url"),
        ([{"role": "user", "content": "a", "weight": 0.5}], "turn 1 has the weight 0.5"),
        ([{"role": "user", "content": "a\ud800"}], "half of a surrogate pair"),
        ([{"role": "assistant", "tool_calls": 3}], "the tool_calls of turn 1 are no list"),
        ([{"role": "assistant", "tool_calls": [{"function": {}}]}], "a tool call of turn 1 names no function"),
    ],
)  # fmt: skip
def test_a_row_that_is_no_conversation_is_named_by_its_line(prepare, data, turns, what):
    path = data({"messages": said(*TWO)}, {"messages": turns})
    with pytest.raises(DataError, match=what) as caught:
        prepare(path)
    assert caught.value.where == f"{path}:2"
    assert caught.value.hint


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"conversations": [{"from": "human", "value": "x", "weight": 0.5}]}, "turn 1 has the weight 0.5"),
        ({"conversations": [{"from": ["human"], "value": "x"}]}, r"turn 1 is from \['human'\]"),
        ({"conversations": [{"from": "human", "value": "x"}], "tools": [{"function": "add"}]}, "are no list of JSON"),
    ],
)  # fmt: skip
def test_a_sharegpt_row_that_is_no_conversation_is_named_by_its_line(prepare, data, row, what):
    path = data({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, row)
    with pytest.raises(DataError, match=what) as caught:
        prepare(path)
    assert caught.value.where == f"{path}:2"


@pytest.mark.parametrize("weighed", [1, 3])
def test_sharegpts_weight_of_zero_leaves_an_answer_or_a_call_untrained(weighed):
    call = '{"name": "add", "arguments": {}}'
    said_by = [
        ("human", "2+2?"),
        ("gpt", "4"),
        ("human", "3+3?"),
        ("function_call", call),
        ("observation", "6"),
    ]
    turns = [{"from": role, "value": value} for role, value in [*said_by, ("gpt", "6")]]
    turns[weighed]["weight"] = 0
    found = from_sharegpt(turns, beside())
    assert found.answers == tuple(sorted({1, 3, 5} - {weighed}))
    assert not any("weight" in turn for turn in found.turns)


def test_a_value_that_json_has_no_type_for_is_refused():
    """As a date in a parquet file is."""
    turns = [{"role": "user", "content": "a", "name": dt.date(2025, 1, 1)}]
    with pytest.raises(DataError, match="the conversation is no JSON: Object of type date"):
        from_messages(turns, beside())


def test_parts_of_text_are_joined():
    parts = [{"type": "text", "text": "2+"}, {"type": "text", "text": "2?"}]
    assert from_messages([{"role": "user", "content": parts}], beside()).turns[0]["content"] == "2+2?"


def test_a_row_that_the_template_refuses_is_named_by_its_line(prepare, data, tmp_path):
    strict = "{% if messages[0].role != 'user' %}{{ raise_exception('user first') }}{% endif %}" + CHATML
    tokenizer = make_tokenizer(tmp_path / "strict", chat_template=strict)
    path = data({"messages": said(*TWO)}, {"messages": said(("system", "s"), *TWO)})
    with pytest.raises(DataError, match=r"refuses the turns.*user first") as caught:
        prepare(path, tokenizer=tokenizer)
    assert caught.value.where == f"{path}:2"


def test_a_base_without_a_template_takes_no_conversations(prepare, data, tmp_path):
    bare = make_tokenizer(tmp_path / "bare")
    with pytest.raises(
        DataError, match="`messages` rows are written by a chat template, and the base has no"
    ):
        prepare(data({"messages": said(*TWO)}), tokenizer=bare)
