#!/bin/bash
#SBATCH --job-name=inputs
#SBATCH --array=0-9%10
#SBATCH --output=%x.%A_%a.log
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive --mem=0
#SBATCH --time=1:00:00
#SBATCH --signal=B:USR1@300

# ---- settings
export PATH=$HOME/qcmb/bin:$PATH # where qcmb_mpi is installed
python=$(command -v python) # its full path: other nodes may have another PATH
inputs=(inputs/*.json) # a job for each
stop_after=0:55:00 # the time limit less a margin; stopped, the same job resumes
options=() # of `qcmb-mpi run`
# ----

input=${inputs[SLURM_ARRAY_TASK_ID]}
[ -n "$input" ] || { echo "only ${#inputs[@]} inputs are there" >&2; exit 2; }
name=$(basename "${input%.*}")
result=$name.result.json
summary=$name.run.json # done when this says complete, whatever exit codes say

rm -f "$summary"
exec "$python" -m qcmb_mpi run "$input" -o "$result" --summary "$summary" \
  --walltime "$stop_after" "${options[@]}"
