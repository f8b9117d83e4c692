"""Intervals of shares and of their differences: whether a figure is noise."""

import math
from collections.abc import Sequence


def wilson(share: float, num: int) -> tuple[float, float]:
    """95 % interval of a `share` seen in `num` trials (Wilson 1927)."""
    if num <= 0:
        return share, share
    z, scale = 1.959964, 1 + 1.959964**2 / num
    centre = (share + z * z / (2 * num)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / num + z * z / (4 * num * num))
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_interval(both: int, first: int, second: int, neither: int) -> tuple[float, float]:
    """95 % interval of the share of images that one model has right less another's, of the same
    images: `both` have so many right, the `first` alone, the `second` alone, `neither`.

    Newcombe 1998, "Improved confidence intervals for the difference between binomial proportions
    based on paired data", method 10.
    """
    num = both + first + second + neither
    if num <= 0:
        return -1.0, 1.0
    p, q = (both + first) / num, (both + second) / num
    (p_low, p_high), (q_low, q_high) = wilson(p, num), wilson(q, num)
    product = (both + first) * (second + neither) * (both + second) * (first + neither)
    cross = both * neither - first * second
    corrected = max(cross - num / 2, 0) if cross > 0 else cross
    phi = corrected / math.sqrt(product) if product else 0.0

    def reach(one: float, other: float) -> float:
        return math.sqrt(max(one**2 - 2 * phi * one * other + other**2, 0))

    return p - q - reach(p - p_low, q_high - q), p - q + reach(p_high - p, q - q_low)


def is_noise(interval: Sequence[float]) -> bool:
    """Whether the 95 % interval of a difference leaves open which is the better; () does not."""
    return bool(interval) and interval[0] <= 0 <= interval[1]
