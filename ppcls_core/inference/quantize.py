"""Post-training quantisation: an exported model in int8, its ranges found on calibration images.

Paddle's own tool (paddle.static.quantization) folds the batch norms into the convolutions, then
quantises the weights of convolutions and linear layers per output channel by their largest value,
and what goes into these layers per tensor by the range that holds all but 1e-5 of what the images
cause. All is symmetric around 0. What is between those layers stays in float.
"""

import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle
from paddle.base import core
from paddle.pir_utils import DygraphOldIrGuard, OldIrGuard
from paddle.static.quantization.post_training_quantization import PostTrainingQuantization

from data_catalog.base.config import UserError
from data_catalog.images.columns import Images
from ppcls_core.data.decode import read_image
from ppcls_core.data.loader import read_batches
from ppcls_core.data.transforms import Preprocess
from ppcls_core.inference.export import INPUT, save_program
from ppcls_core.inference.exported import Exported
from ppcls_core.inference.int8 import PROGRAM, WEIGHTS, quiet, write_record
from ppcls_core.inference.sidecar import Sidecar
from ppcls_core.models.networks.layers import Network
from ppcls_core.runtime.randomness import generator

BATCH_SIZE = 32
ALGORITHM = "hist"  # of six tried the nearest to float, but for `abs_max`, which an outlier ruins
SOURCE = "float"


@dataclass(frozen=True)
class Calibration:
    """Images that show a network what it will see."""

    batches: Sequence[np.ndarray]
    """uint8 [N, 3, S, S] each."""
    unreadable: int = 0

    @property
    def num_images(self) -> int:
        """How many there are."""
        return sum(map(len, self.batches))


def read_calibration(images: Images, preprocess: Preprocess, num: int, workers: int) -> Calibration:
    """`num` images drawn from `images`, or all if there are fewer; equal calls draw equal ones.

    An image that cannot be read is counted, and another takes its place.

    Raises UserError: none can be read.
    """
    order = generator(0, "calibration").permutation(len(images)).tolist()
    batches: list[np.ndarray] = []
    missing, unreadable = num, 0

    def read(row: int) -> np.ndarray:
        return preprocess(read_image(images.source(row)))

    for _, pixels, bad in read_batches(order, read, BATCH_SIZE, workers):
        unreadable += len(bad)
        if len(pixels):
            batches.append(pixels[:missing])
        missing -= len(pixels)
        if missing <= 0:
            break
    if not batches:
        raise UserError(f"none of the {len(images):,} calibration images can be read")
    return Calibration(batches, unreadable)


def quantize(model: Network, calibration: Calibration, directory: Path) -> None:
    """Add the int8 model (see `int8`) to `directory`, to which `export` has written `model`.

    It takes what the float one takes: float32 [N, 3, S, S], images as the sidecar prepares them.
    Trainings of this process give the same bits as without.

    Raises UserError: the folder holds no exported model.
    """
    sidecar = Exported(directory).sidecar
    with tempfile.TemporaryDirectory(dir=directory) as name, quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(name)
        save_former(model, sidecar.preprocess.size, folder / SOURCE)
        _quantize(folder, calibration, sidecar)
        for file in (WEIGHTS, PROGRAM):
            (folder / file).replace(directory / file)
    write_record(directory, calibration.num_images)


def save_former(model: Network, size: int, stem: Path) -> None:
    """As `save_program`, in Paddle 2's format: `stem` with .pdmodel and .pdiparams."""
    model.eval()
    with DygraphOldIrGuard():
        save_program(model, size, stem)
    stem.with_suffix(".pdiparams.info").unlink()


def _quantize(folder: Path, calibration: Calibration, sidecar: Sidecar) -> None:
    """Make the int8 program of the program SOURCE in `folder`, there too."""

    def images() -> Iterator[dict[str, np.ndarray]]:
        return ({INPUT: sidecar.normalized(batch)} for batch in calibration.batches)

    scope = core.Scope()
    with OldIrGuard(), paddle.static.scope_guard(scope), paddle.utils.unique_name.guard():
        tool = PostTrainingQuantization(
            executor=paddle.static.Executor(paddle.CPUPlace()),
            scope=scope,
            model_dir=str(folder),
            model_filename=f"{SOURCE}.pdmodel",
            params_filename=f"{SOURCE}.pdiparams",
            data_loader=images,
            batch_size=BATCH_SIZE,
            batch_nums=len(calibration.batches),
            algo=ALGORITHM,
            onnx_format=True,  # weights are int8 in the file
            optimize_model=True,  # batch norms are folded
        )
        tool.quantize()
        tool.save_quantized_model(str(folder), PROGRAM, WEIGHTS)
