"""An exported model as ONNX: converted by paddle2onnx, run by onnxruntime."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data_catalog.base.config import UserError
from data_catalog.base.files import write_bytes
from ppcls_core.inference.export import check
from ppcls_core.inference.exported import Exported, Logits
from ppcls_core.inference.sidecar import ONNX, PROGRAM, WEIGHTS

if TYPE_CHECKING:
    import paddle

OPSET = 17
TOLERANCE = 1e-3  # of the largest logit: onnxruntime fuses, which rounds otherwise
MAX_BYTES = 2**31 - 2**20  # of weights: an ONNX file holds 2 GB


def export_onnx(model: paddle.nn.Layer, exported: Exported) -> float:
    """Write ONNX beside `exported`, which is `model`; the largest deviation over the largest logit.

    It takes float32 [N, 3, S, S], any N, images as the sidecar prepares them.

    Raises UserError: as `convert` and `open_session`, or the logits differ from the network's
    by more than TOLERANCE, as where the converter passes over a setting; then no ONNX is left.
    """
    path = convert(exported.directory)
    try:
        found = check(open_onnx(exported, 1), model, exported.sidecar.preprocess.size)
        if not found <= TOLERANCE:
            raise UserError(f"{path}: its logits deviate by {found:.0e}: this model has no ONNX")
    except UserError:
        path.unlink()
        raise
    return found


def convert(directory: Path) -> Path:
    """Write ONNX beside the exported model in `directory`, unchecked.

    In a process of its own, because the converter prints much, part of it from C++.

    Raises UserError: paddle2onnx or onnxruntime is not installed, the weights are too large, or
    the converter fails.
    """
    check_installed()
    if (size := (directory / WEIGHTS).stat().st_size) > MAX_BYTES:
        raise UserError(f"{directory}: {size:,} bytes of weights, an ONNX file holds 2 GB")
    path = directory / ONNX
    command = [sys.executable, "-m", __name__, str(directory), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]
        raise UserError(f"{directory}: paddle2onnx cannot convert this model ({said})")
    return path


def check_installed() -> None:
    """Raise UserError if a package is missing."""
    missing = [name for name in ("paddle2onnx", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise UserError(
            f"ONNX needs {' and '.join(missing)}, not installed: pip install 'ssld[onnx]'"
        )


def open_onnx(exported: Exported, threads: int) -> Logits:
    """The ONNX beside an exported model, on onnxruntime with `threads` threads of the CPU."""
    run = open_session(exported.directory / ONNX, threads)
    return lambda pixels: run(exported.sidecar.normalized(pixels))


def open_session(path: Path, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    """The ONNX model `path` as a function of its one input to its one output. Raises UserError:
    onnxruntime refuses it, as where ONNX cannot say what the network does."""
    import onnxruntime
    from onnxruntime.capi import (
        onnxruntime_pybind11_state as errors,  # pyright: ignore[reportAttributeAccessIssue]
    )

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # fatal: it warns of unused constants, and raises its errors
    try:
        session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    except (errors.Fail, errors.InvalidGraph, errors.InvalidProtobuf, errors.NotImplemented) as e:
        reason = str(e).strip().splitlines()[0]
        raise UserError(f"{path}: onnxruntime cannot use it ({reason})") from None
    name = session.get_inputs()[0].name
    return lambda images: np.asarray(session.run(None, {name: images})[0])


def write(directory: Path, target: Path) -> None:
    """Write the exported model in `directory` as `target`; prints much."""
    import paddle2onnx

    # With a file to write it would optimise, and for that install packages by pip; onnxruntime
    # optimises when it loads.
    model = paddle2onnx.export(
        str(directory / PROGRAM), str(directory / WEIGHTS), opset_version=OPSET
    )
    write_bytes(target, _with_zero_padding(model))


def _with_zero_padding(model: bytes) -> bytes:
    """`model` with zeros where its Pad nodes pad: paddle2onnx 2.1 leaves there what memory held."""
    import onnx

    proto = onnx.load_model_from_string(model)
    pads = (node for node in proto.graph.node if node.op_type == "Pad")
    padding = {node.input[2] for node in pads if len(node.input) > 2}
    for node in proto.graph.node:
        if node.op_type == "Constant" and node.output[0] in padding:
            zero = onnx.numpy_helper.from_array(np.zeros((), np.float32))
            node.attribute[0].t.CopyFrom(zero)
    return proto.SerializeToString()


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]))
