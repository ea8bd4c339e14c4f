#!/bin/bash
#SBATCH --job-name=@name
#SBATCH --nodes=@nodes
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive --mem=0
#SBATCH --time=@walltime
#SBATCH --signal=B:USR1@@@margin_s
#SBATCH --requeue
#SBATCH --open-mode=append

@settings
max_restarts=20
rm -f "$summary"
@{prepare}@{launch}@run &
child=$!
trap 'kill -USR1 "$child"' USR1
until wait "$child"; code=$?; ! kill -0 "$child" 2>/dev/null; do :; done # signals end a wait
@status
case $state in
  complete) exit 0 ;;
  failed | stuck) exit 1 ;; # stuck: a job's time is too short for a task
esac
case $code in 2 | 70 | 126 | 127) exit "$code" ;; esac # refused, damaged, a bug, or no program
[ "${SLURM_RESTART_COUNT:-0}" -lt "$max_restarts" ] || exit 75
scontrol requeue "$SLURM_JOB_ID" || exit 75
