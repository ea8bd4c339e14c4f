#!/bin/bash
#PBS -N @name
#PBS -l select=@nodes:ncpus=@cores:mpiprocs=1
#PBS -l place=scatter:excl
#PBS -l walltime=@walltime
#PBS -j oe

@settings
script=requeue.sh # this file's name: it submits itself again
max_restarts=20

cd "$PBS_O_WORKDIR" || exit 1
rm -f "$summary"
@{prepare}@{launch}@run </dev/null # or it might read this script
code=$?

@status
case $state in
  complete) exit 0 ;;
  failed | stuck) exit 1 ;; # stuck: a job's time is too short for a task
esac
case $code in 2 | 70 | 126 | 127) exit "$code" ;; esac # refused, damaged, a bug, or no program
[ "${QCMB_RESTARTS:-0}" -lt "$max_restarts" ] || exit 75
qsub -v QCMB_RESTARTS=$((${QCMB_RESTARTS:-0} + 1)) "$script"
