#!/bin/bash
#flux: --job-name=@name
#flux: --nodes=@nodes
#flux: --exclusive
#flux: --time-limit=@{walltime_minutes}m

@settings

rm -f "$summary"
@{prepare}exec @{launch}@run
