"""`python -m bench`: every measurement, one after the other (`make bench`)."""

from bench import board, faults, many, real, start, stream

for part in (start, stream, real, many, board, faults):
    part.main()
