#!/bin/bash
#SBATCH --job-name=input
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive --mem=0
#SBATCH --time=1:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append

# ---- settings
export PATH=$HOME/qcmb/bin:$PATH # where qcmb_mpi is installed
python=$(command -v python) # its full path: other nodes may have another PATH
input=input.json
result=input.result.json
summary=input.run.json # done when this says complete, whatever exit codes say
stop_after=0:55:00 # the time limit less a margin; stopped, the same job resumes
options=() # of `qcmb-mpi run`
# ----
max_restarts=20
rm -f "$summary"
[[ $(mpiexec --version) != *"(Open MPI) "+([5-9]|[1-9][0-9]).* ]] || tolerant=(--with-ft ulfm)
# a lost host is noticed within 15 s, not after 8 minutes
export PRTE_MCA_oob_tcp_keepalive_{time=5,intvl=2,probes=3}
mpiexec "${tolerant[@]}" --bind-to none -n "$SLURM_NTASKS" \
  "$python" -m qcmb_mpi run "$input" -o "$result" --summary "$summary" \
  --walltime "$stop_after" "${options[@]}" &
child=$!
trap 'kill -USR1 "$child"' USR1
until wait "$child"; code=$?; ! kill -0 "$child" 2>/dev/null; do :; done # signals end a wait
read_state='import json, sys; s = json.load(open(sys.argv[1]))
print("stuck" if "needed_walltime_s" in s else s["status"])'
state=$("$python" -c "$read_state" "$summary" 2>/dev/null)
case $state in
  complete) exit 0 ;;
  failed | stuck) exit 1 ;; # stuck: a job's time is too short for a task
esac
case $code in 2 | 70 | 126 | 127) exit "$code" ;; esac # refused, damaged, a bug, or no program
[ "${SLURM_RESTART_COUNT:-0}" -lt "$max_restarts" ] || exit 75
scontrol requeue "$SLURM_JOB_ID" || exit 75
