"""What people see of a run: progress, summary, status, report, trace and event log.

Rules of this room
------------------
1. Nothing here decides anything, and nothing here may end a run: what cannot be shown is left out.
2. Numbers come in as plain values, ``now`` as an argument; a clock is read only where a process
   or a file is asked for its age.
3. Progress and log go to standard error. Files are replaced atomically.
"""
