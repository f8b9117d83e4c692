"""Encodings of a teacher's logits in a label shard, and the log-probabilities read from them.

For every image the T best classes are kept exactly, whatever the encoding: their log-softmax as
float32, best first, equal ones by class. T is 16, or the number of classes where that is less. For
the rest, the tail:

`int8`  A byte a class. Code 240 + r is the class of rank r, exact. Code c < 240 is a class of the
        tail: log-probability high - range (c / 239)^2, with `high` and `range` of the row. The
        steps are finest at the top, where probabilities matter. `high` and `range` are fitted so
        that over the tail the errors and the errors weighted by probability add up to nothing: the
        first is what a student sees who knows nothing yet, the second keeps the sum of all
        probabilities.
`fp16`  Of each class the log-probability minus that of the best, as float16: finest at the top.
`topk`  Nothing: the probability left is spread evenly over the tail's classes. T may be chosen.

Logits are taken as between -65504 and 65504. A class that the teacher excludes (-inf) is put 104
under the best, where its probability is 0 in float32, or level with the row's lowest if lower.

Over a batch of 256 images or more the published SSLD loss differs by at most 1e-4 under `int8` and
5e-5 under `fp16`, its gradient's cosine is at least 0.9999 and 0.999999: for 2 to 1,000 classes,
flat to sharp teachers, students that know nothing to those off by 0.3 in every log-probability
(tests/ppcls_core/labels/test_label_encoding.py). A student that is sure of other things than the
teacher can see 5e-4 under `int8`. `topk` has no such bound: benchmarks/label_store.py tables what
it does.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np

from ppcls_core.inference.softmax import EXCLUDED, LOGIT_MAX, log_softmax

EncodingName = Literal["int8", "fp16", "topk"]
Columns = Mapping[str, np.ndarray]
"""By name as in a shard, first dimension N: top_class int32 [N, T], top_logprob float32 [N, T],
entropy, tail_high and tail_range float32 [N], rest uint8 [N, bytes]."""

NUM_TOP = 16  # as many as an image may serve classes
_LEVELS = 256 - NUM_TOP
_CURVE = (np.arange(_LEVELS, dtype=np.float32) / (_LEVELS - 1)) ** 2


def raw_columns(encoding: EncodingName) -> tuple[str, ...]:
    """The columns that decoding needs."""
    return {
        "int8": ("top_logprob", "tail_high", "tail_range", "rest"),
        "fp16": ("top_class", "top_logprob", "rest"),
        "topk": ("top_class", "top_logprob", "tail_high"),
    }[encoding]


def rest_bytes(encoding: EncodingName, num_classes: int) -> int:
    """Bytes of a row of `rest`, 0 where there is no such column."""
    return {"int8": num_classes, "fp16": 2 * num_classes, "topk": 0}[encoding]


def encode(logits: np.ndarray, encoding: EncodingName, k: int = NUM_TOP) -> Columns:
    """The columns of float [N, C] `logits`, none of them NaN; `k` is topk's T."""
    exact = log_softmax(logits)
    logprobs = exact.astype(np.float32)
    top_class = _best(logprobs, min(k if encoding == "topk" else NUM_TOP, logits.shape[1]))
    return {
        "top_class": top_class,
        "top_logprob": np.take_along_axis(logprobs, top_class, 1),
        "entropy": -(np.exp(exact) * exact).sum(1).astype(np.float32),
        **_REST[encoding](exact, top_class),
    }


def decode(columns: Columns, encoding: EncodingName, num_classes: int) -> np.ndarray:
    """Log-probabilities float32 [N, C] out of the columns that `raw_columns` names."""
    top = columns["top_logprob"]
    if encoding != "int8":
        if encoding == "topk":
            logprobs = np.repeat(columns["tail_high"][:, None], num_classes, 1)
        else:
            logprobs = columns["rest"].view(np.float16).astype(np.float32) + top[:, :1]
        np.put_along_axis(logprobs, columns["top_class"].astype(np.int64), top, 1)
        return logprobs
    high = columns["tail_high"][:, None]
    palette = np.zeros((len(top), 256), np.float32)  # log-probability of each code
    palette[:, :_LEVELS] = high - columns["tail_range"][:, None] * _CURVE
    palette[:, _LEVELS : _LEVELS + top.shape[1]] = top
    return palette.reshape(-1).take(columns["rest"] + 256 * np.arange(len(top))[:, None])


def _best(logprobs: np.ndarray, num: int) -> np.ndarray:
    """int32 [N, num] classes, best first, equal ones by class."""
    # The bits of numbers >= 0 are in the numbers' order; the class makes all keys different.
    depth = np.abs(logprobs).view(np.uint32).astype(np.uint64)
    keys = (depth << np.uint64(32)) | np.arange(logprobs.shape[1], dtype=np.uint64)
    best = np.partition(keys, num - 1, axis=1)[:, :num]
    best.sort(axis=1)
    return (best & np.uint64(0xFFFFFFFF)).astype(np.int32)


def _int8(logprobs: np.ndarray, top_class: np.ndarray) -> Columns:
    """The tail's columns."""
    in_tail = _in_tail(logprobs, top_class)
    codes, tail = np.zeros(logprobs.shape, np.uint8), np.zeros((2, len(logprobs)), np.float32)
    if in_tail.any():
        high = np.where(in_tail, logprobs, -np.inf).max(1, keepdims=True)
        span = high - np.where(in_tail, logprobs, np.inf).min(1, keepdims=True)
        depth = np.clip((high - logprobs) / np.where(span > 0, span, 1), 0, 1)
        codes = np.rint((_LEVELS - 1) * np.sqrt(depth)).astype(np.uint8)
        tail = _fitted(np.where(in_tail, logprobs - high, -np.inf), codes, span[:, 0])
        tail[0] += high[:, 0]
    ranks = np.arange(_LEVELS, _LEVELS + top_class.shape[1], dtype=np.uint8)
    np.put_along_axis(codes, top_class.astype(np.int64), ranks[None], 1)
    high, span = tail.astype(np.float32)
    return {"tail_high": high, "tail_range": span, "rest": codes}


def _fitted(below: np.ndarray, codes: np.ndarray, span: np.ndarray) -> np.ndarray:
    """[2, N] (high, range) whose errors over the tail add up to nothing, in both ways.

    `below` is float64 [N, C]: log-probability over the tail's highest, -inf outside the tail.
    """
    in_tail, curve = np.isfinite(below), _CURVE.astype(np.float64)[codes]
    even, likely = in_tail / in_tail.sum(1, keepdims=True), np.exp(below)
    likely /= likely.sum(1, keepdims=True)
    below = np.where(in_tail, below, 0)
    mean, depth = (even * below).sum(1), (even * curve).sum(1)
    likely_mean, likely_depth = (likely * below).sum(1), (likely * curve).sum(1)
    apart = depth - likely_depth
    fitted = (likely_mean - mean) / np.where(apart > 1e-6, apart, np.inf)
    span = np.where(np.abs(fitted - span) < 0.02 * span, fitted, span)  # else too few to fit
    return np.stack([mean + span * depth, span])


def _fp16(logprobs: np.ndarray, top_class: np.ndarray) -> Columns:
    """The tail's column, which the best classes are in too."""
    best = np.take_along_axis(logprobs, top_class[:, :1].astype(np.int64), 1)
    below = np.maximum(logprobs - best, -LOGIT_MAX).astype(np.float16)
    return {"rest": below.view(np.uint8)}


def _topk(logprobs: np.ndarray, top_class: np.ndarray) -> Columns:
    """The tail's column."""
    in_tail = _in_tail(logprobs, top_class)
    each = (np.exp(logprobs) * in_tail).sum(1) / np.maximum(in_tail.sum(1), 1)
    return {"tail_high": np.log(np.maximum(each, np.exp(EXCLUDED))).astype(np.float32)}


def _in_tail(logprobs: np.ndarray, top_class: np.ndarray) -> np.ndarray:
    """bool [N, C]: the classes that are not among the best."""
    in_tail = np.ones(logprobs.shape, bool)
    np.put_along_axis(in_tail, top_class.astype(np.int64), False, 1)
    return in_tail


_REST = {"int8": _int8, "fp16": _fp16, "topk": _topk}
