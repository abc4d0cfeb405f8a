"""`python -m bench`: every measurement, one after the other (`make bench`)."""

from bench import board, crashes, faults, many, real, start, stream, tasks

for part in (start, stream, real, many, tasks, board, faults, crashes):
    part.main()
