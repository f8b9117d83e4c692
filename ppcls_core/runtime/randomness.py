"""Stateless randomness: a generator is a pure function of what it is for.

Nothing about random state has to be saved, and neither the order of work, the number of workers nor
an interruption changes a result.
"""

import hashlib

import numpy as np


def seed_of(*key: int | str) -> int:
    """A 63-bit seed that depends on every part of `key`, equal in every process."""
    text = "\x1f".join(str(part) for part in key)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(*key: int | str) -> np.random.Generator:
    """A generator for `key`, for example (seed, epoch, image id)."""
    return np.random.Generator(np.random.PCG64(seed_of(*key)))
