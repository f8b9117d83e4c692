"""Architectures: specs and networks by family, the registry, weights, features, costs."""
