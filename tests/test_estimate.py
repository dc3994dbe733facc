"""What `dem plan` says a training will take."""

from __future__ import annotations

import io
import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from build_samples import TRAIN, Made, make_graph, with_mixture
from hypothesis import example, given, settings
from hypothesis import strategies as st
from odd_shapes import tables
from rich.console import Console
from test_build import RECIPE, fresh

from dem_build.cli.view import budget_lines, estimate_lines, memory_lines
from dem_build.digest import of_bytes
from dem_build.estimate import (
    Estimate,
    Rows,
    Shape,
    budgets,
    crowded,
    estimates,
    seen_tokens,
    training_disk,
    training_memory,
    unfit,
)
from dem_build.graph import Edge, Taken
from dem_build.machine import Machine
from dem_build.plan import History, make_plan
from dem_build.store import Output

if TYPE_CHECKING:
    from pathlib import Path

LLAMA = {
    "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64,
    "intermediate_size": 1536, "vocab_size": 49152, "tie_word_embeddings": True,
}  # fmt: skip
ROWS = {"splits": {"train": {"rows": 100, "tokens": 5000, "trained_tokens": 1000}}}


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (LLAMA, 134_515_008),
        (LLAMA | {"tie_word_embeddings": False}, 134_515_008 + 576 * 49152),
        (
            {
                "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
                "intermediate_size": 14336, "vocab_size": 32000, "num_local_experts": 8,
                "num_experts_per_tok": 2, "tie_word_embeddings": False,
            },
            46_702_792_704,
        ),
    ],
    ids=["SmolLM2-135M", "untied", "Mixtral-8x7B"],
)  # fmt: skip
def test_a_config_tells_the_number_of_parameters(config, parameters):
    """The published numbers, within what norms and gates add."""
    assert Shape.of(config).parameters == pytest.approx(parameters, rel=1e-3)


@pytest.mark.parametrize(
    "config", [{}, {"hidden_size": 8}, {"d_model": 512, "num_layers": 6, "vocab_size": 100}]
)
def test_a_config_with_other_names_has_no_shape(config):
    assert Shape.of(config) is None


def memory(*, trained=1.0, length=64, machine=None, **params):
    return training_memory(Shape.of(LLAMA), TRAIN | params, machine or Machine(), length, trained)


def test_memory_is_at_least_weights_gradients_and_moments():
    assert memory(length=0) == Shape.of(LLAMA).parameters * 18  # 4 + 4 + 8, and 2 of autocast's copies
    assert memory(length=0, bf16=False) == Shape.of(LLAMA).parameters * 16


def test_what_makes_a_batch_smaller_needs_less_memory():
    whole = memory()
    assert memory(machine=Machine(micro_batch=1)) < whole
    assert memory(machine=Machine(gradient_checkpointing=True)) < whole
    assert memory(trained=0.1) < whole
    assert memory(global_batch_size=2) < whole
    assert memory(bf16=False, length=1000) > memory(length=1000)


def test_a_vector_takes_what_its_type_says_and_the_best_weights_are_one_more_copy():
    shape = Shape.of(LLAMA)
    assert training_disk(shape, TRAIN)[0] == 2 * shape.parameters
    assert training_disk(shape, TRAIN | {"vector_dtype": "float32"})[0] == 4 * shape.parameters
    plain, choosing = (training_disk(shape, TRAIN | {"load_best_model_at_end": x})[1] for x in (False, True))
    assert choosing - plain == 4 * shape.parameters


@pytest.mark.parametrize(
    ("params", "tokens"),
    [
        ({"num_train_epochs": 2.5}, 12_500),
        ({"num_train_epochs": None, "max_steps": 3, "global_batch_size": 4}, 600),
        (
            {
                "num_train_epochs": None,
                "max_steps": 3,
                "global_batch_size": 4,
                "packing": True,
                "max_length": 500,
            },
            6000,
        ),
    ],
)
def test_the_tokens_of_a_training_are_those_of_its_epochs_or_steps(params, tokens):
    assert seen_tokens(Rows(100, 5000, 1000), TRAIN | params) == tokens


class Store(Made):
    """Records in memory, with the base's config among their objects."""

    def make(self, action, known):
        record = super().make(action, known)
        if action.name == "base":
            config = json.dumps(LLAMA).encode()
            self.objects[of_bytes(b"config")] = config
            record.outputs["config"] = Output(of_bytes(b"config"), len(config))
        return record

    def read_bytes(self, output):
        return self.read(output)


def known(graph, **vector):
    """A store where all of `graph` is recorded, and the vector was trained at 50 tokens a second on this host."""
    trained = {
        "host": os.uname().nodename,
        "device_seconds": 100.0,
        "tokens": {"seen": 5000},
        "finished": "2026",
    }
    store = Store(provenance={"data:math": ROWS, "vector:math": trained | vector})
    store.build(graph)
    return store


class Reading:
    """What estimates read of a store, counted."""

    def __init__(self, made):
        self.made, self.asked = made, 0

    def records(self):
        self.asked += 1
        return iter(self.made.records.values())

    def read_bytes(self, output):
        self.asked += 1
        return self.made.read_bytes(output)


def test_a_plan_with_no_training_due_reads_nothing():
    made = known(make_graph())
    store = Reading(made)
    assert estimates(made.plan(make_graph(omega=0.7)), store, Machine()) == []
    assert store.asked == 0


@pytest.mark.parametrize(
    ("vector", "seconds"), [({}, 100.0), ({"host": "elsewhere"}, None), ({"device_seconds": 0.0}, None)]
)
def test_the_time_is_that_of_an_earlier_training_of_the_same_base_on_this_host(vector, seconds):
    made = known(make_graph(), **vector)
    [estimate] = estimates(made.plan(make_graph(rate=1e-4)), Reading(made), Machine())
    assert (estimate.name, estimate.tokens, estimate.seconds) == ("vector:math", 5000, seconds)
    assert estimate.memory > estimate.disk > 0


def test_nothing_is_known_before_base_and_data_are_there():
    [estimate] = estimates(Made().plan(make_graph()), Reading(Made()), Machine())
    assert estimate == Estimate("vector:math")


def test_a_training_that_is_asked_for_again_is_estimated_though_its_like_is_recorded():
    one = make_graph()
    again = replace(one.actions["vector:math"], name="vector:again")
    both = replace(one, actions=one.actions | {again.name: again})
    made = known(both)
    plan = make_plan(both, made, History(made.keys), rebuild={"vector:again"})
    assert [e.name for e in estimates(plan, Reading(made), Machine())] == ["vector:again"]


def test_two_names_of_the_same_training_are_estimated_once():
    one = make_graph()
    again = [replace(one.actions[f"{kind}:math"], name=f"{kind}:sums") for kind in ("data", "vector")]
    again[1] = replace(again[1], takes=(again[1].takes[0], Taken("data/train", Edge("data:sums", "train"))))
    both = replace(one, actions=one.actions | {a.name: a for a in again})
    assert [e.name for e in estimates(Made().plan(both), Reading(Made()), Machine())] == ["vector:math"]
    other = replace(again[1], params=again[1].params | {"seed": 7})
    both = replace(one, actions=both.actions | {other.name: other})
    found = estimates(Made().plan(both), Reading(Made()), Machine())
    assert [e.name for e in found] == ["vector:math", "vector:sums"]


FIELDS = ("splits", "planned_tokens", "parameters", "host", "device_seconds", "tokens", "finished")
NAMES = st.sampled_from(["train", "rows", "tokens", "trained_tokens", "seen"])
COUNTED = ROWS | {"tokens": {"seen": 1}, "device_seconds": 1e-308, "parameters": 1}


@given(tables(*FIELDS, names=NAMES))
@example({"splits": {"train": {"rows": 1, "tokens": 0, "trained_tokens": 0}}})
@example({"splits": {"train": {"rows": 10**308, "tokens": 10**308, "trained_tokens": 10**308}}})
@example({"splits": []})
@example({"tokens": {"seen": 10**300}})
@example({"parameters": "many"})
@settings(deadline=None, max_examples=100)
def test_a_plan_is_made_of_provenance_of_any_shape(provenance):
    graph, again = make_graph(), make_graph(rate=1e-4)
    said = {"host": os.uname().nodename} | COUNTED | provenance
    made = Store(provenance=dict.fromkeys(with_mixture(graph).actions, said))
    made.build(with_mixture(graph))
    for planned in (with_mixture(again), with_mixture(again, epochs=2.0, sequences=None, pack=None)):
        plan = made.plan(planned)
        found, mixtures = estimates(plan, Reading(made), Machine()), budgets(plan)
        assert "vector:math" in [e.name for e in found]
        json.dumps([one.document() for one in (*found, *mixtures)], allow_nan=False)
        console = Console(file=io.StringIO(), width=200)
        budget_lines(mixtures, console)
        estimate_lines(found, console)
        memory_lines(unfit(plan), crowded(plan, Reading(made), Machine()), console)


def test_inputs_that_are_written_otherwise_are_of_no_training_of_this_base():
    made = known(make_graph())
    [trained] = [key for key, record in made.records.items() if record.kind == "finetune"]
    for inputs in (None, [3], {"of": "base/weights"}):
        made.records["f" * 64] = replace(made.records[trained], preimage={"inputs": inputs})
        [estimate] = estimates(made.plan(make_graph(rate=1e-4)), Reading(made), Machine())
        assert estimate.seconds == 100.0


def shown(*estimated):
    stream = io.StringIO()
    estimate_lines(estimated, Console(file=stream, width=200))
    return stream.getvalue().splitlines()


def test_each_training_has_a_line_and_all_have_one():
    first = Estimate("vector:a", 3_000_000_000, 25_000, 60.0, 100_000_000, 500_000_000)
    second = Estimate("vector:b", 4_000_000_000, 50_000, 120.0, 200_000_000, 500_000_000)
    assert shown(first, second) == [
        "vector:a: about 3.0 GB of memory, 1m 00s for 25k tokens, 100 MB of disk (and 500 MB while it trains)",
        "vector:b: about 4.0 GB of memory, 2m 00s for 50k tokens, 200 MB of disk (and 500 MB while it trains)",
        "all trainings: about 4.0 GB of memory at most, 3m 00s, 300 MB of disk",
    ]


def test_what_is_not_known_is_said_or_left_out():
    assert shown(Estimate("vector:a", tokens=25_000)) == ["vector:a: about an unknown time for 25k tokens"]
    assert shown(Estimate("vector:a")) == [
        "what the trainings take is not known before base and data are there"
    ]
    assert shown() == []


def test_a_plan_estimates_from_the_bases_files_before_anything_is_built(
    tmp_path: Path, tiny_base: Path
) -> None:
    project = fresh(tmp_path, tiny_base)
    project.write(RECIPE)
    found = json.loads(project.call("plan", "tiny.toml", "--json").stdout)["estimates"]
    assert [e["name"] for e in found] == ["vector:add", "vector:copy"]
    assert all(e["memory"] > e["scratch"] > e["disk"] > 0 and e["tokens"] is None for e in found)
    assert "all trainings: about" in project.call("plan", "tiny.toml").stdout
