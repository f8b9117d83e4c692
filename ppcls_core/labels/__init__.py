"""Soft labels of a teacher: encoding, shards, store, selection."""
