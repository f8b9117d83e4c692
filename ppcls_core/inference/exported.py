"""A folder that `export` wrote, and the ways to run the model in it."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data_catalog.base.config import UserError
from data_catalog.base.words import counted
from data_catalog.recipes import near_recipe, newest_result
from ppcls_core.inference.sidecar import FILES, PROGRAM, SIDECAR, WEIGHTS, read_sidecar

if TYPE_CHECKING:
    from ppcls_core.inference.predictor import EngineOptions

Logits = Callable[[np.ndarray], np.ndarray]  # uint8 [N, 3, S, S] to float32 [N, C]


def find_exported(given: str | Path, note: Callable[[str], None]) -> Exported:
    """The exported model in the folder `given`, or the student that the recipe of this name, or in
    this file, exported last; `note` takes what else `given` could have meant. Raises UserError: as
    `newest_result` and `Exported`."""
    taken = "the exported model of that name" if is_exported(Path(given)) else ""
    return Exported(newest_result(str(given), "export", note, taken) or Path(given))


def is_exported(folder: Path) -> bool:
    """Whether `export` wrote there, whole or not."""
    return any((folder / name).exists() for name in FILES)


class Exported:
    """A folder that `export` wrote."""

    def __init__(self, directory: Path) -> None:
        """Raises UserError if a file is missing, or they are not as they were written together."""
        for name in FILES:
            if not (directory / name).is_file():
                lack = f"has no {name}" if directory.exists() else "no such folder or recipe"
                raise UserError(
                    f"{directory}: {lack}; expected a folder written by `ppcls export`, or a "
                    f"recipe that `ssld run` has finished{near_recipe(directory)}"
                )
        self.directory, self.sidecar = directory, read_sidecar(directory / SIDECAR)
        # Paddle opens other weights without a word, and gives noise; so does another image size.
        if self.sidecar.digest != self.sidecar.digest_in(directory):
            raise UserError(
                f"{directory}: {PROGRAM}, {WEIGHTS} and {SIDECAR} are not as they were exported "
                "together; copy the three together, or export again (--classes and --size set what "
                "the last one says)"
            )

    def on_engine(self, options: EngineOptions) -> Logits:
        """The model on the inference engine; see `open_predictor`."""
        open_predictor = pkgutil.resolve_name("ppcls_core.inference.predictor:open_predictor")
        return self._of_pixels(open_predictor(self.directory, options))

    def on_training_engine(self) -> Logits:
        """The model in Paddle's dygraph, unlike the engine without effect on later trainings.
        Raises UserError: Paddle cannot read the files."""
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
            f"{source}: names {counted(len(classes), 'class')}, but the model has {logits.shape[1]}"
        )
