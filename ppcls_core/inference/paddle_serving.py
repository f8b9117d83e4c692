"""A model for Paddle Serving 0.9: a folder for its server, one for its client.

serving_server/ has the program and weights in the format of Paddle 2, serving_client/ the sidecar;
both have what goes in and comes out, as text (serving_*_conf.prototxt) and as bytes of the same
message (serving_*_conf.stream.prototxt), whose form is Serving's general_model_config.proto.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import paddle
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf.message import Message
from paddle.base import core
from paddle.pir_utils import OldIrGuard

from data_catalog.base.files import write_bytes
from ppcls_core.engine.evaluator import predict_logits
from ppcls_core.inference.export import INPUT, TOLERANCE, check_classes, deviation, random_pixels
from ppcls_core.inference.quantize import save_former
from ppcls_core.inference.sidecar import SIDECAR, Sidecar
from ppcls_core.runtime.gpu import exact_float32

if TYPE_CHECKING:
    from ppcls_core.models.networks.layers import Network

STEM = "model"
OUTPUT = "logits"  # the client's name for it
FLOAT32 = 1  # Serving's number of the type


def export_serving(model: Network, sidecar: Sidecar, directory: Path) -> float:
    """Write serving_server and serving_client to `directory`; the deviation, as `export` gives it.

    Raises:
        UserError: `sidecar` names another number of classes.
        RuntimeError: the logits differ from the network's by more than `export`'s tolerance.
    """
    check_classes(model, sidecar)
    server, client = directory / "serving_server", directory / "serving_client"
    size = sidecar.preprocess.size
    server.mkdir(parents=True, exist_ok=True)
    client.mkdir(exist_ok=True)
    save_former(model, size, server / STEM)
    pixels = random_pixels(size)
    got, name = _run(server / STEM, sidecar.normalized(pixels))
    with exact_float32():
        found = deviation(got, predict_logits(model, pixels))
    if not found <= TOLERANCE:
        raise RuntimeError(f"exported logits deviate by {found:.2e}, over {TOLERANCE}")
    message = _message(size, name, len(sidecar.classes))
    for folder, side in ((server, "server"), (client, "client")):
        text = text_format.MessageToString(message)
        write_bytes(folder / f"serving_{side}_conf.prototxt", text.encode())
        write_bytes(folder / f"serving_{side}_conf.stream.prototxt", message.SerializeToString())
    write_bytes(client / SIDECAR, sidecar.text().encode())
    return found


def _run(stem: Path, images: np.ndarray) -> tuple[np.ndarray, str]:
    """The logits that the program gives, and what it calls them."""
    with OldIrGuard(), paddle.static.scope_guard(core.Scope()):
        executor = paddle.static.Executor(paddle.CPUPlace())
        loaded: Any = paddle.static.load_inference_model(str(stem), executor)
        program, _, targets = loaded
        return executor.run(program, {INPUT: images}, targets)[0], targets[0].name


def _message(size: int, output: str, num_classes: int) -> Message:
    """Shapes of the input and the output, without the batch's axis."""
    message = _message_class()()
    ends = [("feed", INPUT, INPUT, [3, size, size]), ("fetch", output, OUTPUT, [num_classes])]
    for kind, name, alias, shape in ends:
        getattr(message, f"{kind}_var").add(
            name=name,
            alias_name=alias,
            is_lod_tensor=False,
            shape=shape,
            **{f"{kind}_type": FLOAT32},
        )
    return message


def _message_class() -> type[Message]:
    """GeneralModelConfig, but for its graph, which a single model does not need."""
    kinds = descriptor_pb2.FieldDescriptorProto
    package = "baidu.paddle_serving.configure"
    file = descriptor_pb2.FileDescriptorProto(
        name="general_model_config.proto", package=package, syntax="proto2"
    )
    config = file.message_type.add(name="GeneralModelConfig")
    for number, kind in enumerate(("Feed", "Fetch"), start=2):
        variable = file.message_type.add(name=f"{kind}Var")
        fields = {
            "name": kinds.TYPE_STRING,
            "alias_name": kinds.TYPE_STRING,
            "is_lod_tensor": kinds.TYPE_BOOL,
            f"{kind.lower()}_type": kinds.TYPE_INT32,
            "shape": kinds.TYPE_INT32,
        }
        for place, (name, type_) in enumerate(fields.items(), start=1):
            label = kinds.LABEL_REPEATED if name == "shape" else kinds.LABEL_OPTIONAL
            variable.field.add(name=name, number=place, type=type_, label=label)
        config.field.add(
            name=f"{kind.lower()}_var",
            number=number,
            label=kinds.LABEL_REPEATED,
            type=kinds.TYPE_MESSAGE,
            type_name=f".{package}.{kind}Var",
        )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(
        pool.FindMessageTypeByName(f"{package}.GeneralModelConfig")
    )
