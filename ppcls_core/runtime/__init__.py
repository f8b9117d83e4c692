"""Processes, threads, signals and timers: what runs work, and knows nothing of what the work is."""
