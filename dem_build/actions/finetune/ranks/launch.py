"""Starts the ranks of a training, follows them, and tells what became of them.

A folder of the action's work folder is all that they have in common:

    work.json       what is to be trained: inputs, parameters, machine
    stop            there once the user wants it to stop; the first rank looks at each step
    pid-R           the process of rank R, by which the others see that it lives
    ended-R.json    how rank R ended: its provenance, that it was stopped, or what failed
    agent.json      the ranks that torchrun saw fail, each with its exit status: of one that was killed, all there is
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dem_build import errors
from dem_build.errors import ActionError, DemError, InterruptedBuildError, TrainingError
from dem_build.hardware import gpus
from dem_build.json_text import parse_json
from dem_build.machine import Machine
from dem_build.step import Inputs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dem_build.digest import JSON
    from dem_build.step import Context, Provenance

PACKAGE = __package__ or "dem_build.actions.finetune.ranks"
RANK = f"{PACKAGE}.begin"
AGENT = "agent.json"
WORK = "work.json"
SHARDED = "optimizer.safetensors"
LOOK_SECONDS = 0.1
LEFT_TO_DRIVER = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""A scheduler sends these to every process of a job; the driver says what follows, by the file `stop`."""
SINGLE = "set gpus_per_action = 1 and processes_per_action = 1 in the machine file"
MEMORY_HINT = (
    "set gradient_checkpointing = true in the machine file, train over more ranks, or lower max_length"
)


@dataclass(frozen=True)
class Work:
    """What the ranks of a training are given.

    Attributes:
        inputs: Files and digests.
        params: Of the kind `finetune`.
        threads: CPU threads of a rank.
        out: Where outputs are written.
        runs: Where trackers write; None for nowhere.
    """

    folder: Path
    inputs: Inputs
    params: Mapping[str, JSON]
    machine: Machine
    threads: int
    work: Path
    out: Path
    runs: Path | None

    @property
    def stop(self) -> Path:
        """The file by which it is stopped."""
        return self.folder / "stop"

    def write(self) -> None:
        """Write it into a new folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        document = {
            "paths": {tag: str(path) for tag, path in self.inputs.paths.items()},
            "digests": dict(self.inputs.digests),
            "params": dict(self.params),
            "machine": self.machine.model_dump(mode="json"),
            "threads": self.threads,
            "work": str(self.work),
            "out": str(self.out),
            "runs": None if self.runs is None else str(self.runs),
        }
        (self.folder / WORK).write_text(json.dumps(document), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Work:
        """What `write` wrote."""
        document = parse_json((folder / WORK).read_text(encoding="utf-8"))
        paths = {tag: Path(path) for tag, path in document["paths"].items()}
        return cls(
            folder=folder,
            inputs=Inputs(paths=paths, digests=document["digests"]),
            params=document["params"],
            machine=Machine.model_validate(document["machine"]),
            threads=document["threads"],
            work=Path(document["work"]),
            out=Path(document["out"]),
            runs=Path(document["runs"]) if document["runs"] else None,
        )

    def begin(self, rank: int) -> None:
        """Leave the number of a rank's process, which is this one."""
        (self.folder / f"pid-{rank}").write_text(str(os.getpid()), encoding="ascii")

    def end(self, rank: int, how: Mapping[str, JSON]) -> None:
        """Leave how a rank ended."""
        partial = self.folder / f".ended-{rank}.json"
        partial.write_text(json.dumps({"time": time.time(), **how}), encoding="utf-8")
        partial.replace(self.folder / f"ended-{rank}.json")

    def ended(self, rank: int) -> dict[str, Any]:
        """How a rank ended; empty where it left nothing."""
        try:
            found: dict[str, Any] = parse_json(
                (self.folder / f"ended-{rank}.json").read_text(encoding="utf-8")
            )
        except FileNotFoundError:
            return {}
        return found

    def failed(self, rank: int) -> bool:
        """Whether a rank ended, and not by what it was to do."""
        gone = (found := self._process(rank)) is not None and not _lives(found)
        how = self.ended(rank)  # after that look: who ends leaves it before
        return not how.keys() & {"provenance", "stopped"} if how else gone

    def _process(self, rank: int) -> int | None:
        try:
            return int((self.folder / f"pid-{rank}").read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError):
            return None


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def ranks_of(machine: Machine) -> int:
    """How many processes a training has here."""
    return machine.ranks(gpu=bool(gpus()))


def is_sharded(checkpoint: Path | None) -> bool:
    """Whether several ranks wrote a checkpoint, or one that went on from such."""
    return checkpoint is not None and (checkpoint / SHARDED).exists()


def train_on_ranks(inputs: Inputs, params: Mapping[str, JSON], context: Context, ranks: int) -> Provenance:
    """Train by several ranks, and write the output `delta`; with half the micro-batch where memory ran out.

    Raises:
        DemError: What the first rank to fail met; or a rank was killed.
        InterruptedBuildError: The user asked to stop; a checkpoint was saved.
    """
    refuse_sharded(params, ranks)
    if 0 < len(gpus()) < ranks:
        what = f"gpus_per_action = {ranks}, and {len(gpus())} are here"
        raise TrainingError(what, hint="ask for as many where it runs, or lower gpus_per_action")
    machine, warnings, restarts = context.machine, list[str](), 0
    while True:
        work = Work(
            context.work / "ranks",
            inputs,
            params,
            machine,
            max(context.threads // ranks, 1),
            context.work,
            context.out,
            context.runs,
        )
        work.write()
        _run(work, context, ranks)
        first = work.ended(0)
        if "provenance" in first:
            told: Provenance = first["provenance"]
            return told | {"warnings": warnings + told["warnings"], "restarts": restarts}
        out_of_memory, tried = _judge(work, ranks)
        before = tried or min(machine.micro_batch, -(-params["global_batch_size"] // ranks))
        if before == 1:
            raise TrainingError(f"one row does not fit in memory, {out_of_memory}", hint=MEMORY_HINT)
        machine = machine.model_copy(update={"micro_batch": before // 2})
        restarts += 1
        warnings.append(
            f"out of memory with a micro-batch of {before}, {out_of_memory}; going on with {before // 2}"
        )
        context.warn(warnings[-1])


def trained_over_ranks(params: Mapping[str, JSON]) -> bool:
    """Whether a training may have several ranks."""
    return not _refused(params)


def refuse_sharded(params: Mapping[str, JSON], ranks: int) -> None:
    """Refuse what is not trained over several ranks.

    Raises:
        TrainingError: It is such a training; the message names the key.
    """
    if ranks > 1 and (named := _refused(params)):
        hint = f"{SINGLE}, or train all weights with adamw_torch_fused, uncompiled and without validation"
        raise TrainingError(
            f"{named[0]} is not trained by several processes, and here are {ranks}", hint=hint
        )


def _refused(params: Mapping[str, JSON]) -> list[str]:
    """The keys of a training that only one process knows, each with its value."""
    refused = {
        "method": params.get("method") != "full",
        "optim": params.get("optim") != "adamw_torch_fused",
        "eval_steps": bool(params.get("eval_steps")),
        "torch_compile": bool(params.get("torch_compile")),
    }
    return [f"{key} = {json.dumps(params.get(key))}" for key, there in refused.items() if there]


def _run(work: Work, context: Context, ranks: int) -> None:
    """Run the ranks to their end, which is the agent's."""
    # What is blocked stays so in the agent and in its ranks: torchrun would end all of them at once.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, LEFT_TO_DRIVER)
    try:
        agent = subprocess.Popen(  # noqa: S603  our own interpreter and module
            [
                sys.executable,
                "-P",
                "-m",
                f"{PACKAGE}.agent",
                str(os.getpid()),
                str(work.folder),
                str(ranks),
                RANK,
            ],
            stdin=subprocess.DEVNULL,
            env=_environment(work.threads),
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        while agent.poll() is None:
            if context.stopping():
                work.stop.touch()
            time.sleep(LOOK_SECONDS)
    finally:
        agent.kill()  # and its ranks die with it
        agent.wait()


def _environment(threads: int) -> dict[str, str]:
    count = str(threads)
    usual = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" and not gpus() else {}
    return {
        **usual,  # on one machine no name of it needs to be found
        **os.environ,
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "PYTHONSAFEPATH": "1",  # of the ranks, as -P
    }


def _judge(work: Work, ranks: int) -> tuple[str, int | None]:
    """Raise what the ranks met first; where memory ran out, say on which, how much there is, and the micro-batch."""
    ended = {rank: how for rank in range(ranks) if (how := work.ended(rank))}
    if any("stopped" in how for how in ended.values()):
        raise InterruptedBuildError(next(how["stopped"] for how in ended.values() if "stopped" in how))
    failed = sorted(ended, key=lambda rank: ended[rank]["time"])
    for rank in failed:
        if "out_of_memory" in ended[rank]:
            return f"on rank {rank}: {ended[rank]['out_of_memory']}", ended[rank].get("micro_batch")
        if "error" in ended[rank]:
            raise _same(ended[rank])
    # A rank that lost another one only says so; which was lost, torchrun saw.
    for rank, status in _seen(work):
        if status < 0:
            what = f"rank {rank} of {ranks} was killed by signal {-status} ({signal.Signals(-status).name})"
            hint = "its checkpoints are kept: build again; if memory ran out, lower micro_batch in the machine file"
            raise ActionError(what, hint=hint)
    told = next((f"rank {rank} of {ranks} failed: {ended[rank]['what']}" for rank in failed), None)
    raise ActionError(told or f"the {ranks} ranks did not start", hint="`dem logs` shows what they printed")


def _same(how: Mapping[str, Any]) -> DemError:
    """The error that a rank met."""
    kind: Any = getattr(errors, how["error"])
    error: DemError = kind(how["what"], where=how["where"], hint=how["hint"])
    return error


def _seen(work: Work) -> list[tuple[int, int]]:
    try:
        return [
            (rank, status) for rank, status in parse_json((work.folder / AGENT).read_text(encoding="utf-8"))
        ]
    except FileNotFoundError:
        return []
