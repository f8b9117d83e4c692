"""The cost of a network: parameters and operations."""

import math
from typing import Any

import paddle
from paddle import nn

from ppcls_core.models.networks.layers import eval_mode


def count_parameters(model: nn.Layer) -> int:
    """Trainable numbers; a batch norm's running statistics are none."""
    return sum(math.prod(p.shape) for p in model.parameters() if p.trainable)


def count_operations(model: nn.Layer, image_size: int) -> int:
    """Multiplications and additions, each one operation, of convolutions and linear layers.

    Counted on one image [3, image_size, image_size] in eval mode, as PaddleClas's table of models
    does; normalisation, activations, pooling and biases are left out. Modes are kept.
    """
    counts: list[int] = []

    def add(layer: Any, inputs: Any, output: Any) -> Any:
        # A weight is [out, in / groups, height, width] or [in, out]: what one output value reads.
        axis = 0 if isinstance(layer, nn.Conv2D) else 1
        reads = math.prod(layer.weight.shape) // layer.weight.shape[axis]
        counts.append(2 * reads * math.prod(output.shape))

    kinds = (nn.Conv2D, nn.Linear)
    layers = [layer for layer in model.sublayers() if isinstance(layer, kinds)]
    hooks = [layer.register_forward_post_hook(add) for layer in layers]
    try:
        with eval_mode(model), paddle.no_grad():
            model(paddle.zeros([1, 3, image_size, image_size]))
    finally:
        for hook in hooks:
            hook.remove()
    return sum(counts)
