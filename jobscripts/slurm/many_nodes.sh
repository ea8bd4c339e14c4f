#!/bin/bash
#SBATCH --job-name=input
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive --mem=0
#SBATCH --time=1:00:00
#SBATCH --signal=B:USR1@300

# ---- settings
export PATH=$HOME/qcmb/bin:$PATH # where qcmb_mpi is installed
python=$(command -v python) # its full path: other nodes may have another PATH
input=input.json
result=input.result.json
summary=input.run.json # done when this says complete, whatever exit codes say
stop_after=0:55:00 # the time limit less a margin; stopped, the same job resumes
options=() # of `qcmb-mpi run`
# ----

rm -f "$summary"
[[ $(mpiexec --version) != *"(Open MPI) "+([5-9]|[1-9][0-9]).* ]] || tolerant=(--with-ft ulfm)
# a lost host is noticed within 15 s, not after 8 minutes
export PRTE_MCA_oob_tcp_keepalive_{time=5,intvl=2,probes=3}
# exec: the warning before the time limit then reaches the launcher, and through it every rank.
exec mpiexec "${tolerant[@]}" --bind-to none -n "$SLURM_NTASKS" \
  "$python" -m qcmb_mpi run "$input" -o "$result" --summary "$summary" \
  --walltime "$stop_after" "${options[@]}"
