"""One rank of a training: a process that torchrun started (`begin`), with a folder that says what to train.

The folder lies in the action's work folder, and all that the ranks and their launcher tell each other lies there, see
`launch`.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from dem_build.actions.finetune.packing import Packs, refuse_mixing
from dem_build.actions.finetune.ranks.dealing import Dealt
from dem_build.actions.finetune.ranks.launch import Work
from dem_build.actions.finetune.ranks.ranges import refuse_regrouped, write_rows
from dem_build.actions.finetune.ranks.sharding import Ranks, Sharded, refuse_skipping
from dem_build.actions.finetune.ranks.trainer import AgreedProgress, ShardedTrainer
from dem_build.actions.finetune.run import TrainingRun, provenance_of
from dem_build.actions.finetune.trainer import arguments
from dem_build.data.arrays import TokenRows
from dem_build.errors import DemError, InterruptedBuildError
from dem_build.model.context_length import refuse_longer
from dem_build.model.environment import (
    device,
    is_out_of_memory,
    memory_numbers,
    peak_memory,
    reset_peak_memory,
)
from dem_build.step import Context

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dem_build.actions.finetune.trainer import TokenTrainer
    from dem_build.digest import JSON
    from dem_build.step import Inputs, Provenance

TORCHRUN = (
    "RANK",
    "LOCAL_RANK",
    "GROUP_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
)
EXCHANGE = timedelta(hours=2)
"""The longest wait for another rank: the first one hashes a checkpoint of hundreds of gigabytes meanwhile."""
LOOK_SECONDS = 0.5
GRACE_SECONDS = 3.0
DRIVER = Path("/proc/driver/nvidia/version")


class RankRun(TrainingRun):
    """What one rank does of a training."""

    progress_type = AgreedProgress

    def __init__(
        self,
        inputs: Inputs,
        params: Mapping[str, JSON],
        context: Context,
        rows: TokenRows,
        ranks: Ranks,
    ) -> None:
        self.rank, self.ranks = ranks, ranks.count
        super().__init__(inputs, params, context, rows)
        size = params["global_batch_size"]
        self.dealt = Dealt(self.order, size, self.micro_batch, ranks.rank, ranks.count)
        self.sharded: Sharded | None = None

    def _first_micro_batch(self) -> int:
        """Any number goes: a rank without rows takes part with a blank one."""
        size: int = self.params["global_batch_size"]
        return min(self._most_rows(), -(-size // self.ranks))

    def _trainer(self) -> TokenTrainer:
        model, shapes = self._model(torch.device("cpu"))
        refuse_regrouped(model, shapes)
        refuse_skipping(model)
        self.sharded = Sharded(model, device(), self.rank, bf16=bool(self.params["bf16"]))
        if isinstance(self.sequences, Packs):
            # By all ranks together, on the device: an attention kernel may know no other.
            refuse_mixing(model)
            self.sharded.reshard()
        assert isinstance(self.progress, AgreedProgress)
        self.progress.sharded = self.sharded
        told = arguments(self.params, self.context.machine, self.micro_batch, self.context.work)
        callbacks = [self.progress, *([self.trackers] if self.rank.first else [])]
        return ShardedTrainer(self.sharded, told, self.sequences, self.dealt, callbacks)

    def result(self) -> Provenance:
        """Train, and write this rank's rows of the vector; what is worth knowing of it."""
        try:
            model, history = self._train()
        finally:
            self.trackers.close()
        assert self.sharded is not None
        dtype = self.params["vector_dtype"]
        weights, path = self.inputs.paths["base/weights"], self.context.out / "delta"
        norms = write_rows(self.sharded, weights, path, self.inputs.digests["base/weights"], dtype)
        peaks = [int(peak) for [peak] in self.rank.gathered([float(peak_memory(model.device))])]
        return (
            provenance_of(self, model, history, norms, dtype)
            | self.sharded.provenance()
            | {"gradient_accumulation_steps": self.dealt.rounds, "peak_memory": max(peaks)}
            | _links()
        )


class _FullError(Exception):
    """Memory ran out in a pass, with the micro-batch of it as its argument: that of a checkpoint may be the smaller."""


class _Silent(Context):
    """The surroundings of a rank that has nothing to say: the first one tells it already."""

    def _emit(self, event: str, **fields: JSON) -> None:
        """Nothing."""


def train_rank(work: Work, ranks: Ranks) -> Provenance:
    """Train as one of several ranks; the process group is there.

    Raises:
        DemError: As of a training by one process.
    """
    torch.set_num_threads(work.threads)
    reset_peak_memory(device())
    surroundings = Context if ranks.first else _Silent
    context = surroundings(
        work=work.work,
        out=work.out,
        machine=work.machine,
        threads=work.threads,
        stopping=work.stop.exists if ranks.first else lambda: False,
        runs=work.runs if ranks.first else None,
    )
    rows = TokenRows.open(work.inputs.paths["data/train"])
    refuse_longer(rows, work.inputs.paths["base/config"])
    run = RankRun(work.inputs, work.params, context, rows, ranks)
    try:
        return run.result()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise _FullError(run.micro_batch) from error


def main(folder: Path) -> None:
    """Be the rank that torchrun's variables say, and leave a file of how it ended."""
    work = Work.read(folder)
    ranks = Ranks(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    work.begin(ranks.rank)
    threading.Thread(target=_watch, args=(work, ranks), daemon=True).start()
    try:
        _join()
        # Trainer and accelerate are not to know: they would wrap the model, and gather what is whole already.
        for name in TORCHRUN:
            os.environ.pop(name, None)
        work.end(ranks.rank, {"provenance": train_rank(work, ranks)})
        ranks.wait()
    except InterruptedBuildError as stop:
        work.end(ranks.rank, {"stopped": stop.what})
    except BaseException as error:  # noqa: BLE001  whatever it is, the launcher tells it
        traceback.print_exc()
        work.end(ranks.rank, _failure(error))
        sys.stdout.flush()
        os._exit(1)  # at once: others wait for this rank, and it may wait for them
    dist.destroy_process_group()


def _join() -> None:
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=EXCHANGE)


def _failure(error: BaseException) -> dict[str, JSON]:
    if isinstance(error, _FullError):
        return {"out_of_memory": memory_numbers(), "micro_batch": error.args[0]}
    if is_out_of_memory(error):
        return {"out_of_memory": memory_numbers()}
    if isinstance(error, DemError):
        return {"error": type(error).__name__, "what": error.what, "where": error.where, "hint": error.hint}
    last = str(error).strip().splitlines()[:1]
    return {"what": f"{type(error).__name__}: {last[0] if last else 'no message'}"}


def _watch(work: Work, ranks: Ranks) -> None:
    """End this rank soon after another one failed: in the middle of an exchange it would wait for hours."""
    parent = os.getppid()
    while True:
        time.sleep(LOOK_SECONDS)
        if os.getppid() != parent:
            os._exit(1)
        if any(work.failed(rank) for rank in range(ranks.count) if rank != ranks.rank):
            time.sleep(GRACE_SECONDS)  # for what this one has to say of it
            os._exit(1)


def _links() -> dict[str, Any]:
    """What connects GPUs; nothing on a CPU."""
    if not torch.cuda.is_available():
        return {}
    of: Any = torch.cuda.nccl
    driver = DRIVER.read_text(encoding="utf-8").splitlines()[0] if DRIVER.exists() else None
    return {"nccl": ".".join(map(str, of.version())), "driver": driver}
