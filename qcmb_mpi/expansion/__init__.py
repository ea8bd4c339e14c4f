"""The many-body expansion as arithmetic: which tasks there are, and what their results add up to.

Rules of this room
------------------
1. Pure: numpy and the standard library's mathematics only; no clock, file, process or randomness.
2. Tasks are integers. Objects are made for blocks, classes and stages, never for tasks.
"""
