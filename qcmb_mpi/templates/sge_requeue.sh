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
@{prepare}@{launch}@run

@status
case $state in
  complete) exit 0 ;;
  incomplete) exit 99 ;; # Grid Engine puts the job back into the queue
esac
exit 1
