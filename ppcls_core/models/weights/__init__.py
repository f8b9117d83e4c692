"""Weights: their files, read safely; how they enter a model; their conversion."""
