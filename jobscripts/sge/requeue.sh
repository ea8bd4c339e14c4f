#!/bin/bash
#$ -N input
#$ -pe mpi 128
#$ -l h_rt=1:00:00
#$ -r y
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
mpiexec "${tolerant[@]}" --bind-to none -n "$NHOSTS" --hostfile "$hosts" \
  "$python" -m qcmb_mpi run "$input" -o "$result" --summary "$summary" \
  --walltime "$stop_after" "${options[@]}" </dev/null # or it might read this script
code=$?

read_state='import json, sys; s = json.load(open(sys.argv[1]))
print("stuck" if "needed_walltime_s" in s else s["status"])'
state=$("$python" -c "$read_state" "$summary" 2>/dev/null)
case $state:$code in
  complete:*) exit 0 ;;
  *:2 | *:70 | *:126 | *:127) exit 1 ;; # damaged, a bug, or no program: so it would end again
  incomplete:*) exit 99 ;; # Grid Engine puts the job back into the queue
esac
exit 1 # failed; or stuck: a job's time is too short for a task
