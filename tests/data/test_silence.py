"""Nothing of a conversation disappears unseen: what a chat template leaves out is refused, or counted and said."""

from __future__ import annotations

from functools import cache

import pytest
from chat_samples import answer, beside, cut_up, rows_of, unwritten, user, with_template
from data_samples import CHATML

from dem_build.data.conversations import from_messages
from dem_build.data.formats import Example
from dem_build.errors import DataError

TURN = "{{ '[' + m.role + ']' + m.content + eos_token }}"
ASK = "{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"
PLAIN = "{% for m in messages %}" + TURN + "{% endfor %}" + ASK
AFTER_THOUGHT = "{{ m.content.split('</think>')[-1] }}"
# As R1's: only what follows the reasoning of any answer is written.
CUTS = "{% for m in messages %}{{ '[' + m.role + ']' }}" + AFTER_THOUGHT + "{{ eos_token }}{% endfor %}" + ASK
# As Qwen 3's: reasoning is written before the last answer alone, wherever it comes from, with other white space.
LAST = (
    "{% for m in messages %}{{ '[' + m.role + ']' }}{% set c = m.content %}{% set r = m.reasoning_content or '' %}"
    "{% if '</think>' in c %}{% set r = c.split('</think>')[0].split('<think>')[-1] %}"
    "{% set c = c.split('</think>')[-1].lstrip() %}{% endif %}"
    "{% if m.role == 'assistant' and loop.last and r %}{{ '<think>\\n' + r.strip() + '\\n</think>\\n\\n' }}{% endif %}"
    "{{ c + eos_token }}{% endfor %}" + ASK
)
CALLS = "{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}"
TOOLS = "{% if tools %}{{ tools | tojson }}{% endif %}"
# As some of Mistral's and Llama's: a turn with a call has no words.
CALL_ONLY = (
    TOOLS + "{% for m in messages %}{% if m.tool_calls %}{{ '[assistant]' }}" + CALLS + "{{ eos_token }}"
    "{% else %}" + TURN + "{% endif %}{% endfor %}" + ASK
)
# As Llama 3's: what a tool answers is written as JSON.
JSON_RESULTS = CALL_ONLY.replace("m.content", "(m.content | tojson if m.role == 'tool' else m.content)")
NO_RESULTS = (
    "{% for m in messages if m.role != 'tool' %}{{ '[' + m.role + ']' + m.content }}"
    + CALLS
    + ("{{ eos_token }}{% endfor %}" + ASK)
)
NAME_ONLY = PLAIN.replace(
    TURN, TURN.replace("eos_token", "((m.tool_calls or [])|map(attribute='function.name')|join) + eos_token")
)
ANSWERS_ONCE = (
    "{% for m in messages %}{% if m.role == 'user' or loop.last %}" + TURN + "{% endif %}{% endfor %}" + ASK
)
# As SmolLM 3's and Nemotron's: words of the system prompt set a mode, and are taken out.
MODES = (
    "{% set s = messages[0].content if messages[0].role == 'system' else '' %}"
    "{{ '[mode]' + ('plain' if '/no_think' in s else 'deep') + s.replace('/no_think', '').strip() }}"
    "{% for m in messages if m.role != 'system' %}" + TURN + "{% endfor %}" + ASK
)
CALL = {"type": "function", "function": {"name": "sum", "arguments": {"left": 2, "town": 'a "stone"\n'}}}
TOOL = {"type": "function", "function": {"name": "sum", "parameters": {"type": "object", "properties": {}}}}
THOUGHT = "<think>one up</think>It is 4."
CALLED = [user("2+2?"), answer("", tool_calls=[CALL]), {"role": "tool", "content": "é\n4"}, answer("four")]

make = cache(with_template)


@pytest.mark.parametrize(
    ("template", "turns", "what", "hint"),
    [
        (CUTS, [user("3+1?"), answer(THOUGHT)], "leaves out the reasoning of an answer, 'one up'", "writes the reas"),
        (CUTS, [user("a"), answer(THOUGHT), user("b"), answer("c")], "the reasoning of an answer, 'one up'", "writes"),
        # The text stands elsewhere, by chance: in the answer, in the question, in the template's own words.
        (PLAIN, [user("1?"), answer("It is 4.", reasoning_content="4")], r"\(`reasoning_content`\)", "<think>…"),
        (PLAIN, [user("1?"), answer("2", reasoning="1")], r"the reasoning \(`reasoning`\) of an answer, '1'", "<th"),
        (PLAIN, [user("1?"), answer("2", thinking="user")], r"the reasoning \(`\w+`\) of an answer, 'user'", "<t"),
        (PLAIN, [user("1?"), answer("2", tool_plan="x")], r"the reasoning \(`tool_plan`\) of an answer", "<think>"),
        (LAST, [user("1?"), answer("2", tool_plan="x")], r"the reasoning \(`tool_plan`\) of an answer", "<think>"),
        (CALL_ONLY, [user("1?"), answer("Let me.", tool_calls=[CALL])], "the words beside a call of `sum`, 'Let me.'",
         "take the words out"),
        (CALL_ONLY, [user("1?"), answer("2", tool_calls=[CALL])], "the words beside a call of `sum`, '2'", "both"),
        (NO_RESULTS, CALLED, r"leaves out or changes a tool's result, 'é\\n4'", "another chat_template"),
        (NAME_ONLY, CALLED, "leaves out 'left', which a call of `sum` is given", "another chat_template"),
        (PLAIN, CALLED, "leaves out the call of `sum`", "another chat_template"),
        (ANSWERS_ONCE, [user("a"), answer("b"), user("c"), answer("d")], "out or changes an answer, 'b'", "other"),
        (ANSWERS_ONCE, [user("a"), answer("a"), user("a"), answer("a")], "out or changes an answer, 'a'", "other"),
        (PLAIN.replace(TURN, "{% if not (loop.first and messages | length > 2) %}" + TURN + "{% endif %}"),
         [user("a"), answer("b"), user("c"), answer("d")],
         "the user's turn 'a'", "another chat_template"),
        (PLAIN.replace("in messages", "in messages if m.role != 'system'"),
         [{"role": "system", "content": "be brief"}, user("a"), answer("b")], "the system's turn 'be brief'",
         "leave `system` out"),
        (PLAIN.replace("m.content", "m.content[:9]"), [user("a"), answer("a longer answer")], "an answer, 'a l", ""),
    ],
)  # fmt: skip
def test_what_a_template_leaves_out_is_refused_with_a_hint_that_fits(template, turns, what, hint):
    with pytest.raises(DataError, match=what) as caught:
        rows_of(make(template), turns)
    assert hint in caught.value.hint


def test_a_completions_reasoning_is_as_an_answers():
    with pytest.raises(DataError, match="leaves out the reasoning of an answer, 'one up'"):
        cut_up(make(CUTS), Example("3+1?", THOUGHT))


@pytest.mark.parametrize(
    ("template", "turns", "row"),
    [
        (CUTS, [user("a"), answer("b")], "[user]a</s>[assistant]⟦b</s>⟧"),
        (CUTS, [user("a"), answer("<think>\n\n</think>b")], "[user]a</s>[assistant]⟦b</s>⟧"),
        (PLAIN, [user("a"), answer(THOUGHT)], f"[user]a</s>[assistant]⟦{THOUGHT}</s>⟧"),
        (PLAIN.replace("m.content", "m.content | trim"), [user(" a\n"), answer("\nb ")],
         "[user]a</s>[assistant]⟦b</s>⟧"),
        (LAST, [user("a"), answer("<think>  one up\n</think>\nb")],
         "[user]a</s>[assistant]⟦<think>\none up\n</think>\n\nb</s>⟧"),
        (LAST, [user("a"), answer("b", reasoning_content=" one up\n")],
         "[user]a</s>[assistant]⟦<think>\none up\n</think>\n\nb</s>⟧"),
        (PLAIN, [user("what does </think> or /no_think do?"), answer("cuts")],
         "[user]what does </think> or /no_think do?</s>[assistant]⟦cuts</s>⟧"),
    ],
)  # fmt: skip
def test_what_a_template_writes_in_its_own_way_is_trained(template, turns, row):
    assert rows_of(make(template), turns) == [row]
    assert unwritten(make(template), turns) == set()


@pytest.mark.parametrize("template", [CALL_ONLY, JSON_RESULTS])
def test_calls_and_results_are_found_as_json_writes_them(template):
    [row] = rows_of(make(template), CALLED, more={"tools": [TOOL]})
    assert r'⟦{"name": "sum", "arguments": {"left": 2, "town": "a \"stone\"\n"}}</s>⟧' in row


def test_earlier_reasoning_that_is_cut_before_a_later_answer_is_said_and_each_is_trained():
    turns = [user("a"), answer(THOUGHT), user("b"), answer("<think>two</think>c")]
    assert rows_of(make(LAST), turns) == [
        "[user]a</s>[assistant]⟦<think>\none up\n</think>\n\nIt is 4.</s>⟧",
        "[user]a</s>[assistant]It is 4.</s>[user]b</s>[assistant]⟦<think>\ntwo\n</think>\n\nc</s>⟧",
    ]
    assert unwritten(make(LAST), turns) == {("earlier_reasoning", "one up")}


@pytest.mark.parametrize("untrained", [{"weight": 0}, {"train": False}])
def test_reasoning_of_an_earlier_answer_that_is_not_trained_is_said(untrained):
    turns = [user("a"), answer(THOUGHT, **untrained), user("b"), answer("c")]
    assert rows_of(make(CUTS), turns) == ["[user]a</s>[assistant]It is 4.</s>[user]b</s>[assistant]⟦c</s>⟧"]
    assert unwritten(make(CUTS), turns) == {("earlier_reasoning", "one up")}


@pytest.mark.parametrize(("system", "written"), [("/no_think", ""), ("be brief /no_think", "be brief")])
def test_a_system_prompt_that_is_a_switch_is_trained_and_said(system, written):
    found = cut_up(make(MODES), Example("a", "b"), system=system)
    turns = [{"role": "system", "content": system}, user("a"), answer("b")]
    assert rows_of(make(MODES), turns) == [f"[mode]plain{written}[user]a</s>[assistant]⟦b</s>⟧"]
    assert found[0].unwritten == {("switches", "/no_think")}


@pytest.mark.parametrize(
    ("switch", "asks"), [("thinking off", "in s"), ("nothink", "== s"), ("[QUIET]", "in s")]
)
def test_any_text_that_a_template_looks_for_and_takes_out_is_a_switch(switch, asks):
    template = MODES.replace("'/no_think' in s", f"'{switch}' {asks}").replace("/no_think", switch)
    turns = [{"role": "system", "content": switch}, user("a"), answer("b")]
    assert rows_of(make(template), turns) == ["[mode]plain[user]a</s>[assistant]⟦b</s>⟧"]
    assert unwritten(make(template), turns) == {("switches", switch)}
    silent = template.replace("+ s.replace", "+ '' + ''.replace")
    with pytest.raises(DataError, match="the system's turn"):
        rows_of(make(silent), [{"role": "system", "content": f"be brief {switch}"}, *turns[1:]])


def test_a_tag_of_the_templates_own_ends_what_is_thought():
    template = LAST.replace("think>", "plan>")
    turns = [user("a"), answer("<plan>one up</plan>b"), user("c"), answer("d")]
    assert unwritten(make(template), turns) == {("earlier_reasoning", "one up")}
    with pytest.raises(DataError, match="leaves out the reasoning of an answer, '<plan>one up'"):
        rows_of(make(CUTS.replace("think>", "plan>")), turns[:2])


def test_a_call_of_several_that_is_left_out_is_refused():
    first = CALL_ONLY.replace("in m.tool_calls or []", "in m.tool_calls[:1]")
    other = {"type": "function", "function": {"name": "sum", "arguments": {"left": 2}}}
    with pytest.raises(DataError, match="leaves out the call of `sum`"):
        rows_of(make(first), [user("a"), answer("", tool_calls=[CALL, other])])


def test_a_switch_of_another_template_is_a_text_that_may_not_be_lost():
    silent = PLAIN.replace("in messages", "in messages if m.role != 'system'")
    with pytest.raises(DataError, match="the system's turn '/no_think'"):
        cut_up(make(silent), Example("a", "b"), system="/no_think")


def test_a_name_that_is_not_written_is_said():
    turns = [{**user("a"), "name": "Ada"}, answer("b")]
    assert unwritten(make(PLAIN), turns) == {("unwritten_names", "Ada")}
    assert unwritten(make(PLAIN.replace("m.role", "(m.name or m.role)")), turns) == set()


def test_variables_that_no_template_asks_for_are_said():
    template = "{% if deep %}{{ '[deep]' }}{% endif %}" + PLAIN
    more = {"variables": {"deep": True, "wide": True}}
    assert unwritten(make(template), [user("a"), answer("b")], more=more) == {("unused_variables", "wide")}


@pytest.mark.parametrize("written", ["(tools | tojson)", "tools[0].function.name"])
def test_a_tool_of_which_not_all_is_written_is_said(written):
    template = CALL_ONLY.replace("tools | tojson", written)
    function = TOOL["function"] | {"description": 'It "adds".', "parameters": {"properties": {"left": {}}}}
    more = {"tools": [TOOL | {"function": function}]}
    said = set() if "tojson" in written else {("unwritten_tools", "sum")}
    assert unwritten(make(template), CALLED, more=more) == said


def test_reasoning_under_two_names_is_one():
    turns = [user("a"), answer("b", reasoning="one up", reasoning_content="one up")]
    assert rows_of(make(LAST), turns) == ["[user]a</s>[assistant]⟦<think>\none up\n</think>\n\nb</s>⟧"]
    with pytest.raises(DataError, match=r"leaves out the reasoning \(`reasoning`\) of an answer, 'two'"):
        rows_of(make(LAST), [user("a"), answer("b", reasoning="two", reasoning_content="one up")])


# Hints


def test_a_template_without_a_system_turn_says_to_leave_it_out():
    strict = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + PLAIN
    with pytest.raises(DataError, match="no system") as caught:
        rows_of(make(strict), [{"role": "system", "content": "s"}, user("a"), answer("b")])
    assert "leave `system` out" in caught.value.hint


def test_a_template_that_refuses_something_else_does_not_speak_of_the_system():
    strict = "{% for m in messages if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endfor %}"
    for turns in (CALLED, [{"role": "system", "content": "s"}, *CALLED]):
        with pytest.raises(DataError, match=r"refuses the turns.*assistant → tool: no tools") as caught:
            rows_of(make(strict + CALL_ONLY), turns)
        assert "system" not in caught.value.hint
        assert "take the row out" in caught.value.hint


OPENED = CUTS.replace("'[assistant]'", "'[assistant]<think>\\n'")


def test_a_template_that_opens_the_reasoning_is_refused_with_a_hint_that_works():
    turns = [user("a"), answer("<think>\none up</think>b")]
    with pytest.raises(DataError, match="not prefix-preserving") as caught:
        rows_of(make(OPENED), turns)
    assert "begins an answer as it asks for it, with '<think>\\n'" in caught.value.hint
    assert "chat = false" not in caught.value.hint
    mended = PLAIN.replace("'[assistant]'", "'[assistant]<think>\\n'")
    assert rows_of(make(mended), turns) == ["[user]a</s>[assistant]<think>\n⟦one up</think>b</s>⟧"]


def test_a_variable_with_which_the_template_opens_no_reasoning_is_named_in_the_hint():
    closed = "{% if not enable_thinking %}{{ '<think></think>' }}{% endif %}{% endif %}"
    template = PLAIN.replace("'[assistant]' }}{% endif %}", "'[assistant]' }}" + closed)
    turns = [user("a"), answer("<think>one up</think>b")]
    with pytest.raises(DataError, match="not prefix-preserving") as caught:
        rows_of(make(template), turns)
    assert caught.value.hint.startswith(
        'give these rows a column of chat_template_kwargs, {"enable_thinking": true}, or '
    )
    more = {"variables": {"enable_thinking": True}}
    assert rows_of(make(template), turns, more=more) == ["[user]a</s>[assistant]⟦<think>one up</think>b</s>⟧"]


def test_a_pair_of_texts_is_told_that_it_can_do_without_a_template():
    with pytest.raises(DataError, match="not prefix-preserving") as caught:
        cut_up(make(OPENED), Example("a", "b"))
    assert caught.value.hint.startswith("set chat = false for the dataset, or ")


def test_a_system_prompt_that_moves_is_named_in_the_hint():
    moving = (
        "{% for m in messages if m.role != 'system' %}{{ '[' + m.role + ']' }}"
        "{{ messages[0].content if loop.last and messages[0].role == 'system' else '' }}{{ m.content + eos_token }}"
        "{% endfor %}" + ASK
    )
    with pytest.raises(DataError, match="not prefix-preserving") as caught:
        rows_of(make(moving), [{"role": "system", "content": "be brief"}, user("a"), answer("b")])
    assert "leave `system` out" in caught.value.hint


# Calls in the form that a template takes


def test_a_template_that_wants_a_text_of_what_a_call_is_given_gets_one():
    texts = CALL_ONLY.replace("c.function | tojson", "c.function.name + ' ' + c.function.arguments")
    for arguments in ({"left": 2}, '{"left": 2}'):
        call = {"type": "function", "function": {"name": "sum", "arguments": arguments}}
        turns = [user("2?"), answer("", tool_calls=[call])]
        assert rows_of(make(texts), turns) == ['[user]2?</s>[assistant]⟦sum {"left": 2}</s>⟧']


def test_one_rendering_a_shape_tells_what_short_texts_do_not():
    tokenizer = with_template(CHATML)
    for number in range(20):
        cut_up(tokenizer, from_messages([user(f"{number}?"), answer(f"{number}")], beside()))
    assert len(tokenizer.shapes) == 1
