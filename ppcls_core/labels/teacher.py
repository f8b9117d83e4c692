"""Teachers: a network of Paddle, an ONNX file, outputs computed elsewhere, the mean of several.

A network runs on Paddle's inference engine, on uint8 pixels, in 16 bits where its answers allow
that. Once that engine has run, trainings of the process give other bits than before: run it in a
process of its own.
"""

from __future__ import annotations

import tempfile
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import paddle
from pydantic import Field

from data_catalog.base.config import Config, UserError
from data_catalog.images.columns import Images, Source
from ppcls_core.data.decode import BadImage
from ppcls_core.data.loader import read_batches
from ppcls_core.data.pace import Pace
from ppcls_core.data.transforms import Preprocess
from ppcls_core.data.views import Views
from ppcls_core.engine.evaluator import predict_logits
from ppcls_core.inference.engines import EngineProcess, Predict
from ppcls_core.inference.onnx_session import OnnxSession, open_session
from ppcls_core.inference.predictor import (
    EngineOptions,
    Precision,
    fast_precisions,
    open_predictor,
)
from ppcls_core.inference.softmax import log_softmax
from ppcls_core.labels.config import BadRow, OnnxConfig, as_logits
from ppcls_core.labels.onnx_images import image_classifier
from ppcls_core.labels.table import LabelRows
from ppcls_core.models.features import without_classifier
from ppcls_core.models.networks.layers import Network, normalize
from ppcls_core.models.registry import ModelConfig, build_model
from ppcls_core.models.weights.state import load_weights
from ppcls_core.runtime.processes import ChildDied

MIN_TOP1, MAX_KL = 0.98, 0.001  # of 16 bits with fp32
Digest = Callable[[Path], str]  # sha256 of a file's content
Item = tuple[str, Source, int]  # id and place of an image, number of its view
Batches = Iterator[tuple[list[Item], np.ndarray, list[tuple[Item, BadImage]]]]
"""A batch at a time: the n items that could be used, pixels or logits of each, the other items."""
Answers = Callable[[Sequence[Item]], Batches]  # with logits float32 [n, C]
_NAMES = {"onnx", "classes", "weight"}  # of OnnxConfig: say nothing of what it answers


@dataclass(frozen=True)
class Agreement:
    """How two engines agree on images: share of equal classes, mean KL(first || second)."""

    top1: float
    kl: float

    @property
    def is_close(self) -> bool:
        """Whether the second may take the first one's place."""
        return self.top1 >= MIN_TOP1 and self.kl <= MAX_KL


def agreement(first: np.ndarray, second: np.ndarray) -> Agreement:
    """The Agreement of two float [N, C] logits of the same images."""
    log_p, log_q = log_softmax(first), log_softmax(second)
    kl = (np.exp(log_p) * (log_p - log_q)).sum(1).mean()
    return Agreement(float((log_p.argmax(1) == log_q.argmax(1)).mean()), float(kl))


def items_of(images: Images, rows: Sequence[int], numbers: Iterable[int]) -> list[Item]:
    """The images in these rows, each with its number. They are taken at once: looked up one by one,
    14 million take a quarter of an hour."""
    part = images.take(list(rows))
    return list(zip(part.ids, part.sources(), numbers, strict=True))


def batches(items: Sequence[Item], views: Views, batch_size: int, workers: int) -> Batches:
    """Pixels of the views `items`, uint8 [n, 3, S, S], loaded by `workers` threads."""

    def read(item: Item) -> np.ndarray:
        image_id, source, number = item
        return views.pixels(source, image_id, number)

    return read_batches(items, read, batch_size, workers)


@dataclass(frozen=True)
class Engine:
    """How a teacher runs in a process, and the share of the machine that it has there."""

    precision: Precision | None = None
    """On Paddle's inference engine. None: by the network itself in fp32, without that engine, so
    that trainings of the process keep their bits."""
    threads: int = 1  # of the CPU
    workers: int = 1  # threads that load images
    batch_size: int = 16
    process: EngineProcess | None = None  # where the teacher runs; None: in this one
    pace: Pace = field(default_factory=Pace, compare=False)

    def opened(self, seeing: Seeing) -> Predict:
        """The outputs for pixels, as `Seeing.predictor`."""
        if self.process is None:
            return seeing.predictor(self)
        return self.process.predictor(_open, seeing, replace(self, process=None))


def _open(seeing: Seeing, engine: Engine) -> Predict:
    return seeing.predictor(engine)


class Seeing(Config, ABC):
    """A source of outputs of images, which are seen in a test as `preprocess` says."""

    preprocess: Preprocess

    @abstractmethod
    def predictor(self, engine: Engine) -> Predict:
        """Its outputs for pixels, computed in this process."""

    def answers(self, engine: Engine, views: Views) -> Answers:
        """Its logits for images as `views` show them, at its own resolution."""
        predict, seen = engine.opened(self), views.at(self.preprocess)

        def answer(items: Sequence[Item]) -> Batches:
            loaded = batches(items, seen, engine.batch_size, engine.workers)
            for good, pixels, bad in engine.pace.of(loaded, lambda batch: len(batch[1])):
                yield good, self._logits(predict(pixels), good) if good else pixels, bad

        return answer

    def _logits(self, outputs: np.ndarray, items: Sequence[Item]) -> np.ndarray:
        return outputs


class NetworkTeacher(Seeing):
    """A network of Paddle."""

    kind: Literal["network"] = "network"
    model: ModelConfig
    num_classes: int
    weights: Path

    def network(self) -> Network:
        """In eval mode. Raises UserError if the weights are not of this model and classes."""
        name, spec = self.model.name, self.model.spec
        network = build_model(name, num_classes=self.num_classes, spec=spec)
        load_weights(network, self.weights)
        network.eval()
        return network

    def predictor(self, engine: Engine) -> Predict:
        """On the inference engine, or as the network itself."""
        if engine.precision is None:
            return partial(predict_logits, self.network())
        size = self.preprocess.size
        return on_engine(self.network(), size, engine.precision, engine.threads)

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return self.weights.stat().st_size

    def identity(self, digest: Digest) -> object:
        """All that its answers depend on beside the views, as JSON."""
        return [self.model.model_dump(mode="json"), self.num_classes, digest(self.weights)]

    def within(self, folder: Path) -> NetworkTeacher:
        """The same with its files under `folder`."""
        return self.model_copy(update={"weights": folder / self.weights})


class NetworkFeatures(Seeing):
    """The features that the classifier of a network with these weights is given."""

    model: ModelConfig
    weights: Path

    def predictor(self, engine: Engine) -> Predict:
        """Float32 [N, F] on the inference engine."""
        network = build_model(self.model.name, spec=self.model.spec, pretrained=self.weights)
        size, precision = self.preprocess.size, engine.precision or "fp32"
        return on_engine(without_classifier(network), size, precision, engine.threads)


class OnnxTeacher(Seeing):
    """A network in an ONNX file."""

    kind: Literal["onnx"] = "onnx"
    config: OnnxConfig  # with its preprocessing
    path: Path
    data: tuple[Path, ...]  # files that hold tensors of it
    order: tuple[int, ...]  # position among its classes of each class of the data

    def predictor(self, engine: Engine) -> Predict:
        """On onnxruntime, in the precision of the file."""
        return image_classifier(self.session(engine), self.config, len(self.order))

    def session(self, engine: Engine) -> OnnxSession:
        """The file, opened by onnxruntime."""
        return open_session(self.path, engine.threads, on_gpu=True)

    def _logits(self, outputs: np.ndarray, items: Sequence[Item]) -> np.ndarray:
        try:
            return as_logits(outputs[:, self.order], self.config.outputs)
        except BadRow as bad:
            name = items[bad.row][0]
            raise UserError(f"{self.config.onnx}: what it gives for image {name} {bad}") from None

    @property
    def size(self) -> int:
        """As NetworkTeacher's."""
        return sum(path.stat().st_size for path in (self.path, *self.data))

    def identity(self, digest: Digest) -> object:
        """As NetworkTeacher's."""
        said = self.model_dump(mode="json", exclude={"path": True, "data": True, "config": _NAMES})
        return [said, *map(digest, (self.path, *self.data))]

    def within(self, folder: Path) -> OnnxTeacher:
        """As NetworkTeacher's."""
        data = tuple(folder / path for path in self.data)
        return self.model_copy(update={"path": folder / self.path, "data": data})


class FileTeacher(Config):
    """Outputs that were computed elsewhere, as `import_labels` wrote them: of images, not views."""

    kind: Literal["file"] = "file"
    path: Path

    def answers(self, engine: Engine, views: Views) -> Answers:
        """Its logits; the images themselves are not read. One that it lacks is `unlabelled`."""
        rows = LabelRows(self.path)

        def answer(items: Sequence[Item]) -> Batches:
            logits, found = rows.find([image_id for image_id, _, _ in items])
            for start in range(0, len(items), engine.batch_size):
                part = range(start, min(start + engine.batch_size, len(items)))
                good = [row for row in part if found[row]]
                bad = [
                    (items[row], BadImage("unlabelled", "the label file has no row of it"))
                    for row in part
                    if not found[row]
                ]
                yield [items[row] for row in good], logits[good], bad

        return answer

    @property
    def size(self) -> int:
        """As NetworkTeacher's."""
        return self.path.stat().st_size

    def identity(self, digest: Digest) -> object:
        """As NetworkTeacher's."""
        return digest(self.path)

    def within(self, folder: Path) -> FileTeacher:
        """As NetworkTeacher's."""
        return self.model_copy(update={"path": folder / self.path})


class MeanTeacher(Config):
    """The mean of the probabilities of several teachers, or of one that is no network here."""

    kind: Literal["mean"] = "mean"
    teachers: tuple[Member, ...]
    weights: tuple[float, ...]  # with the sum 1

    def answers(self, engine: Engine, views: Views) -> Answers:
        """Its logits, of the images of which each teacher has some."""
        members = [teacher.answers(engine, views) for teacher in self.teachers]

        def answer(items: Sequence[Item]) -> Batches:
            for parts in zip(*(member(items) for member in members), strict=True):
                lost = {item: error for _, _, bad in parts for item, error in bad}
                good = [item for item in parts[0][0] if item not in lost]
                yield good, self._mean([_of(good, part) for part in parts]), list(lost.items())

        return answer

    def _mean(self, logits: Sequence[np.ndarray]) -> np.ndarray:
        logprobs = [log_softmax(own) for own in logits]
        shares = np.log(self.weights).reshape(-1, 1, 1)
        return np.logaddexp.reduce(np.stack(logprobs) + shares).astype(np.float32)

    @property
    def size(self) -> int:
        """As NetworkTeacher's."""
        return sum(teacher.size for teacher in self.teachers)

    def identity(self, digest: Digest) -> object:
        """As NetworkTeacher's, and how each teacher sees an image in a test."""
        seen = [t.model_dump(mode="json", include={"preprocess"}) for t in self.teachers]
        return [[t.identity(digest) for t in self.teachers], seen, list(self.weights)]

    def within(self, folder: Path) -> MeanTeacher:
        """As NetworkTeacher's."""
        return self.model_copy(
            update={"teachers": tuple(teacher.within(folder) for teacher in self.teachers)}
        )


def _of(items: Sequence[Item], part: tuple[list[Item], np.ndarray, object]) -> np.ndarray:
    """The logits of `items` among those of a batch, which may have more."""
    if len(items) == len(part[0]):
        return part[1]
    places = {item: place for place, item in enumerate(part[0])}
    return part[1][[places[item] for item in items]]


Teacher = Annotated[NetworkTeacher | MeanTeacher, Field(discriminator="kind")]
Member = Annotated[NetworkTeacher | OnnxTeacher | FileTeacher, Field(discriminator="kind")]
MeanTeacher.model_rebuild()


def on_engine(model: paddle.nn.Layer, size: int, precision: Precision, threads: int) -> Predict:
    """`model` in eval mode on images of `size` pixels, with `threads` threads of the CPU."""
    model.eval()
    spec = paddle.static.InputSpec([None, 3, size, size], "uint8", name="image")
    with tempfile.TemporaryDirectory() as folder:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            paddle.jit.save(_OfPixels(model), f"{folder}/inference", input_spec=[spec])
        options = EngineOptions(precision=precision, threads=threads)
        return open_predictor(Path(folder), options)


def fastest_precision(
    logits_in: Callable[[Precision], np.ndarray],
) -> tuple[Precision, Agreement | UserError | None]:
    """The first of `fast_precisions` whose float [N, C] logits agree with fp32's, else fp32.

    With it how the last one tried agrees, or with what error the engine refuses it (None: nothing
    was tried). Raises UserError: there are no logits in fp32, or the engine's process was killed.
    """
    found, exact = None, None
    for precision in fast_precisions():
        exact = logits_in("fp32") if exact is None else exact
        try:
            found = agreement(exact, logits_in(precision))
        except ChildDied:  # which is no refusal: the choice would stay
            raise
        except UserError as refused:
            found = refused
            continue
        if found.is_close:
            return precision, found
    return "fp32", found


class _OfPixels(paddle.nn.Layer):
    """Normalises on the device, where it costs nothing: in NumPy it is 1 ms an image."""

    def __init__(self, model: paddle.nn.Layer) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: paddle.Tensor) -> paddle.Tensor:
        return self.model(normalize(pixels, self.model))
