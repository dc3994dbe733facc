#!/usr/bin/env bash
# A job that Slurm itself kills because it takes more memory than it asked for (JobAcctGatherParams=OverMemoryKill) does not
# end as OUT_OF_MEMORY where its step was started by srun: its state is FAILED, with the exit code 137 of any process that
# was killed. That it was its memory stands in the job's output alone, in words of slurmstepd.
#
# Versions: Slurm 22.05.8 (Debian 12's slurm-wlm), one node on this host, no cgroups, no accounting. Needs root.
# Guess before looking: the state is OUT_OF_MEMORY, as Slurm has that state and is the one who kills.
# Seen: JobState=FAILED Reason=NonZeroExitCode ExitCode=137:0; the output has "exceeded memory limit (… > …), being killed".
# Why it matters: who asks `squeue` or `scontrol` why a job is gone cannot tell a lack of memory, which more memory mends,
# from a kill by hand. `dem` looks at the end of the job's output as well.
set -euo pipefail
for need in slurmctld slurmd sbatch scontrol; do
  command -v "$need" > /dev/null || { echo "needs $need: apt-get install slurm-wlm"; exit 2; }
done
work=$(mktemp -d)
host=$(hostname -s)
mkdir -p "$work/state" "$work/spool"
stop() {
  for name in n1 ctld; do [ -e "$work/$name.pid" ] && kill "$(cat "$work/$name.pid")" 2> /dev/null || true; done
  sleep 2
  rm -rf "$work"
}
trap stop EXIT
cat > "$work/slurm.conf" <<CONF
ClusterName=finding
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=36817
SlurmdPort=36818
SlurmUser=root
AuthType=auth/none
CredType=cred/none
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
SlurmctldPidFile=$work/ctld.pid
SlurmdPidFile=$work/n1.pid
SlurmctldLogFile=$work/ctld.log
SlurmdLogFile=$work/n1.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
KillWait=5
MpiDefault=none
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=36818 CPUs=1 RealMemory=2000 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF="$work/slurm.conf"
slurmctld -c -f "$SLURM_CONF"
slurmd -N n1 -f "$SLURM_CONF"
for _ in $(seq 60); do [ "$(sinfo -h -o %t 2> /dev/null)" = idle ] && break; sleep 1; done

hog='import time; x = bytearray(400 << 20); x[::4096] = b"x" * len(x[::4096]); time.sleep(30)'
job=$(sbatch --parsable --mem=150M --output="$work/out" --wrap "srun python3 -c '$hog'")
for _ in $(seq 60); do
  said=$(scontrol show job -o "$job")
  case $said in *JobState=PENDING* | *JobState=RUNNING* | *JobState=COMPLETING*) sleep 1 ;; *) break ;; esac
done
sbatch --version
grep -oE '(JobState|Reason|ExitCode)=[^ ]+' <<< "$said"
grep -m1 'exceeded memory limit' "$work/out"
grep -q 'JobState=FAILED ' <<< "$said" && grep -q 'ExitCode=137:0' <<< "$said"
