"""The logarithm of the softmax in float64, finite whatever the logits are."""

import numpy as np

LOGIT_MAX = float(np.finfo(np.float16).max)  # logits are taken as between -LOGIT_MAX and LOGIT_MAX
EXCLUDED = -104.0  # under the best logit a probability is 0 in float32


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities float64 [N, C] of float [N, C] `logits`.

    A class excluded by a logit of -inf is put EXCLUDED under the best, or level with the lowest.
    """
    finite = np.clip(logits.astype(np.float64), -LOGIT_MAX, LOGIT_MAX)
    excluded = np.isneginf(logits)
    if excluded.any():
        lowest = np.where(excluded, np.inf, finite).min(1, keepdims=True)
        floor = np.minimum(lowest, finite.max(1, keepdims=True) + EXCLUDED)
        finite = np.where(excluded, floor, finite)
    finite -= finite.max(1, keepdims=True)
    return finite - np.log(np.exp(finite).sum(1, keepdims=True))
