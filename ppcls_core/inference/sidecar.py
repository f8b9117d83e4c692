"""The sidecar of an exported model: class names and preprocessing, beside program and weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import Field, ValidationError

from data_catalog.base.config import Config, UserError
from data_catalog.base.files import digest_of, sha256_file, write_bytes
from data_catalog.base.words import counted
from ppcls_core.data.transforms import CROP_RATIO, Preprocess
from ppcls_core.models.registry import ModelConfig, spec_of
from ppcls_core.models.specs import MEAN, STD
from ppcls_core.models.weights.files import find_weights

PROGRAM, WEIGHTS, SIDECAR = "inference.json", "inference.pdiparams", "sidecar.json"
FILES = (PROGRAM, WEIGHTS, SIDECAR)
ONNX = "model.onnx"  # beside them, where it was asked for


class Sidecar(Config):
    """Class names and preprocessing of an exported model; the file states the defaults too.

    Its `preprocess.interpolation` null means by area to shrink, linear to enlarge.
    """

    architecture: str
    classes: tuple[str, ...] = Field(min_length=1)  # names in the order of the logits
    preprocess: Preprocess
    mean: tuple[float, float, float] = MEAN  # of RGB values in [0, 1]
    std: tuple[float, float, float] = STD
    digest: str | None = None  # of the rest, the program and the weights; `write` sets it

    @classmethod
    def of(cls, model: ModelConfig, classes: Sequence[str], preprocess: Preprocess) -> Sidecar:
        """The sidecar of an exported `model`, with the mean and deviation of its spec."""
        spec = spec_of(model.name, model.spec)
        return cls(
            architecture=model.name,
            classes=tuple(classes),
            preprocess=preprocess,
            mean=spec.mean,
            std=spec.std,
        )

    def write(self, directory: Path) -> None:
        """Write it into `directory`, beside program and weights, atomically."""
        whole = self.model_copy(update={"digest": self.digest_in(directory)})
        write_bytes(directory / SIDECAR, whole.text().encode())

    def text(self) -> str:
        """As JSON, with the short side that `preprocess` takes by default."""
        return self._stated().model_dump_json(indent=1) + "\n"

    def digest_in(self, directory: Path) -> str:
        """Digest of this sidecar and of the program and the weights in `directory`."""
        said = self._stated().model_dump(mode="json", exclude={"digest"})
        return digest_of([said, *(sha256_file(directory / name) for name in (PROGRAM, WEIGHTS))])

    def _stated(self) -> Sidecar:
        short = self.preprocess.short or round(self.preprocess.size / CROP_RATIO)
        preprocess = self.preprocess.model_copy(update={"short": short})
        return self.model_copy(update={"preprocess": preprocess})

    def normalized(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 [N, 3, S, S] to float32 of the same shape, as the exported program takes it."""
        return normalized(pixels, self.mean, self.std)


def normalized(pixels: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """(pixels / 255 - mean) / std as float32, of uint8 RGB [N, 3, S, S]."""
    means = np.array(mean, np.float32).reshape(3, 1, 1)
    stds = np.array(std, np.float32).reshape(3, 1, 1)
    images = pixels * (1 / (255 * stds))
    images -= means / stds
    return images


def read_sidecar(path: Path) -> Sidecar:
    """The sidecar `path`. Raises UserError if it is none."""
    try:
        return Sidecar.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise UserError(
            f"{path}: is not the sidecar of an exported model "
            f"({counted(error.error_count(), 'mistake')}); export it again"
        ) from error


def check_class_names(weights: Path, classes: Sequence[str]) -> None:
    """Raise UserError if the sidecar beside `weights` (`find_weights`) names other classes.

    Names that are the classes' numbers say nothing and are not compared.
    """
    path = find_weights(weights).parent / SIDECAR
    if not path.is_file():
        return
    theirs, ours = read_sidecar(path).classes, tuple(classes)
    numbers = tuple(map(str, range(len(ours))))
    if len(theirs) != len(ours):
        raise UserError(
            f"{weights} is for {counted(len(theirs), 'class')} ({path}), the data set has "
            f"{len(ours)}: give the weights of a model of these classes"
        )
    if numbers[: len(theirs)] in (theirs, ours):
        return
    for label, (one, other) in enumerate(zip(theirs, ours, strict=True)):
        if one != other:
            raise UserError(
                f"class {label} is '{one}' in {path}, which lies beside the weights, and '{other}' "
                "in the data set: give the weights of a model of these classes, in this order"
            )
