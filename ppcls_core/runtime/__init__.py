"""Processes, threads, signals, progress and randomness: knows nothing of images or networks."""
