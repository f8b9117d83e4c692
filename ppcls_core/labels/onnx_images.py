"""An ONNX classifier of any layout, as a function of uint8 images."""

from collections.abc import Callable

import numpy as np

from data_catalog.base.config import UserError
from data_catalog.base.words import counted
from ppcls_core.inference.onnx_session import OnnxSession, Port
from ppcls_core.inference.sidecar import normalized
from ppcls_core.labels.config import OnnxConfig


def image_classifier(
    session: OnnxSession, config: OnnxConfig, num_classes: int
) -> Callable[[np.ndarray], np.ndarray]:
    """`session` as a function of uint8 RGB [N, 3, S, S] to what it gives, float32 [N, C].

    Images are normalised and laid out as `config` says, in the type of the input. Where the file
    fixes the number of images at a time, the last of them are padded.

    Raises UserError: the input is no batch of such images, or the outputs are not one row of
    `num_classes` numbers an image; when called, that S is not the size that the file fixes.
    """
    wanted = _checked_input(session, config, num_classes)
    dtype, batch, preprocess = wanted.dtype, wanted.dims[0], config.preprocess
    sides = wanted.dims[2:] if config.layout == "NCHW" else wanted.dims[1:3]
    assert preprocess is not None, "a recipe fills it in"

    def run(images: np.ndarray) -> np.ndarray:
        scores = session(images)
        if scores.shape != (len(images), num_classes):
            raise UserError(
                f"{session.path}: gives {list(scores.shape)} for {counted(len(images), 'image')}, "
                f"expected [{len(images)}, {num_classes}]: one number for each class of the data "
                "set"
            )
        return scores.astype(np.float32)

    def predict(pixels: np.ndarray) -> np.ndarray:
        if any(side not in (None, pixels.shape[-1]) for side in sides):
            raise UserError(
                f"{session.path}: takes images of {sides[0]} x {sides[1]} pixels, got "
                f"{pixels.shape[-1]}: set that size (preprocess.size), or export it with open sizes"
            )
        images = normalized(pixels, preprocess.mean, preprocess.std)
        images = images[:, ::-1] if config.channels == "BGR" else images
        images = images.transpose(0, 2, 3, 1) if config.layout == "NHWC" else images
        images = np.ascontiguousarray(images, dtype)
        size = batch or len(images)
        padding = np.zeros((-len(images) % size, *images.shape[1:]), dtype)
        padded = np.concatenate([images, padding])
        parts = [run(padded[start : start + size]) for start in range(0, len(padded), size)]
        return np.concatenate(parts)[: len(images)]

    return predict


def _checked_input(session: OnnxSession, config: OnnxConfig, num_classes: int) -> Port:
    """The one input of a model that has one output, both as expected."""
    for kind, ports in (("input", session.inputs), ("output", session.outputs)):
        if len(ports) != 1:
            names = ", ".join(f"{port.name} {port}" for port in ports)
            raise UserError(
                f"{session.path}: has {len(ports)} {kind}s ({names}), expected one: export it with "
                "images as its one input and the classes' scores as its one output"
            )
    (images,), (scores,) = session.inputs, session.outputs
    at = config.layout.index("C")
    if images.dtype is None or len(images.dims) != 4 or images.dims[at] not in (None, 3):
        raise UserError(
            f"{session.path}: its input {images.name} is {images}, expected floats {config.layout} "
            "of 3 channels: set `layout`, or export it so"
        )
    if scores.dtype is None or len(scores.dims) != 2 or scores.dims[1] not in (None, num_classes):
        raise UserError(
            f"{session.path}: its output {scores.name} is {scores}, expected floats "
            f"[N, {num_classes}]: a row an image, a number for each class of the data set"
        )
    return images
