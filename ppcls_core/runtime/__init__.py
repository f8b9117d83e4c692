"""Processes, threads, progress and randomness: knows nothing of images or networks."""
