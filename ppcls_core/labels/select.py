"""Top-k images per class from soft labels, in one pass and O(classes x k) memory.

Yalniz et al. 2019, "Billion-scale semi-supervised learning": an image is a candidate for its P best
classes; each class keeps the k candidates of highest probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from pydantic import Field

from data_catalog.config import Config

SELECTION = pa.schema(
    [("image_id", pa.string()), ("class_id", pa.int32()), ("score", pa.float32())]
)


class SelectConfig(Config):
    """Which pool images the student is trained on."""

    k: int = Field(default=4000, gt=0)  # images kept per class
    p: int = Field(default=10, gt=0)  # classes an image may serve
    min_score: float = Field(default=0.0, ge=0, lt=1)  # least probability to be kept


@dataclass
class TopK:
    """Running selection: feed label shards with `add`, in any order, then take `result`."""

    num_classes: int
    config: SelectConfig
    _scores: list[list[np.ndarray]] = field(init=False)
    _ids: list[list[np.ndarray]] = field(init=False)
    _held: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self._scores = [[] for _ in range(self.num_classes)]
        self._ids = [[] for _ in range(self.num_classes)]
        self._held = np.zeros(self.num_classes, np.int64)

    def add(self, ids: Sequence[str], logits: np.ndarray) -> None:
        """Offer the images `ids` with float32 [N, C] `logits`."""
        names = np.array(ids, dtype=object)
        probabilities = softmax(logits)
        p = min(self.config.p, self.num_classes)
        classes = np.argsort(-probabilities, axis=1, kind="stable")[:, :p]
        scores = np.take_along_axis(probabilities, classes, 1)
        rows = np.repeat(np.arange(len(names)), p)
        flat_class, flat_score = classes.reshape(-1), scores.reshape(-1)
        good = flat_score >= self.config.min_score
        rows, flat_class, flat_score = rows[good], flat_class[good], flat_score[good]
        order = np.argsort(flat_class, kind="stable")
        bounds = np.searchsorted(flat_class[order], np.arange(self.num_classes + 1))
        for c in np.flatnonzero(np.diff(bounds)):
            part = order[bounds[c] : bounds[c + 1]]
            self._offer(int(c), flat_score[part], names[rows[part]])

    def _offer(self, c: int, scores: np.ndarray, ids: np.ndarray) -> None:
        self._scores[c].append(scores)
        self._ids[c].append(ids)
        self._held[c] += len(scores)
        if self._held[c] > 4 * self.config.k:  # amortises the sort
            self._prune(c)

    def _prune(self, c: int) -> None:
        """Keep the k best of class `c`: highest score first, ties by image id."""
        if not self._scores[c]:
            return
        scores, ids = np.concatenate(self._scores[c]), np.concatenate(self._ids[c])
        best = np.lexsort((ids.astype(str), -scores))[: self.config.k]
        self._scores[c], self._ids[c] = [scores[best]], [ids[best]]
        self._held[c] = len(best)

    def result(self) -> pa.Table:
        """SELECTION rows by class, best first."""
        for c in range(self.num_classes):
            self._prune(c)
        class_ids = np.repeat(np.arange(self.num_classes, dtype=np.int32), self._held)
        ids = [x for parts in self._ids for part in parts for x in part]
        scores = [part for parts in self._scores for part in parts]
        flat = np.concatenate(scores) if scores else np.empty(0)
        columns = [pa.array(ids, pa.string()), pa.array(class_ids), pa.array(flat, pa.float32())]
        return pa.table(columns, schema=SELECTION)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities float32 [N, C] of logits [N, C]."""
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)
