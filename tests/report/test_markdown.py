"""The card and the summary, read back."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import yaml
from build_samples import Made, make_graph, outcome_of

from dem_build.actions.sample.read import Exchange, SampledAnswer
from dem_build.actions.tune.read import Tuned, Tuning, read_tuning
from dem_build.engine.outcome import Done, Result
from dem_build.errors import TrainingError
from dem_build.recipe.schema import Base, Compose, Dataset, Recipe
from dem_build.recipe.sections import Gate
from dem_build.report.card import card
from dem_build.report.gates import check
from dem_build.report.markdown import code, escape, samples_table
from dem_build.report.results import collect
from dem_build.report.summary import summary

ODD = "ma|th_<b>"


def make_card(model="./bases/Smol: #1", path="data/*.jsonl", method="dem", names=("math",)):
    graph, made = (
        make_graph(names),
        Made(provenance={"vector:math": {"tokens": {"seen": 40000, "trained": 25123}}}),
    )
    records = made.build(graph)
    datasets = {n: Dataset(path=path, omega=0.5) for n in names}
    recipe = Recipe(name="tiny", base=Base(model=model), datasets=datasets, compose=Compose(method=method))
    results = collect(graph, records, made.read)
    return card(recipe, graph, records, results, {"dem": "0.1", "torch": "2.13"}), records, results


def cells(text, name):
    """Return the cells of the table row that begins with `name`."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def test_the_front_matter_is_yaml_whatever_the_base_is_called():
    front = yaml.safe_load(make_card(model='./bases/Smol: #1 "Θ😀\\\x7f\u2028\ufffe')[0].split("---\n")[1])
    assert front["base_model"] == 'Smol: #1 "Θ😀\\'
    assert front["library_name"] == "transformers"
    assert "distribution-edited-model" in front["tags"]


def test_the_card_says_which_vectors_at_which_weights_from_which_data():
    text, records, _ = make_card()
    delta = records["vector:math"].outputs["delta"].digest
    assert cells(text, "math") == ["math", "`data/*.jsonl`", f"`{delta}`", "25k", "0.5"]


def test_a_mean_of_layers_is_not_said_to_be_the_omega_of_the_model():
    _, records, results = make_card()
    layers = {"embeddings": 0.4, "2": 1.2397, "10": 0.1, "final": 0.3}
    tuned = {"math": Tuned(0.5, 0.4, 0.6, layers)}
    tuning = Tuning("gradient", "gain", tuned, {}, (), 9, 20.0, {}, granularity="layer")
    layered = replace(results, found={read_tuning: tuning})
    recipe = Recipe(
        name="tiny", base=Base(model="./b"), datasets={"math": Dataset(path="m.jsonl", omega=0.5)}
    )
    graph = make_graph()
    text = card(recipe, graph, records, layered, {"dem": "0.1"})
    assert "| ω, mean of its layers |" in text
    assert [cells(text, name)[1] for name in layers] == ["0.4", "1.2397", "0.1", "0.3"]
    assert text.index("| embeddings |") < text.index("| 2 |") < text.index("| 10 |") < text.index("| final |")
    assert "ω: math 0.5, each the mean of its layers" in summary("tiny", outcome_of(graph, records), layered)
    assert "mean of its layers" not in card(recipe, graph, records, results, {"dem": "0.1"})


def test_the_card_has_the_digests_of_base_and_model():
    text, records, results = make_card()
    assert cells(text, "the composed model")[1] == f"`{results.model_digest}`"
    assert cells(text, "base/weights")[1] == f"`{records['base'].outputs['weights'].digest}`"
    assert cells(text, "key of model")[1] == f"`{records['model'].key}`"


def test_the_card_puts_base_and_composed_side_by_side():
    assert cells(make_card()[0].partition("## Results")[2], "math")[1:] == [
        "loss",
        "2.500 ± 0.020",
        "2.000 ± 0.020",
        "**-0.500**",
    ]


@pytest.mark.parametrize(
    ("method", "formula"), [("dem", "Θ_D = Θ + Σ ω_i ΔΘ_i"), ("interpolation", "Θ_I = Σ ω_i Θ_i")]
)
def test_the_card_gives_the_formula_of_its_method(method, formula):
    assert formula in make_card(method=method)[0]


def test_folders_of_this_machine_are_not_published():
    text = make_card(model="/home/someone/base", path="/home/someone/rows.jsonl")[0]
    assert "someone" not in text
    assert "rows.jsonl" in text


def test_a_dataset_name_cannot_break_a_table_or_become_html():
    text = make_card(names=(ODD,), path="a|b`.jsonl")[0]
    row = next(line for line in text.splitlines() if line.startswith("| ma"))
    assert "<b>" not in text
    assert row.replace("\\|", "").count("|") == 6


def test_escaped_text_is_one_line_without_control_characters():
    assert escape("a\nb\x1b[31m\u202e*c*") == "a b\\[31m\\*c\\*"
    assert code("a`b") == "a\\`b"
    assert code("x/*.jsonl") == "`x/*.jsonl`"


def make_summary(status=None, **changed):
    graph, made = make_graph(), Made()
    records = made.build(graph)
    results = collect(graph, records, made.read)
    gates = check([Gate(task="arc_easy", metric="acc", min=0.5)], results)
    return summary("tiny", outcome_of(graph, records, status, **changed), results, gates)


def test_the_summary_counts_what_ran_and_what_was_cached():
    text = make_summary({"vector:math": Done.RAN, "model": Done.RAN})
    assert "2 ran, 6 cached" in text
    assert "- `vector:math` 12s" in text
    assert "`base`" not in text


def test_the_summary_shows_the_change_with_standard_errors():
    assert cells(make_summary(), "math")[1:] == ["loss", "2.500 ± 0.020", "2.000 ± 0.020", "**-0.500**"]


def test_the_summary_marks_a_failed_gate():
    assert cells(make_summary(), "✗")[1:] == ["acc on arc\\_easy", "at least 0.5", "0.260"]


def test_the_summary_says_why_an_action_failed():
    action = make_graph().actions["vector:math"]
    failed = Result(action, Done.FAILED, 3.0, error=TrainingError("NaN at <step> 3"))
    assert "- **failed** `vector:math`: NaN at &lt;step&gt; 3" in make_summary(vector=failed)


def test_prompts_and_answers_are_one_line_each_and_no_markup():
    odd = "| <b>x</b>\n\n# `y` -1\x1b[31m" + "z" * 400
    told = (
        Exchange(
            "math",
            odd,
            odd,
            {"base": SampledAnswer(odd, ended=False), "composed": SampledAnswer("", ended=True)},
        ),
    )
    lines = samples_table(told).splitlines()
    rows = [line for line in lines if line.startswith("| ")]
    assert len(rows) == 3
    assert rows[2].count(" | ") == 3
    assert not {"<b>", "`", "\x1b"} & set(re.findall(r"<b>|(?<!\\)`|\x1b", rows[2]))
    assert len(rows[2]) < 900
