"""ACNet's convolutions (Ding et al. 2019): three branches in training, one in inference.

state = fused_state(state_of(build_model("ResNet50_ACNet")))
build_model("ResNet50_ACNet_deploy").set_state_dict(state)
"""

from collections.abc import Mapping

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from data_catalog.base.config import UserError
from ppcls_core.models.networks.layers import Activation, ConvBN

_BRANCHES = ("square", "vertical", "horizontal")
_EPSILON = 1e-5  # Paddle's default, which ConvBN's batch norms have


class AsymmetricConv(nn.Layer):
    """Sum of a k x k, a k x 1 and a 1 x k convolution, each with its own batch norm.

    The arguments are ConvBN's.
    """

    def __init__(
        self,
        channels: tuple[int, int],
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        activation: Activation | None = F.relu,
    ) -> None:
        super().__init__()
        sizes = ((kernel, kernel), (kernel, 1), (1, kernel))
        for name, size in zip(_BRANCHES, sizes, strict=True):
            self.add_sublayer(name, ConvBN(channels, size, stride, groups, activation=None))
        self.activation = activation

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[N, C_in, H, W] to [N, C_out, H', W']."""
        square, vertical, horizontal = (branch(x) for branch in self.children())
        x = square + (vertical + horizontal)
        return x if self.activation is None else self.activation(x)


class FusedConv(nn.Layer):
    """AsymmetricConv in inference: one k x k convolution with a bias."""

    def __init__(
        self,
        channels: tuple[int, int],
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        activation: Activation | None = F.relu,
    ) -> None:
        super().__init__()
        padding = (kernel - 1) // 2
        self.conv = nn.Conv2D(*channels, kernel, stride, padding, groups=groups)
        self.activation = activation

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[N, C_in, H, W] to [N, C_out, H', W']."""
        x = self.conv(x)
        return x if self.activation is None else self.activation(x)


def fused_state(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Trained weights of a network with AsymmetricConvs as those of the same with FusedConvs.

    In eval mode both networks put out the same, up to rounding: the fusion is computed in float64.
    Raises UserError: `state` has no AsymmetricConv.
    """
    fused: dict[str, np.ndarray] = {}
    for key, value in state.items():
        path = key.split(".")
        if path[-3:] == ["square", "conv", "weight"]:
            prefix = ".".join(path[:-3])
            kernel, bias = _fuse(state, prefix)
            fused[f"{prefix}.conv.weight"] = kernel.astype(value.dtype)
            fused[f"{prefix}.conv.bias"] = bias.astype(value.dtype)
        elif not set(_BRANCHES) & set(path):
            fused[key] = value
    if len(fused) == len(state):
        raise UserError(
            "got weights without `square`, `vertical` and `horizontal` branches, expected those of "
            "an ACNet in its training form: only these can be fused"
        )
    return fused


def _fuse(state: Mapping[str, np.ndarray], prefix: str) -> tuple[np.ndarray, np.ndarray]:
    """Kernel [out, in, k, k] and bias [out] of the sum of the branches at `prefix`."""
    kernel, bias = np.zeros(()), np.zeros(())
    size = state[f"{prefix}.square.conv.weight"].shape[-1]
    for branch in _BRANCHES:
        norm = f"{prefix}.{branch}.bn"
        scale = state[f"{norm}.weight"] / np.sqrt(state[f"{norm}._variance"] + np.float64(_EPSILON))
        weight = state[f"{prefix}.{branch}.conv.weight"] * scale[:, None, None, None]
        margins = [(0, 0), (0, 0), *(((size - n) // 2,) * 2 for n in weight.shape[2:])]
        kernel = kernel + np.pad(weight, margins)
        bias = bias + state[f"{norm}.bias"] - state[f"{norm}._mean"] * scale
    return kernel, bias
