"""What cannot fit into memory is refused with the numbers, what may not is warned of, and nothing else is touched."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from build_samples import LLAMA, TRAIN, Made, MadeWithConfig, Reading, known, make_graph
from large_shapes import LLAMAS
from project import RECIPE, fresh
from scaled import record_made_up, scaled_project

from dem_build import hardware as rooms
from dem_build.action import Action, Edge, Input
from dem_build.actions import KINDS
from dem_build.errors import TrainingError
from dem_build.estimate import Shape, crowded, estimates, fits, memory, refuse_unfit, training_disk, unfit
from dem_build.estimate.due import matching_of
from dem_build.graph import Graph
from dem_build.hardware import Room, room
from dem_build.machine import Machine

GB = 10**9


@pytest.fixture
def having(monkeypatch):
    """Let the machine have so many bytes, of which so many are free."""

    def has(total, free=None, *, gpu=True):
        place = "the GPU" if gpu else "this machine"
        found = Room(place, total, total if free is None else free, is_gpu=gpu)
        monkeypatch.setattr(fits, "room", lambda: found)

    return has


def due(parameters):
    """A plan where a vector is due, on a base of so many parameters."""
    made = Made(provenance={"base": {"parameters": parameters}})
    made.build(make_graph())
    return made.plan(make_graph(rate=1e-4))


def test_what_needs_all_memory_is_not_refused_and_one_byte_more_is(having):
    plan = due(10**9)
    having(16 * GB)
    assert unfit(plan) == []
    having(16 * GB - 1)
    [error] = unfit(plan)
    assert error.where == "vector:math"
    assert "1,000,000,000 parameters take 16.0 GB, and the GPU has 16.0 GB" in error.what
    assert error.hint == 'optim = "adamw_8bit" needs 10.0 GB and may fit'
    with pytest.raises(TrainingError):
        refuse_unfit(plan)


def test_of_several_gpus_each_needs_its_share_and_processes_of_a_cpu_share_no_memory(having, monkeypatch):
    plan, two = due(10**9), Machine(gpus_per_action=2, processes_per_action=2)
    having(8 * GB)
    assert unfit(plan, two) == []
    monkeypatch.setattr(fits, "gpus", lambda: ["0", "1"])
    assert unfit(plan)[0].hint == "gpus_per_action = 2 needs 8.0 GB of each and may fit"
    having(8 * GB - 1)
    [error] = unfit(plan, two)
    assert "take 8.0 GB of each of 2 GPUs, and the GPU has 8.0 GB" in error.what
    assert "more memory" in error.hint
    having(8 * GB, gpu=False)
    assert len(unfit(plan, two)) == 1


def test_what_no_optimizer_makes_fit_needs_adapters_or_another_machine_or_base(having):
    having(7 * GB)
    assert unfit(due(10**9))[0].hint == 'method = "lora" needs 4.0 GB and may fit'
    having(4 * GB - 1)
    assert "smaller base" in unfit(due(10**9))[0].hint


def test_an_evaluation_needs_room_for_its_model(having):
    having(1.5 * GB)
    found = {e.where: e.hint for e in unfit(due(10**9))}
    assert found["loss:composed:math"] == "evaluate on a machine with more memory"


LOOKING = {
    "tune": {"search": "gradient"},
    "tune:best": {"search": "grid"},
    "tune:layers": {"search": "grid", "granularity": "layer"},
    "response": {"omegas": [0.0]},
    "ladder": {"test_samples": 8},
}


def test_what_looks_at_candidates_needs_one_in_float32_and_no_gradients_beside_it(having):
    """The vectors of others need no training, and a model in bfloat16 may still be evaluated."""
    about = {
        "max_samples": 8,
        "objective": "gain",
        "granularity": "model",
        "bounds": [0.0, 1.5],
        "dtype": "bfloat16",
    }
    weights = (Input("base/weights", Edge("base", "weights")),)
    made = Made(provenance={"base": {"parameters": 10**9}})
    made.build(graph := make_graph())
    for name, params in LOOKING.items():
        kind = name.partition(":")[0]
        asked = {n: v for n, v in (about | params).items() if n in KINDS[kind].params}
        graph = Graph({**graph.actions, name: Action(name, KINDS[kind], asked, weights)})
    plan = made.plan(graph)
    having(4 * GB)
    assert unfit(plan) == []
    having(4 * GB - 1)
    hints = {e.where: e.hint for e in unfit(plan)}
    assert hints.keys() == LOOKING.keys()
    assert hints["ladder"] == "set ladder = false in [analysis]"


def test_nothing_is_refused_where_the_memory_or_the_base_is_unknown(monkeypatch, having):
    having(1)
    assert unfit(Made().plan(make_graph())) == []
    monkeypatch.setattr(fits, "room", lambda: None)
    assert unfit(due(10**9)) == []


def test_a_warning_says_the_least_change_that_is_enough(having):
    made = known(make_graph())
    plan = made.plan(make_graph(rate=1e-4))

    def warned(free):
        having(100 * GB, free)
        return crowded(plan, Reading(made), Machine())

    assert warned(90 * GB) == []
    [text] = warned(3 * GB)
    assert "vector:math needs about" in text
    assert "the GPU has 3.0 GB free; micro_batch = " in text
    assert "gradient_checkpointing = true with optim" in warned(2 * GB)[0]
    assert warned(10**6)[0].endswith("nothing smaller fits")


def test_of_several_gpus_no_way_out_is_told_that_they_refuse(having):
    made = known(make_graph())
    plan = made.plan(make_graph(rate=1e-4))
    having(
        100 * GB, 1_300_000_000
    )  # which would be enough for half of Adafactor, and is not for half of AdamW
    [text] = crowded(plan, Reading(made), Machine(gpus_per_action=2))
    assert text.endswith("nothing smaller fits")


def matched(rows=64):
    """A base and two datasets that are recorded, and a matched model that is due."""
    graph = make_graph(("math", "chat"))
    made = MadeWithConfig(
        provenance={f"data:{n}": {"sample": {"lengths": [200] * 100}} for n in ("math", "chat")}
    )
    made.build(graph)
    takes = [Input("base/weights", Edge("base", "weights"))]
    for name in ("math", "chat"):
        takes.append(Input("delta", Edge(f"vector:{name}", "delta"), group=name))
        takes.append(Input("data/sample", Edge(f"data:{name}", "sample"), group=name))
    params = {"dtype": "bfloat16", "rows": rows, "ridge": 2.0, "prior": "fit"}
    groups = {n: {"importance": 1.0} for n in ("math", "chat")}
    model = Action("model", KINDS["match"], params, tuple(takes), groups=groups)
    return made, made.plan(Graph({**graph.actions, "model": model}))


def test_matching_is_never_refused_and_a_warning_names_the_rows_that_fit(having):
    made, plan = matched()

    def warned(free):
        having(free, free)
        assert unfit(plan) == [], (
            "a layer at a time: there is no model whose size tells that it cannot be matched"
        )
        return crowded(plan, Reading(made), Machine())

    [estimate] = [e for e in estimates(plan, Reading(made), Machine()) if e.name == "model"]
    assert estimate.tokens == 2 * 2 * 64 * 200
    needs = {
        rows: matching_of(plan.graph.actions["model"], plan).memory(Shape.of(LLAMA), rows, gpu=True)
        for rows in (64, 32)
    }
    assert warned(needs[64]) == []
    [text] = warned(needs[64] - 1)
    assert text.startswith("model needs about ")
    assert "; rows = 32 in [compose] would need " in text
    assert "nothing smaller fits" in warned(1000)[0]


def test_on_a_cpu_each_row_has_two_threads_that_wait():
    _, plan = matched()
    found, shape = matching_of(plan.graph.actions["model"], plan), Shape.of(LLAMA)
    rows = 2 * 64
    more = found.memory(shape, 64, gpu=False) - found.memory(shape, 64, gpu=True)
    assert more == memory.PROCESS + memory.MATCHING + 2 * rows * memory.PASS


def test_a_search_for_importances_needs_what_its_matchings_need_or_their_measuring(having):
    having(10**12, 10**12)
    made, plan = matched()
    graph = plan.graph
    match = graph.actions["model"]
    judged = Input("data/validation", Edge("data:math", "validation"), group="math")
    params = {**match.params, "objective": "gain", "max_samples": 64}
    weigh = replace(match, kind=KINDS["weigh"], params=params, takes=(*match.takes, judged))
    plan = made.plan(replace(graph, actions={**graph.actions, "model": weigh}))
    [found] = [e for e in estimates(plan, Reading(made), Machine()) if e.name == "model"]
    shape = Shape.of(LLAMA)
    assert found.memory is not None
    assert found.memory >= matching_of(weigh, plan).memory(shape, 64, gpu=False)
    assert found.memory >= shape.parameters * memory.BYTES["bfloat16"] + memory.PROCESS


def test_rows_that_are_not_prepared_are_taken_to_be_as_long_as_they_may_be():
    _, plan = matched()
    found, shape = matching_of(plan.graph.actions["model"], plan), Shape.of(LLAMA)
    unknown, longest = (replace(found, lengths=(lengths,) * 2) for lengths in (None, [found.most] * 100))
    assert unknown.memory(shape, 64, gpu=True) == longest.memory(shape, 64, gpu=True)


def test_the_pieces_of_logits_that_are_counted_are_those_that_are_made():
    from dem_build.model import likelihood

    assert memory.MOST_LOGITS == likelihood.MOST_LOGITS


def test_a_control_groups_limit_is_the_machines_memory(tmp_path, monkeypatch):
    """That of any group above the process's own too; `max` is none."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "memory.max").write_text("3000000000\n")
    (tmp_path / "a" / "b" / "memory.max").write_text("max\n")
    folders = [tmp_path / "a" / "b", tmp_path / "a"]
    assert [n for f in folders for n in rooms._limits(f)] == [3 * GB]
    monkeypatch.setattr(rooms, "_cgroup_limits", lambda: [3 * GB])
    monkeypatch.setattr(
        rooms, "_meminfo", lambda: {"MemTotal": 8 * GB, "MemAvailable": 7 * GB, "SwapTotal": 0}
    )
    assert room([]) == Room("this machine", 3 * GB, 3 * GB, is_gpu=False)


def test_the_memory_of_gpus_is_that_of_the_largest(tmp_path, monkeypatch):
    script = tmp_path / "nvidia-smi"
    script.write_text("#!/bin/sh\necho $2 >&2\necho 81920, 80000\necho 40960, 40000\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert room(["0", "1"]) == Room("the GPU", 81920 << 20, 80000 << 20, is_gpu=True)
    script.write_text("#!/bin/sh\nexit 9\n")
    assert room(["0"]) is None


def test_a_plan_tells_what_does_not_fit(having, monkeypatch, capsys, tmp_path, tiny_base):
    from dem_build.cli.app import run

    project = fresh(tmp_path, tiny_base)
    project.write(RECIPE)
    monkeypatch.chdir(project.home)
    monkeypatch.setenv("DEM_CACHE", str(tmp_path / "cache"))
    having(1000)
    assert run(["plan", "tiny.toml", "--json"]) == 0
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert any("vector:add: cannot fit" in p for p in problems)
    assert run(["plan", "tiny.toml"]) == 0
    assert "error: vector:add: cannot fit" in capsys.readouterr().out


# Large models, of which nothing is made but their shape.


@pytest.mark.parametrize(
    ("model", "gigabytes", "checkpoint", "vector"),
    [
        ("7B", {"adamw_torch_fused": 108, "adamw_8bit": 67, "adafactor": 54}, 81, 13.5),
        ("13B", {"adamw_torch_fused": 208, "adamw_8bit": 130, "adafactor": 104}, 156, 26.0),
    ],
)
def test_weights_gradients_and_states_of_large_models(model, gigabytes, checkpoint, vector):
    shape = Shape.of(LLAMAS[model])
    least = {
        optim: round(memory.least_memory(shape.parameters, {"optim": optim}) / GB) for optim in gigabytes
    }
    assert least == gigabytes
    written, scratch = training_disk(shape, TRAIN | {"optim": "adamw_torch_fused"})
    assert round(scratch / memory.CHECKPOINTS / GB) == checkpoint
    assert round(written / GB, 1) == vector


@pytest.mark.parametrize(
    ("model", "gpu", "optim", "told"),
    [
        ("7B", 80, "adamw_torch_fused", ["107.8 GB", "80.0 GB", 'optim = "adamw_8bit" needs 67.4 GB']),
        ("7B", 60, "adamw_8bit", ["67.4 GB", "60.0 GB", 'optim = "adafactor" needs 53.9 GB']),
        ("13B", 80, "adafactor", ["104.1 GB", "80.0 GB", 'method = "lora" needs 52.1 GB']),
        ("13B", 40, "adafactor", ["104.1 GB", "40.0 GB", "take a smaller base"]),
        ("7B", 80, "adafactor", None),
        ("7B", 141, "adamw_torch_fused", None),
        ("13B", 141, "adamw_8bit", None),
    ],
)
def test_a_plan_refuses_or_accepts_a_large_model_by_its_numbers(
    having, capsys, tmp_path, model, gpu, optim, told
):
    from dem_build.cli.app import run

    recipe = scaled_project(tmp_path / "project", 2, 0)
    parameters = Shape.of(LLAMAS[model]).parameters
    record_made_up(recipe, json.dumps(LLAMAS[model]).encode(), parameters)
    having(gpu * GB)
    changed = ["--set", f'train.optim="{optim}"', "--set", "train.learning_rate=1e-4"]
    assert run(["plan", str(recipe), "--json", *changed]) == 0
    plan = json.loads(capsys.readouterr().out)
    refused = [p for p in plan["problems"] if "vector:d0: cannot fit" in p]
    assert bool(refused) == (told is not None)
    assert all(words in refused[0] for words in told or ())
    estimated = {e["name"]: e for e in plan["estimates"]}["vector:d0"]
    assert estimated["disk"] == 2 * parameters
