"""Trained networks in use: export, inference engines, quantisation, predictions."""
