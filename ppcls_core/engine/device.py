"""Transfers of a training step: all that it needs to the device, and its figures from there.

A plain copy waits for all that the GPU has yet to do, so each one is a stop. Here everything that a
step needs travels as one vector of bytes; on a GPU both ways go through pinned memory, from which
and into which it copies in its turn while the host goes on.
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
class Uploaded:
    """A batch on the device, in equal `parts`.

    `source` has to live until the device has read it: until a result of the step is known.
    """

    parts: tuple[DeviceBatch, ...]
    source: Tensor


class Download:
    """A tensor on its way to the host, which begins when this is made."""

    def __init__(self, tensor: Tensor) -> None:
        self._event = None
        self._tensor = tensor
        if _is_gpu():
            self._tensor = tensor.pin_memory(blocking=False)
            self._event = paddle.device.current_stream().record_event()

    def read(self) -> np.ndarray:
        """The values; waits for what the GPU was given before this, not for what came after."""
        if self._event is not None:
            self._event.synchronize()
        return self._tensor.numpy()


def to_device(batch: Batch, num_parts: int = 1) -> Uploaded:
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
        return Uploaded((DeviceBatch(**whole),), source)
    divided = {name: paddle.split(tensor, num_parts) for name, tensor in whole.items()}
    parts = zip(*divided.values(), strict=True)
    return Uploaded(tuple(DeviceBatch(**dict(zip(divided, p, strict=True))) for p in parts), source)


def _copied(data: np.ndarray) -> tuple[Tensor, Tensor]:
    """(what is copied from, the copy on the device); pinned memory lets a GPU copy as it works."""
    if not _is_gpu():
        return (tensor := paddle.to_tensor(data)), tensor
    pinned = paddle.to_tensor(data, place=paddle.CUDAPinnedPlace())
    return pinned, pinned.cuda(blocking=False)


def _is_gpu() -> bool:
    return paddle.device.get_device().startswith("gpu")
