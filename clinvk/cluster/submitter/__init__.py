"""The side of a cluster that hands attempts to the workers, and follows them."""
