"""Slurm, through submitit: it writes the batch script and calls `sbatch`; of a job's state nothing of it is asked.

What is pickled is one importable function with one string. submitit's own signal handlers and results are not used: at
a preemption Slurm sends SIGTERM, which submitit passes over, and without accounting it never notices that a job was
killed. So its process becomes ours before anything runs, and `squeue` says which jobs are there.
"""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
from contextlib import redirect_stderr, suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING

from dem_build.engine.jobs.scheduler import Ended, SchedulerError
from dem_build.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from dem_build.digest import JSON
    from dem_build.engine.jobs.scheduler import Resources

HELD_BACK = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that wait until our process can heed them."""
SIGNAL_SECONDS = 120
"""How long before its limit a job is told; Slurm may tell it a minute earlier."""
ANSWER_SECONDS = 60.0
# Of a job that ended, squeue tells for some minutes (MinJobAge); of all other states the job is, or will be, there.
ENDED = frozenset(
    (
        *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL"),
        *("OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT"),
    )
)
KNOWN_AGAIN = frozenset(("PENDING", "RUNNING", "SUSPENDED", "CONFIGURING", "COMPLETING", "REQUEUED"))
SLURMS_OWN = frozenset(("BOOT_FAIL", "CANCELLED", "DEADLINE", "NODE_FAIL", "PREEMPTED", "REVOKED", "TIMEOUT"))
"""Ends that Slurm itself makes: of what runs on after SIGTERM it is who kills."""
MORE_MEMORY = "raise `memory_gb` in [submit], or lower micro_batch in the machine file"
# Of slurmstepd: with cgroups, and where Slurm itself looks at how much a job takes. Of srun: that a process was killed.
_OUT_OF_MEMORY = re.compile(r"slurmstepd.*(oom.?kill|exceeded (job )?memory limit)", re.IGNORECASE)
_KILLED = re.compile(r"^srun: error: .*: Killed$", re.MULTILINE)


def become(command: str) -> None:
    """Replace this process, submitit's, by a command: a JSON list of its words. Runs on a node."""
    # A signal that comes meanwhile waits: what is blocked, and what is pending, outlives exec.
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)
    job = os.environ.get("SLURM_JOB_ID", "")
    again = os.environ.get("SLURM_RESTART_COUNT", "0")
    os.environ["DEM_REQUEUE"] = f"scontrol requeue {job}"
    os.environ["DEM_JOB"] = f"slurm job {job}" + (f", queued again {again}x" if again != "0" else "")
    words = json.loads(command)
    os.execvp(words[0], words)  # noqa: S606  our own command


class Slurm:
    """Slurm as a `Scheduler`.

    Args:
        options: Parameters of `submitit.SlurmExecutor` in its own words: `partition`, `account`, `qos`, `setup` …

    Raises:
        UsageError: submitit or Slurm's commands are not here, or an option is none of submitit's.
    """

    def __init__(self, options: Mapping[str, JSON]) -> None:
        if find_spec("submitit") is None:
            hint = "pip install 'dem-build[slurm]'"
            raise UsageError("the engine `slurm` needs submitit, which is not installed", hint=hint)
        self._options = dict(options)
        try:
            _called("sbatch", "--version")
        except SchedulerError as error:
            hint = "build where Slurm's commands are: on a login node"
            raise UsageError(f"Slurm is not here: {error.what}", where="engine", hint=hint) from error
        self._validate()

    def submit(self, command: Sequence[str], resources: Resources, log: Path) -> str:
        """Submit a command, unless a job with its mark as comment is there: see `Scheduler`."""
        if (there := self._marked(resources.mark)) is not None:
            return there
        import submitit  # noqa: PLC0415  where nothing is submitted, nothing loads it

        executor = submitit.SlurmExecutor(folder=log)
        try:
            executor.update_parameters(**self._parameters(resources))
            # It prints what sbatch says of an error, which is in the error too.
            with redirect_stderr(io.StringIO()):
                return str(executor.submit(become, json.dumps(list(command))).job_id)
        except (RuntimeError, subprocess.SubprocessError, OSError) as error:
            # What sbatch said stands in the error's last line.
            said = str(error).strip().splitlines() or [type(error).__name__]
            hint = "look at `[submit]` in the machine file: partition, account, memory, GPUs"
            raise SchedulerError(f"sbatch refused the job: {said[-1]}", hint=hint) from error

    def known(self, handles: Collection[str]) -> Mapping[str, str]:
        """The jobs that squeue has in a state that is no end."""
        # All of the user's at once: asked for a number that is no more, squeue fails and tells of no other.
        rows = (line.split("|") for line in _queue("%A|%T"))
        return {job: state for job, state in rows if job in handles and state not in ENDED}

    def cancel(self, handle: str) -> None:
        """Cancel a job by `scancel`."""
        try:
            subprocess.run(["scancel", handle], check=False, capture_output=True, timeout=ANSWER_SECONDS)  # noqa: S603, S607
        except (OSError, subprocess.TimeoutExpired) as error:
            raise SchedulerError(f"scancel: {error}") from error

    def ended(self, handle: str, printed: str) -> Ended | None:
        """How a job ended, by what `scontrol` has of it for some minutes, and by what Slurm wrote into its output.

        The state alone does not tell: seen on Slurm 22.05, a job that it killed over its limit of memory
        (`OverMemoryKill`) is FAILED with 137, as one that anybody killed is; the limit stands in the output alone.
        """
        fields = {}
        with suppress(SchedulerError):  # it has forgotten the job
            said = _called("scontrol", "show", "job", "--oneliner", handle).split()
            fields = dict(word.split("=", 1) for word in said if "=" in word)
        state = fields.get("JobState", "")
        if state in KNOWN_AGAIN:
            return None
        if state == "OUT_OF_MEMORY" or _OUT_OF_MEMORY.search(printed):
            return Ended("ran out of memory", MORE_MEMORY, memory=True)
        if state in SLURMS_OWN:
            return Ended(f"ended as {state}")
        if {"9", "137"} & {*fields.get("ExitCode", "").split(":")} or _KILLED.search(printed):
            what = "was killed (SIGKILL): out of memory, which Slurm tells with cgroups only, or by somebody"
            return Ended(what, f"if it was memory, {MORE_MEMORY}; the node's `dmesg` says")
        return Ended(f"ended as {state}") if state else None

    def _marked(self, mark: str) -> str | None:
        rows = (line.split("|", 2) for line in _queue("%A|%T|%k"))
        return next((job for job, state, said in rows if said == mark and state not in ENDED), None)

    def _parameters(self, resources: Resources) -> dict[str, JSON]:
        more: dict[str, JSON] = {"requeue": True, "kill-on-invalid-dep": "yes"}
        asked: dict[str, JSON] = {
            "job_name": f"dem {resources.name}",
            "comment": resources.mark,
            "cpus_per_task": resources.cpus,
            "time": resources.minutes,  # None: the partition's own, and not submitit's five minutes
            "signal_delay_s": SIGNAL_SECONDS,
            "stderr_to_stdout": True,
        }
        if resources.gpus:
            asked["gpus_per_node"] = resources.gpus
        if resources.memory is not None:
            asked["mem"] = f"{-(-resources.memory // 2**20)}M"
        named = {name: value for name, value in self._options.items() if name != "additional_parameters"}
        more |= self._options.get("additional_parameters", {})
        return asked | named | {"additional_parameters": more}

    def _validate(self) -> None:
        """Refuse options that submitit does not know, before anything is submitted."""
        import submitit  # noqa: PLC0415

        there = submitit.SlurmExecutor._valid_parameters()  # noqa: SLF001  it tells them in an error's text alone
        if unknown := sorted(self._options.keys() - there):
            hint = f"submitit has: {', '.join(sorted(there))}"
            raise UsageError(f"{unknown[0]!r} is no option of Slurm", where="submit.options", hint=hint)


def _queue(form: str) -> list[str]:
    user = str(os.getuid())
    return _called("squeue", "--noheader", "--states=all", f"--user={user}", f"--format={form}").splitlines()


def _called(*command: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603  Slurm's own commands
            command, check=True, capture_output=True, text=True, timeout=ANSWER_SECONDS
        )
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines() or [f"ended with status {error.returncode}"]
        raise SchedulerError(f"{command[0]}: {said[-1]}", hint="is Slurm up? `scontrol ping` says") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SchedulerError(f"{command[0]}: {error}") from error
    return done.stdout
