#!/bin/bash
#SBATCH --job-name=@name
#SBATCH --array=0-@last%10
#SBATCH --output=%x.%A_%a.log
#SBATCH --nodes=@nodes
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive --mem=0
#SBATCH --time=@walltime
#SBATCH --signal=B:USR1@@@margin_s

@settings

input=${inputs[SLURM_ARRAY_TASK_ID]}
[ -n "$input" ] || { echo "only ${#inputs[@@]} inputs are there" >&2; exit 2; }
name=$(basename "${input%.*}")
result=$name.result.json
summary=$name.run.json # done when this says complete, whatever exit codes say

rm -f "$summary"
@{prepare}exec @launch@run
