"""`python -m bench`: every measurement, one after the other (`make bench`)."""

from bench import faults, many, real, start, stream

for part in (start, stream, real, many, faults):
    part.main()
