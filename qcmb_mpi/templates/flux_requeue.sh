#!/bin/bash
#flux: --job-name=@name
#flux: --nodes=@nodes
#flux: --exclusive
#flux: --time-limit=@{walltime_minutes}m

@settings
script=requeue.sh # this file's name: it submits itself again
max_restarts=20

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
export QCMB_RESTARTS=$((${QCMB_RESTARTS:-0} + 1))
flux --parent batch "$script"
