#!/bin/bash
# slurm.sh NODES CPUS COMMAND...
# Run COMMAND inside a throw-away Slurm of NODES "nodes" on this host, and end all of it afterwards,
# whatever happens. Any user may; needs the packages in .ci/run. Logs are in $QCMB_SLURM/log.
# With MEMORY_BY=cgroup (root, control groups of version 1) the kernel keeps jobs to their memory.
set -eu
nodes=$1 cpus=$2
shift 2
host=$(hostname -s) user=$(id -un)
QCMB_SLURM=$(mktemp -d /tmp/qcmb-slurm.XXXXXX) # not below TMPDIR: names of sockets are short
export QCMB_SLURM SLURM_CONF=$QCMB_SLURM/slurm.conf
daemons=()

end() {
  trap '' INT TERM HUP
  local pid
  { squeue -h -o %A | xargs -r scancel --full -s KILL; } 2>/dev/null || true
  for _ in $(seq 50); do [ -n "$(squeue -h 2>/dev/null)" ] || break; sleep 0.1; done
  kill "${daemons[@]}" 2>/dev/null || true
  for _ in $(seq 50); do kill -0 "${daemons[@]}" 2>/dev/null || break; sleep 0.1; done
  kill -9 "${daemons[@]}" 2>/dev/null || true
  # What serves a job that could not be ended is no child of ours.
  for pid in $(pgrep -x slurmstepd); do
    ! tr '\0' '\n' 2>/dev/null <"/proc/$pid/environ" | grep -qxF "SLURM_CONF=$SLURM_CONF" || kill -9 "$pid"
  done
  find /sys/fs/cgroup/*/"slurm_${name:-none}"* -depth -type d -exec rmdir {} + 2>/dev/null || true
  rm -rf "$QCMB_SLURM"
}
trap end EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# Ports that nobody has now, below those that the kernel gives out.
taken=$(awk 'NR > 1 { split($2, a, ":"); print a[2] }' /proc/net/tcp)
port=$((20000 + ($$ * 37) % 10000))
while printf '%04X\n' $(seq "$port" $((port + nodes))) | grep -qxFf - <(echo "$taken"); do
  port=$((20000 + (port + 97) % 10000))
done

name=x${port}n # control groups of several Slurms are told apart by it
task_plugin=task/none
gather=JobAcctGatherParams=OverMemoryKill,UsePss
if [ "${MEMORY_BY-}" = cgroup ]; then
  task_plugin=task/cgroup gather=
  cat >"$QCMB_SLURM/cgroup.conf" <<END
CgroupPlugin=cgroup/v1
CgroupMountpoint=/sys/fs/cgroup
ConstrainRAMSpace=yes
AllowedRAMSpace=100
END
fi

mkdir "$QCMB_SLURM"/{state,spool,log,tmp}
for i in $(seq "$nodes"); do mkdir "$QCMB_SLURM"/{spool,tmp}/"$name$i"; done
head -c 1024 /dev/urandom >"$QCMB_SLURM/munge.key"
chmod 600 "$QCMB_SLURM/munge.key"
cat >"$SLURM_CONF" <<END
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
CredType=cred/munge
# How long a requeued job waits: 5 s (120 s by default); less is not accepted.
AuthInfo=socket=$QCMB_SLURM/munge.sock,cred_expire=5
SlurmctldPort=$port
SlurmctldPidFile=$QCMB_SLURM/slurmctld.pid
SlurmdPidFile=$QCMB_SLURM/slurmd.%n.pid
StateSaveLocation=$QCMB_SLURM/state
SlurmdSpoolDir=$QCMB_SLURM/spool/%n
# With %n, or two "nodes" of a step make the same directory.
TmpFS=$QCMB_SLURM/tmp/%n
SlurmctldLogFile=$QCMB_SLURM/log/slurmctld.log
SlurmdLogFile=$QCMB_SLURM/log/slurmd.%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=$task_plugin
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
$gather
MpiDefault=none
ReturnToService=2
SlurmdTimeout=30
KillWait=5
MailProg=/bin/true
NodeName=${name}[1-$nodes] NodeHostname=$host NodeAddr=127.0.0.1 Port=[$((port + 1))-$((port + nodes))] CPUs=$cpus CoresPerSocket=$cpus RealMemory=4000
PartitionName=main Nodes=ALL Default=YES MaxTime=60 DefMemPerCPU=500 State=UP
END

munged --foreground --force --socket="$QCMB_SLURM/munge.sock" --key-file="$QCMB_SLURM/munge.key" \
  --pid-file="$QCMB_SLURM/munged.pid" --log-file="$QCMB_SLURM/log/munged.log" \
  --seed-file="$QCMB_SLURM/munged.seed" </dev/null >/dev/null 2>&1 &
daemons+=($!)
for _ in $(seq 100); do [ ! -S "$QCMB_SLURM/munge.sock" ] || break; sleep 0.1; done
slurmctld -D -c -f "$SLURM_CONF" </dev/null >/dev/null 2>&1 &
daemons+=($!)
for i in $(seq "$nodes"); do
  slurmd -D -f "$SLURM_CONF" -N "$name$i" </dev/null >/dev/null 2>&1 &
  daemons+=($!)
done
for _ in $(seq 300); do
  [ "$(sinfo -h -t idle -o %D 2>/dev/null)" != "$nodes" ] || break
  sleep 0.1
done
[ "$(sinfo -h -t idle -o %D)" = "$nodes" ] || { tail "$QCMB_SLURM"/log/*.log >&2; exit 1; }
"$@"
