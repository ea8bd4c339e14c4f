#!/bin/bash
#flux: --job-name=input
#flux: --nodes=4
#flux: --exclusive
#flux: --time-limit=60m

# ---- settings
export PATH=$HOME/qcmb/bin:$PATH # where qcmb_mpi is installed
python=$(command -v python) # its full path: other nodes may have another PATH
nodes=4
input=input.json
result=input.result.json
summary=input.run.json # done when this says complete, whatever exit codes say
stop_after=0:55:00 # the time limit less a margin; stopped, the same job resumes
options=() # of `qcmb-mpi run`
# ----
script=requeue.sh # this file's name: it submits itself again
max_restarts=20

rm -f "$summary"
flux run --nodes="$nodes" --ntasks="$nodes" --exclusive -o pmi=pmix \
  "$python" -m qcmb_mpi run "$input" -o "$result" --summary "$summary" \
  --walltime "$stop_after" "${options[@]}" </dev/null # or it might read this script
code=$?

read_state='import json, sys; s = json.load(open(sys.argv[1]))
print("stuck" if "needed_walltime_s" in s else s["status"])'
state=$("$python" -c "$read_state" "$summary" 2>/dev/null)
case $state in
  complete) exit 0 ;;
  failed | stuck) exit 1 ;; # stuck: a job's time is too short for a task
esac
case $code in 2 | 70 | 126 | 127) exit "$code" ;; esac # refused, damaged, a bug, or no program
[ "${QCMB_RESTARTS:-0}" -lt "$max_restarts" ] || exit 75
export QCMB_RESTARTS=$((${QCMB_RESTARTS:-0} + 1))
flux --parent batch "$script"
