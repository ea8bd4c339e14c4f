#!/bin/bash
#BSUB -J @name
#BSUB -n @slots
#BSUB -R "span[ptile=@cores]"
#BSUB -x
#BSUB -W @walltime_minutes
#BSUB -o @name.%J.log

@settings

rm -f "$summary"
@{prepare}exec @{launch}@run
