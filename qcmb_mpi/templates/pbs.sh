#!/bin/bash
#PBS -N @name
#PBS -l select=@nodes:ncpus=@cores:mpiprocs=1
#PBS -l place=scatter:excl
#PBS -l walltime=@walltime
#PBS -j oe

@settings

cd "$PBS_O_WORKDIR" || exit 1
rm -f "$summary"
@{prepare}exec @{launch}@run
