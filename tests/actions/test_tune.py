"""Tuning on a real model: derivatives, what good and useless vectors get, limits, resumption."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file
from tune_samples import (
    DIGEST,
    base,
    dataset,
    model,
    noise,
    probe,
    run_tune,
    skill,
    trained,
    vector,
    write_rows,
)
from weight_samples import make_context, run_compose, store_vector

from dem_build.actions.checkpoints import mark_complete, newest_complete
from dem_build.actions.tune.candidates import Candidates, resident
from dem_build.actions.tune.judges import BLOCKS, Judge, judged_nll, judges
from dem_build.actions.tune.pass_log import Pass, PassLog, Scope, read_passes, write_passes
from dem_build.actions.tune.passes import Passes
from dem_build.checkpoint.reader import open_checkpoint
from dem_build.data.arrays import RowsWriter, TokenRows, trained_prompts
from dem_build.data.tokenise import MASKED
from dem_build.digest import of_bytes
from dem_build.errors import EvaluationError, InterruptedBuildError
from dem_build.estimate.memory import Shape, tensors_of_layer
from dem_build.machine import Machine
from dem_build.model.environment import bits_of
from dem_build.model.load import load_model
from dem_build.search import gradient_search
from dem_build.step import Group, Inputs


def candidates(*names: str) -> Candidates:
    return Candidates(model(), base() / "weights", DIGEST, {n: skill(n).delta for n in names})


def words(tuned) -> set[str]:
    return {finding["what"] for finding in tuned.trace["findings"]}


def test_derivatives_are_those_of_finite_differences():
    resident = candidates("up", "down")
    [judge] = judges({"up": dataset("up")}, {"up": "data/validation"}, trained_prompts([]), 64)
    rows = [i for block in judge.blocks for i in block][:8]
    at, step = np.full((2, len(resident.layers)), 0.4), 1e-2

    def loss(omega: np.ndarray) -> float:
        resident.become(omega)
        with torch.no_grad():
            return judged_nll(resident.model, judge, rows).double().sum().item()

    resident.become(at)
    judged_nll(resident.model, judge, rows).sum().backward()
    slopes = resident.take_slopes()
    for i, layer in np.ndindex(*at.shape):
        moved = np.zeros_like(at)
        moved[i, layer] = step
        difference = (loss(at + moved) - loss(at - moved)) / (2 * step)
        assert slopes[i, layer] == pytest.approx(difference, rel=2e-2, abs=2e-2)


def batches_of_rows(name: str) -> tuple[Judge, list[list[int]]]:
    """A judge, and sixteen of its rows in batches of four."""
    [judge] = judges({name: dataset(name)}, {name: "data/validation"}, trained_prompts([]), 64)
    rows = [i for block in judge.blocks for i in block]
    return judge, [rows[i : i + 4] for i in range(0, 16, 4)]


def test_no_two_gradients_are_there_together():
    """Each has met the vectors and is gone before the backward pass has made the next."""
    resident = candidates("up", "down")
    judge, [batch, *_] = batches_of_rows("up")
    parameters = list(resident.model.parameters())
    held: list[int] = []

    def made(_: torch.Tensor) -> None:
        held.append(sum(p.grad is not None for p in parameters))

    for parameter in parameters:
        parameter.register_hook(made)
    resident.become(np.full((2, len(resident.layers)), 0.4))
    judged_nll(resident.model, judge, batch).sum().backward()
    assert held == [0] * len(parameters)
    assert all(p.grad is None for p in parameters)
    assert np.abs(resident.take_slopes()).min() > 0


def test_derivatives_of_a_block_are_the_sums_of_its_batches_and_those_of_one_batch_as_they_were():
    """Within 1e-6 of Σ |gradient · ΔΘ| of the exact sum; of one batch the same bits as of gradients that are kept."""
    resident, kept = candidates("up", "down"), model()
    judge, batches = batches_of_rows("up")
    resident.become(np.full((2, len(resident.layers)), 0.4))
    kept.load_state_dict(resident.model.state_dict())
    names = {name: p for name, p in kept.named_parameters() if name in resident._column}
    vectors = [load_file(skill(n).delta) for n in ("up", "down")]
    exact, size, bits = (np.zeros((2, len(resident.layers))) for _ in range(3))
    for count, batch in enumerate(batches):
        judged_nll(resident.model, judge, batch).sum().backward()
        kept.zero_grad()
        judged_nll(kept, judge, batch).sum().backward()
        for name, group in ((g.files[0], g) for g in resident.layout.groups):
            products = [
                names[group.own[0]].grad.flatten().double() * v[name].flatten().double() for v in vectors
            ]
            exact[:, resident._column[name]] += [float(p.sum()) for p in products]
            size[:, resident._column[name]] += [float(p.abs().sum()) for p in products]
            bits[:, resident._column[name]] += resident._dots(name, names[group.own[0]].grad.flatten())
        if not count:
            assert np.array_equal(resident.take_slopes(), bits)
            exact[:], size[:] = 0, 0
    assert (np.abs(resident.take_slopes() - exact) <= 1e-6 * size).all()


def kept_by_a_pass(resident: Candidates, judge: Judge, batch: list[int]) -> tuple[torch.Tensor, int]:
    """A batch's loss, with its graph, and the bytes that the graph holds beside the model."""
    own = {p.untyped_storage().data_ptr() for p in resident.model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = judged_nll(resident.model, judge, batch).sum()
    return loss, sum(storage.nbytes() for place, storage in kept.items() if place not in own)


def test_layers_that_are_computed_again_give_the_same_bits_and_keep_what_a_plan_does_not_count(tmp_path):
    judge, [batch, *_] = batches_of_rows("up")
    weights, config = base() / "weights", base() / "config"
    inputs = Inputs({"base/weights": weights, "base/config": config}, {"base/weights": DIGEST})
    found, kept = [], []
    for again in (False, True):
        machine = Machine(gradient_checkpointing=again)
        context = replace(make_context(tmp_path / str(again), threads=1), machine=machine)
        candidate = resident(inputs, {n: skill(n).delta for n in ("up", "down")}, context)
        candidate.become(np.full((2, len(candidate.layers)), 0.4))
        loss, size = kept_by_a_pass(candidate, judge, batch)
        loss.backward()
        found.append((loss.item(), candidate.take_slopes()))
        kept.append(size)
        assert not candidate.model.training  # where a model may drop out
    assert found[0][0] == found[1][0]
    assert np.array_equal(found[0][1], found[1][1])
    assert np.abs(found[0][1]).min() > 0
    shape = Shape.of(json.loads(config.read_text()))
    tokens = len(batch) * max(judge.rows.lengths[i] for i in batch)
    layers = shape.layers * sum(count * width for count, width in tensors_of_layer(shape, tokens, bf16=False))
    # Beside the tensors that are counted a layer keeps some numbers a token: of two norms, and of each head.
    assert kept[0] - kept[1] == pytest.approx(layers, rel=0.05)


def test_a_pass_that_was_broken_off_leaves_nothing_in_the_next():
    resident = candidates("up")
    judge, [first, second, *_] = batches_of_rows("up")
    omega, found = np.full((1, len(resident.layers)), 0.4), []
    for broken in (False, True):
        if broken:
            judged_nll(resident.model, judge, first).sum().backward()
        resident.become(omega)
        judged_nll(resident.model, judge, second).sum().backward()
        found.append(resident.take_slopes())
    assert np.array_equal(*found)


def test_a_pass_with_derivatives_of_an_earlier_version_answers_nothing(tmp_path):
    """A block's gradients were added up in float32 then; passes without derivatives are as they were."""
    [judge] = judges({"up": dataset("up")}, {"up": "data/validation"}, trained_prompts([]), 64)
    resident = candidates("up")
    passes = Passes(resident, [judge], "bfloat16", PassLog(make_context(tmp_path / "passes", threads=1)))
    at, machine = np.full((1, len(resident.layers)), 0.5), Machine()
    for slopes, size in ((False, machine.eval_batch_size), (True, machine.micro_batch)):
        before = passes._asked(at, None, slopes=slopes)
        before.nll[:] = 1.0
        passes.earlier.append(replace(before, under=bits_of(resident.model, size)))
    assert (passes.take(at).nll == 1.0).all()
    assert (passes.take(at, slopes=True).nll != 1.0).all()


def test_a_candidate_is_the_model_that_compose_makes(tmp_path):
    resident = candidates("up", "down")
    omega = np.repeat([[0.3], [0.9]], len(resident.layers), axis=1)
    resident.become(omega)
    terms = [(skill("up").delta, 0.3), (skill("down").delta, 0.9)]
    made = open_checkpoint(run_compose(base(), tmp_path, terms, dtype="float32").out / "weights")
    state = resident.model.state_dict()
    with made:
        for name in made.tensors:
            np.testing.assert_allclose(state[name].numpy(), made.read(name), atol=1e-7)


def test_a_pass_is_of_the_rounded_model_and_its_slopes_go_straight_through_the_rounding(tmp_path):
    """Losses are those of the model that `compose` would publish; its gradient meets the whole of each vector."""
    [judge] = judges({"up": dataset("up")}, {"up": "data/validation"}, trained_prompts([]), 64)
    resident = candidates("up", "down")
    passes = Passes(resident, [judge], "bfloat16", PassLog(make_context(tmp_path / "passes", threads=1)))
    omega = np.repeat([[0.31], [0.17]], len(resident.layers), axis=1)
    taken = passes.take(omega, slopes=True)
    terms = [(skill("up").delta, 0.31), (skill("down").delta, 0.17)]
    made = run_compose(base(), tmp_path / "composed", terms, dtype="bfloat16").out
    published = load_model(
        made / "weights", base() / "config", dtype=torch.float32, device=torch.device("cpu")
    )
    nll = judged_nll(published, judge, [i for block in judge.blocks for i in block]).sum()
    nll.backward()
    assert taken.nll.sum() == pytest.approx(nll.item(), rel=1e-5)
    gradients = {name: p.grad.double() for name, p in published.named_parameters()}
    for row, (path, _) in enumerate(terms):
        whole = sum((gradients[name] * t.double()).sum().item() for name, t in load_file(path).items())
        assert taken.slopes[0, :, row].sum() == pytest.approx(whole, rel=1e-4)


def test_passes_that_were_rounded_to_another_dtype_answer_nothing(tmp_path):
    def scope(dtype: str) -> Scope:
        return Scope(["v"], ["j"], dtype)

    one, other = (Pass(np.full((1, 2), w), np.array([True]), np.ones((1, BLOCKS))) for w in (0.5, 1.0))
    write_passes(tmp_path / "now", [one, other], scope("bfloat16"))
    assert len(read_passes(tmp_path / "now", scope("bfloat16"))) == 2
    assert read_passes(tmp_path / "now", scope("float32")) == []
    # Until version 6 of `tune`: in float32, and the pass at the end marked where it was rounded to whatever it was.
    arrays = load_arrays(tmp_path / "now") | {"rounded": np.array([False, True])}
    about = json.dumps({"vectors": ["v"], "judges": ["j"], "under": ["", ""]})
    save_arrays(arrays, tmp_path / "before", {"scope": about})
    [left] = read_passes(tmp_path / "before", scope("float32"))
    assert left.omega.tolist() == one.omega.tolist()
    assert read_passes(tmp_path / "before", scope("bfloat16")) == []


def test_a_candidate_leaves_nothing_of_the_one_before():
    resident = candidates("up")
    resident.become(np.zeros((1, len(resident.layers))))
    before = {n: t.clone() for n, t in resident.model.state_dict().items()}
    resident.become(np.full((1, len(resident.layers)), 1.3))
    resident.become(np.zeros((1, len(resident.layers))))
    assert all(torch.equal(t, before[n]) for n, t in resident.model.state_dict().items())


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A search over two skills."""
    return run_tune(tmp_path_factory.mktemp("both") / "tune", [dataset("up"), dataset("down")])


@pytest.fixture(scope="module")
def layered(tmp_path_factory):
    """The same, of one ω for each vector and layer."""
    groups = [dataset("up"), dataset("down")]
    return run_tune(tmp_path_factory.mktemp("layered") / "tune", groups, granularity="layer")


def test_tuned_omega_beat_equal_ones_and_every_single_vector(tmp_path):
    tuned = run_tune(tmp_path, [dataset("up"), dataset("down"), dataset("leap", importance=3.0)])
    scores = [p["score"] for p in tuned.trace["passes"]]
    assert tuned.trace["score"] == min(scores)
    assert tuned.trace["score"] < tuned.trace["uniform"]["score"] - 0.01


def test_names_and_order_of_datasets_reach_no_byte(both, tmp_path):
    groups = [replace(dataset("down"), name="a"), replace(dataset("up"), name="b")]
    # The runner hands groups over in the order of the key; the judges' order follows it.
    other = run_tune(tmp_path / "other", groups[::-1])
    for name in ("omega", "trace", "passes"):
        assert (both.out / name).read_bytes() == (other.out / name).read_bytes()


def test_twice_gives_the_same_bytes(tmp_path):
    groups = [dataset("up"), dataset("leap")]
    one, other = run_tune(tmp_path / "one", groups), run_tune(tmp_path / "other", groups)
    assert (one.out / "omega").read_bytes() == (other.out / "omega").read_bytes()
    assert (one.out / "trace").read_bytes() == (other.out / "trace").read_bytes()


@pytest.mark.parametrize("search", ["gradient", "coordinate"])
def test_a_vector_of_noise_gets_no_weight(tmp_path, search):
    tuned = run_tune(tmp_path, [dataset("up"), vector("noise", noise())], search=search)
    assert abs(tuned.omega["noise"]) < 0.15
    assert tuned.omega["up"] > 0.6


def test_a_vector_given_twice_shares_its_weight_and_changes_nothing(tmp_path):
    once = run_tune(tmp_path / "once", [dataset("up", importance=2.0), dataset("down")])
    twice = run_tune(tmp_path / "twice", [dataset("up"), dataset("up", "again"), dataset("down")])
    assert twice.trace["score"] == pytest.approx(once.trace["score"], rel=0.02)
    assert len(twice.trace["vectors"]) == 2


def test_a_fixed_omega_stays_as_it_is(tmp_path):
    tuned = run_tune(tmp_path, [dataset("up", omega=0.25), dataset("down")])
    assert tuned.omega["up"] == 0.25
    assert tuned.omega["down"] != 0.25


def test_a_probe_keeps_its_limit(tmp_path):
    """Without the limit the probe's loss rises further than that: the limit is what holds it."""
    groups = [dataset("up"), dataset("down")]
    free = run_tune(tmp_path / "free", [*groups, probe(None)])
    held = run_tune(tmp_path / "held", [*groups, probe(0.02)])
    rise = {id(t): t.trace["judges"][-1]["chosen"] - t.trace["judges"][-1]["base"] for t in (free, held)}
    assert rise[id(free)] > 0.02
    assert rise[id(held)] <= 0.02
    assert held.trace["score"] > free.trace["score"]


def test_a_limit_that_no_omega_keeps_is_said(tmp_path):
    tuned = run_tune(tmp_path, [dataset("up", omega=3.0), dataset("down"), probe(0.0)])
    assert "limit_not_held" in words(tuned)


def test_a_bound_that_holds_omega_back_is_said(tmp_path):
    tuned = run_tune(tmp_path, [dataset("up")], bounds=[0.0, 0.5])
    assert tuned.omega == {"up": 0.5}
    assert "on_upper_bound" in words(tuned)


@pytest.mark.parametrize(
    ("given", "bounds", "lowest", "highest", "granularity"),
    [
        (2.0, [0.0, 0.5], 2.0, 2.5, "model"),
        (2.0, [0.0, 0.5], 2.0, 2.5, "layer"),
        (0.25, [-1.0, -0.5], -0.75, -0.25, "model"),
        (None, [0.0, 0.4], 0.5, 0.8, "model"),  # more than one name of it may have
    ],
)
def test_each_tuned_name_of_one_vector_keeps_its_bounds(
    tmp_path, given, bounds, lowest, highest, granularity
):
    groups = [dataset("up", omega=given), dataset("up", "again")]
    tuned = run_tune(tmp_path, groups, bounds=bounds, granularity=granularity)
    both = tuned.omega["up"]
    layers = both.values() if isinstance(both, dict) else [both]
    assert all(lowest <= omega <= highest for omega in layers)


def test_the_worst_dataset_is_better_off_when_it_is_the_objective(tmp_path):
    groups = [dataset("up", importance=3.0), dataset("down"), dataset("leap")]
    least = [
        min(j["gain"] for j in run_tune(tmp_path / kind, groups, objective=kind).trace["judges"])
        for kind in ("gain", "worst")
    ]
    assert least[1] > least[0]


def test_layers_are_tuned_from_the_best_of_vectors_and_judged_on_unseen_rows(layered):
    layerwise = layered.trace["layerwise"]
    assert layerwise["accepted"] == (layerwise["unseen_score"] < layerwise["unseen_global_score"])
    assert isinstance(layered.omega["up"], dict) == layerwise["accepted"]


def test_layers_are_judged_against_the_base_on_the_same_rows_and_reported_as_chosen(layered):
    """Some rows are left to the judgement of layers: the base gains nothing on the others too."""
    [base] = [p for p in layered.trace["passes"] if not any(p["omega"])]
    assert base["score"] == pytest.approx(0, abs=1e-12)
    assert layered.trace["layerwise"]["accepted"]
    gains = [j["gain"] for j in layered.trace["judges"]]
    assert -np.mean(gains) == pytest.approx(layered.trace["chosen_score"])


def test_layers_are_held_back_by_noise_also_where_the_search_ends_in_equal_omega(tmp_path, monkeypatch):
    problems = []

    def watched(problem, known):
        problems.append(problem)
        return gradient_search(problem, known)

    monkeypatch.setattr("dem_build.actions.tune.landscape.gradient_search", watched)
    tuned = run_tune(tmp_path, [dataset("up")], granularity="layer", bounds=[0.0, 1.0])
    assert tuned.trace["uniform"]["omega"] == [tuned.trace["vectors"][0]["omega"]] == [1]
    [layers] = problems
    assert layers.penalty(layers.center - 0.5) > 0


def test_a_search_of_layers_that_stops_before_it_settles_is_told_of(layered, tmp_path, monkeypatch):
    assert layered.trace["layerwise"]["reason"] != "passes"
    assert "layers_not_converged" not in words(layered)
    monkeypatch.setattr("dem_build.actions.tune.landscape.gradient_search", partial(gradient_search, most=1))
    cut = run_tune(tmp_path, [dataset("up"), dataset("down")], granularity="layer")
    [told] = [f for f in cut.trace["findings"] if f["what"] == "layers_not_converged"]
    assert told["passes"] == cut.trace["layerwise"]["passes"]


def test_a_row_of_which_nothing_counts_leaves_no_block_empty_among_others(tmp_path):
    with RowsWriter((tmp_path / "rows").with_suffix(".spool")) as writer:
        for i in range(5):
            ids = np.arange(4, 12, dtype=np.int32)
            labels = np.full_like(ids, MASKED) if i == 2 else ids
            writer.append(ids, labels, bytes([i]) * 32)
        writer.save(tmp_path / "rows")
    group = Group("up", {}, {"data/validation": tmp_path / "rows"}, {"data/validation": DIGEST})
    [judge] = judges({"up": group}, {"up": "data/validation"}, trained_prompts([]), 64)
    assert judge.used == 4
    assert judge.tokens.tolist() == [7, 7, 7, 7, *[0] * 12]


def test_a_dataset_with_one_row_tunes_and_it_is_said(tmp_path):
    rows = write_rows(tmp_path / "rows", "up", seed=3, count=1)
    lone = replace(dataset("up"), paths=dataset("up").paths | {"data/validation": rows})
    tuned = run_tune(tmp_path, [lone, dataset("down")])
    assert [f["used"] for f in tuned.trace["findings"] if f["what"] == "few_rows"] == [1]


def test_a_vector_that_gains_next_to_nothing_is_told_of(tmp_path):
    weak = {n: 3e-4 * t for n, t in trained(skill("up").train).items()}
    delta = store_vector(tmp_path / "delta", weak, "float32")
    up = dataset("up")
    up = replace(
        up, paths=up.paths | {"delta": delta}, digests=up.digests | {"delta": of_bytes(delta.read_bytes())}
    )
    for objective, told in (("gain", [up.digests["data/validation"]]), ("mean", [])):
        tuned = run_tune(tmp_path / objective, [up, dataset("down")], objective=objective)
        little = [f for f in tuned.trace["findings"] if f["what"] == "own_gain_is_little"]
        assert [f["judge"] for f in little] == told
        assert all(0 < f["gained"] < f["scale"] for f in little)


def test_a_negative_omega_is_not_taken_for_none(tmp_path):
    backwards = {n: -t for n, t in trained(skill("up").train).items()}
    back = vector("back", store_vector(tmp_path / "delta", backwards, "float32"))
    tuned = run_tune(tmp_path, [dataset("up", omega=0.0), back], bounds=[-3.0, 1.5])
    assert -3.0 < tuned.omega["back"] < 0
    assert [f["vector"] for f in tuned.trace["findings"] if f["what"] == "does_not_help"] == []


def test_a_grid_measures_all_its_points(tmp_path):
    tuned = run_tune(tmp_path, [dataset("up"), dataset("down")], search="grid", bounds=[0.0, 1.5])
    assert {(0.0, 0.0), (1.5, 1.5), (0.75, 0.25)} <= {tuple(p["omega"]) for p in tuned.trace["passes"]}


def test_an_interrupted_search_goes_on_and_takes_no_pass_twice(both, tmp_path):
    groups = [dataset("up"), dataset("down")]
    asked = 0

    def stopping() -> bool:
        nonlocal asked
        asked += 1
        return asked > 40

    context = make_context(tmp_path / "cut", threads=1, stopping=stopping)
    with pytest.raises(InterruptedBuildError):
        run_tune(tmp_path / "cut", groups, context)
    resumed = run_tune(tmp_path / "cut", groups, replace(context, stopping=lambda: False))
    assert (resumed.out / "omega").read_bytes() == (both.out / "omega").read_bytes()
    assert resumed.told["forward_equivalents"] == pytest.approx(both.told["forward_equivalents"])
    assert resumed.told["measuring_seconds"] > 0


def test_an_interrupted_search_keeps_the_seconds_that_it_took(tmp_path):
    groups = [dataset("up"), dataset("down")]
    asked = iter([False] * 40 + [True])
    context = make_context(tmp_path, threads=1, stopping=lambda: next(asked))
    with pytest.raises(InterruptedBuildError):
        run_tune(tmp_path, groups, context)
    checkpoint = newest_complete(context.work / "checkpoints")
    times = json.loads((checkpoint / "times.json").read_text())
    assert 0 < times["changing"] < times["measuring"] < times["elapsed"]
    (checkpoint / "times.json").write_text('{"changing": 1000, "measuring": 5000, "elapsed": 7000}')
    mark_complete(checkpoint)
    resumed = run_tune(tmp_path, groups, replace(context, stopping=lambda: False))
    assert resumed.told["candidate_seconds"] > 1000
    assert 5000 < resumed.told["measuring_seconds"] < resumed.told["device_seconds"] - 1000
    assert 7000 < resumed.told["device_seconds"] < 8000


def test_a_stop_in_the_middle_of_a_pass_keeps_what_its_first_dataset_said(both, tmp_path):
    groups = [dataset("up"), dataset("down")]
    rows = both.told["rows"] // 2
    batches = -(-rows // Machine().eval_batch_size)  # of the first judge; the stop is at the second
    asked = iter([False] * batches)
    context = make_context(tmp_path, threads=1, stopping=lambda: next(asked, True))
    with pytest.raises(InterruptedBuildError):
        run_tune(tmp_path, groups, context)
    [cut] = read_passes(newest_complete(context.work / "checkpoints") / "passes.safetensors")
    assert cut.judged.tolist() == [True, False]
    assert cut.nll[0].any()
    assert not cut.nll[1].any()
    resumed = run_tune(tmp_path, groups, replace(context, stopping=lambda: False))
    assert (resumed.out / "omega").read_bytes() == (both.out / "omega").read_bytes()
    assert resumed.told["forward_equivalents"] == pytest.approx(both.told["forward_equivalents"])


def test_a_stop_before_a_new_pass_leaves_the_checkpoint_as_it_is(tmp_path):
    groups = [dataset("up"), dataset("down")]
    asked = iter([False] * 20)
    context = make_context(tmp_path, threads=1, stopping=lambda: next(asked, True))
    with pytest.raises(InterruptedBuildError):
        run_tune(tmp_path, groups, context)
    checkpoint = newest_complete(context.work / "checkpoints")
    before = {path.name: path.stat().st_ino for path in checkpoint.iterdir()}
    times = {path.name: path.stat().st_mtime_ns for path in checkpoint.iterdir()}
    with pytest.raises(InterruptedBuildError):
        run_tune(tmp_path, groups, replace(context, stopping=lambda: True))
    assert newest_complete(context.work / "checkpoints") == checkpoint
    assert {path.name: path.stat().st_ino for path in checkpoint.iterdir()} == before
    assert {path.name: path.stat().st_mtime_ns for path in checkpoint.iterdir()} == times


def test_the_tokens_of_a_search_are_those_of_its_passes(tmp_path):
    tuned = run_tune(tmp_path, [dataset("up")], search="grid", bounds=[0.0, 1.5])
    rows = TokenRows.open(skill("up").validation)
    used = tuned.told["rows"]
    assert tuned.told["passes"] * used * min(rows.lengths) <= tuned.told["tokens"]["seen"]
    assert tuned.told["tokens"]["seen"] <= tuned.told["passes"] * used * max(rows.lengths)
    assert tuned.told["attn_implementation"] == "sdpa"


def test_an_interrupted_search_that_began_from_an_earlier_one_ends_as_if_it_had_not_been(both, tmp_path):
    groups = [dataset("up", importance=4.0), dataset("down")]
    context = replace(make_context(tmp_path / "straight", threads=1), earlier=(both.out / "passes",))
    straight = run_tune(tmp_path / "straight", groups, context)
    asked = iter([False] * 30)
    context = make_context(tmp_path / "cut", threads=1, stopping=lambda: next(asked, True))
    context = replace(context, earlier=(both.out / "passes",))
    with pytest.raises(InterruptedBuildError):
        run_tune(tmp_path / "cut", groups, context)
    assert newest_complete(context.work / "checkpoints")
    resumed = run_tune(tmp_path / "cut", groups, replace(context, stopping=lambda: False))
    assert (resumed.out / "omega").read_bytes() == (straight.out / "omega").read_bytes()
    assert resumed.told["earlier_passes"] == straight.told["earlier_passes"]
    assert resumed.told["forward_equivalents"] == pytest.approx(straight.told["forward_equivalents"])


@pytest.fixture(scope="module")
def histories(both, tmp_path_factory):
    """What a cache may hold: passes of searches with other importances, limits, bounds, datasets and vectors."""
    home = tmp_path_factory.mktemp("histories")
    pair = [dataset("up"), dataset("down")]
    searches = {
        "importance": ([dataset("up", importance=4.0), dataset("down")], {}),
        "three": ([*pair, dataset("leap")], {"bounds": [0.0, 1.0]}),
        "probe": ([*pair, probe(0.02)], {}),
        "noise": ([*pair, vector("noise", noise())], {"search": "coordinate"}),
    }
    found = {n: run_tune(home / n, groups, **params) for n, (groups, params) in searches.items()}
    return {"both": both, **found}


@pytest.mark.parametrize("params", [{}, {"search": "coordinate"}, {"granularity": "layer"}], ids=str)
def test_passes_of_other_searches_save_work_and_change_no_byte(histories, params, tmp_path):
    groups = [dataset("up"), dataset("down")]
    alone = run_tune(tmp_path / "alone", groups, **params)
    for name in ("importance", "three", "probe", "noise"):
        context = make_context(tmp_path / name, threads=1)
        context = replace(context, earlier=(histories[name].out / "passes",))
        after = run_tune(tmp_path / name, groups, context, **params)
        for output in ("omega", "trace", "passes"):
            assert (after.out / output).read_bytes() == (alone.out / output).read_bytes(), name
        assert after.told["forward_equivalents"] < alone.told["forward_equivalents"]


def test_what_many_vectors_alone_cost_a_judge_enters_no_search_that_did_not_ask(
    histories, tmp_path, monkeypatch
):
    """Of more vectors than that, each is judged on its own rows alone; another search may know the others' too."""
    monkeypatch.setattr("dem_build.actions.tune.landscape.MOST_SINGLES", 1)
    groups = [dataset("up"), dataset("down")]
    alone = run_tune(tmp_path / "alone", groups)
    context = replace(
        make_context(tmp_path / "after", threads=1), earlier=(histories["both"].out / "passes",)
    )
    after = run_tune(tmp_path / "after", groups, context)
    for output in ("omega", "trace", "passes"):
        assert (after.out / output).read_bytes() == (alone.out / output).read_bytes()


@pytest.mark.parametrize(
    "machine", [Machine(micro_batch=1), Machine(eval_batch_size=2)], ids=["micro", "eval"]
)
def test_a_pass_that_read_its_rows_in_other_batches_is_not_taken_over(both, tmp_path, machine):
    """Its sums have other last bits, and a search that begins with them may end elsewhere."""
    groups = [dataset("up"), dataset("down")]
    context = replace(make_context(tmp_path / "alone", threads=1), machine=machine)
    alone = run_tune(tmp_path / "alone", groups, context)
    context = replace(
        context, work=tmp_path / "after", out=tmp_path / "after/out", earlier=(both.out / "passes",)
    )
    context.work.mkdir()
    after = run_tune(tmp_path / "after", groups, context)
    for output in ("omega", "trace", "passes"):
        assert (after.out / output).read_bytes() == (alone.out / output).read_bytes()


def test_another_importance_takes_over_what_was_measured_at_the_same_omega(both, tmp_path):
    other = [dataset("up", importance=4.0), dataset("down")]
    anew = run_tune(tmp_path / "anew", other)
    context = replace(make_context(tmp_path / "warm", threads=1), earlier=(both.out / "passes",))
    warm = run_tune(tmp_path / "warm", other, context)
    assert (
        warm.told["forward_equivalents"] <= anew.told["forward_equivalents"] - 4
    )  # base, each alone, equal ω
    assert warm.omega == anew.omega
    assert warm.omega["up"] > both.omega["up"]


def test_a_dataset_that_is_added_starts_from_the_search_without_it(both, tmp_path):
    three = [dataset("up"), dataset("down"), dataset("leap")]
    anew = run_tune(tmp_path / "anew", three)
    context = replace(make_context(tmp_path / "warm", threads=1), earlier=(both.out / "passes",))
    warm = run_tune(tmp_path / "warm", three, context)
    # Of the base and both vectors alone only the new dataset is asked.
    assert warm.told["forward_equivalents"] < anew.told["forward_equivalents"] - 1
    assert warm.omega == anew.omega
    again = replace(make_context(tmp_path / "again", threads=1), earlier=(warm.out / "passes",))
    assert run_tune(tmp_path / "again", three, again).told["forward_equivalents"] == 0


def test_a_dataset_that_is_taken_away_leaves_passes_of_use(tmp_path):
    three = run_tune(tmp_path / "three", [dataset("up"), dataset("down"), dataset("leap")])
    two = [dataset("up"), dataset("down")]
    anew = run_tune(tmp_path / "anew", two)
    context = replace(make_context(tmp_path / "warm", threads=1), earlier=(three.out / "passes",))
    warm = run_tune(tmp_path / "warm", two, context)
    # The base, and each alone.
    assert warm.told["forward_equivalents"] <= anew.told["forward_equivalents"] - 3
    assert warm.omega == anew.omega


def test_passes_over_other_rows_are_of_no_use(both, tmp_path):
    groups = [dataset("up"), dataset("down")]
    context = replace(make_context(tmp_path, threads=1), earlier=(both.out / "passes",))
    fewer = run_tune(tmp_path, groups, context, max_samples=8)
    assert fewer.told["earlier_passes"] == 0


def test_rows_that_a_vector_was_trained_on_judge_nothing(tmp_path):
    leaked = replace(dataset("up"), paths=dataset("up").paths | {"data/validation": skill("up").train})
    with pytest.raises(EvaluationError, match="nothing to tune on: of 48 validation rows 48 are trained on"):
        run_tune(tmp_path, [leaked, dataset("down")])


def test_a_grid_of_too_many_omega_is_refused(tmp_path):
    groups = [dataset("up"), *(vector(f"v{i}", noise(), None) for i in range(2))]
    many = [replace(g, digests=g.digests | {"delta": f"{i:064d}"}) for i, g in enumerate(groups * 4)]
    named = [replace(g, name=f"{g.name}{i}") for i, g in enumerate(many)]
    with pytest.raises(EvaluationError, match="grid of 12 ω has too many candidates"):
        run_tune(tmp_path, named, search="grid")


def reference(name: str) -> Group:
    group = dataset(name, omega=0.0)
    return replace(group, params={**group.params, "reference": True})


def test_a_mixtures_scale_is_tuned_against_the_datasets_own_vectors(tmp_path):
    """The references measure the gain, and are no part of a candidate."""
    tuned = run_tune(tmp_path, [reference("up"), reference("down"), vector("mix", skill("up").delta)])
    alone = run_tune(tmp_path / "both", [reference("up"), reference("down"), vector("mix", noise())])
    assert tuned.omega["up"] == tuned.omega["mix"] > 0.2
    assert (alone.omega["up"], alone.omega["down"]) == (0.0, 0.0)
    [scale] = [entry for entry in alone.trace["vectors"] if entry["tuned"]]
    assert (scale["low"], abs(alone.trace["score"]) < 0.05) == (
        0.0,
        True,
    )  # noise: nothing is known of its scale
    singles = {judge["rows"]: judge["single"] for judge in tuned.trace["judges"]}
    assert singles == {judge["rows"]: judge["single"] for judge in alone.trace["judges"]}
    assert all(judge["single"] < judge["base"] for judge in tuned.trace["judges"])


def test_equal_weights_of_one_vector_and_references_are_the_vector_itself(tmp_path):
    tuned = run_tune(tmp_path, [reference("up"), reference("down"), vector("mix", noise())])
    assert tuned.trace["uniform"]["omega"] == [1.0]


def test_the_best_single_vector_is_one_vector_and_its_scale(tmp_path):
    groups = [dataset("up", importance=5.0), dataset("down"), vector("noise", noise())]
    tuned = run_tune(tmp_path, groups, search="single")
    assert tuned.omega["up"] > 0.5
    assert (tuned.omega["down"], tuned.omega["noise"]) == (0.0, 0.0)
    assert not words(tuned) & {"does_not_help", "like_uniform", "starts_disagree"}
