"""What `dem plan` says actions will take."""

from __future__ import annotations

import io
import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from build_samples import LLAMA, ROWS, TRAIN, Made, MadeWithConfig, Reading, known, make_graph, with_mixture
from hypothesis import example, given, settings
from hypothesis import strategies as st
from odd_shapes import tables
from project import RECIPE, fresh
from rich.console import Console

from dem_build.action import Action, Edge, Input, SourceFile
from dem_build.actions import KINDS
from dem_build.actions.tune import judges
from dem_build.checkpoint.blocks import BLOCK
from dem_build.digest import of_bytes
from dem_build.estimate import (
    Estimate,
    Rows,
    Shape,
    budgets,
    crowded,
    estimates,
    held_memory,
    rank_memory,
    seen_tokens,
    training_disk,
    training_memory,
    unfit,
)
from dem_build.estimate.due import Training
from dem_build.estimate.memory import (
    BLOCKS,
    GAPS,
    MOST_LOGITS,
    PROCESS,
    Judging,
    held_by_search,
    search_memory,
    tensors_of_layer,
)
from dem_build.machine import Machine
from dem_build.plan import History, make_plan
from dem_build.store import Record
from dem_build.view.plan import budget_lines, estimate_lines, memory_lines

if TYPE_CHECKING:
    from pathlib import Path


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
        (
            {
                "hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 16, "num_key_value_heads": 16,
                "intermediate_size": 5632, "vocab_size": 151936, "num_experts": 60, "num_experts_per_tok": 4,
                "moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632, "tie_word_embeddings": False,
            },
            14_315_784_192,
        ),
        (
            {
                "hidden_size": 4096, "num_hidden_layers": 46, "num_attention_heads": 96, "num_key_value_heads": 8,
                "head_dim": 128, "intermediate_size": 10944, "vocab_size": 151552, "n_routed_experts": 128,
                "n_shared_experts": 1, "num_experts_per_tok": 8, "moe_intermediate_size": 1408,
                "first_k_dense_replace": 1, "tie_word_embeddings": False,
            },
            106_852_245_504,
        ),
    ],
    ids=["SmolLM2-135M", "untied", "Mixtral-8x7B", "Qwen1.5-MoE-A2.7B", "GLM-4.5-Air"],
)  # fmt: skip
def test_a_config_tells_the_number_of_parameters(config, parameters):
    """The published numbers, within what norms and gates add."""
    assert Shape.of(config).parameters == pytest.approx(parameters, rel=1e-3)


@pytest.mark.parametrize(
    "config", [{}, {"hidden_size": 8}, {"d_model": 512, "num_layers": 6, "vocab_size": 100}]
)
def test_a_config_with_other_names_has_no_shape(config):
    assert Shape.of(config) is None


def memory(of=training_memory, *, trained=1.0, length=64, machine=None, mean=None, **params):
    tokens = 1000 * (length if mean is None else mean)
    data = Rows(1000, tokens, tokens * trained)
    return of(Shape.of(LLAMA), TRAIN | params, machine or Machine(), length, data)


BOTH = pytest.mark.parametrize("of", [training_memory, held_memory])


def test_memory_is_at_least_weights_gradients_and_moments():
    shape = Shape.of(LLAMA)
    head = shape.vocabulary * shape.hidden  # of which a gradient is on its way
    assert memory(length=0) == shape.parameters * 18 + 6 * head  # 4 + 4 + 8, and 2 of autocast's copies
    assert memory(length=0, bf16=False) == shape.parameters * 16 + 4 * head


def ranked(ranks, *, length=0, bf16=False, rows=8, **params):
    told = TRAIN | {"bf16": bf16} | params
    return rank_memory(Shape.of(LLAMA), told, Machine(micro_batch=rows), length, None, ranks=ranks)


def test_ranks_share_weights_gradients_and_moments_and_nothing_else():
    shape = Shape.of(LLAMA)
    shared = 16 * shape.parameters
    for length in (0, 1000):
        alone = ranked(1, length=length, rows=1) - shared
        for ranks in (2, 4, 8):
            assert ranked(ranks, length=length, rows=1) == pytest.approx(alone + shared / ranks, abs=2)
    # Of embeddings the whole and two gradients, and of layers two, and a gradient as it is made and as it is sent.
    head = shape.vocabulary * shape.hidden
    layer = (shape.parameters - head) / shape.layers
    assert ranked(2) == pytest.approx(8 * shape.parameters + 12 * head + 16 * layer, abs=2)
    assert ranked(2, length=1000, bf16=True) < ranked(2, length=1000)


def test_a_rank_passes_its_own_rows():
    assert ranked(4, length=100, global_batch_size=8) == ranked(4, length=100, global_batch_size=5)
    assert ranked(4, length=100, global_batch_size=8) < ranked(4, length=100, global_batch_size=32)


def test_a_training_by_several_ranks_is_planned_for_each_gpu_and_for_all_processes_of_a_cpu():
    shape, training = Shape.of(LLAMA), Training("vector:math", TRAIN, 64, None)

    def needs(machine, *, gpu):
        return training.memory(shape, TRAIN, machine, 64, gpu=gpu)

    several = Machine(gpus_per_action=4, processes_per_action=2)
    assert needs(several, gpu=True) == rank_memory(shape, TRAIN, several, 64, None, ranks=4)
    each = rank_memory(shape, TRAIN, several, 64, None, ranks=2)
    assert needs(several, gpu=False) == 2 * (each + PROCESS)
    assert needs(Machine(gpus_per_action=4), gpu=False) == needs(Machine(), gpu=False)


@BOTH
def test_what_makes_a_batch_smaller_needs_less_memory(of):
    whole = memory(of, length=200)
    assert memory(of, length=200, machine=Machine(micro_batch=1)) < whole
    assert memory(of, length=200, machine=Machine(gradient_checkpointing=True)) < whole
    assert memory(of, length=200, trained=0.1) < whole
    assert memory(of, length=200, global_batch_size=2) < whole
    assert memory(of, bf16=False, length=1000) > memory(of, length=1000)


@BOTH
def test_gradients_are_beside_the_rows_of_a_steps_second_pass_which_are_shorter(of):
    equal, spread = (memory(of, length=1000, mean=mean) for mean in (None, 500.0))
    assert spread < equal
    assert equal == memory(of, length=1000, mean=1000.0) == memory(of, length=1000, mean=5000.0)
    alone, padded = (
        memory(of, length=1000, global_batch_size=Machine().micro_batch, mean=mean) for mean in (None, 1.0)
    )
    # Logits are made of no padding, which is counted where the plan is of a CPU.
    assert padded == alone if of is training_memory else padded < alone
    assert memory(of, length=1000, mean=1.0) >= padded  # the first pass has the longest rows


WIDE = Shape.of({
    "hidden_size": 1024, "num_hidden_layers": 2, "num_attention_heads": 8, "intermediate_size": 4096,
    "vocab_size": 8192,
})  # fmt: skip
"""Of which no matrix and no activation of 4,096 tokens is so small that it lies in the heap."""


def held(tokens, *, shape=WIDE, **params):
    told = TRAIN | {"global_batch_size": 1} | params
    return held_memory(shape, told, Machine(), tokens)


@pytest.mark.parametrize(
    ("bf16", "streams", "keys", "inner"), [(True, 30, 4, 8), (False, 32, 8, 16)], ids=["bfloat16", "float32"]
)
def test_a_cpu_holds_what_autograd_keeps_and_three_of_the_logits(bf16, streams, keys, inner):
    kept = 2 * (streams * WIDE.hidden + keys * WIDE.keys + inner * WIDE.inner)
    logits = 3 * 4 * WIDE.vocabulary + 6 * WIDE.hidden
    stay = WIDE.parameters * (4 + 8 + (2 if bf16 else 0))
    assert held(4096, bf16=bf16) == stay + 4096 * (kept + logits)


def test_a_cpu_holds_two_gradients_of_a_tied_embedding_and_what_an_optimizer_makes_on_its_way():
    head, untied = WIDE.vocabulary * WIDE.hidden * 4, replace(WIDE, tied=False)
    whole = {
        name: held(0, optim=name, bf16=False) for name in ("adamw_torch_fused", "adafactor", "adamw_8bit")
    }
    assert whole["adamw_torch_fused"] == WIDE.parameters * 16 + head
    assert whole["adafactor"] == WIDE.parameters * 8 + 2 * head
    of_one = (whole["adamw_8bit"] - 3 * head) / WIDE.parameters
    assert 10 < of_one < 12  # and 8 of the embedding, which is a quarter of all
    assert held(0, shape=untied, bf16=False) == WIDE.parameters * 16


def test_gaps_are_counted_of_what_lies_in_the_heap():
    shape, size = Shape.of(LLAMA), 4 + 4 + 8
    small = 30 * 2 * 576 * (576 + 192)  # what attention's matrices have; the MLP's are of 3.5 MB
    whole = size * shape.parameters + 4 * shape.vocabulary * shape.hidden
    assert memory(held_memory, length=0, bf16=False) == whole + int(GAPS * size * small)


def test_a_vector_takes_what_its_type_says_and_the_best_weights_are_one_more_copy():
    shape = Shape.of(LLAMA)
    assert training_disk(shape, TRAIN)[0] == 2 * shape.parameters
    assert training_disk(shape, TRAIN | {"vector_dtype": "float32"})[0] == 4 * shape.parameters
    int8 = training_disk(shape, TRAIN | {"vector_dtype": "int8"})[0]
    assert int8 == pytest.approx((1 + 2 / BLOCK) * shape.parameters, abs=1)
    plain, choosing = (training_disk(shape, TRAIN | {"load_best_model_at_end": x})[1] for x in (False, True))
    assert choosing - plain == 4 * shape.parameters


LORA = {"method": "lora", "lora_r": 8, "lora_target_modules": "all-linear"}


def test_adapters_have_gradients_states_and_checkpoints_and_frozen_weights_have_none():
    """Of SmolLM2-135M: 30 layers of 576, with keys of 192 and an MLP of 1536."""
    shape = Shape.of(LLAMA)
    factors = 30 * 8 * (2 * (576 + 576) + 2 * (576 + 192) + 3 * (576 + 1536))
    assert training_disk(shape, TRAIN | LORA) == (4 * factors, 3 * 12 * factors)
    # Master weights and their copies in bfloat16, and of the adapters weights, gradients and two moments.
    alone = memory(training_memory, length=0, **LORA)
    assert alone == 6 * shape.parameters + (4 + 4 + 8) * factors
    named = LORA | {"lora_target_modules": ["self_attn.v_proj"]}
    assert training_disk(shape, TRAIN | named)[0] == 4 * 30 * 8 * (576 + 192)
    assert memory(training_memory, length=0) > alone * 2.5


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


def test_a_plan_with_nothing_due_reads_nothing():
    made = known(make_graph())
    store = Reading(made)
    assert estimates(made.plan(make_graph()), store, Machine()) == []
    assert store.asked == 0


def estimated(made, graph, machine=None):
    """Return name → estimate of a graph's plan."""
    return {e.name: e for e in estimates(made.plan(graph), Reading(made), machine or Machine())}


@pytest.mark.parametrize(
    ("vector", "seconds"), [({}, 100.0), ({"host": "elsewhere"}, None), ({"device_seconds": 0.0}, None)]
)
def test_the_time_is_that_of_an_earlier_training_of_the_same_base_on_this_host(vector, seconds):
    made = known(make_graph(), **vector)
    estimate = estimated(made, make_graph(rate=1e-4))["vector:math"]
    assert (estimate.kind, estimate.tokens, estimate.seconds) == ("finetune", 5000, seconds)
    assert estimate.memory > estimate.disk > 0


@pytest.mark.parametrize(
    ("vector", "gpus", "seconds"),
    [
        ({"job": "slurm job 7", "host": "n12", "device": "NVIDIA H100"}, 1, 100.0),
        ({"job": "slurm job 7", "host": "n12", "device": "cpu (x86_64)"}, 1, None),
        ({"job": "slurm job 7", "host": "n12", "device": "cpu (x86_64)"}, 0, 100.0),
        ({"job": "pbs job 7", "device": "NVIDIA H100"}, 1, None),
        ({"device": "NVIDIA H100"}, 1, None),  # of this host, where no job runs
    ],
)
def test_the_time_of_a_job_is_that_of_an_earlier_job_whatever_host_it_had(vector, gpus, seconds):
    made, machine = known(make_graph(), **vector), Machine(engine="slurm", submit={"gpus": gpus})
    assert estimated(made, make_graph(rate=1e-4), machine)["vector:math"].seconds == seconds


def test_what_a_job_needs_is_of_its_gpu_and_not_of_this_host(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    memory = {
        gpus: estimated(
            known(make_graph()), make_graph(rate=1e-4), Machine(engine="slurm", submit={"gpus": gpus})
        )["vector:math"].memory
        for gpus in (0, 1)
    }
    assert memory[0] == estimated(known(make_graph()), make_graph(rate=1e-4))["vector:math"].memory
    assert memory[1] < memory[0]  # without Python and its libraries


@pytest.mark.parametrize(("longest", "length"), [(20, 20), (None, 64), (640, 64)])
def test_rows_are_as_long_as_they_were_prepared_and_else_as_long_as_they_may_be(longest, length):
    made = known(make_graph())
    made.records[made.keys["data:math"]].provenance["splits"] = {
        "train": ROWS["splits"]["train"] | {"longest": longest}
    }
    graph = make_graph(rate=1e-4)
    planned = estimated(made, graph)["vector:math"].memory - PROCESS
    params, data = graph.actions["vector:math"].params, Rows(100, 5000, 1000)
    assert planned == held_memory(Shape.of(LLAMA), params, Machine(), length, data)


def test_nothing_is_known_before_base_and_data_are_there():
    found = estimated(Made(), make_graph())
    assert list(found) == list(make_graph().actions)
    assert found["vector:math"] == Estimate("vector:math", "finetune")
    assert found["model"] == Estimate("model", "compose")


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
    again[1] = replace(again[1], takes=(again[1].takes[0], Input("data/train", Edge("data:sums", "train"))))
    both = replace(one, actions=one.actions | {a.name: a for a in again})
    assert [name for name in estimated(Made(), both) if name.endswith(":sums")] == []
    other = replace(again[1], params=again[1].params | {"seed": 7})
    both = replace(one, actions=both.actions | {other.name: other})
    assert [name for name in estimated(Made(), both) if "vector" in name] == ["vector:math", "vector:sums"]


FIELDS = (
    "splits", "planned_tokens", "parameters", "host", "seconds", "device_seconds", "tokens", "finished",
)  # fmt: skip
NAMES = st.sampled_from(["train", "rows", "tokens", "trained_tokens", "seen"])
COUNTED = ROWS | {"tokens": {"seen": 1}, "device_seconds": 1e-308, "parameters": 1}


@given(tables(*FIELDS, names=NAMES))
@example({"splits": {"train": {"rows": 1, "tokens": 0, "trained_tokens": 0}}})
@example({"splits": {"train": {"rows": 10**308, "tokens": 10**308, "trained_tokens": 10**308}}})
@example({"seconds": 1.7e308, "device_seconds": 1.7e308, "tokens": {"seen": 5000}})
@example({"splits": []})
@example({"tokens": {"seen": 10**300}})
@example({"parameters": "many"})
@settings(deadline=None, max_examples=100)
def test_a_plan_is_made_of_provenance_of_any_shape(provenance):
    graph, again = make_graph(), make_graph(rate=1e-4)
    said = {"host": os.uname().nodename} | COUNTED | provenance
    made = MadeWithConfig(provenance=dict.fromkeys(with_mixture(graph).actions, said))
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


WRITTEN = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["base/weights", "model/weights"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["of", "sha256", "inputs", "dtype"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["inputs", "groups", "params"]), WRITTEN, min_size=1))
@example({"inputs": [{"of": "model/weights", "sha256": [3]}, {"of": "delta", "sha256": {}}]})
@example({"groups": [{"inputs": [{"of": "base/weights", "sha256": {"of": []}}]}]})
@example({"params": {"dtype": [{}]}})
@settings(deadline=None, max_examples=100)
def test_a_plan_is_made_beside_records_whose_preimages_have_any_shape(written):
    """As another version of dem may have written them."""
    graph = make_graph()
    said = {"host": os.uname().nodename} | COUNTED
    made = MadeWithConfig(provenance=dict.fromkeys(graph.actions, said))
    made.build(graph)
    for index, record in enumerate(list(made.records.values())):
        odd = replace(record, key=f"{index:064}", preimage=record.preimage | written)
        made.records[odd.key] = odd
    found = estimated(made, make_graph(rate=1e-4))
    assert found["vector:math"].seconds is not None


def test_inputs_that_are_written_otherwise_are_of_no_training_of_this_base():
    made = known(make_graph())
    [trained] = [key for key, record in made.records.items() if record.kind == "finetune"]
    for inputs in (None, [3], {"of": "base/weights"}):
        made.records["f" * 64] = replace(made.records[trained], preimage={"inputs": inputs})
        assert estimated(made, make_graph(rate=1e-4))["vector:math"].seconds == 100.0


HERE = {"host": os.uname().nodename, "device": "cpu (x86_64)", "finished": "2026"}
LOSS = HERE | {"device_seconds": 20.0, "tokens": {"seen": 1000}}
TEST = {"splits": ROWS["splits"] | {"test": {"rows": 10, "tokens": 1500}, "validation": {"rows": 20}}}


def evaluated(**said):
    """A store where all of a graph of two models is recorded; by name what is said of an action."""
    store = MadeWithConfig(provenance={"base": {"parameters": 1000}, "data:math": TEST, **said})
    store.build(make_graph())
    return store


def test_a_new_models_losses_take_as_long_by_token_as_those_of_the_same_base():
    """Of the base itself, or of any model that was composed of it."""
    for model in ("base", "composed"):
        made = evaluated(**{f"loss:{model}:math": LOSS})
        found = estimated(made, make_graph(omega=0.7))
        assert list(found) == ["model", "loss:composed:math", "eval:composed:arc_easy"]
        loss = found["loss:composed:math"]
        assert (loss.kind, loss.tokens, loss.seconds) == ("evaluate", 1500, 30.0)
        assert found["eval:composed:arc_easy"].seconds is None


@pytest.mark.parametrize(
    "other",
    [
        {"host": "elsewhere"},
        {"device": "NVIDIA H100"},
        {"device_seconds": None},
        {"device_seconds": 1e300},
        {"tokens": {}},
    ],
)
def test_a_loss_elsewhere_or_one_that_says_nothing_tells_no_time(other, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    made = evaluated(**{"loss:base:math": LOSS | other})
    assert estimated(made, make_graph(omega=0.7))["loss:composed:math"].seconds is None


def test_a_loss_of_another_base_or_dtype_tells_no_time():
    made = evaluated(**{"loss:base:math": LOSS, "loss:composed:math": LOSS})
    graph = make_graph(omega=0.7)
    strange = replace(graph.actions["loss:composed:math"], params={"dtype": "float32"})
    found = estimated(made, replace(graph, actions=graph.actions | {strange.name: strange}))
    assert found["loss:composed:math"].seconds is None
    base = replace(graph.actions["base"], salt="another")
    found = estimated(made, replace(graph, actions=graph.actions | {"base": base}))
    assert found["loss:composed:math"].seconds is None


@pytest.mark.parametrize(
    "other",
    [
        {"device_seconds": 10.0, "tokens": {"seen": 3}, "finished": "2027"},
        {"device_seconds": 900.0, "tokens": {"seen": 3000}, "finished": "2027"},
        {"device_seconds": 90.0, "finished": "2025"},
    ],
    ids=["smaller", "larger", "older"],
)
def test_of_earlier_runs_the_newest_with_most_alike_work_tells_the_time(other):
    """A run of three tokens is all loading of the model."""
    for one, two in ((LOSS, LOSS | other), (LOSS | other, LOSS)):
        made = evaluated(**{"loss:base:math": one, "loss:composed:math": two})
        assert estimated(made, make_graph(omega=0.7))["loss:composed:math"].seconds == 30.0


@pytest.mark.parametrize(
    "said",
    [{"seconds": 20.0, "device_seconds": 2.0}, {"seconds": 2.0, "device_seconds": 20.0}],
    ids=["uninterrupted", "resumed"],
)
def test_a_time_is_of_the_whole_run_with_all_that_came_before_a_kill(said):
    """What a device was held is without the loading of what runs; what a resumed run took is its last part alone."""
    made = evaluated(**{"loss:base:math": LOSS | said})
    assert estimated(made, make_graph(omega=0.7))["loss:composed:math"].seconds == 30.0


def test_a_record_is_looked_at_once_however_many_actions_are_due(monkeypatch):
    asked = []
    amount = Record.amount
    monkeypatch.setattr(Record, "amount", lambda self, *place: asked.append(self.key) or amount(self, *place))
    names = [f"d{n}" for n in range(30)]
    said = {f"loss:base:{name}": LOSS for name in names} | {f"data:{name}": TEST for name in names}
    made = MadeWithConfig(provenance={"base": {"parameters": 1000}} | said)
    records = made.build(make_graph(names))
    found = estimated(made, make_graph(names, omega=0.7))
    assert all(found[f"loss:composed:{name}"].seconds == 30.0 for name in names)
    figures = 4  # threads, seconds, of the device, and what it did
    assert max(asked.count(records[f"loss:base:{name}"].key) for name in names) <= figures


def test_a_composition_takes_its_parameters_of_disk_and_the_time_of_reading_base_and_vectors():
    made = evaluated(model=HERE | {"seconds": 8.0, "device_seconds": 1.0})
    two = make_graph(names=("math", "more"))
    model = estimated(made, two)["model"]
    assert (model.kind, model.disk, model.seconds) == ("compose", 2000, 12.0)


def test_a_task_takes_as_long_for_another_model():
    made = evaluated(**{"eval:base:arc_easy": HERE | {"device_seconds": 7.0}})
    assert estimated(made, make_graph(omega=0.7))["eval:composed:arc_easy"].seconds == 7.0


def with_search(graph, seed=1, bounds=(0.0, 1.5)):
    """The graph with a search of its vector's ω."""
    vector = Input("delta", Edge("vector:math", "delta"), group="math")
    rows = Input("data/validation", Edge("data:math", "validation"), group="math")
    weights = Input("base/weights", Edge("base", "weights"))
    params = {
        "search": "gradient", "objective": "gain", "granularity": "model", "max_samples": 16,
        "bounds": list(bounds), "dtype": "bfloat16",
    }  # fmt: skip
    tune = Action("tune", KINDS["tune"], params, (weights, vector, rows), salt=str(seed), groups={"math": {}})
    return replace(graph, actions=graph.actions | {"tune": tune})


def test_a_search_takes_from_the_time_of_the_quickest_to_that_of_the_slowest():
    made = evaluated(tune=HERE | {"device_seconds": 60.0, "rows": 8})
    made.build(with_search(make_graph()))
    made.provenance["tune"] = HERE | {"device_seconds": 10.0, "rows": 16}
    made.build(with_search(make_graph(), seed=2))
    tune = estimated(made, with_search(make_graph(), bounds=(0.0, 1.0)))["tune"]
    assert (tune.least_seconds, tune.seconds) == (10.0, 120.0)


@pytest.mark.parametrize(("longest", "length"), [(20, 20), (None, 64), (640, 64)])
def test_a_search_judges_by_rows_as_long_as_they_were_prepared(longest, length):
    made = evaluated(
        base={"parameters": 10**9}, **{"data:math": {"splits": {"validation": {"longest": longest}}}}
    )
    shape, machine = replace(Shape.of(LLAMA), parameters=10**9), Machine(gradient_checkpointing=True)
    tune = estimated(made, with_search(make_graph()), machine)["tune"]
    assert tune.memory == held_by_search(shape, machine, Judging(length, 16, slopes=True)) + PROCESS


def test_a_search_whose_layers_are_computed_again_keeps_their_inputs_alone():
    shape, rows = replace(Shape.of(LLAMA), tied=False), Judging(1000, 64, slopes=True)
    ways = (Machine(gradient_checkpointing=on, eval_batch_size=1) for on in (False, True))
    kept, again = (search_memory(shape, machine, rows) for machine in ways)
    tokens = 4 * 1000  # of a block
    layer = sum(count * size for count, size in tensors_of_layer(shape, tokens, bf16=False))
    assert kept - again == (shape.layers - 1) * layer - shape.layers * 4 * tokens * shape.hidden
    # Losses alone keep neither: of 16 rows together one layer's tensors.
    alone = search_memory(shape, Machine(), replace(rows, slopes=False))
    logits = 12 * min(16 * 1000 * shape.vocabulary, MOST_LOGITS) + 16 * 1000 * 4 * shape.hidden
    assert alone == 4 * shape.parameters + 4 * layer + logits


def test_a_search_holds_a_model_and_the_gradient_of_no_more_than_its_head():
    made = evaluated(base={"parameters": 10**9})
    tune = estimated(made, with_search(make_graph()))["tune"]
    assert tune.seconds is None
    assert tune.disk is None
    shape = replace(Shape.of(LLAMA), parameters=10**9)
    assert tune.memory == held_by_search(shape, Machine(), Judging(64, 16, slopes=True)) + PROCESS
    head = 4 * shape.vocabulary * shape.hidden
    for untied, copies in ((replace(shape, tied=False), 1), (replace(shape, tied=True), 3)):
        assert search_memory(untied, Machine(), Judging(0, 16, slopes=True)) == 4 * 10**9 + copies * head
        assert search_memory(untied, Machine(), Judging(0, 16)) == 4 * 10**9
    assert BLOCKS == judges.BLOCKS


@pytest.mark.parametrize(
    ("dtype", "config", "size"),
    [
        ("float32", {}, 4),
        (None, {"dtype": "float16"}, 2),
        (None, {"torch_dtype": "float32"}, 4),
        (None, {}, None),
    ],
)
def test_an_import_takes_its_parameters_of_disk(tmp_path, dtype, config, size):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(LLAMA | config))
    source = SourceFile("config.json", of_bytes(path.read_bytes()), path)
    base = Action("base", KINDS["import"], {"source": "directory", "dtype": dtype}, sources=(source,))
    graph = make_graph()
    found = estimated(Made(), replace(graph, actions=graph.actions | {"base": base}))
    assert found["base"].disk == (None if size is None else size * Shape.of(LLAMA).parameters)
    assert found["model"].disk == 2 * Shape.of(LLAMA).parameters


def shown(*estimated):
    stream = io.StringIO()
    estimate_lines(estimated, Console(file=stream, width=200))
    return stream.getvalue().splitlines()


def test_each_training_has_a_line_and_all_have_one():
    first = Estimate("vector:a", "finetune", 3_000_000_000, 25_000, 60.0, 60.0, 100_000_000, 500_000_000)
    second = Estimate("vector:b", "finetune", 4_000_000_000, 50_000, 120.0, 120.0, 200_000_000, 500_000_000)
    assert shown(first, second) == [
        "vector:a: about 3.0 GB of memory, 1m 00s for 25k tokens, 100 MB of disk (and 500 MB while it trains)",
        "vector:b: about 4.0 GB of memory, 2m 00s for 50k tokens, 200 MB of disk (and 500 MB while it trains)",
        "all that is due: about 4.0 GB of memory at most, 3m 00s, 300 MB of disk for models and vectors",
    ]


def test_evaluations_share_a_line_and_a_search_has_the_span_of_its_times():
    tune = Estimate("tune", "tune", memory=10**9, seconds=600.0, least_seconds=60.0)
    model = Estimate("model", "compose", disk=10**9)
    losses = [Estimate(f"loss:composed:{n}", "evaluate", None, 1000, n, n) for n in (30.0, 40.0, None)]
    *lines, total = shown(tune, model, *losses)
    assert lines == [
        "tune: about 1.0 GB of memory, 1m 00s to 10m 00s",
        "model: about 1.0 GB of disk",
        "evaluate (3): about 1m 10s and an unknown time for 1 of 3",
    ]
    assert "2m 10s to 11m 10s and an unknown time for 2 of 5, 1.0 GB of disk for models and vectors" in total


def test_what_is_not_known_is_said_or_left_out():
    vector = Estimate("vector:a", "finetune", tokens=25_000)
    assert shown(vector) == ["vector:a: about an unknown time for 25k tokens"]
    assert shown() == []


@pytest.mark.parametrize("before", ["import", "prepare", "mix"])
def test_where_nothing_is_known_the_reason_is_what_is_lacking(before):
    vector, evaluation = Estimate("vector:a", "finetune"), Estimate("eval:base:arc_easy", "evaluate")
    waiting = "what this takes is not known before base and data are there"
    assert shown(Estimate("a", before), vector, evaluation) == [waiting]
    assert shown(evaluation) == ["what this takes is not known: nothing like it ran here yet"]


def test_a_plan_estimates_from_the_bases_files_before_anything_is_built(
    tmp_path: Path, tiny_base: Path
) -> None:
    project = fresh(tmp_path, tiny_base)
    project.write(RECIPE)
    found = json.loads(project.call("plan", "tiny.toml", "--json").stdout)["estimates"]
    of = {e["name"]: e for e in found}
    vectors = [of["vector:add"], of["vector:copy"]]
    assert all(e["memory"] > e["scratch"] > e["disk"] > 0 and e["tokens"] is None for e in vectors)
    assert of["base"]["disk"] == of["model"]["disk"] == vectors[0]["disk"]
    assert all(e["seconds"] is None for e in found)
    assert "all that is due: about" in project.call("plan", "tiny.toml").stdout
