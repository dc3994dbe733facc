"""A Slurm of two nodes on this host, started by a test and stopped by its process ids: no munge, no database."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

NEEDED = ("slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "sinfo")
# A requeued job waits as long as its credential was good for: two minutes, unless cred_expire says otherwise. With a
# GraceTime above 0 Slurm first sets a time limit, and a preempted job ends as TIMEOUT and is not queued again.
CONFIGURATION = """\
ClusterName=demtest
GresTypes=gpu
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
AuthInfo=cred_expire=5
CredType=cred/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/ctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/log/ctld.log
SlurmdLogFile={folder}/log/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
MinJobAge=5
KillWait=5
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
SlurmctldTimeout=10
InactiveLimit=0
MpiDefault=none
NodeName=DEFAULT CPUs=1 RealMemory=8000 Gres=gpu:2 State=UNKNOWN
NodeName=n[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{ports[2]}-{ports[3]}]
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE MaxTime=INFINITE State=UP GraceTime=0
PartitionName=high Nodes=ALL PriorityTier=10 MaxTime=INFINITE State=UP
"""


def require_slurm() -> None:
    """Leave a test out, and say so, where there is no Slurm to start."""
    if missing := [name for name in NEEDED if shutil.which(name) is None]:
        pytest.skip(f"left out: there is no {missing[0]} here (Debian: apt-get install slurm-wlm)")


def free_ports(count: int) -> list[int]:
    """Neighbouring ports that nobody uses now."""
    for first in range(26817, 32000, count):
        sockets = [socket.socket() for _ in range(count)]
        try:
            for offset, one in enumerate(sockets):
                one.bind(("127.0.0.1", first + offset))
        except OSError:
            continue
        else:
            return list(range(first, first + count))
        finally:
            for one in sockets:
                one.close()
    raise AssertionError("no free ports")


class SlurmCluster:
    """One controller and two nodes of one core and two made-up GPUs each; partition `high` preempts jobs of `low`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("state", "log", "spool/n1", "spool/n2"):
            (folder / name).mkdir(parents=True)
        self.user = pwd.getpwuid(os.getuid()).pw_name
        host = socket.gethostname().partition(".")[0]
        self.file = folder / "slurm.conf"
        self.file.write_text(
            CONFIGURATION.format(host=host, folder=folder, user=self.user, ports=free_ports(4))
        )
        # Made-up GPUs: any device files will do. With a count alone these nodes do not come up.
        (folder / "gres.conf").write_text("NodeName=n[1-2] Name=gpu File=/dev/null,/dev/zero\n")
        self.environment = {**os.environ, "SLURM_CONF": str(self.file)}

    def start(self) -> None:
        self._daemon("slurmctld", "-c")
        for node in ("n1", "n2"):
            self.start_node(node)
        self.wait(lambda: self.states() == ["idle", "idle"])

    def start_node(self, node: str) -> None:
        self._daemon("slurmd", "-N", node)

    def stop(self) -> None:
        self.call("scancel", f"--user={self.user}")
        self.wait(lambda: not self.jobs())
        for name in ("n1", "n2", "ctld"):
            self._end(name, signal.SIGTERM)

    def kill_node(self, node: str) -> None:
        """End a node's daemon and what runs on it, as a power cut does."""
        self._end(node, signal.SIGKILL)

    def call(self, *command: str) -> str:
        return subprocess.run(
            command, env=self.environment, check=True, capture_output=True, text=True
        ).stdout

    def states(self) -> list[str]:
        return self.call("sinfo", "-N", "-h", "-p", "low", "-o", "%t").split()

    def jobs(self, form: str = "%A %T") -> list[str]:
        """What squeue says of each job that has not ended."""
        return self.call("squeue", "-h", "-o", form).splitlines()

    @staticmethod
    def wait(done, seconds: float = 60.0):
        """Wait until a call's value counts as true; return it."""
        until = time.monotonic() + seconds
        while not (value := done()):
            assert time.monotonic() < until, "waited in vain"
            time.sleep(0.1)
        return value

    def _daemon(self, *command: str) -> None:
        subprocess.run(
            [*command, "-f", str(self.file)], env=self.environment, check=True, capture_output=True
        )

    def _end(self, name: str, number: signal.Signals) -> None:
        with suppress(FileNotFoundError, ProcessLookupError):
            os.kill(int((self.folder / f"{name}.pid").read_text()), number)
