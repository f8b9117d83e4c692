"""Which validation image a pool image shows: the index, the channels and their verification."""
