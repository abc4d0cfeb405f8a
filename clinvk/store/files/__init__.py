"""Sessions as files, with an index beside them."""
