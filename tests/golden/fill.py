"""Weights and images that anyone can make again, for the golden logits in models.json.

The logits there came from PaddleClas's own networks, in eval mode, with every state-dict entry set
by `fill(its name, its shape)` and `golden_input(size)` as the batch; CSPResNet50_leaky's came from
its static program of 2020, whose variables took the values of our entries in their order. Where
the entry says float64 they were computed in it: with such weights those networks amplify the
rounding of float32 by 10^4 and more, so that PaddleClas's own logits differ between machines and
numbers of threads.
"""

from __future__ import annotations

import zlib

import numpy as np


def fill(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """float32 array of `shape`, random from a seed that depends on `name` alone.

    Convolutions and linear layers keep the variance of what passes through them; batch norms get
    scales and variances about 1, and shifts and means about 0.
    """
    random = np.random.default_rng(zlib.crc32(name.encode()))
    kind = name.rpartition(".")[2]
    if kind == "_mean":
        values = random.uniform(-0.2, 0.2, shape)
    elif kind != "_variance" and len(shape) == 4:  # [out, in, height, width]
        values = _normal(random, shape) * np.sqrt(2.0 / np.prod(shape[1:]))
    elif kind != "_variance" and len(shape) == 2:  # [in, out]
        values = _normal(random, shape) * np.sqrt(1.0 / shape[0])
    elif kind.endswith("bias"):
        values = random.uniform(-0.2, 0.2, shape)
    else:
        values = random.uniform(0.6, 1.4, shape)
    return np.asarray(values, dtype=np.float32)


def golden_input(size: int) -> np.ndarray:
    """One image of normal noise, float32 [1, 3, size, size]."""
    return _normal(np.random.default_rng(size), (1, 3, size, size))


def _normal(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return random.standard_normal(shape, dtype=np.float32)
