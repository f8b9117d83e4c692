"""Trials of what works on this machine: each path small, and compared with the CPU.

A device has a child process, which sees that device alone. A trial that crashes it, or takes too
long, is a cell of the table; the next one has a new child.

A trial names what is tried on each device, and what that must be equal to, within a tolerance: the
CPU computes it in float32.
"""

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
import paddle

from data_catalog.base.config import UserError
from ppcls_core.data.transforms import Preprocess
from ppcls_core.dedup.match.index import import_faiss
from ppcls_core.engine.config import LabelTraining
from ppcls_core.engine.distributed import join
from ppcls_core.engine.evaluator import EvalData, predict_logits
from ppcls_core.engine.objectives import cross_entropy
from ppcls_core.engine.precision import Precision
from ppcls_core.engine.run import Run, train
from ppcls_core.inference import onnx
from ppcls_core.inference.export import deviation, export, random_pixels
from ppcls_core.inference.onnx_session import open_session
from ppcls_core.inference.predictor import EngineOptions
from ppcls_core.inference.sidecar import Sidecar
from ppcls_core.jobs.train import noise_images
from ppcls_core.labels.teacher import on_engine
from ppcls_core.models.networks.layers import Network
from ppcls_core.models.registry import build_model
from ppcls_core.models.weights.state import state_of
from ppcls_core.runtime.gpu import VISIBLE, gpu_names, num_gpus, own_gpu, release_memory
from ppcls_core.runtime.monitor import SilentMonitor
from ppcls_core.runtime.paddle import reason_of
from ppcls_core.runtime.processes import Child, Parent, gather
from ppcls_core.runtime.ranks import rank_environments
from ppcls_core.runtime.versions import cuda_of_paddle

NUM_CLASSES, SIZE = 4, 64
SMALL = {"depths": [1, 1, 1, 1], "width": 8}  # of ResNet18_vd
SECONDS = 120.0  # until a trial is given up
BLOCK = 1 << 26  # float32 numbers, 256 MiB
TWO = "two processes as one"
Format = Literal["fp32", "bf16", "fp16"]
Call = Callable[[], np.ndarray]
"""Work of a child; it travels there by its name."""


@dataclass(frozen=True)
class Cell:
    """How a trial ended on a device; `-`: the device or the installation does not have it."""

    state: Literal["works", "fails", "-"]
    detail: str


class Absent(UserError):
    """The path is not there to be tried, which is no fault."""


def devices(all_gpus: bool) -> dict[str, dict[str, str]]:
    """The environment of a process on each device, by its title: the CPU and the first GPU, or
    `all_gpus`. Raises UserError: there shall be some, and Paddle sees none."""
    num = num_gpus()
    if all_gpus and not num:
        raise UserError(f"--gpu: Paddle sees no GPU: {_why_none()}")
    numbers = range(num if all_gpus else min(num, 1))
    # The bits of two trainings on a GPU are equal under this setting alone.
    same = {"FLAGS_cudnn_deterministic": "1"}
    return {"CPU": {VISIBLE: ""}, **{f"GPU {n}": own_gpu(n) | same for n in numbers}}


def _why_none() -> str:
    if not cuda_of_paddle():
        return "the build of Paddle that is installed is for CPUs; `make setup GPU=cu126`"
    if not gpu_names():
        return "NVIDIA's driver shows none (nvidia-smi); install it, or give the container the GPUs"
    return f"the driver has {', '.join(gpu_names())}; look at {VISIBLE}, and the driver's version"


def examine(found: dict[str, dict[str, str]]) -> Iterator[tuple[str, list[Cell]]]:
    """The title of each of TRIALS, and how it ended on each of the devices `found`."""
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        hosts = {title: _Host(environment, log) for title, environment in found.items()}
        for host in hosts.values():
            stack.callback(host.close)
        wanted = cache(hosts["CPU"].ask)
        for trial in TRIALS:
            yield trial.title, [_tried(trial, host, wanted) for host in hosts.values()]
        yield TWO, [_two(title, log) for title in found]


@dataclass
class _Host:
    """The process of a device, started anew after it has ended."""

    environment: dict[str, str]
    log: Path
    child: Child | None = field(default=None, init=False)

    def ask(self, call: Call) -> np.ndarray:
        """The result of `call` there. Raises what it raises; UserError: the process has ended."""
        if self.child is None:
            self.child = Child(f"{__name__}:start", environment=self.environment, log=self.log)
        timer = threading.Timer(SECONDS, self.child.kill)
        timer.start()
        try:
            return self.child(call)
        finally:
            timer.cancel()
            if self.child.has_ended:
                self.close()

    def close(self) -> None:
        if self.child is not None:
            self.child.close()
            self.child = None


def _tried(trial: "Trial", host: _Host, wanted: Callable[[Call], np.ndarray]) -> Cell:
    start = time.monotonic()
    try:
        off = deviation(host.ask(trial.call), wanted(trial.wanted))
    except Absent as reason:
        return Cell("-", str(reason))
    except Exception as error:  # noqa: BLE001 - whatever a library does there
        return Cell("fails", reason_of(error))
    if not off <= trial.tolerance:
        return Cell("fails", f"off by {off:.1e} of the CPU's, {trial.tolerance:.0e} is allowed")
    return _worked(start, f", off by {off:.0e}" * (off > 0))


def _worked(start: float, more: str) -> Cell:
    """A cell with the seconds since `start`, so that those of a table add up."""
    return Cell("works", f"{time.monotonic() - start:.1f} s{more}")


def _two(title: str, log: Path) -> Cell:
    """Two processes that exchange their numbers: over NCCL, or without a GPU over gloo."""
    num, start = num_gpus(), time.monotonic()
    if title != "CPU" and num < 2:
        return Cell("-", "needs two GPUs")
    if title == "CPU" and num:
        return Cell("-", "tried on the GPUs")
    try:
        with ExitStack() as stack:
            ranks = [
                stack.enter_context(Child(f"{__name__}:start", environment=environment, log=log))
                for environment in rank_environments(2)
            ]
            for rank in ranks:
                timer = threading.Timer(SECONDS, rank.kill)
                stack.callback(timer.cancel)
                timer.start()
            sums = gather(ranks, exchange)
    except Exception as error:  # noqa: BLE001 - whatever a library does there
        return Cell("fails", reason_of(error))
    if [values.tolist() for values in sums] != 2 * [[1.0, 1.0]]:
        return Cell("fails", f"their sums are {sums}")
    return _worked(start, ", NCCL" if num else ", gloo")


def start() -> Callable[[Call, Parent], np.ndarray]:
    """The child's function: it makes the calls."""
    return lambda call, parent: call()


def nothing() -> np.ndarray:
    """Zero: where a number tells of a fault."""
    return np.zeros(1)


def run_check() -> np.ndarray:
    """Paddle's own check, which prints."""
    paddle.utils.run_check()
    return nothing()


def training(precision: Format) -> np.ndarray:
    """The loss of each step of a training with validation, checkpoints and all."""
    return _trained(precision)[0]


def differing() -> np.ndarray:
    """Number of weights that are not the same in a second training: float64 [1]."""
    first, second = (_trained("fp32")[1] for _ in range(2))
    return np.array([sum((first[name] != second[name]).sum() for name in first)], np.float64)


def _trained(
    precision: Format,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    config = LabelTraining(
        epochs=2, batch_size=8, image_size=SIZE, lr=0.01, precision=Precision(dtype=precision)
    )
    try:
        config.precision.check()
    except UserError:
        raise Absent("not on this device") from None
    losses: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        images = noise_images(Path(name), 16, NUM_CLASSES)
        run = Run(
            images,
            EvalData(images, config.preprocess, 1),
            config,
            0,
            Path(name),
            SilentMonitor(),
            on_step=lambda report: losses.append(report.loss),
        )
        model = _model()
        train(model, cross_entropy(0.0), run)
    return np.array(losses), dict(state_of(model))


def network() -> np.ndarray:
    """Logits of the network itself, in fp32."""
    model = _model()
    model.eval()
    return predict_logits(model, random_pixels(SIZE))


def engine(precision: Format) -> np.ndarray:
    """Logits of the inference engine as a teacher runs on it."""
    try:
        EngineOptions(precision=precision).check()
    except UserError:
        raise Absent("not on this device") from None
    return on_engine(_model(), SIZE, precision, 1)(random_pixels(SIZE))


def onnxruntime() -> np.ndarray:
    """Logits of the network as ONNX."""
    try:
        onnx.check_installed()
    except UserError:
        raise Absent("not installed") from None
    classes = tuple(map(str, range(NUM_CLASSES)))
    sidecar = Sidecar(architecture="any", classes=classes, preprocess=Preprocess(size=SIZE))
    with tempfile.TemporaryDirectory() as name:
        export(_model(), sidecar, Path(name))
        session = open_session(onnx.convert(Path(name)), 1, on_gpu=num_gpus() > 0)
        if num_gpus() and session.provider.startswith("CPU"):
            raise Absent("the onnxruntime that is installed is for CPUs")
        return session(sidecar.normalized(random_pixels(SIZE)))


def neighbours() -> np.ndarray:
    """Rows of the four nearest by faiss, on the GPU where that has one: int64 [q, 4]."""
    (given, asked), faiss = _descriptors(), import_faiss()
    index = faiss.IndexFlatL2(given.shape[1])
    if num_gpus():
        if not getattr(faiss, "get_num_gpus", int)():
            raise Absent("faiss is for CPUs, where duplicates are searched")
        index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
    index.add(given)
    return index.search(asked, 4)[1]


def exact_neighbours() -> np.ndarray:
    """The same by definition."""
    given, asked = _descriptors()
    distances = ((asked[:, None].astype(np.float64) - given) ** 2).sum(2)
    return distances.argsort(1)[:, :4]


def _descriptors() -> tuple[np.ndarray, np.ndarray]:
    rng = _rng()
    return rng.random((2000, 64), np.float32), rng.random((16, 64), np.float32)


def kept_memory() -> np.ndarray:
    """Bytes of a GPU that stay with this process after their use: float64 [1]."""
    if not num_gpus():
        raise Absent("not on this device")
    reserved = paddle.device.cuda.memory_reserved
    release_memory()
    before = reserved()
    block = paddle.ones([BLOCK])
    if reserved() < before + 4 * BLOCK:
        raise RuntimeError("Paddle does not say what memory it has reserved")
    del block
    release_memory()
    return np.array([float(max(0, reserved() - before))])


def exchange() -> np.ndarray:
    """The sums of the numbers of two processes, a one from each: float64 [2]."""
    world = join()
    return world.sum(np.eye(2)[world.rank])


def _model() -> Network:
    """A small network. NumPy draws its weights: a GPU's own generator gives others than a CPU's."""
    model, rng = build_model("ResNet18_vd", num_classes=NUM_CLASSES, spec=SMALL), _rng()
    for weight in model.parameters():
        if weight.ndim > 1:
            deviation_of_he = np.sqrt(2 / np.prod(weight.shape[1:]))
            weight.set_value(rng.normal(0, deviation_of_he, weight.shape).astype(np.float32))
    return model


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


@dataclass(frozen=True)
class Trial:
    """A path of the program, and what it must give: as what is `wanted`, which the CPU computes."""

    title: str
    call: Call
    wanted: Call = nothing
    tolerance: float = 0.0  # of the largest number


_FP32 = partial(training, "fp32")
TRIALS = (
    Trial("Paddle's own run_check", run_check),
    Trial("training in fp32", _FP32, _FP32, 1e-2),
    Trial("training in bf16", partial(training, "bf16"), _FP32, 0.1),
    Trial("training in fp16", partial(training, "fp16"), _FP32, 0.1),
    Trial("training twice, same bits", differing),
    Trial("inference engine in fp32", partial(engine, "fp32"), network, 1e-4),
    Trial("inference engine in bf16", partial(engine, "bf16"), network, 5e-2),
    Trial("inference engine in fp16", partial(engine, "fp16"), network, 1e-2),
    Trial("ONNX on onnxruntime", onnxruntime, network, 1e-4),
    Trial("nearest neighbours by faiss", neighbours, exact_neighbours),
    Trial("memory given back", kept_memory),
)
