#!/bin/bash
#$ -N @name
#$ -pe @environment @slots
#$ -l s_rt=@stop_after,h_rt=@walltime
#$ -notify
#$ -cwd
#$ -S /bin/bash
#$ -j y

@settings

rm -f "$summary"
@{prepare}exec @{launch}@run
