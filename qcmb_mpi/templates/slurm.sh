#!/bin/bash
#SBATCH --job-name=@name
#SBATCH --nodes=@nodes
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=@walltime
#SBATCH --signal=B:USR1@@300

@settings

rm -f "$summary"
@{prepare}# exec: the warning before the time limit then reaches mpiexec, and through it every rank.
exec @{launch}@run
