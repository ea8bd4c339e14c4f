#!/bin/bash
#$ -N input
#$ -pe mpi 128
#$ -l s_rt=0:55:00,h_rt=1:00:00
#$ -notify
#$ -cwd
#$ -S /bin/bash
#$ -j y

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
hosts=hosts.$JOB_ID
awk '{print $1" slots=1"}' "$PE_HOSTFILE" >"$hosts"
[[ $(mpiexec --version) != *"(Open MPI) "+([5-9]|[1-9][0-9]).* ]] || tolerant=(--with-ft ulfm)
# a lost host is noticed within 15 s, not after 8 minutes
export PRTE_MCA_oob_tcp_keepalive_{time=5,intvl=2,probes=3}
exec mpiexec "${tolerant[@]}" --bind-to none -n "$NHOSTS" --hostfile "$hosts" \
  "$python" -m qcmb_mpi run "$input" -o "$result" --summary "$summary" \
  --walltime "$stop_after" "${options[@]}"
