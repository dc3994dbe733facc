"""Text of strangers is shown and never obeyed: in report.html, in Markdown and on a terminal it adds no structure."""

from __future__ import annotations

import io
import unicodedata
from collections import Counter
from dataclasses import replace
from functools import cache

from build_samples import Made, make_graph, outcome_of
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt  # rich brings it along
from page_samples import Page, everything
from rich.console import Console

from dem_build.actions.sample.read import Exchange, SampledAnswer, read_samples
from dem_build.actions.tsne.read import read_tsne
from dem_build.actions.tune.read import read_tuning
from dem_build.engine.outcome import Done, Result
from dem_build.errors import TrainingError
from dem_build.report.actions import lines_after_results, lines_before_results
from dem_build.report.card import card
from dem_build.report.gates import GateResult
from dem_build.report.html.page import render
from dem_build.report.summary import summary
from dem_build.report.text import JOINERS, joined, printable
from dem_build.view.lines import PlainListener
from dem_build.view.plan import unevaluated_line
from dem_build.view.results import (
    baseline_lines,
    closing_lines,
    remaining_warnings,
    result_table,
    say_lines,
)
from dem_build.view.text import render_error

OFTEN = "<>&\"'`|*_[]()#!~$\\{}-+=:;/.0a \n\t\r\x00\x07\x1b\x9b\u2028\u202e"
END = "\N{SKULL AND CROSSBONES}"  # so that no text is empty, or is another name of the sample
TEXTS = st.text(st.one_of(st.sampled_from(OFTEN), st.characters()), max_size=12).map(lambda text: text + END)
PLAIN = "x" + END
OBEYED = ("Cc", "Cf", "Cs", "Zl", "Zp")

hostile = given(text=TEXTS)
enough = settings(deadline=None, max_examples=30)


def inputs_of(text):
    """What a report is drawn from, in which a text stands wherever users, data and machines have a say."""
    found = everything((text,))
    told = {"warnings": [text], "device": text, "versions": {text: text}, "finished": text}
    records = {name: replace(r, provenance=dict(r.provenance) | told) for name, r in found.records.items()}
    results = found.results
    table = {
        m: dict(tasks) | {text: {text: 0.5, f"{text}_stderr": 0.1}} for m, tasks in results.table.items()
    }
    tuning = replace(results.get(read_tuning), told=(text,), search=text, objective=text)
    baselines = {text: replace(results.baselines["mixing"], method=text, told=(text,))}
    answers = {"base": SampledAnswer(text, ended=False), "composed": SampledAnswer(text, ended=True)}
    samples = (Exchange(text, text, text, answers), Exchange("", text, None, answers))
    changed = replace(
        results,
        table=table,
        found=results.found | {read_tuning: tuning, read_samples: samples, read_tsne: {text: ((0.0, 1.0),)}},
        baselines=baselines,
        warnings=((f"data:{text}", text),),
    )
    gates = (GateResult(text, text, 0.5, passed=False, why=text),)
    return replace(found, records=records, results=changed, gates=gates)


def outcome_with(text, inputs):
    """Return an outcome in which one action ran, with a note, and another failed."""
    ran, failed = (inputs.graph.actions[name] for name in ("model", f"vector:{text}"))
    error = TrainingError(text, where=text, hint=text)
    return outcome_of(
        inputs.graph,
        inputs.records,
        ran=Result(ran, Done.RAN, 1.0, note=text),
        failed=Result(failed, Done.FAILED, 1.0, error=error),
    )


def elements(page_of):
    """Return how often a page has each element with its attributes' names."""

    class Elements(Page):
        def __init__(self, text):
            self.found = Counter()
            super().__init__(text)

        def _note(self, tag, attrs):
            super()._note(tag, attrs)
            self.found[tag, *(name for name, _ in attrs)] += 1

    return Elements(page_of), Elements(page_of).found


@cache
def plain_elements():
    return elements(render(inputs_of(PLAIN)))[1]


@hostile
@example("\"><script>alert('1')</script>" + END)
@example("{{ 7*7 }}{% raw %}</style></title>" + END)
@example("<p>\u2028\u200d\x1b[31m" * 200 + END)
@enough
def test_in_a_report_any_text_is_text(text):
    page, found = elements(render(inputs_of(text)))
    assert found == plain_elements()
    assert not [c for c in page.text if unicodedata.category(c) in OBEYED and c not in JOINERS]
    dashes = {"\N{MINUS SIGN}": "-"}  # a number's
    assert printable(text).translate(str.maketrans(dashes)) in page.text.translate(str.maketrans(dashes))


def structure(markdown):
    """Return the elements that Markdown makes, text and code aside."""
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    tokens = [inner for token in parser.parse(markdown) for inner in (token, *(token.children or ()))]
    return [token.type for token in tokens if token.type not in ("text", "text_special", "code_inline")]


def markdown_of(text):
    inputs = inputs_of(text)
    # The name of a recipe is of letters and digits, and stands here for any.
    recipe = inputs.recipe.model_copy(update={"name": text})
    versions = {text: text}
    return [
        card(recipe, inputs.graph, inputs.records, inputs.results, versions).partition("---\n\n")[2],
        summary(text, outcome_with(text, inputs), inputs.results, inputs.gates),
    ]


@cache
def plain_structures():
    return [structure(one) for one in markdown_of(PLAIN)]


@hostile
@example("<b>|`[x](http://x)![y](y)\\" + END)
@example("\n\n# a\n- b\n\n---\n" + END)
@enough
def test_in_markdown_any_text_is_text(text):
    assert [structure(one) for one in markdown_of(text)] == plain_structures()
    for one in markdown_of(text):
        assert not [c for c in one if c != "\n" and unicodedata.category(c) in OBEYED]


def terminal_of(text):
    console = Console(file=io.StringIO(), width=100_000, markup=False, highlight=False, emoji=False)
    inputs = inputs_of(text)
    outcome, graph, results = outcome_with(text, inputs), inputs.graph, inputs.results
    vector = graph.actions[f"vector:{text}"]
    with PlainListener(console) as following:
        following.build_started(Made().plan(make_graph((text,))))
        following.action_event(vector, {"event": "warning", "message": text})
        following.action_event(vector, {"event": "progress", "done": 1, "total": 2, "unit": text})
        following.action_waits(vector, text)
        for result in outcome.results.values():
            following.action_ended(result)
    result_table(results, inputs.gates, console)
    say_lines([*lines_before_results(results), *lines_after_results(results)], console)
    baseline_lines(results.baselines, console)
    unevaluated_line([text], console)
    remaining_warnings(results, console)
    closing_lines(outcome, results, None, console)
    render_error(outcome.failed[0].error, console)
    return console.file.getvalue()


@hostile
@example("\x1b[2J\x07[bold red]\u202e" + END)
@enough
def test_on_a_terminal_any_text_is_text(text):
    shown = terminal_of(text)
    assert joined(text) in shown
    assert not [c for c in shown if c != "\n" and unicodedata.category(c) in OBEYED]
