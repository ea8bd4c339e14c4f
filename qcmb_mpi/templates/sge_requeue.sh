#!/bin/bash
#$ -N @name
#$ -pe @environment @slots
#$ -l h_rt=@walltime
#$ -r y
#$ -cwd
#$ -S /bin/bash
#$ -j y

@settings

rm -f "$summary"
@{prepare}@{launch}@run </dev/null # or it might read this script
code=$?

@status
case $state:$code in
  complete:*) exit 0 ;;
  *:2 | *:70 | *:126 | *:127) exit 1 ;; # damaged, a bug, or no program: so it would end again
  incomplete:*) exit 99 ;; # Grid Engine puts the job back into the queue
esac
exit 1 # failed; or stuck: a job's time is too short for a task
