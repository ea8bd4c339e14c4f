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

rm -f "$summary"
exec flux run --nodes="$nodes" --ntasks="$nodes" --exclusive -o pmi=pmix \
  "$python" -m qcmb_mpi run "$input" -o "$result" --summary "$summary" \
  --walltime "$stop_after" "${options[@]}"
