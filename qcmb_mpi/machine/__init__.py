"""The machine as it is and as it was granted: cores, limits, affinity, launcher, walltime.

Rules of this room
------------------
1. Readers take ``root`` and ``environ`` and look nowhere else: a recorded machine is a test.
2. What cannot be read is left out, never guessed; nothing here raises because a file is missing.
3. No MPI here: a launcher is known by its environment, a world's size by its caller.
"""
