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
@{prepare}@{launch}@run

@status
case $state in
  complete) exit 0 ;;
  incomplete) exit 75 ;; # -Q "75": LSF puts the job back into the queue
esac
exit 1
