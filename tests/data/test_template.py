"""A chat template that the recipe brings is judged by writing a question and its answer, within bounds."""

from __future__ import annotations

import pytest

from dem_build.data.template import check_template, judge
from dem_build.errors import UsageError

GOOD = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"


def test_a_template_that_writes_both_turns_is_taken():
    check_template(GOOD, "chat.jinja")


def test_a_mistake_is_told_with_its_line():
    with pytest.raises(UsageError) as refused:
        check_template("\n{% for", "chat.jinja")
    assert refused.value.where == "chat.jinja:2"


@pytest.mark.parametrize(
    "text",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'x' * 10**11 }}",
        "{{ 9 ** (9 ** 9) }}",
    ],
)
def test_a_template_without_end_is_refused(text):
    with pytest.raises(UsageError, match=r"too long|too much memory"):
        check_template(text, "chat.jinja")


@pytest.mark.parametrize(
    "text",
    [
        "{% break %}",
        "{{ 'x'|truncate(-1) }}",
        "{{ messages[9].role }}",
        "{{ 1 / 0 }}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_what_a_template_raises_is_told(text):
    assert judge(text).what.startswith("refuses a question and its answer")


@pytest.mark.parametrize(
    "text",
    [
        "{{ cycler.__init__.__globals__.os.system('touch canary') }}",
        "{{ lipsum.__globals__['os'].popen('touch canary').read() }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    ],
)
def test_a_template_reaches_no_code(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert judge(GOOD + text) is not None
    assert not (tmp_path / "canary").exists()
