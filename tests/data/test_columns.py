"""Columns and keys that change what a row means are heeded; whatever else there is, is named once."""

from __future__ import annotations

import json
from itertools import count
from typing import get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chat_samples import answer, user
from data_samples import CHATML, Preparer, make_tokenizer, write_rows

from dem_build.data.columns import OPTIONAL, REQUIRED
from dem_build.data.formats import FORMATS
from dem_build.errors import DataError
from dem_build.model.tokenizer import BaseTokenizer
from dem_build.recipe import Source

PAIR = {"prompt": "a", "completion": "b"}
TURNS = {"messages": [user("a"), answer("b")]}
SHARED = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}
ALPACA = {"instruction": "a", "output": "b"}
ROWS = {"prompt-completion": PAIR, "messages": TURNS, "sharegpt": SHARED, "alpaca": ALPACA}
CALLS = "{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}"
TOOLED = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{{ '[deep]' if deep else '' }}"
    "{% for m in messages %}{{ '[' + m.role + ']' + m.content }}" + CALLS + "{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"
)
SCHEMA = {"name": "sum", "description": "Adds.", "parameters": {"type": "object", "properties": {}}}


def call(arguments, name="sum"):
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


class Dataset:
    """Prepares rows of one file, and shows them as text with what is trained in ⟦ ⟧."""

    def __init__(self, folder, template):
        self.preparer, self.folder, self.numbers = Preparer(folder), folder, count()
        self.preparer.tokenizer = make_tokenizer(folder / "base", chat_template=template)
        self.tokenizer = BaseTokenizer(self.preparer.tokenizer)

    def write(self, *rows, kind="jsonl"):
        return write_rows(self.folder / f"rows-{next(self.numbers)}.{kind}", rows)

    def prepare(self, *rows, kind="jsonl", **params):
        return self.preparer(self.write(*rows, kind=kind), **{"loss": None, "max_length": 900, **params})

    def texts(self, *rows, **params):
        return [self.text(*row) for row in self.prepare(*rows, **params).tokens()]

    def text(self, ids, labels):
        text, on = "", False
        for token, label in zip(ids, labels, strict=True):
            if on != (label != -100):
                on = not on
                text += "⟦" if on else "⟧"
            text += self.tokenizer.decode([token])
        return text + ("⟧" if on else "")

    def notes(self, *rows, **params):
        return [e["message"] for e in self.prepare(*rows, **params).events if e["event"] == "note"][1:]


@pytest.fixture
def chat(tmp_path):
    return Dataset(tmp_path / "chat", CHATML)


@pytest.fixture
def tooled(tmp_path):
    return Dataset(tmp_path / "tooled", TOOLED)


@pytest.fixture
def bare(tmp_path):
    return Dataset(tmp_path / "bare", None)


def test_a_recipe_takes_the_formats_that_rows_have():
    taken = Source.model_fields["format"].annotation
    assert {*FORMATS} == {*REQUIRED} == {*OPTIONAL} == {*get_args(get_args(taken)[0])}
    assert all({*form.templated} <= {*form.optional} for form in FORMATS.values())


# The system prompt


@pytest.mark.parametrize("form", ROWS)
def test_a_system_column_is_the_system_turn_in_every_format(chat, form):
    [row] = chat.texts(ROWS[form] | {"system": "be brief"})
    assert row == "[system]\nbe brief</s>\n[user]\na</s>\n[assistant]\n⟦b</s>⟧"
    assert chat.texts(ROWS[form] | {"system": "be brief"}, system="theirs") == [row]


@pytest.mark.parametrize("form", ROWS)
@pytest.mark.parametrize("nothing", [None, ""])
def test_an_empty_system_column_changes_no_byte(chat, form, nothing):
    assert chat.prepare(ROWS[form] | {"system": nothing}).bytes() == chat.prepare(ROWS[form]).bytes()


def test_a_system_turn_of_the_row_wins_over_its_column_and_that_is_counted(chat):
    turns = {"messages": [{"role": "system", "content": "mine"}, *TURNS["messages"]]}
    done = chat.prepare(turns | {"system": "other"}, turns | {"system": "mine"}, turns)
    assert len({tuple(ids) for ids, _ in done.tokens()}) == 1
    assert done.rows["system_twice"] == 1
    assert [w for w in done.warnings if "`system` column that is not read" in w]


def test_a_system_column_under_another_name_is_read_and_needs_a_template(chat, bare):
    columns = {"system": "persona"}
    [row] = chat.texts(PAIR | {"persona": "be brief"}, columns=columns)
    assert row.startswith("[system]\nbe brief</s>")
    with pytest.raises(DataError, match="the column of `system` needs a chat template") as caught:
        bare.texts(PAIR | {"persona": "be brief"}, columns=columns)
    assert "leave `system` out" in caught.value.hint


def test_without_a_template_what_only_it_can_write_is_named(bare):
    row = PAIR | {"system": "be brief", "chat_template_kwargs": {"deep": True}}
    assert bare.texts(row) == ["a⟦b</s>⟧"]
    assert bare.notes(row) == ["not read: the columns `chat_template_kwargs`, `system`"]


# Alpaca's history

HISTORY = ALPACA | {"history": [["q", "w"], ["e", "r"]], "system": "be brief"}


def test_alpacas_history_comes_before_and_its_answers_are_trained(chat):
    turns = (
        "[system]\nbe brief",
        "[user]\nq",
        "[assistant]\n⟦w</s>⟧\n[user]\ne",
        "[assistant]\n⟦r</s>⟧\n[user]\na",
    )
    assert chat.texts(HISTORY) == ["</s>\n".join([*turns, "[assistant]\n⟦b</s>⟧"])]
    [last] = chat.texts(HISTORY, loss="completion")
    assert last.count("⟦") == 1
    assert last.endswith("[assistant]\n⟦b</s>⟧")


def test_alpacas_history_has_its_headings_without_a_template(bare):
    asked = "### Instruction:\n{}\n\n### Response:\n"
    assert bare.texts(HISTORY) == [
        f"be brief\n\n{asked.format('q')}⟦w\n\n⟧{asked.format('e')}⟦r\n\n⟧{asked.format('a')}⟦b</s>⟧"
    ]
    [last] = bare.texts(HISTORY, loss="completion")
    assert last.endswith(f"r\n\n{asked.format('a')}⟦b</s>⟧")
    assert last.count("⟦") == 1


@pytest.mark.parametrize("nothing", [None, [], ""])
def test_an_empty_history_changes_no_byte(chat, nothing):
    assert chat.prepare(ALPACA | {"history": nothing}).bytes() == chat.prepare(ALPACA).bytes()


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_history_is_read_from_every_type_of_file(chat, kind):
    history = json.dumps(HISTORY["history"]) if kind == "csv" else HISTORY["history"]
    assert chat.prepare(HISTORY | {"history": history}, kind=kind).bytes() == chat.prepare(HISTORY).bytes()


@pytest.mark.parametrize("history", ["q", [["q"]], [["q", 1]], [{"q": "w"}], {"q": "w"}])
def test_a_history_that_is_none_is_named_by_its_line(chat, history):
    with pytest.raises(DataError, match="the history is no") as caught:
        chat.prepare(ALPACA, ALPACA | {"history": history})
    assert caught.value.where.endswith(":2")


@pytest.mark.parametrize(
    "more",
    [
        {"system": {"a": 1}},
        {"tools": "calculator"},
        {"tools": ["calculator"]},
        {"tools": 3},
        {"chat_template_kwargs": 3},
    ],
)
def test_a_column_that_only_has_the_name_is_told_how_to_keep_it(chat, more):
    with pytest.raises(DataError) as caught:
        chat.prepare(PAIR | more)
    assert "rename the column if it is" in caught.value.hint


def test_a_key_twice_in_a_text_of_json_is_an_error(tooled):
    twice = '{"name": "sum", "arguments": {"a": 1, "a": 2}}'
    for row in (
        {"conversations": [{"from": "human", "value": "a"}, {"from": "function_call", "value": twice}]},
        {"messages": [user("a"), answer("", tool_calls=[call('{"a": 1, "a": 2}')])]},
        PAIR | {"tools": f"[{twice}]"},
        PAIR | {"chat_template_kwargs": '{"a": 1, "a": 2}'},
    ):
        with pytest.raises(DataError, match="the key 'a' stands twice") as caught:
            tooled.prepare(row)
        assert caught.value.hint == "rename or remove one of the two"


# Turns that say whether they are trained

TWICE = [user("a"), answer("b"), user("c"), answer("d")]


@pytest.mark.parametrize(
    "flag",
    [{"weight": 0}, {"train": False}, {"training": False}, {"train": False, "weight": 0}, {"weight": 0.0}],
)
@pytest.mark.parametrize("form", ["messages", "sharegpt"])
def test_an_answer_that_says_so_is_not_trained(chat, flag, form):
    turns = [TWICE[0], TWICE[1] | flag, *TWICE[2:]]
    row = {"messages": turns}
    if form == "sharegpt":
        names = {"user": "human", "assistant": "gpt"}
        shared = [
            {"from": names[t["role"]], "value": t["content"]} | {k: t[k] for k in flag if k in t}
            for t in turns
        ]
        row = {"conversations": shared}
    expected = "[user]\na</s>\n[assistant]\nb</s>\n[user]\nc</s>\n[assistant]\n⟦d</s>⟧"
    assert chat.texts(row) == [expected]
    [everything] = chat.texts(row, loss="all")
    assert everything == "[⟦user]\na</s>\n[assistant]\n⟧b</s>⟦\n[user]\nc</s>\n[assistant]\nd</s>⟧"


def test_a_row_of_which_no_answer_is_trained_is_dropped_and_told_apart_from_an_empty_one(chat):
    silent = {"messages": [TWICE[0], TWICE[1] | {"train": False}]}
    done = chat.prepare(silent, {"messages": [TWICE[0], answer("")]}, {"messages": TWICE})
    assert (done.rows["used"], done.rows["untrained"], done.rows["empty"]) == (1, 1, 1)
    assert "1 row dropped: every answer says that it is not trained" in done.warnings


def test_a_prompt_that_says_that_it_is_trained_is_counted(chat):
    done = chat.prepare({"messages": [TWICE[0] | {"train": True}, TWICE[1] | {"train": True}]})
    assert done.rows["trained_prompts"] == 1
    assert [w for w in done.warnings if "is not the assistant's: it is not trained" in w]


@pytest.mark.parametrize(
    ("flag", "what"),
    [
        ({"train": "no"}, "turn 1 has the train 'no'"),
        ({"weight": 0.5}, "turn 1 has the weight 0.5"),
        ({"weight": 1, "train": False}, "turn 1 says both that it is trained and that it is not"),
    ],
)
def test_a_turn_that_says_neither_is_refused(chat, flag, what):
    with pytest.raises(DataError, match=what):
        chat.prepare({"messages": [TWICE[0] | flag, TWICE[1]]})


# What a template is given beside turns


@pytest.mark.parametrize("form", ROWS)
def test_chat_template_kwargs_are_given_to_the_template_by_row(tooled, form):
    rows = [ROWS[form] | {"chat_template_kwargs": {"deep": on}} for on in (True, False)]
    assert tooled.texts(*rows, ROWS[form]) == [
        "[deep][user]a</s>[assistant]⟦b</s>⟧",
        "[user]a</s>[assistant]⟦b</s>⟧",
        "[user]a</s>[assistant]⟦b</s>⟧",
    ]
    as_text = ROWS[form] | {"chat_template_kwargs": '{"deep": true}'}
    assert tooled.prepare(as_text).bytes() == tooled.prepare(rows[0]).bytes()


def test_chat_template_kwargs_that_are_not_asked_for_are_said(tooled):
    row = PAIR | {"chat_template_kwargs": {"wide": 1}}
    assert (
        "1 row with chat_template_kwargs that the base's chat template does not ask for, such as 'wide'"
        in tooled.notes(row)
    )


@pytest.mark.parametrize("taken", ["chat_template", "tools", "messages", "add_generation_prompt", "tokenize"])
def test_chat_template_kwargs_cannot_set_what_is_not_the_rows(tooled, taken):
    with pytest.raises(DataError, match=f"chat_template_kwargs may not set `{taken}`"):
        tooled.prepare(PAIR | {"chat_template_kwargs": {taken: "x"}})


@pytest.mark.parametrize("form", ROWS)
def test_tools_are_given_to_the_template_in_every_format(tooled, form):
    [row] = tooled.texts(ROWS[form] | {"tools": [SCHEMA]})
    assert row.startswith('[{"name": "sum"')
    assert tooled.texts(ROWS[form] | {"tools": [json.dumps(SCHEMA)]}) == [row]


@pytest.mark.parametrize("role", ["tools", "chat_template_kwargs"])
def test_a_text_that_says_null_says_that_there_is_nothing(tooled, role):
    for row in ROWS.values():
        assert tooled.prepare(row | {role: "null"}).bytes() == tooled.prepare(row).bytes()


def test_openais_older_functions_are_tools(tooled):
    older = [
        user("2?"),
        {"role": "assistant", "content": None, "function_call": {"name": "sum", "arguments": '{"a": 2}'}},
        {"role": "function", "name": "sum", "content": "4"},
        answer("four"),
    ]
    newer = [
        user("2?"),
        answer("", tool_calls=[call({"a": 2})]),
        {"role": "tool", "name": "sum", "content": "4"},
        answer("four"),
    ]
    schema = {"type": "function", "function": SCHEMA}
    rows = {"messages": older, "functions": [SCHEMA]}, {"messages": newer, "tools": [schema]}
    assert tooled.texts(rows[0]) == tooled.texts(rows[1])
    with pytest.raises(DataError, match="both tools and functions"):
        tooled.texts(rows[0] | {"tools": [schema]})
    with pytest.raises(DataError, match="both tool_calls and a function_call"):
        tooled.texts({"messages": [older[0], older[1] | {"tool_calls": [call({})]}]})


# Calls


@pytest.mark.parametrize("given", [{}, "", " ", "{}", None, ...])
def test_a_call_without_arguments_is_trained(tooled, given):
    made = call(given)
    if given is ...:
        del made["function"]["arguments"]
    [row] = tooled.texts({"messages": [user("a"), answer("", tool_calls=[made])]})
    assert row == '[user]a</s>[assistant]⟦{"name": "sum", "arguments": {}}</s>⟧'


def test_what_llama_calls_parameters_are_arguments(tooled):
    made = {"name": "sum", "parameters": {"a": 2}}
    [row] = tooled.texts({"messages": [user("a"), answer("", tool_calls=[made])]})
    assert '{"name": "sum", "arguments": {"a": 2}}' in row


@pytest.mark.parametrize("calls", [[], None, "[]", "null"])
def test_empty_calls_are_none(tmp_path, calls):
    strict = TOOLED.replace("{{ '[' + m.role", "{% if 'tool_calls' in m and m.tool_calls | length != 1 %}"
                            "{{ raise_exception('one call') }}{% endif %}{{ '[' + m.role")  # fmt: skip
    dataset = Dataset(tmp_path, strict)
    row = {"messages": [user("a"), answer("b", tool_calls=calls, function_call=None)]}
    assert dataset.prepare(row).bytes() == dataset.prepare(TURNS).bytes()


@pytest.mark.parametrize("as_text", [True, False])
def test_a_sharegpt_turn_may_hold_a_list_of_calls(tooled, as_text):
    calls = [{"name": "sum", "arguments": {"a": n}} for n in (1, 2)]
    value = json.dumps(calls) if as_text else calls
    turns = [("human", "a"), ("function_call", value), ("observation", "3"), ("gpt", "b")]
    [row] = tooled.texts({"conversations": [{"from": role, "value": said} for role, said in turns]})
    written = "".join(json.dumps(c) for c in calls)
    assert row == f"[user]a</s>[assistant]⟦{written}</s>⟧[tool]3</s>[assistant]⟦b</s>⟧"


def test_what_is_thought_before_a_sharegpt_call_is_kept(tooled):
    value = "<think>\nsum it\n</think>\n\n" + json.dumps({"name": "sum", "arguments": {"a": 1}})
    turns = [{"from": "human", "value": "a"}, {"from": "function_call", "value": value}]
    assert tooled.texts({"conversations": turns}) == [
        '[user]a</s>[assistant]⟦<think>\nsum it\n</think>{"name": "sum", "arguments": {"a": 1}}</s>⟧'
    ]


def test_a_sharegpt_turn_may_have_the_keys_of_a_message(tooled):
    turns = [user("a"), answer(None, tool_calls=[call({"a": 1})])]
    assert tooled.texts({"conversations": turns}) == tooled.texts({"messages": turns})


# Prompts and completions that are lists


def test_a_prompt_and_a_completion_may_be_lists_of_turns(chat):
    assert (
        chat.prepare({"prompt": [user("a")], "completion": [answer("b")]}).bytes()
        == chat.prepare(TURNS).bytes()
    )
    assert chat.prepare({"prompt": "a", "completion": [answer("b")]}).bytes() == chat.prepare(TURNS).bytes()


def test_what_answers_in_a_prompt_is_given(chat):
    row = {"prompt": [*TWICE[:2], TWICE[2]], "completion": [TWICE[3], user("e"), answer("f")]}
    assert chat.texts(row | {"system": "s"}) == [
        (
            "[system]\ns</s>\n[user]\na</s>\n[assistant]\nb</s>\n[user]\nc</s>\n[assistant]\n⟦d</s>⟧\n[user]\ne</s>\n"
            "[assistant]\n⟦f</s>⟧"
        )
    ]


def test_lists_of_turns_need_a_template(bare):
    with pytest.raises(DataError, match="turns are written by a chat template") as caught:
        bare.prepare({"prompt": [user("a")], "completion": [answer("b")]})
    assert caught.value.where.endswith(":1")


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"prompt": [], "completion": [answer("b")]}, "the conversation of the prompt has no turns"),
        (
            {"prompt": [user("a")], "completion": [{"role": "bot"}]},
            "turn 1 of the completion has the role 'bot'",
        ),
        ({"prompt": [user("a")], "completion": 3}, r"column `completion` \(completion\) is of type int"),
    ],
)
def test_a_prompt_that_is_no_list_of_turns_is_named(chat, row, what):
    with pytest.raises(DataError, match=what):
        chat.prepare(row)


# What is not read


def test_columns_and_keys_that_are_not_read_are_named_once(chat):
    rows = [
        {"messages": [user("a"), answer("b", id=1, reward=0.5)], "source": "x"},
        {"messages": [user("c") | {"id": 2}, answer("d")], "id": 7, "source": "y", "group": "g"},
    ]
    said = "not read: the columns `id`, `source`; the keys `id`, `reward` of turns"
    assert chat.notes(*rows) == [said.replace("`id`, `source`", "`group`, `id`, `source`")]
    assert chat.prepare(*rows).provenance["unread"] == {
        "columns": ["group", "id", "source"],
        "keys": ["id", "reward"],
    }
    grouped = [rows[0] | {"group": "h"}, rows[1]]
    assert chat.notes(*grouped, group_by="group") == [said]


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet"])
def test_columns_that_are_not_read_are_named_in_every_type_of_file(chat, kind):
    assert chat.notes(PAIR | {"id": "1"}, kind=kind) == ["not read: the column `id`"]
    assert chat.notes({"text": "a", "system": "b"}, kind=kind) == ["not read: the column `system`"]
    assert chat.notes(PAIR, kind=kind) == []


def test_names_that_are_data_are_not_all_kept(chat):
    rows = [
        {"messages": [user("a"), answer("b", **{f"key-{i}-{j}": 1 for j in range(60)})]} for i in range(9)
    ]
    assert len(chat.prepare(*rows).provenance["unread"]["keys"]) < 200


# Nulls of parquet

ASKED = [("town", {"town": "stone"}), ("left", {"left": 1, "right": 2}), ("none", {})]


def tool_rows():
    for name, given in ASKED:
        properties = {key: {"type": "string", "enum": ["a", None]} for key in given}
        schema = {
            "name": name,
            "description": "d",
            "parameters": {"type": "object", "properties": properties},
        }
        turns = [
            user("a"),
            answer("", tool_calls=[call(given, name)]),
            {"role": "tool", "content": "3"},
            answer("b"),
        ]
        yield {"messages": turns, "tools": [{"type": "function", "function": schema}]}


def test_nulls_that_parquet_fills_in_are_no_data(tooled):
    rows = list(tool_rows())
    path = tooled.write(*rows, kind="parquet")
    [first, *_] = pq.read_table(path).to_pylist()
    assert first["messages"][1]["tool_calls"][0]["function"]["arguments"] == {
        "town": "stone",
        "left": None,
        "right": None,
    }
    assert tooled.preparer(path, loss=None, max_length=900).bytes() == tooled.prepare(*rows).bytes()


def test_nulls_of_json_are_the_users(tooled):
    [row] = tooled.texts({"messages": [user("a"), answer("", tool_calls=[call({"town": None})])]})
    assert '"arguments": {"town": null}' in row


def test_maps_of_parquet_are_objects(tooled):
    kwargs = pa.array([[("deep", True)]], pa.map_(pa.string(), pa.bool_()))
    path = tooled.folder / "map.parquet"
    pq.write_table(pa.table({"prompt": ["a"], "completion": ["b"], "chat_template_kwargs": kwargs}), path)
    done = tooled.preparer(path)
    assert tooled.text(*done.tokens()[0]) == "[deep][user]a</s>[assistant]⟦b</s>⟧"
