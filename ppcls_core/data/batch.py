"""The images, labels and teacher's outputs of one training step."""

from dataclasses import dataclass, field

import numpy as np

from ppcls_core.data.lost import Lost


@dataclass(frozen=True)
class Batch:
    """N images; where two are mixed into one, the share `weight` of it is the first one's."""

    pixels: np.ndarray  # uint8 [N, 3, S, S]
    labels: np.ndarray  # int64 [N], -1 unknown
    other_labels: np.ndarray | None = None  # int64 [N], of the second image
    weight: np.ndarray | None = None  # float32 [N], in [0, 1]
    targets: np.ndarray | None = None  # float32 [N, C], the teacher's log-probabilities
    lost: Lost = field(default_factory=dict)  # unreadable images that others took the place of
