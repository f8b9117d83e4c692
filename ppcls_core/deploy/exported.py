"""An exported model as it lies in a folder: program, weights, and the sidecar explaining them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field, ValidationError

from data_catalog.config import Config, UserError
from data_catalog.files import digest_of, sha256_file, write_bytes
from ppcls_core.data.transforms import CROP_RATIO, MEAN, STD, Preprocess

if TYPE_CHECKING:
    from ppcls_core.deploy.engine import EngineOptions, Precision

PROGRAM, WEIGHTS, SIDECAR = "inference.json", "inference.pdiparams", "sidecar.json"
FILES = (PROGRAM, WEIGHTS, SIDECAR)
Logits = Callable[[np.ndarray], np.ndarray]  # uint8 [N, 3, S, S] to float32 [N, C]


class Sidecar(Config):
    """What one has to know to use an exported model; in the file all of it is stated.

    Its `preprocess.interpolation` null means by area to shrink, linear to enlarge.
    """

    architecture: str
    classes: tuple[str, ...] = Field(min_length=1)  # names in the order of the logits
    preprocess: Preprocess
    mean: tuple[float, float, float] = MEAN  # of RGB values in [0, 1]
    std: tuple[float, float, float] = STD
    digest: str | None = None  # of program and weights; `write` sets it

    def write(self, directory: Path) -> None:
        """Write it into `directory`, beside program and weights, atomically."""
        whole = self.model_copy(update={"digest": _digest(directory)})
        write_bytes(directory / SIDECAR, whole.text().encode())

    def text(self) -> str:
        """As JSON, with the short side that `preprocess` takes by default."""
        short = self.preprocess.short or round(self.preprocess.size / CROP_RATIO)
        stated = self.preprocess.model_copy(update={"short": short})
        return self.model_copy(update={"preprocess": stated}).model_dump_json(indent=1) + "\n"

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
        """Raises UserError if a file is missing, or they are not those that belong together."""
        for name in FILES:
            if not (directory / name).is_file():
                raise UserError(
                    f"{directory}: has no {name}; expected a folder written by `ppcls export`"
                )
        self.directory, self.sidecar = directory, _read(directory / SIDECAR)
        # Paddle opens other weights without a word, and gives noise.
        if self.sidecar.digest != _digest(directory):
            raise UserError(
                f"{directory}: {PROGRAM} and {WEIGHTS} are not those that {SIDECAR} was written "
                "for; copy the three together, or export again"
            )

    def predictor(self, precision: Precision, threads: int, device: int = 0) -> Logits:
        """The model on the inference engine: on GPU `device`, or else `threads` of the CPU."""
        from ppcls_core.deploy.engine import EngineOptions

        return self.on_engine(EngineOptions(precision=precision, threads=threads, gpu=device))

    def on_engine(self, options: EngineOptions) -> Logits:
        """The model on the inference engine; see `open_predictor`."""
        from ppcls_core.deploy.engine import open_predictor

        return self._of_pixels(open_predictor(self.directory, options))

    def on_training_engine(self) -> Logits:
        """The model in Paddle's dygraph, unlike the engine without effect on later trainings.

        Raises:
            UserError: Paddle cannot read the files.
        """
        import paddle

        try:
            loaded = paddle.jit.load(str(self.directory / Path(PROGRAM).stem))
        except (RuntimeError, ValueError) as error:
            raise UserError(f"{self.directory}: Paddle cannot open it; export again") from error

        def run(images: np.ndarray) -> np.ndarray:
            with paddle.no_grad():
                return loaded(paddle.to_tensor(images)).numpy()

        return self._of_pixels(run)

    def _of_pixels(self, run: Logits) -> Logits:
        """`run`, which takes normalised images."""

        def predict(pixels: np.ndarray) -> np.ndarray:
            logits = run(self.sidecar.normalized(pixels))
            check_width(logits, self.sidecar.classes, self.directory / SIDECAR)
            return logits

        return predict


def check_width(logits: np.ndarray, classes: tuple[str, ...], source: Path) -> None:
    """Raise UserError if `classes`, which stand in `source`, are not as many as the logits."""
    if logits.shape[1] != len(classes):
        raise UserError(
            f"{source}: names {len(classes)} classes, but the model has {logits.shape[1]}"
        )


def _digest(directory: Path) -> str:
    return digest_of([sha256_file(directory / name) for name in (PROGRAM, WEIGHTS)])


def _read(path: Path) -> Sidecar:
    try:
        return Sidecar.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise UserError(
            f"{path}: is not the sidecar of an exported model ({error.error_count()} mistakes); "
            "export it again"
        ) from error
