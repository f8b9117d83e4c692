"""Distillation losses between student and teacher logits, all computed from log-softmax.

What the SSLD authors call "JS divergence" is half the Jeffreys divergence; the names here say which
is which. Every loss takes student and teacher logits, float [N, C], and gives a scalar averaged
over N. Configurations take the names from here, so this module does not import Paddle.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from paddle import Tensor

LossName = Literal["ssld", "js", "kl", "ce"]


def ssld_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Published SSLD loss, half the Jeffreys divergence: mean of (KL(q||p) + KL(p||q)) / 2.

    p is the student's softmax, q the teacher's. The two sums collapse to (p - q)(log p - log q) /
    2, finite also where a probability underflows. Unbounded, symmetric, temperature 1.
    """
    log_p, log_q = _log_softmax(student), _log_softmax(teacher)
    return 0.5 * ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(-1).mean()


def js_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """True Jensen-Shannon divergence, at most ln 2: (KL(p||m) + KL(q||m)) / 2, m = (p + q) / 2."""
    log_p, log_q = _log_softmax(student), _log_softmax(teacher)
    log_m = log_p.logaddexp(log_q) - math.log(2)
    terms = log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)
    return 0.5 * terms.sum(-1).mean()


def kl_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(q||p), the classic distillation loss at temperature 1."""
    log_p, log_q = _log_softmax(student), _log_softmax(teacher)
    return (log_q.exp() * (log_q - log_p)).sum(-1).mean()


def ce_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy with the teacher's probabilities: KL(q||p) plus the entropy of q."""
    return -(_log_softmax(teacher).exp() * _log_softmax(student)).sum(-1).mean()


def _log_softmax(logits: Tensor) -> Tensor:
    """float [N, C]; Paddle's own cuts it off at -64 on a CPU, and so makes the losses bounded."""
    shifted = logits - logits.max(-1, keepdim=True).detach()
    return shifted - shifted.logsumexp(-1, keepdim=True)


LOSSES: dict[LossName, Callable[[Tensor, Tensor], Tensor]] = {
    "ssld": ssld_loss,
    "js": js_loss,
    "kl": kl_loss,
    "ce": ce_loss,
}
