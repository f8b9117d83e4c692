"""A training's batch on the device, in one transfer.

A copy from the host's memory waits for all that the GPU has yet to do, so each one is a stop: here
everything that a step needs travels as one vector of bytes.
"""

from dataclasses import dataclass

import numpy as np
import paddle
from paddle import Tensor

from ppcls_core.data.batch import Batch

FIELDS = ("labels", "other_labels", "weight", "targets", "pixels")  # the widest types first
"""In this order each field begins at a multiple of its type's size."""


@dataclass(frozen=True)
class DeviceBatch:
    """The fields of `Batch` as tensors on the device."""

    pixels: Tensor  # uint8 [N, 3, S, S]
    labels: Tensor  # int64 [N], -1 unknown
    other_labels: Tensor | None = None
    weight: Tensor | None = None
    targets: Tensor | None = None


@dataclass(frozen=True)
class Upload:
    """A batch on the device, in equal `parts`.

    `source` has to live until the device has read it: until a result of the step is known.
    """

    parts: tuple[DeviceBatch, ...]
    source: Tensor


def to_device(batch: Batch, num_parts: int = 1) -> Upload:
    """`batch` on the device, in order, divided into `num_parts`, which divides its size."""
    given = {name: getattr(batch, name) for name in FIELDS}
    arrays = {name: array for name, array in given.items() if array is not None}
    data = np.concatenate([np.ascontiguousarray(a).reshape(-1).view("u1") for a in arrays.values()])
    source, vector = _copied(data)
    pieces = paddle.split(vector, [array.nbytes for array in arrays.values()])
    whole = {
        name: piece.view(array.dtype.name).reshape(array.shape)
        for piece, (name, array) in zip(pieces, arrays.items(), strict=True)
    }
    if num_parts == 1:
        return Upload((DeviceBatch(**whole),), source)
    divided = {name: paddle.split(tensor, num_parts) for name, tensor in whole.items()}
    parts = zip(*divided.values(), strict=True)
    return Upload(tuple(DeviceBatch(**dict(zip(divided, p, strict=True))) for p in parts), source)


def _copied(data: np.ndarray) -> tuple[Tensor, Tensor]:
    """(what is copied from, the copy on the device); pinned memory lets a GPU copy as it works."""
    if not paddle.device.get_device().startswith("gpu"):
        return (tensor := paddle.to_tensor(data)), tensor
    pinned = paddle.to_tensor(data, place=paddle.CUDAPinnedPlace())
    return pinned, pinned.cuda(blocking=False)
