"""Training and evaluation: the one loop, its objectives, schedules and checkpoints."""
