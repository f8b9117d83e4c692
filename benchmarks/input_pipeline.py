"""What do images cost before the network sees them? Ours against the classic chain, on one core.

    OMP_NUM_THREADS=1 python benchmarks/input_pipeline.py --images FOLDER

Images like ImageNet's (500 x 375 pixels, 110 KB) and mosaics of 16 of them are made on the spot
from scikit-image's photographs. Both chains draw the same crops and flips from the files, in turns;
figures are medians. Where JPEGs are decoded at a reduced size, the results' distance to a resize of
the same crop by area is given, beside that of the classic chain's linear resize.

Then a small network learns from the files and from a batch that is in memory, an epoch each in
turns. It is the bottleneck: see the step's time beside that of loading its batch on one core, which
the machine needs to have free.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import repeat
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read once, at Paddle's import

import cv2
import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from data_catalog.images.columns import loose_images
from ppcls_core.data.augment import Operator, RandomCrop, RandomFlip
from ppcls_core.data.batch import Batch
from ppcls_core.data.decode import read_image
from ppcls_core.data.kept import KeptImages
from ppcls_core.data.loader import TrainLoader
from ppcls_core.data.transforms import needed, reduction, train_transform
from ppcls_core.models.specs import MEAN, STD
from ppcls_core.runtime.randomness import generator

MEANS, DEVIATIONS = np.array(MEAN, np.float32), np.array(STD, np.float32)
SHAPE, BYTES = (375, 500), 110_000  # of ImageNet's images, about
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "retina", "rocket", "stereo_motorcycle")
NUM_CLASSES, BATCH_SIZE = 10, 32


@dataclass(frozen=True)
class Chain:
    """Both ways from a file to a [3, size, size]; what they draw depends on the path alone."""

    size: int
    crop: RandomCrop
    flip: RandomFlip

    @staticmethod
    def to(size: int) -> Chain:
        return Chain(size, RandomCrop(size=size), RandomFlip())

    @property
    def operators(self) -> tuple[Operator, ...]:
        return self.crop, self.flip

    def ours(self, path: Path) -> np.ndarray:
        """uint8, as TrainLoader does it."""
        fresh = partial(generator, path.name)
        image = read_image(path, lambda shape: needed(self.operators, shape, fresh))
        return train_transform(image, self.operators, fresh(), 0.0)

    def classic(self, path: Path) -> np.ndarray:
        """float32, normalised: PaddleClas's DecodeImage, RandCropImage, RandFlipImage and so on."""
        image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
        assert image is not None
        rng = generator(path.name)
        y, x, height, width = self.crop.box(image.shape[:2], rng)
        box = image[:, :, ::-1][y : y + height, x : x + width]
        out = self.flip(cv2.resize(box, (self.size, self.size)), rng, 0.0)
        scaled = (out.astype(np.float32) * np.float32(1 / 255) - MEANS) / DEVIATIONS
        return np.ascontiguousarray(scaled.transpose(2, 0, 1))

    def whole(self, path: Path, interpolation: str) -> np.ndarray:
        """uint8, out of the whole picture."""
        crop = RandomCrop.model_validate({"size": self.size, "interpolation": interpolation})
        return train_transform(read_image(path), (crop, self.flip), generator(path.name), 0.0)

    def is_reduced(self, path: Path) -> bool:
        shape = read_image(path).shape[:2]
        return reduction(self.operators, shape, partial(generator, path.name)) > 1


def milliseconds(call: Callable[[Path], np.ndarray], paths: Sequence[Path]) -> float:
    """Of an image."""
    begun = time.perf_counter()
    for path in paths:
        call(path)
    return (time.perf_counter() - begun) / len(paths) * 1e3


def decibels(one: np.ndarray, other: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two uint8 images."""
    return float(cv2.PSNR(one, other))


def compare(paths: Sequence[Path], size: int, repetitions: int) -> list[str]:
    """A row of the table: both chains timed in turns over all files, and the distances."""
    chain = Chain.to(size)
    classic, ours = [], []
    for _ in range(repetitions):
        classic.append(milliseconds(chain.classic, paths))
        ours.append(milliseconds(chain.ours, paths))
    ratio = statistics.median(a / b for a, b in zip(classic, ours, strict=True))
    row = [f"{statistics.median(classic):.2f}", f"{statistics.median(ours):.2f}", f"{ratio:.2f}"]
    reduced = [path for path in paths if chain.is_reduced(path)]
    row.append(f"{100 * len(reduced) / len(paths):.0f} %")
    areas = [chain.whole(path, "area") for path in reduced]
    for way in (chain.ours, partial(chain.whole, interpolation="linear")):
        values = [decibels(way(path), area) for path, area in zip(reduced, areas, strict=True)]
        row.append(f"{statistics.mean(values):.1f}" if values else "")
    return row


def write_images(folder: Path, num: int) -> tuple[list[Path], list[Path]]:
    """`num` images like ImageNet's, and an eighth as many mosaics of 16 of them."""
    pictures = list(photographs(num))
    small = [folder / f"{number}.jpg" for number in range(num)]
    for path, picture in zip(small, pictures, strict=True):
        path.write_bytes(jpeg_of(picture, BYTES))
    large = [folder / f"mosaic{number}.jpg" for number in range(num // 8)]
    for number, path in enumerate(large):
        order = generator(number).permutation(num)[:16].reshape(4, 4)
        mosaic = np.vstack([np.hstack([pictures[i] for i in line]) for line in order.tolist()])
        cv2.imwrite(str(path), mosaic, [cv2.IMWRITE_JPEG_QUALITY, 90])
    return small, large


def photographs(num: int) -> Iterator[np.ndarray]:
    """uint8 BGR images of SHAPE, cut from photographs at random."""
    import skimage.data

    originals = [getattr(skimage.data, name)() for name in PHOTOGRAPHS]
    crop = RandomCrop(size=SHAPE, scale=(0.4, 1.0), interpolation="area")
    for number in range(num):
        image = originals[number % len(originals)]
        image = image[0] if isinstance(image, tuple) else image
        yield crop(image, generator(number), 0.0)[:, :, ::-1]


def jpeg_of(image: np.ndarray, num_bytes: int) -> bytes:
    """`image` at the highest quality that takes at most `num_bytes`."""
    for quality in range(99, 0, -1):
        data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        if len(data) <= num_bytes:
            return data.tobytes()
    raise ValueError(f"no JPEG of {image.shape} is that small")


@dataclass(frozen=True)
class Alternating(TrainLoader):
    """Even epochs from the files, odd ones from a batch in memory, with no thread beside them."""

    waits: list[float] = field(default_factory=list)  # seconds for each batch from the files

    @property
    def _kept(self) -> KeptImages:
        """Each epoch decodes, as those of a large data set."""
        return KeptImages(0)

    def batches(
        self, epoch: int, first_step: int, num_epochs: int = 1, part: tuple[int, int] = (0, 1)
    ) -> Iterator[Batch]:
        batch = next(super().batches(0, 0))  # whose threads end at once
        for number in range(epoch, epoch + num_epochs):
            if number % 2:
                yield from repeat(batch, self.steps_per_epoch)
            else:  # of two epochs the first alone is taken: threads are at work until its end
                loading = super().batches(number, 0, 2)
                for _ in range(self.steps_per_epoch):
                    begun = time.perf_counter()
                    batch = next(loading)
                    self.waits.append(time.perf_counter() - begun)
                    yield batch
                del loading  # which ends its threads


@dataclass(frozen=True)
class Epochs:
    """Of a training by an Alternating loader, milliseconds and MiB."""

    steps: list[float]  # mean of an epoch's steps but the first, which starts and ends the threads
    waits: list[float]  # for a batch, likewise
    memory: list[int]  # resident, at the end of each epoch


def train(loader: Alternating, num_epochs: int) -> Epochs:
    """A small network's epochs."""
    import paddle

    from ppcls_core.engine.config import TrainConfig
    from ppcls_core.engine.objectives import cross_entropy
    from ppcls_core.engine.trainer import StepReport, Trainer, Training
    from ppcls_core.models.registry import build_model
    from ppcls_core.runtime.monitor import SilentMonitor

    paddle.seed(0)
    model = build_model("ResNet18_vd", num_classes=NUM_CLASSES, spec={"width": 16})
    config = TrainConfig(
        epochs=num_epochs,
        batch_size=loader.batch_size,
        image_size=loader.image_size,
        eval_every=num_epochs,
    )
    ends, memory = [], []

    def on_step(report: StepReport) -> None:
        ends.append(time.perf_counter())
        if (report.step + 1) % loader.steps_per_epoch == 0:
            memory.append(resident())

    training = Training(model, cross_entropy(0.1), loader, lambda model: {"top1": 0.0}, on_step)
    with tempfile.TemporaryDirectory() as folder:
        Trainer(training, config, Path(folder), 1e9, SilentMonitor()).fit()
    # Means over an epoch: a median over its steps would hide a wait at every third.
    times = np.reshape(ends, (num_epochs, -1))
    waits = np.reshape(loader.waits, (-1, loader.steps_per_epoch))
    return Epochs(
        (np.diff(times).mean(1) * 1e3).tolist(), (waits[:, 1:].mean(1) * 1e3).tolist(), memory
    )


def resident() -> int:
    """MiB of this process (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 2**20


def compare_training(paths: Sequence[Path], size: int, pairs: int) -> Table:
    """The step's time with and without loading, what loading takes, and the memory."""
    times = -(-10 * BATCH_SIZE // len(paths))  # at least 10 steps an epoch
    names = [f"{number}.jpg" for number in range(times * len(paths))]
    labels = np.arange(len(names), dtype=np.int32) % NUM_CLASSES
    images = loose_images(Path("/"), names, labels)
    files = pa.array([bytes(path.absolute())[1:] for path in paths] * times, pa.binary())
    place = images.table.schema.get_field_index("path")
    images = replace(images, table=images.table.set_column(place, "path", files))
    alone = milliseconds(Chain.to(size).ours, [*paths] * times) * BATCH_SIZE
    columns = ("step, memory", "step, files", "wait", "loading alone", "throughput", "quartiles")
    title = f"Training, ms; medians of {pairs} pairs; load average before: {os.getloadavg()[0]:.1f}"
    table = Table("workers", *columns, "MiB", title=title)
    for workers in (1, 2):
        loader = Alternating(images, BATCH_SIZE, size, (RandomCrop(), RandomFlip()), 0, workers)
        epochs = train(loader, 2 * pairs)
        files, memory = epochs.steps[::2], epochs.steps[1::2]
        low, middle, high = np.quantile(np.divide(memory, files), [0.25, 0.5, 0.75]).tolist()
        values = [statistics.median(x) for x in (memory, files, epochs.waits)]
        table.add_row(
            str(workers),
            *(f"{value:.1f}" for value in [*values, alone]),
            f"{middle:.3f}",
            f"{low:.3f} to {high:.3f}",
            f"{min(epochs.memory[1:])} to {max(epochs.memory)}",
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, help="a folder of photographs")
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--pairs", type=int, default=10, help="of epochs; 0: no training")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    columns = ("classic ms", "ours ms", "ratio", "reduced", "dB to area: ours", "linear")
    table = Table("images", "pixels", *columns, title="One image, one core")
    with tempfile.TemporaryDirectory() as folder:
        small, large = write_images(Path(folder), 64)
        sets = {"like ImageNet's": (small, 224), "mosaics 2000 x 1500": (large, 224)}
        given = sorted(arguments.images.iterdir()) if arguments.images else small
        if arguments.images:
            sets |= {"given": (given, 224), "given, small": (given, 64)}
        for name, (paths, size) in sets.items():
            table.add_row(name, str(size), *compare(paths, size, arguments.repetitions))
        Console().print(table)
        if arguments.pairs:
            Console().print(compare_training(given, 64, arguments.pairs))


if __name__ == "__main__":
    main()
