"""`python -m bench`: every measurement, one after the other (`make bench`)."""

from bench import real, start, stream

for part in (start, stream, real):
    part.main()
