#!/bin/bash
#SBATCH --job-name=@name
#SBATCH --nodes=@nodes
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive --mem=0
#SBATCH --time=@walltime
#SBATCH --signal=B:USR1@@@margin_s

@settings

rm -f "$summary"
@{prepare}# exec: the warning before the time limit then reaches the launcher, and through it every rank.
exec @{launch}@run
