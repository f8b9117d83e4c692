"""Blocks that more than one family is built from. Tensors are float [N, C, H, W]."""

import math
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import ClassVar, Self, cast

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import ParamAttr, nn
from paddle.nn.initializer import KaimingNormal, Uniform
from paddle.regularizer import L2Decay

from ppcls_core.models.specs import MEAN, STD, Colour

Step = Callable[[paddle.Tensor], paddle.Tensor]
Activation = Step


def global_average(x: paddle.Tensor) -> paddle.Tensor:
    """Mean over all places: [N, C, H, W] to [N, C]."""
    return F.adaptive_avg_pool2d(x, 1).flatten(1)


class Network(nn.Layer):
    """Base of every architecture: images float [N, 3, H, W] to logits [N, num_classes].

    H and W may be odd; the spec's `min_size` is the smallest. A subclass sets `entry` and `trunk`,
    or has `features` of its own, and `neck` where more than an average precedes the classifier.
    """

    classifiers: ClassVar[tuple[str, ...]] = ("fc",)
    """Dotted attribute names of the layers whose width is the number of classes; the first gives
    the logits, others are auxiliary outputs of training."""
    architecture: str = ""
    """Name in the registry, by which the weights' names in Paddle 1.x are known; `build_model` sets
    it."""
    mean: Colour = MEAN
    std: Colour = STD
    """As in the spec, which `build_model` copies: what `normalize` takes."""
    entry: Sequence[Step]
    """Steps from the images to the map that the trunk sees."""
    trunk: Sequence[Step]
    """Steps of all stages in a row; those that halve the resolution have a `stride` of 2."""
    neck: Sequence[Step] = (global_average,)
    """Steps from the last stage's map to what the classifier sees."""

    @property
    def classifier(self) -> nn.Layer:
        """The layer that gives the logits: a linear one or a 1x1 convolution."""
        return operator.attrgetter(self.classifiers[0])(self)

    def features(self, x: paddle.Tensor) -> dict[str, paddle.Tensor]:
        """Feature maps [N, C, H', W'] of images `x` by stage: `stage1`, `stage2` and so on.

        A stage ends where the next one halves the resolution; the last is what the head pools. The
        stride of `stage1` depends on the network: `features.Backbone` has it.
        """
        x = in_row(self.entry, x)
        stages: dict[str, paddle.Tensor] = {}
        for block in self.trunk:
            x = block(x)
            number = len(stages) + (getattr(block, "stride", 1) == 2 or not stages)
            stages[f"stage{number}"] = x
        return stages

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Logits float [N, num_classes] of images `x` float [N, 3, H, W]."""
        *_, last = self.features(x).values()
        return self._head(last)

    def _head(self, x: paddle.Tensor) -> paddle.Tensor:
        """Logits of the last stage's map."""
        return self.classifier(in_row(self.neck, x))


def normalize(images: np.ndarray | paddle.Tensor, model: nn.Layer) -> paddle.Tensor:
    """uint8 RGB [N, 3, H, W] to float32 on the device, by the mean and deviation of `model`.

    ImageNet's where it is no Network.
    """
    pixels = paddle.to_tensor(images) if isinstance(images, np.ndarray) else images
    values = (model.mean, model.std) if isinstance(model, Network) else (MEAN, STD)
    constants = _constants if paddle.in_dynamic_mode() else _constants.__wrapped__
    mean, std = (constants(tuple(v), paddle.device.get_device()) for v in values)
    with paddle.amp.auto_cast(enable=False):  # in 16 bits neighbouring grey levels would be one
        return (pixels.astype("float32") / 255 - mean) / std


@cache
def _constants(values: tuple[float, ...], device: str) -> paddle.Tensor:
    """float32 [1, 3, 1, 1] on `device`, which is the current one; a copy to it for good."""
    return paddle.to_tensor(values, "float32").reshape([1, 3, 1, 1])


@contextmanager
def eval_mode(model: nn.Layer) -> Iterator[None]:
    """Eval mode for the block; afterwards each layer is in the mode that it was in."""
    modes = [(layer, layer.training) for layer in model.sublayers(include_self=True)]
    model.eval()
    try:
        yield
    finally:
        for layer, training in modes:
            layer.training = training


def in_row(steps: Iterable[Step], x: paddle.Tensor) -> paddle.Tensor:
    """`x` after all `steps`, one on the other."""
    for step in steps:
        x = step(x)
    return x


def pool(x: paddle.Tensor) -> paddle.Tensor:
    """Max pooling 3x3 of stride 2, padded: half the size, rounded up."""
    return F.max_pool2d(x, 3, 2, padding=1)


class BatchNorm(nn.BatchNorm2D):
    """Paddle's, without its warning at every step that training tracks the statistics."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """[N, C, H, W] to the same shape; in training by the batch's own statistics."""
        return F.batch_norm(
            x,
            self._mean,
            self._variance,
            self.weight,
            self.bias,
            training=self.training,
            momentum=self._momentum,
            epsilon=self._epsilon,
        )


class ConvBN(nn.Layer):
    """Convolution, batch norm, then `activation` (None: the identity).

    `kernel` is one size or (height, width). The padding is (kernel - 1) / 2, so that stride 1 keeps
    the size and stride 2 gives half of it, rounded up; none where a subclass has no `is_padded`.
    Weights start normal with std sqrt(2 / (C_in * kernel^2)), Paddle's default: it counts all input
    channels even where the convolution is grouped, or one group's where a subclass has
    `counts_group`. The convolution has no bias, but where a subclass `has_bias`, from 0.

    A family whose published weights have other names, whose moving averages are others, or whose
    recipe keeps L2 decay off the batch norm, says so in a subclass, or by `with_settings`.
    """

    names: ClassVar[tuple[str, str]] = ("conv", "bn")
    counts_group: ClassVar[bool] = False
    momentum: ClassVar[float] = 0.9
    epsilon: ClassVar[float] = 1e-5
    decay_norm: ClassVar[bool] = True
    is_padded: ClassVar[bool] = True
    has_bias: ClassVar[bool] = False

    def __init__(
        self,
        channels: tuple[int, int],
        kernel: int | tuple[int, int],
        stride: int = 1,
        groups: int = 1,
        activation: Activation | None = F.relu,
    ) -> None:
        super().__init__()
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = [(height - 1) // 2, (width - 1) // 2] if self.is_padded else 0
        conv = nn.Conv2D(
            *channels,
            (height, width),
            stride=stride,
            padding=padding,
            groups=groups,
            weight_attr=ParamAttr(initializer=KaimingNormal() if self.counts_group else None),
            bias_attr=None if self.has_bias else False,
        )
        # A regularizer of its own takes a parameter out of the optimizer's weight decay.
        attr = None if self.decay_norm else ParamAttr(regularizer=L2Decay(0.0))
        norm = BatchNorm(channels[1], self.momentum, self.epsilon, attr, attr)
        self.add_sublayer(self.names[0], conv)
        self.add_sublayer(self.names[1], norm)
        self.activation = activation
        self.stride = stride

    @classmethod
    def with_settings(cls, **settings: object) -> type[Self]:
        """A subclass whose class attributes are `settings`."""
        return cast("type[Self]", type(cls.__name__, (cls,), settings))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[N, C_in, H, W] to [N, C_out, H', W']."""
        conv, norm = self.children()
        x = norm(conv(x))
        return x if self.activation is None else self.activation(x)


class PrivateConvBN(ConvBN):
    """ConvBN under the names that it has in most of the families' published weights."""

    names: ClassVar[tuple[str, str]] = ("_conv", "_batch_norm")


class ShortConvBN(ConvBN):
    """ConvBN under the names that it has in the weights of WSL, DarkNet and DeepLab."""

    names: ClassVar[tuple[str, str]] = ("_conv", "_bn")


class NormReluConv(nn.Layer):
    """Batch norm, ReLU, then a convolution without bias: pre-activation (He et al. 2016)."""

    def __init__(
        self, channels: tuple[int, int], kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self._batch_norm = BatchNorm(channels[0])
        padding = (kernel - 1) // 2
        self._conv = nn.Conv2D(*channels, kernel, stride, padding, groups=groups, bias_attr=False)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[N, C_in, H, W] to [N, C_out, H', W']."""
        return self._conv(F.relu(self._batch_norm(x)))


def uniform(bound: float) -> ParamAttr:
    """A parameter that starts uniform in +-`bound`."""
    return ParamAttr(initializer=Uniform(-bound, bound))


def linear(features: int, out: int) -> nn.Linear:
    """[N, features] to [N, out]; weights start uniform in +-1/sqrt(features), the bias with 0."""
    return nn.Linear(features, out, weight_attr=uniform(1.0 / math.sqrt(features)))


class SqueezeExcite(nn.Layer):
    """Channels weighted by a gate that sees their means (Hu et al. 2017), from linear layers.

    Args:
        channels: of the map [N, channels, H, W].
        squeezed: width between the two linear layers.
        gate: of the second layer's output.
    """

    def __init__(self, channels: int, squeezed: int, gate: Activation = F.sigmoid) -> None:
        super().__init__()
        self.squeeze = linear(channels, squeezed)
        self.excitation = linear(squeezed, channels)
        self.gate = gate

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[N, channels, H, W] to the same shape."""
        gate = self.gate(self.excitation(F.relu(self.squeeze(global_average(x)))))
        return x * gate.unsqueeze([2, 3])


class ConvSqueezeExcite(nn.Layer):
    """As SqueezeExcite, from 1x1 convolutions.

    Args:
        channels: of the map [N, channels, H, W].
        squeezed: width between the two convolutions.
        activation: of the first one's output.
        gate: of the second one's output.
    """

    names: ClassVar[tuple[str, str]] = ("conv1", "conv2")

    def __init__(
        self, channels: int, squeezed: int, activation: Activation, gate: Activation
    ) -> None:
        super().__init__()
        self.add_sublayer(self.names[0], nn.Conv2D(channels, squeezed, 1))
        self.add_sublayer(self.names[1], nn.Conv2D(squeezed, channels, 1))
        self.activation = activation
        self.gate = gate

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[N, channels, H, W] to the same shape."""
        squeeze, excite = self.children()
        return x * self.gate(excite(self.activation(squeeze(F.adaptive_avg_pool2d(x, 1)))))


class Residual(nn.Sequential):
    """Layers in a row, as in Sequential; their output is added to the input where `is_residual`.

    `stride` is that of the whole row.
    """

    def __init__(
        self, *layers: nn.Layer | tuple[str, nn.Layer], stride: int = 1, is_residual: bool = True
    ) -> None:
        super().__init__(*layers)
        self.stride = stride
        self.is_residual = is_residual

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """[N, C_in, H, W] to [N, C_out, H', W']."""
        branch = in_row(self.children(), x)
        return x + branch if self.is_residual else branch


class ResidualBlock(nn.Layer):
    """activation(branch(x) + shortcut(x)), each of named layers in a row.

    A shortcut without layers is the identity. `stride` is that of the block.
    """

    def __init__(
        self,
        branch: Iterable[tuple[str, nn.Layer]] = (),
        shortcut: Iterable[tuple[str, nn.Layer]] = (),
        stride: int = 1,
        activation: Activation | None = F.relu,
    ) -> None:
        super().__init__()
        self.branch: list[Step] = [self.add_sublayer(name, layer) for name, layer in branch]
        self.shortcut: list[Step] = [self.add_sublayer(name, layer) for name, layer in shortcut]
        self.stride, self.activation = stride, activation

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[N, C_in, H, W] to [N, C_out, H', W']."""
        x = in_row(self.branch, x) + in_row(self.shortcut, x)
        return x if self.activation is None else self.activation(x)


def cut_width(channels: int, scale: float) -> int:
    """`channels` times `scale`, rounded down, at least 1."""
    return max(1, int(channels * scale))


def scaled_width(channels: int, scale: float, divisor: int = 8) -> int:
    """`channels` times `scale` as the nearest multiple of `divisor`, at most 10 % below it."""
    wanted = channels * scale
    rounded = max(divisor, int(wanted + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * wanted else rounded


def scale_learning_rate(layer: nn.Layer, factor: float) -> None:
    """Let the optimizer multiply its learning rate by `factor` for the parameters of `layer`."""
    for parameter in layer.parameters():
        if parameter.trainable:  # Paddle counts running statistics among the parameters
            parameter.optimize_attr["learning_rate"] = factor
