"""An exported model as it lies in a folder: program, weights, and the sidecar that explains them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import ValidationError

from data_catalog.config import Config, UserError
from data_catalog.files import write_bytes
from ppcls_core.data.transforms import MEAN, STD, Preprocess

if TYPE_CHECKING:
    from ppcls_core.deploy.engine import Precision

PROGRAM, WEIGHTS, SIDECAR = "inference.json", "inference.pdiparams", "sidecar.json"
FILES = (PROGRAM, WEIGHTS, SIDECAR)
Logits = Callable[[np.ndarray], np.ndarray]  # uint8 [N, 3, S, S] to float32 [N, C]


class Sidecar(Config):
    """What one has to know to use an exported model; all of it is stated, nothing is a default."""

    architecture: str
    classes: tuple[str, ...]  # names in the order of the logits
    preprocess: Preprocess
    mean: tuple[float, float, float] = MEAN  # of RGB values in [0, 1]
    std: tuple[float, float, float] = STD

    def write(self, directory: Path) -> None:
        """Write it into `directory`, atomically."""
        write_bytes(directory / SIDECAR, self.model_dump_json(indent=1).encode())

    def normalized(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 [N, 3, S, S] to float32 of the same shape, as the exported program takes it."""
        mean = np.array(self.mean, np.float32).reshape(3, 1, 1)
        std = np.array(self.std, np.float32).reshape(3, 1, 1)
        images = pixels * (1 / (255 * std))
        images -= mean / std
        return images


class Exported:
    """A folder that `export` wrote."""

    def __init__(self, directory: Path) -> None:
        """Raises UserError if a file is missing or the sidecar is not one."""
        for name in FILES:
            if not (directory / name).is_file():
                raise UserError(
                    f"{directory}: has no {name}; expected a folder written by `ppcls export`"
                )
        self.directory, self.sidecar = directory, _read(directory / SIDECAR)

    def predictor(self, precision: Precision, threads: int, device: int = 0) -> Logits:
        """The model on the inference engine; see `engine.open_predictor`."""
        from ppcls_core.deploy.engine import open_predictor

        predict = open_predictor(self.directory, precision, threads, device)
        return lambda pixels: predict(self.sidecar.normalized(pixels))


def _read(path: Path) -> Sidecar:
    try:
        return Sidecar.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise UserError(
            f"{path}: is not the sidecar of an exported model ({error.error_count()} mistakes); "
            "export it again"
        ) from error
