"""Several ranks train what one process trains: the same rows, the same loss, the same vector to the last bits."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from finetune_samples import (
    PARAMS,
    base,
    context_of,
    events,
    inputs_of,
    prepare,
    progress,
    train,
)
from safetensors.torch import load_file, save_file
from tiny import make_base
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import TrainerControl
from transformers.models.llama.modeling_llama import LlamaMLP

from dem_build.actions.finetune import progress as finetune_progress
from dem_build.actions.finetune.ranks import begin, launch, rank, sharding
from dem_build.actions.finetune.ranks.dealing import Dealt, or_blank
from dem_build.actions.finetune.ranks.launch import Work, is_sharded, refuse_sharded
from dem_build.actions.finetune.ranks.rank import RankRun, train_rank
from dem_build.actions.finetune.ranks.sharding import Ranks, Sharded, length_of
from dem_build.actions.finetune.ranks.trainer import AgreedProgress, ShardedTrainer
from dem_build.checkpoint.delta import delta_writer, write_delta
from dem_build.data.arrays import RowsWriter, TokenRows
from dem_build.errors import ActionError, InterruptedBuildError, TrainingError
from dem_build.model.batches import RowOrder, collate
from dem_build.model.load import load_model

__all__ = ["base"]  # a fixture, used by its name

PLAIN = {"max_steps": 4, "num_train_epochs": None, "bf16": False}
UNCLIPPED = {**PLAIN, "max_grad_norm": 1e9}
LONG = 18
"""Tokens of the longest row that is not long."""
BOUND = 1e-6
"""Most that an element may differ where a sum has another order. Elements move by 2e-3; weights of norms are near 1,
which float32 rounds at 1.2e-7, and three such steps were seen (3.6e-7) with another processor's matrix products."""


@contextlib.contextmanager
def alone():
    """A process group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield Ranks(0, 1)
    finally:
        dist.destroy_process_group()


def work_of(base, folder, context=None, **params):
    context = context or context_of(folder)
    work = Work(
        folder / "ranks", inputs_of(base), PARAMS | params, context.machine, 1, folder, context.out, None
    )
    work.write()
    return Work.read(work.folder)


@pytest.fixture
def forked(monkeypatch):
    """Copies of this process as ranks, in place of torchrun's: they have loaded all that a rank loads in seconds."""

    def run(work, context, ranks):
        if context.stopping():
            work.stop.touch()
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}
        processes = []
        for number in range(ranks):
            told |= {"RANK": str(number), "LOCAL_RANK": str(number), "GLOO_SOCKET_IFNAME": "lo"}
            processes.append(
                multiprocessing.get_context("fork").Process(target=_be, args=(work.folder, dict(told)))
            )
            processes[-1].start()
        for process in processes:
            process.join(120)
            process.kill()

    monkeypatch.setattr(launch, "_run", run)


def _be(folder, told):
    os.environ.update(told)
    rank.main(folder)


# --- rows ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 8])
@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_ranks_have_all_rows_of_each_step_and_the_same_number_of_turns(ranks, micro_batch):
    order = RowOrder(np.arange(22, 0, -1), 8, seed=3)  # 22 rows by 8: the third step of an epoch has 6
    dealt = [Dealt(order, 8, micro_batch, rank, ranks) for rank in range(ranks)]
    epochs = [list(d) for d in dealt]
    assert {len(epoch) for epoch in epochs} == {len(d) for d in dealt}
    for step in range(3):
        turns = [d.of_step(step) for d in dealt]
        assert len({len(of) for of in turns}) == 1
        # Dealt in order: read turn by turn, the rows are those of one process.
        together = [row for turn in zip(*turns, strict=True) for batch in turn for row in batch]
        assert together == order.rows(step).tolist()


def test_who_has_no_rows_left_takes_part_with_no_tokens():
    blank = or_blank(lambda rows: collate([row[:2] for row in rows]))([])
    assert blank["input_ids"].shape == (1, 2)
    assert (blank["labels"] == -100).all()


# --- files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "int8"])
def test_ranges_of_several_writers_are_the_bytes_of_one(tmp_path, dtype):
    shapes = {"a": (7, 130), "b": (5,), "c": (1, 64)}
    rng = np.random.default_rng(0)
    values = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    write_delta(tmp_path / "one", "b" * 64, shapes, values.items(), dtype)
    parts = [delta_writer(tmp_path / "several", "b" * 64, shapes, dtype) for _ in range(3)]
    parts[0].reserve()
    for place, part in enumerate(parts):
        part.shared = True
        with part:
            for name, tensor in values.items():
                rows = -(-len(tensor) // 3)  # the last rank has fewer, or none
                mine = tensor[place * rows : (place + 1) * rows].reshape(-1)
                if mine.size:
                    part.write_floats(name, place * rows * (tensor.size // len(tensor)), mine)
    assert (tmp_path / "several").read_bytes() == (tmp_path / "one").read_bytes()
    assert sum(part.written for part in parts) == parts[0].nbytes


# --- trainings ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(base, tmp_path_factory):
    """What one process trains, four steps of two micro-batches but for the last, which has one."""
    return train(base, tmp_path_factory.mktemp("plain"), **UNCLIPPED)


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 3)])
def test_what_some_ranks_left_goes_on_over_others_to_the_vector_of_one_process(
    base, plain, tmp_path, before, after
):
    """The whole way: a sharded step, a checkpoint, another number of ranks, the vector written by ranges."""
    provenance, delta = plain
    first, second = tmp_path / "first", tmp_path / "second"
    context = context_of(first, processes_per_action=before, stopping=lambda: True)
    with pytest.raises(InterruptedBuildError, match="after step 1, which is saved"):
        train(base, first, context, **UNCLIPPED)
    assert is_sharded(first / "checkpoints" / "checkpoint-1") == (before > 1)
    shutil.copytree(first / "checkpoints", second / "checkpoints")
    told, vector = train(base, second, context_of(second, processes_per_action=after), **UNCLIPPED)
    assert (told["ranks"], told["resumed_from"], told["micro_batch"], told["steps"]) == (after, 1, 2, 4)
    if after < 3:  # two micro-batches come to the same sum in either order, and to halves and back exactly
        assert vector.read_bytes() == delta.read_bytes()
    assert_near(vector, delta)
    assert [e[1] for e in told["curve"]] == pytest.approx([e[1] for e in provenance["curve"]], rel=1e-6)
    assert told["tokens"] == provenance["tokens"]
    assert told["sharding"]["reduction"] == "float32"
    assert [e["done"] for e in progress(second)] == [2, 3, 4]
    json.dumps(told, allow_nan=False)


def test_more_ranks_than_left_a_checkpoint_share_its_rows_among_all(base, tmp_path):
    """By the micro-batch of the one process that left it, half of four ranks would have no row in any step."""
    context = context_of(tmp_path, stopping=lambda: True)
    with pytest.raises(InterruptedBuildError, match="after step 1, which is saved"):
        train(base, tmp_path, context, **UNCLIPPED)
    rows, params = TokenRows.open(base / "train"), PARAMS | UNCLIPPED
    runs = [RankRun(inputs_of(base), params, context, rows, Ranks(rank, 4)) for rank in range(4)]
    assert [run.resumed_from for run in runs] == [1] * 4
    assert [[len(batch) for batch in run.dealt.of_step(1)] for run in runs] == [[1]] * 4
    assert "micro-batch 2 → 1, ranks 1 → 4" in events(tmp_path)[-1]["message"]


def assert_near(vector, expected):
    mine, theirs = load_file(vector), load_file(expected)
    assert mine.keys() == theirs.keys()
    assert all((mine[name] - theirs[name]).abs().max() < BOUND for name in theirs)


@pytest.mark.usefixtures("forked")
def test_a_step_that_clips_is_the_same_bits_for_one_rank_and_two_and_one_process_within_a_rounding(
    base, tmp_path
):
    plain, delta = train(base, tmp_path / "plain", **PLAIN)
    with alone() as ranks:
        provenance = train_rank(work_of(base, tmp_path / "rank", **PLAIN), ranks)
    assert_near(tmp_path / "rank" / "out" / "delta", delta)
    assert [e[3] for e in provenance["curve"]] == pytest.approx([e[3] for e in plain["curve"]], rel=1e-5)
    two, vector = train(base, tmp_path / "two", context_of(tmp_path / "two", processes_per_action=2), **PLAIN)
    assert [e[3] for e in two["curve"]] == [e[3] for e in provenance["curve"]]
    assert vector.read_bytes() == (tmp_path / "rank" / "out" / "delta").read_bytes()


def test_threads_reach_no_bit_of_a_norm():
    """Ranks share a machine's threads: two of them have half as many each as one has."""
    before, draw = torch.get_num_threads(), torch.Generator().manual_seed(0)
    squares = [torch.rand(100_000, dtype=torch.float64, generator=draw) ** 6 for _ in range(20)]
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append([length_of(of) for of in squares])
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]
    assert found[0] == pytest.approx([math.sqrt(math.fsum(of.tolist())) for of in squares], rel=1e-14)


def test_in_bfloat16_a_sharded_step_is_nearer_to_one_process_than_another_micro_batch_is(base, tmp_path):
    """A last bit may be what a rounding to bfloat16 depends on, of one process as well."""
    bf16 = PLAIN | {"bf16": True}
    with alone() as ranks:
        of_ranks = train_rank(work_of(base, tmp_path / "rank", **bf16), ranks)
    plain, one = train(base, tmp_path / "plain", **bf16)
    _, other = train(base, tmp_path / "other", context_of(tmp_path / "other", micro_batch=4), **bf16)
    vectors = [load_file(path) for path in (tmp_path / "rank" / "out" / "delta", one, other)]
    mine, theirs, cut = (torch.cat([of[name].flatten() for name in sorted(of)]) for of in vectors)
    assert (mine - theirs).norm() < 0.1 * (cut - theirs).norm()
    assert [e[1] for e in of_ranks["curve"]] == pytest.approx([e[1] for e in plain["curve"]], rel=1e-6)


def test_a_base_that_leaves_out_layers_at_random_is_refused(tiny_base, tmp_path):
    base = prepare(tmp_path / "base", tiny_base, layerdrop=0.1)
    with (
        pytest.raises(TrainingError, match=r"a base of layerdrop = 0\.1 cannot be trained"),
        alone() as ranks,
    ):
        train_rank(work_of(base, tmp_path / "work", **PLAIN), ranks)


class Passed(torch.autograd.Function):
    """A node of the graph that changes nothing."""

    @staticmethod
    def forward(_context, values):
        return values.view_as(values)

    @staticmethod
    def backward(_context, gradient):
        return gradient


def gradients_in_bfloat16(base, prepared):
    """The gradients of one pass, of a model that was prepared somehow, by name."""
    cpu = torch.device("cpu")
    model = load_model(base / "weights", base / "config", dtype=torch.float32, device=cpu).train()
    prepared(model)
    ids = torch.randint(3, 200, (2, 17), generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(ids).logits[:, :-1].float()
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
    return {n: getattr(p.grad, "to_local", lambda p=p: p.grad)() for n, p in model.named_parameters()}


def test_what_bfloat16_differs_by_is_in_which_order_a_residuals_gradient_is_added(tmp_path):
    """It has three parts, two of them of a norm: what `fully_shard` puts before that adds those two first."""
    base = prepare(tmp_path / "base", make_base(tmp_path / "made", tied=False, dtype="float32"))

    def node_before_first_norm(model):
        for layer in model.model.layers:
            layer.input_layernorm.register_forward_pre_hook(
                lambda _, given: (Passed.apply(given[0]), *given[1:])
            )

    with alone() as ranks:
        sharded = gradients_in_bfloat16(
            base, lambda model: Sharded(model, torch.device("cpu"), ranks, bf16=True)
        )
    reordered, plain = (gradients_in_bfloat16(base, how) for how in (node_before_first_norm, lambda _: None))
    assert all(torch.equal(sharded[name], reordered[name]) for name in plain)
    assert not all(torch.equal(sharded[name], plain[name]) for name in plain)


@pytest.fixture
def choosy(monkeypatch):
    """Let a matrix of the first layer be for long rows alone, one of the second for none; how long rows were."""
    widths, made, number = [], LlamaMLP.__init__, itertools.count()

    def make(mlp, config):
        made(mlp, config)
        mlp.layer = next(number) % config.num_hidden_layers

    def forward(mlp, x):
        widths.extend([x.shape[1]] * (mlp.layer == 0))
        chosen = mlp.layer == 0 and x.shape[1] > LONG
        return mlp.down_proj(mlp.act_fn(mlp.gate_proj(x)) * (mlp.up_proj(x) if chosen else 1.0))

    monkeypatch.setattr(LlamaMLP, "__init__", make)
    monkeypatch.setattr(LlamaMLP, "forward", forward)
    return widths


@pytest.fixture
def uneven(tiny_base, tmp_path):
    """A base and rows of which the second step has no long ones, and each other step has some for one of two ranks."""
    base = prepare(tmp_path / "base", tiny_base)
    order, rng = RowOrder(np.ones(14), PARAMS["global_batch_size"], PARAMS["seed"]), np.random.default_rng(0)
    lengths = {int(row): 23 for step in (0, 2, 3) for row in order.rows(step)[:2]}
    with RowsWriter(tmp_path / "spool") as writer:
        for row in range(14):
            ids = rng.integers(3, 200, lengths.get(row, 8)).astype(np.int32)
            writer.append(ids, ids, row.to_bytes(16, "big"))
        writer.save(base / "train")
    return base


@pytest.mark.usefixtures("forked")
def test_what_the_rows_of_one_rank_or_of_none_reach_is_trained_as_by_one_process(
    uneven, tmp_path, choosy, monkeypatch
):
    """As of an expert that no token is sent to: no step of it, no decay, and no rank that waits for another's part."""
    params = {**UNCLIPPED, "weight_decay": 0.1}
    _, delta = train(uneven, tmp_path / "plain", **params)
    reached = [width > LONG for width in choosy]
    assert reached == [True, False, False, False, True, False, True], choosy
    first, second = tmp_path / "first", tmp_path / "second"

    class Stopped(AgreedProgress):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 2:  # by when a step was left out
                self._context.stopping = lambda: True
            super().on_step_end(args, state, control, **kwargs)

    monkeypatch.setattr(RankRun, "progress_type", Stopped)
    with pytest.raises(InterruptedBuildError, match="after step 2, which is saved"):
        train(uneven, first, context_of(first, processes_per_action=2), **params)
    shutil.copytree(first / "checkpoints", second / "checkpoints")
    _, vector = train(uneven, second, context_of(second, processes_per_action=2), **params)
    assert vector.read_bytes() == delta.read_bytes()
    vectors = load_file(vector)
    assert vectors["model.layers.0.mlp.up_proj.weight"].any()
    assert not vectors["model.layers.1.mlp.up_proj.weight"].any()


def test_a_batch_that_nothing_divides_is_passed_in_micro_batches_all_the_same(base, tmp_path):
    params = PLAIN | {"global_batch_size": 5, "max_steps": 3}  # of 14 rows: 5, 5 and 4
    _, delta = train(base, tmp_path / "plain", **params)
    with alone() as ranks:
        told = train_rank(work_of(base, tmp_path / "rank", **params), ranks)
    assert (told["micro_batch"], told["gradient_accumulation_steps"]) == (2, 3)
    assert_near(tmp_path / "rank" / "out" / "delta", delta)


def test_packs_are_those_of_one_process(base, tmp_path):
    params = UNCLIPPED | {"packing": True, "max_length": 48, "max_steps": 2}
    _, delta = train(base, tmp_path / "plain", **params)
    with alone() as ranks:
        train_rank(work_of(base, tmp_path / "rank", **params), ranks)
    assert_near(tmp_path / "rank" / "out" / "delta", delta)


def test_the_next_checkpoint_is_due_by_when_the_last_one_was_complete(monkeypatch, tmp_path):
    """One that takes longer to write than the time between two would else be written at each step."""
    now = [0.0]

    def slow(_):
        now[0] += 500

    monkeypatch.setattr(finetune_progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(finetune_progress, "keep", slow)
    context, control = context_of(tmp_path, checkpoint_seconds=300), TrainerControl()
    of = AgreedProgress(context, RowOrder(np.ones(4), 2, seed=1), np.ones(4, np.int64), 0.0, 2)
    of.sharded = SimpleNamespace(ranks=SimpleNamespace(first=True, gathered=lambda said: [said] * 2))
    args = SimpleNamespace(output_dir=tmp_path, device=torch.device("cpu"), per_device_train_batch_size=1)
    of.on_train_begin(args, None, control)
    saved = []
    for step in range(1, 5):
        now[0] += 200
        (tmp_path / f"checkpoint-{step}").mkdir()
        of.on_step_end(args, state := SimpleNamespace(global_step=step), control)
        if control.should_save:
            of.on_save(args, state, control)
            saved.append(step)
    assert saved == [2, 4]


def test_a_model_that_is_not_sharded_is_found_in_the_first_step(monkeypatch, base, tmp_path):
    """As accelerate's plugin leaves it on a CPU: whole on every rank, which no loss shows."""
    monkeypatch.setattr(sharding, "fully_shard", lambda *_, **__: None)
    with pytest.raises(TrainingError, match="is not sharded in float32"), alone() as ranks:
        train_rank(work_of(base, tmp_path, **PLAIN), ranks)


def test_gradients_that_are_added_up_in_bfloat16_are_found_in_the_first_step(monkeypatch, base, tmp_path):
    def narrow(**told):
        return MixedPrecisionPolicy(**told | {"reduce_dtype": torch.bfloat16})

    monkeypatch.setattr(sharding, "MixedPrecisionPolicy", narrow)
    told = pytest.raises(TrainingError, match=r"not added up in float32 over the ranks: torch\.bfloat16")
    with told, alone() as ranks:
        train_rank(work_of(base, tmp_path, **PLAIN), ranks)


@pytest.mark.usefixtures("forked")
def test_a_loss_that_is_no_number_is_told_with_its_rank(tmp_path):
    base = prepare(tmp_path / "base", make_base(tmp_path / "made", tied=False, dtype="float32"))
    rows = TokenRows.open(base / "train")
    first, second, third, _ = RowOrder(rows.lengths, 4, PARAMS["seed"]).rows(
        0
    )  # of which the last two are of rank 1
    odd = next(iter(set(rows[third][0][:-1].tolist()) - set(rows[first][0]) - set(rows[second][0])))
    weights = load_file(file := base / "weights" / "model.safetensors")
    weights["model.embed_tokens.weight"][odd] = torch.nan
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(TrainingError, match="the loss is nan at optimizer step 1 on rank 1"):
        train(base, tmp_path / "work", context_of(tmp_path / "work", processes_per_action=2), **PLAIN)


# --- what goes wrong ----------------------------------------------------------------------------------------------


def ended(monkeypatch, *attempts):
    """Let each attempt end as said: rank → how; a number is the exit status that torchrun saw."""
    due, machines = iter(attempts), []

    def run(work, *_):
        machines.append(work.machine)
        for number, how in next(due).items():
            if isinstance(how, int):
                (work.folder / launch.AGENT).write_text(json.dumps([[number, how]]))
            else:
                work.end(number, how)

    monkeypatch.setattr(launch, "_run", run)
    return machines


def train_on(tmp_path, ranks=2, **params):
    context = context_of(tmp_path, micro_batch=4)
    params = PARAMS | {"global_batch_size": 8} | params
    return launch.train_on_ranks(inputs_of(tmp_path), params, context, ranks)


def test_where_memory_ran_out_all_ranks_begin_again_with_half_the_micro_batch(monkeypatch, tmp_path):
    full, done = {1: {"out_of_memory": "80.0 GB in use at most"}}, {0: {"provenance": {"warnings": ["one"]}}}
    machines = ended(monkeypatch, full, full, done)
    told = train_on(tmp_path)
    assert [machine.micro_batch for machine in machines] == [4, 2, 1]
    assert told["restarts"] == 2
    assert told["warnings"][0] == (
        "out of memory with a micro-batch of 4, on rank 1: 80.0 GB in use at most; going on with 2"
    )
    assert told["warnings"][2] == "one"
    assert [e["event"] for e in events(tmp_path)] == ["warning", "warning"]


def test_half_of_what_memory_ran_out_with_is_that_of_the_ranks_and_not_of_the_machine_file(
    monkeypatch, tmp_path
):
    """A checkpoint's is the smaller where memory ran out before it: the same would else be tried again and again."""
    full, done = {0: {"out_of_memory": "x", "micro_batch": 2}}, {0: {"provenance": {"warnings": []}}}
    machines = ended(monkeypatch, full, done)
    assert "micro-batch of 2, on rank 0: x; going on with 1" in train_on(tmp_path)["warnings"][0]
    assert [machine.micro_batch for machine in machines] == [4, 1]


def test_a_rank_says_with_which_micro_batch_memory_ran_out(monkeypatch, base, tmp_path):
    def full(*_, **__):
        raise MemoryError

    monkeypatch.setattr(ShardedTrainer, "compute_loss", full)
    with pytest.raises(Exception, match="2") as raised, alone() as ranks:
        train_rank(work_of(base, tmp_path, **PLAIN), ranks)
    assert rank._failure(raised.value).keys() == {"out_of_memory", "micro_batch"}
    assert rank._failure(raised.value)["micro_batch"] == 2


FAKE = """
import os, signal, time
if os.environ["RANK"] == "0":
    for process in (os.getppid(), os.getpid()):  # as a scheduler does: the driver says what follows
        os.kill(process, signal.SIGTERM)
time.sleep(0.5)
if os.environ["RANK"] == "1":
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(0.5)  # what a rank needs to see that it is alone
raise SystemExit(1)
"""


def test_torchrun_starts_ranks_that_leave_a_schedulers_signal_to_the_driver_and_tells_which_was_killed(
    monkeypatch, tmp_path
):
    (tmp_path / "fake_rank.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(launch, "RANK", "fake_rank")
    with pytest.raises(ActionError, match=r"rank 1 of 2 was killed by signal 9 \(SIGKILL\)"):
        train_on(tmp_path)


@pytest.mark.parametrize(("visible", "seen"), [(None, "1"), ("4, 6", "6"), ("", ""), ("-1", "-1")])
def test_a_rank_sees_its_gpu_alone_before_anything_is_loaded_that_looks(tmp_path, visible, seen):
    """bitsandbytes asks for GPUs when it is imported: after that another variable would change nothing."""
    (tmp_path / "torch.py").write_text("import os\nraise SystemExit(os.environ['CUDA_VISIBLE_DEVICES'])")
    told = {begin.PARENT: str(os.getpid()), "LOCAL_RANK": "1", "PYTHONPATH": str(tmp_path)}
    environment = {n: v for n, v in os.environ.items() if n != "CUDA_VISIBLE_DEVICES"} | told
    environment |= {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    command = [sys.executable, "-m", launch.RANK, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stderr == f"{seen}\n"


def test_who_is_started_by_a_process_that_died_meanwhile_ends_at_once():
    """Linux tells of a parent's death who asked before it: an agent would else train on for nobody."""
    program = "from dem_build.parent import die_with_parent as d; d({}); print('lives')"
    for parent, said in ((os.getpid(), "lives\n"), (1, "")):
        command = [sys.executable, "-c", program.format(parent)]
        assert subprocess.run(command, capture_output=True, text=True, check=False).stdout == said


@pytest.mark.parametrize(
    ("how", "told"),
    [
        (
            {0: {"what": "RuntimeError: connection closed by peer"}, 1: -9},
            "rank 1 of 2 was killed by signal 9",
        ),
        ({1: {"what": "ValueError: odd"}}, "rank 1 of 2 failed: ValueError: odd"),
        ({}, "the 2 ranks did not start"),
        (
            {0: {"error": "DataError", "what": "a row is long", "where": None, "hint": "h"}},
            r"a row is long \(h\)",
        ),
    ],
)
def test_the_first_cause_is_told(monkeypatch, tmp_path, how, told):
    ended(monkeypatch, how)
    with pytest.raises(ActionError, match=told):
        train_on(tmp_path)


def test_one_row_that_does_not_fit_is_told_with_its_rank(monkeypatch, tmp_path):
    ended(monkeypatch, *[{1: {"out_of_memory": "80.0 GB in use at most"}}] * 3)
    with pytest.raises(TrainingError, match=r"one row does not fit in memory, on rank 1: 80.0 GB"):
        train_on(tmp_path)


@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({"method": "lora"}, 'method = "lora"'),
        ({"optim": "adafactor"}, 'optim = "adafactor"'),
        ({"optim": "adamw_8bit"}, 'optim = "adamw_8bit"'),
        ({"eval_steps": 10}, "eval_steps = 10"),
    ],
)
def test_what_several_ranks_do_not_train_is_refused_by_name(params, named):
    refuse_sharded(PARAMS | params, 1)
    with pytest.raises(TrainingError, match=f"{named} is not trained by several processes, and here are 4"):
        refuse_sharded(PARAMS | params, 4)
