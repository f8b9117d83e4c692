"""Models for Paddle-Lite, and the benchmark of PaddleClas's manual for it.

Paddle-Lite's optimiser (opt) turns a program of Paddle 2's format into one .nb file for phones and
boards. It is not on the index for every Python; whatever is installed is found on PATH.
"""

from __future__ import annotations

import pkgutil
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data_catalog.base.config import UserError
from data_catalog.base.files import atomic_path
from ppcls_core.inference.exported import Exported
from ppcls_core.inference.int8 import int8_files
from ppcls_core.runtime.timer import Repeats, time_in_turn

if TYPE_CHECKING:
    from ppcls_core.inference.predictor import EngineOptions, Precision
    from ppcls_core.jobs.trained import Trained

# Of the Python package, and of the releases. Not `opt`, as the manual has it: LLVM has one too.
OPTIMIZERS = ("paddle_lite_opt", "opt_linux_x86", "opt_linux", "opt_mac")
SUFFIX = ".nb"
MAX_THREADS = 256


def find_optimizer() -> str:
    """The optimiser's path. Raises UserError if there is none on PATH."""
    for name in OPTIMIZERS:
        if found := shutil.which(name):
            return found
    raise UserError(
        f"Paddle-Lite's optimiser ({', '.join(OPTIMIZERS)}) is not on PATH; get opt from "
        "Paddle-Lite's releases, or paddlelite by pip for a Python that it has a package for"
    )


def check_out(path: Path) -> None:
    """Raise UserError unless a file can be written there that Lite will take."""
    if path.suffix != SUFFIX or path.is_dir():
        raise UserError(f"--out {path}: expected the name of a file that ends in {SUFFIX}")


def convert(optimizer: str, trained: Trained, out: Path, target: str) -> None:
    """Write `trained` to `out` for `target` (arm, x86 ...), atomically; float32. Raises UserError:
    the weights do not fit, or the optimiser fails."""
    save_former = pkgutil.resolve_name("ppcls_core.inference.quantize:save_former")
    with tempfile.TemporaryDirectory() as folder:
        stem = Path(folder) / "model"
        save_former(trained.network(), trained.preprocess.size, stem)
        files = stem.with_suffix(".pdmodel"), stem.with_suffix(".pdiparams")
        _optimize(optimizer, files, out, target)


def convert_int8(optimizer: str, directory: Path, out: Path, target: str) -> None:
    """Write the int8 model that `quantize` left in `directory` to `out`, as `convert` does."""
    _optimize(optimizer, int8_files(directory), out, target)


def _optimize(optimizer: str, files: tuple[Path, Path], out: Path, target: str) -> None:
    with atomic_path(out) as path:
        bare = path.with_suffix("")  # the optimiser appends the suffix
        command = [
            optimizer,
            f"--model_file={files[0]}",
            f"--param_file={files[1]}",
            "--optimize_out_type=naive_buffer",
            f"--optimize_out={bare}",
            f"--valid_targets={target}",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not path.is_file():  # its status alone proves nothing
            raise UserError(f"{optimizer} does not convert this model ({_reason(done)})")


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode < 0:
        return f"it was ended by {signal.Signals(-done.returncode).name}"
    said = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()
    return said[-1]


def threads_of(text: str) -> list[int]:
    """Numbers of threads out of `1,2,4`. Raises UserError if they are none."""
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = [0]
    if not all(1 <= count <= MAX_THREADS for count in counts):
        raise UserError(
            f"--threads: got '{text}', expected numbers from 1 to {MAX_THREADS} with commas "
            "between them, such as 1,2,4"
        )
    return counts


def lines(
    models: Sequence[Exported], precision: Precision, threads: Sequence[int], repeats: Repeats
) -> Iterator[str]:
    """Lines as in the manual; milliseconds of an image on the engine that the first one names."""
    options_of = pkgutil.resolve_name("ppcls_core.inference.predictor:EngineOptions")
    yield (
        f"Paddle inference engine, {precision}, on this machine's CPU, not Paddle-Lite on a phone; "
        "milliseconds"
    )
    for count in threads:
        yield f"Threads={count} Warmup={repeats.warmup} Repeats={repeats.rounds}"
        for model in models:
            options = options_of(precision=precision, threads=count, device="cpu")
            times = _times(model, options, repeats)
            yield (
                f"{model.sidecar.architecture:<38}min = {times.min():<12.5f}"
                f"max = {times.max():<12.5f}average = {times.mean():.5f}"
            )
        yield ""


def _times(model: Exported, options: EngineOptions, repeats: Repeats) -> np.ndarray:
    """Milliseconds that single images take, float64 [times]."""
    size = model.sidecar.preprocess.size
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, size, size), np.uint8)
    predict = model.on_engine(options)
    return time_in_turn({"": lambda: predict(pixels)}, repeats)[""]
