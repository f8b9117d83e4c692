"""An ONNX file on onnxruntime, with nothing read from outside its folder and no code of others."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from data_catalog.base.config import UserError

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
_FLOATS = {"float16": np.float16, "float": np.float32, "double": np.float64}  # ONNX's names


@dataclass(frozen=True)
class Port:
    """An input or output: its name, type and dimensions; None where a dimension is open."""

    name: str
    kind: str  # as onnxruntime writes it, such as tensor(float)
    dims: tuple[int | None, ...]

    @property
    def dtype(self) -> type[np.floating] | None:
        """The NumPy type; None where it is no tensor of floating-point numbers."""
        return _FLOATS.get(self.kind.removeprefix("tensor(").removesuffix(")"))

    def __str__(self) -> str:
        return f"{self.kind}{['N' if size is None else size for size in self.dims]}"


@dataclass(frozen=True)
class OnnxSession:
    """An opened ONNX model; called with its one input, it gives its first output."""

    path: Path
    session: Any

    @cached_property
    def inputs(self) -> tuple[Port, ...]:
        """The inputs that have to be given."""
        return tuple(map(_port, self.session.get_inputs()))

    @cached_property
    def outputs(self) -> tuple[Port, ...]:
        """All outputs."""
        return tuple(map(_port, self.session.get_outputs()))

    @property
    def provider(self) -> str:
        """Where it runs: CUDAExecutionProvider or CPUExecutionProvider."""
        return self.session.get_providers()[0]

    def __call__(self, images: np.ndarray) -> np.ndarray:
        with _refusals(self.path, "run"):
            return np.asarray(self.session.run(None, {self.inputs[0].name: images})[0])


def open_session(path: Path, threads: int, on_gpu: bool = False) -> OnnxSession:
    """The ONNX model `path` with `threads` threads of the CPU, or else on the first GPU.

    That is used where onnxruntime's package has CUDA, and can use it; see `provider`.

    Raises UserError: as `external_data`, or onnxruntime is not installed or refuses the file, as
    where it has operators that are none of ONNX's: no library of others is loaded.
    """
    external_data(path)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # fatal: it warns of unused constants, and raises its errors
    providers: list[Any] = [CPU]
    if on_gpu and CUDA in onnxruntime.get_available_providers():
        # By default it computes float32 in TF32, with 10 bits of mantissa.
        providers.insert(0, (CUDA, {"device_id": 0, "use_tf32": 0}))
    with _refusals(path, "use"):
        session = onnxruntime.InferenceSession(
            str(path), options, providers, enable_fallback=len(providers) > 1
        )
        session.disable_fallback()  # which would go on elsewhere in the middle of the work
    return OnnxSession(path, session)


def external_data(path: Path) -> tuple[Path, ...]:
    """The other files that hold tensors of the ONNX model `path`, sorted; of most there is none.

    Raises UserError: it is no ONNX file; a tensor lies outside its folder, or past the end of its
    file; ONNX's packages are not installed.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; give the path of an .onnx file")
    if missing := [name for name in ("onnx", "onnxruntime") if find_spec(name) is None]:
        raise UserError(f"{path}: needs {' and '.join(missing)}: pip install 'ssld[onnx]'")
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(str(path), format="protobuf", load_external_data=False)
    except (DecodeError, ValueError, OSError) as error:
        raise UserError(f"{path}: is no ONNX file ({error}); export it again") from None
    found = set[Path]()
    for tensor in _messages(model, onnx.TensorProto):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        place = {entry.key: entry.value for entry in tensor.external_data}
        location = os.fsdecode(place.get("location", ""))  # bytes, where it is not UTF-8
        file = _file_in(path.parent, location)
        if file is None:
            raise UserError(
                f"{path}: tensor '{tensor.name}' lies in '{location}', no file in the folder of "
                "the model; put its files there, or save it as one file"
            )
        with contextlib.suppress(ValueError):
            start, length = (int(place.get(key, 0)) for key in ("offset", "length"))
            if min(start, length) >= 0 and start + length <= file.stat().st_size:
                found.add(file)
                continue
        raise UserError(f"{path}: tensor '{tensor.name}' is not within {file}; copy both again")
    return tuple(sorted(found))


def _file_in(folder: Path, location: str) -> Path | None:
    """The file `location` in `folder`; None where there is none, or it leads out of it."""
    file = folder / location
    if Path(location).is_absolute() or ".." in Path(location).parts:
        return None
    try:
        is_inside = file.resolve().is_relative_to(folder.resolve())
        return file if is_inside and file.is_file() else None
    except (OSError, ValueError):  # too long for a name, or with a zero byte
        return None


def _messages(message: Any, kind: type) -> Iterator[Any]:
    """`message` and all within it that are of `kind`: of graphs, their subgraphs and functions."""
    if isinstance(message, kind):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            repeated = [value] if hasattr(value, "ListFields") else value
            for inner in repeated:
                yield from _messages(inner, kind)


def _port(described: Any) -> Port:
    dims = (size if isinstance(size, int) else None for size in described.shape)
    return Port(described.name, described.type, tuple(dims))


@contextlib.contextmanager
def _refusals(path: Path, what: str) -> Iterator[None]:
    """onnxruntime's errors, which have no base of their own, as a UserError."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - its own kinds, and of decoding its message
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: onnxruntime cannot {what} it ({reason})") from None
