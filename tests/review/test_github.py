"""What GitHub Actions is told: annotations, outputs, the job's summary; and JUnit's XML."""

from __future__ import annotations

import json
from xml.etree import ElementTree as ET

import pytest
from lxml import etree
from pulls.review_samples import hostile, review_of, sample

from dem_build.cli.app import run
from dem_build.errors import UsageError
from dem_build.review.document import (
    GateVerdict,
    RecipeReview,
    ToldChange,
    ToldDue,
    ToldMistake,
    Trouble,
    Weakened,
)
from dem_build.review.github import annotation_lines, append_summary, commands_stopped, write_outputs
from dem_build.review.junit import junit

SCHEMA = """\
<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema">
  <xs:attributeGroup name="counts">
    <xs:attribute name="tests" type="xs:nonNegativeInteger" use="required"/>
    <xs:attribute name="failures" type="xs:nonNegativeInteger" use="required"/>
    <xs:attribute name="errors" type="xs:nonNegativeInteger" use="required"/>
    <xs:attribute name="name" type="xs:string" use="required"/>
  </xs:attributeGroup>
  <xs:complexType name="outcome" mixed="true">
    <xs:attribute name="message" type="xs:string"/><xs:attribute name="type" type="xs:string"/>
  </xs:complexType>
  <xs:element name="testsuites"><xs:complexType><xs:sequence>
    <xs:element name="testsuite" minOccurs="0" maxOccurs="unbounded"><xs:complexType><xs:sequence>
      <xs:element name="testcase" minOccurs="0" maxOccurs="unbounded"><xs:complexType>
        <xs:choice minOccurs="0">
          <xs:element name="failure" type="outcome"/><xs:element name="error" type="outcome"/>
          <xs:element name="skipped" type="outcome"/>
        </xs:choice>
        <xs:attribute name="name" type="xs:string" use="required"/>
        <xs:attribute name="classname" type="xs:string" use="required"/>
        <xs:attribute name="time" type="xs:decimal"/>
      </xs:complexType></xs:element>
    </xs:sequence><xs:attributeGroup ref="counts"/>
      <xs:attribute name="skipped" type="xs:nonNegativeInteger"/></xs:complexType></xs:element>
  </xs:sequence><xs:attributeGroup ref="counts"/></xs:complexType></xs:element>
</xs:schema>"""
"""What readers of JUnit's XML agree on, as pytest and Jenkins write and read it."""
ATTACKS = (
    "::error file=x::y",
    "a\r\n::set-output name=x::y",
    "%0A::stop-commands::x",
    "a,line=9",
    "##[add-mask]x",
    "\x1b[31m",
)


def broken(**trouble) -> RecipeReview:
    return RecipeReview(
        path="r.toml", change=ToldChange.BROKEN, status=2, trouble=Trouble(what="wrong", **trouble)
    )


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_text_of_a_stranger_is_a_command(attack):
    lines = annotation_lines(hostile(attack))
    assert lines
    for line in lines:
        assert line.startswith(("::error file=", "::warning file=", "::notice file="))
        assert "\n" not in line
        assert "\r" not in line
        properties = line.split("::")[1]
        assert properties.count(",line=") == 1
        assert properties.count(",title=") == 1


def test_annotations_stand_on_the_lines_of_the_recipe():
    mistakes = (ToldMistake(file="r.toml", line=7, key="train.steps", what="is no key", hint="max_steps"),)
    assert annotation_lines(review_of(broken(mistakes=mistakes))) == [
        "::error file=r.toml,line=7,title=dem ci%3A a mistake::train.steps: is no key (max_steps)"
    ]
    gates = (GateVerdict(metric="acc", task="t", line=12, value=0.1, passed=False, why="at least 0.2"),)
    weak = (
        Weakened(gate="loss on a", how="loosened", was="at most 1", now="at most 2", line=20, passed=True),
    )
    recipe = RecipeReview(path="a,b.toml", change=ToldChange.CHANGED, status=3, gates=gates, weakened=weak)
    assert annotation_lines(review_of(recipe)) == [
        "::error file=a%2Cb.toml,line=12,title=dem ci%3A a gate failed::acc on t: must be at least 0.2",
        (
            "::warning file=a%2Cb.toml,line=20,title=dem ci%3A a gate was loosened::"
            "loss on a: it was at most 1, now at most 2."
        ),
    ]


def test_the_outputs_and_the_summary_are_added_to_the_runners_files(tmp_path, monkeypatch):
    files = {name: tmp_path / name for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
    for name, path in files.items():
        path.write_text("before=1\n")
        monkeypatch.setenv(name, str(path))
    due = ToldDue(action="vector:a\nstatus=0", trains=True, state="due")
    write_outputs(review_of(RecipeReview(path="r.toml", change=ToldChange.CHANGED, status=4, actions=(due,))))
    append_summary("# text")
    lines = files["GITHUB_OUTPUT"].read_text().splitlines()
    assert lines == [
        "before=1", "status=4", "changed=1", 'train=["vector:a\\nstatus=0"]', 'recipes=["r.toml"]',
    ]  # fmt: skip
    assert json.loads(lines[3].partition("=")[2]) == ["vector:a\nstatus=0"]
    assert files["GITHUB_STEP_SUMMARY"].read_text() == "before=1\n# text\n"
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "no/folder"))
    with pytest.raises(UsageError, match="GITHUB_OUTPUT cannot be written"):
        write_outputs(sample())


def test_commands_are_stopped_while_others_words_are_printed_and_after_an_error_too():
    said: list[str] = []
    with commands_stopped(said.append):
        pass
    (stop, token) = said
    assert stop == f"::stop-commands::{token.strip(':')}"
    assert len(token.strip(":")) == 32
    said.clear()
    with pytest.raises(ValueError, match="x"), commands_stopped(said.append):
        raise ValueError("x")  # what it says is printed after this
    assert len(said) == 1


@pytest.mark.parametrize("review", [sample(), review_of(), review_of(broken()), *map(hostile, ATTACKS)])
def test_junit_is_of_its_schema_and_says_what_there_is(review):
    text = junit(review)
    etree.XMLSchema(etree.fromstring(SCHEMA)).assertValid(etree.fromstring(text.encode()))
    root = ET.fromstring(text)
    assert int(root.get("tests")) == len(list(root.iter("testcase")))
    assert [suite.get("tests") for suite in root] == [str(len(suite)) for suite in root]


def test_junit_tells_failures_errors_and_what_waits_apart():
    root = ET.fromstring(junit(sample()))
    cases = {case.get("name"): [child.tag for child in case] for case in root.iter("testcase")}
    assert cases == {
        "can be reviewed": [],
        "gate as it was: acc on words": ["failure"],
        "gate: acc on words": [],
        "action: vector:chat": ["skipped"],
        "action: eval:composed:words": ["failure"],
    }
    assert [root.get(n) for n in ("failures", "errors", "skipped")] == ["2", "0", None]
    assert root[0].get("skipped") == "1"
    (wrong,) = ET.fromstring(junit(review_of(broken()))).iter("error")
    assert wrong.get("message") == "wrong"


@pytest.mark.parametrize("wrong", [False, True])
def test_on_a_runner_nothing_that_is_printed_is_a_command_until_all_is_said(
    tmp_path, monkeypatch, capsys, wrong
):
    """A job that may write renders what a stranger's check wrote: a path or a key of it may look like a command."""
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    command = "::add-mask::x"
    recipe = {"path": command, "change": "changed", "notes": [f"##[error]{command}"]}
    document = {"dem_ci": 1, "against": "main", "base": "a" * 40, "head": "b" * 40, "recipes": [recipe]}
    path = tmp_path / "review.json"
    path.write_text(json.dumps({**document, f"\n{command}": 1} if wrong else document))
    assert run(["ci", "--render", str(path)]) == (2 if wrong else 0)
    said = capsys.readouterr()
    first, *lines = said.out.splitlines()
    stop, token = first.removeprefix("::").split("::")
    assert stop == "stop-commands"
    assert (f"::{token}::" in lines) is not wrong
    if not wrong:
        assert next(i for i, line in enumerate(lines) if command in line) < lines.index(f"::{token}::")
