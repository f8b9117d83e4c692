"""Learning-rate schedules as closed formulas of the step."""

from __future__ import annotations

import math


def cosine_warmup(step: int, steps_per_epoch: int, epochs: int, warmup: float, lr: float) -> float:
    """CosineWarmup: linear to `lr` over `warmup` epochs, then half a cosine down to 0.

    `step` is in [0, epochs * steps_per_epoch); a warm-up longer than that is shortened to it.
    """
    warmup_steps = min(warmup, epochs) * steps_per_epoch
    if step < warmup_steps:
        return lr * step / warmup_steps
    rest = epochs * steps_per_epoch - warmup_steps
    return lr / 2 * (1 + math.cos(math.pi * (step - warmup_steps) / rest))
