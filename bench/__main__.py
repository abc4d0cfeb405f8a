"""`python -m bench`: every measurement, one after the other (`make bench`)."""

from bench import board, crashes, faults, many, real, start, stream, tasks, text

for part in (start, stream, text, real, many, tasks, board, faults, crashes):
    part.main()
