#!/bin/bash
#BSUB -J @name
#BSUB -n @slots
#BSUB -R "span[ptile=@cores]"
#BSUB -x
#BSUB -W @walltime_minutes
#BSUB -o @name.%J.log
#BSUB -r
#BSUB -Q "75"

@settings

rm -f "$summary"
@{prepare}@{launch}@run </dev/null # or it might read this script
code=$?

@status
case $state:$code in
  complete:*) exit 0 ;;
  *:2 | *:70 | *:126 | *:127) exit 1 ;; # damaged, a bug, or no program: so it would end again
  incomplete:*) exit 75 ;; # -Q "75": LSF puts the job back into the queue
esac
exit 1 # failed; or stuck: a job's time is too short for a task
