"""The ways to run tasks: serial, local processes, threads, MPI, any ``concurrent.futures``."""
