"""Networks as feature extractors: maps of named stages for detection, one vector for transfer.

backbone = Backbone(build_model("ResNet50_vd_ssld", pretrained=True), ["stage2", "stage4"])
maps = backbone(images)             # [[N, 512, H / 8, W / 8], [N, 2048, H / 32, W / 32]]
vectors = embed(model, images)      # [N, 2048]
"""

import math
import operator
from collections.abc import Sequence

import paddle
from paddle import nn

from data_catalog.base.config import UserError, closest
from ppcls_core.models.networks.layers import Network, eval_mode

_PROBE = 256  # pixels: eight times the coarsest stride


class Backbone(nn.Layer):
    """Images float [N, 3, H, W] to the feature maps of some stages of `model`, in their order.

    Attributes:
        stages: names of the maps.
        channels: of each map.
        strides: pixels of the image a step of each map.
    """

    def __init__(self, model: Network, stages: Sequence[str] | None = None) -> None:
        """Take the maps `stages` of `model`; by default all that it has. Raises UserError: a stage
        that the model does not have."""
        super().__init__()
        self.model = model
        shapes = _shapes(model)
        for name in stages or ():
            if name not in shapes:
                raise UserError(f"no stage '{name}' in this model{closest(name, shapes)}")
        self.stages = [name for name in shapes if stages is None or name in stages]
        self.channels = [shapes[name][1] for name in self.stages]
        # Without padding a map is a little smaller than the image over a power of two.
        self.strides = [1 << round(math.log2(_PROBE / shapes[name][2])) for name in self.stages]

    def forward(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        """Maps [N, channels[i], H / strides[i], W / strides[i]] of images `x`, about."""
        maps = self.model.features(x)
        return [maps[name] for name in self.stages]


def _shapes(model: Network) -> dict[str, list[int]]:
    # A pass in training mode would move the batch norms' statistics.
    with eval_mode(model), paddle.no_grad():
        maps = model.features(paddle.zeros([1, 3, _PROBE, _PROBE]))
    return {name: features.shape for name, features in maps.items()}


def embed(model: Network, x: paddle.Tensor) -> paddle.Tensor:
    """Feature vectors float [N, features] of images float [N, 3, H, W]: the classifier's input.

    Where the classifier is a convolution, its input is averaged over all places.
    """
    seen: list[paddle.Tensor] = []
    hook = model.classifier.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))  # pyright: ignore[reportArgumentType]
    try:
        model(x)
    finally:
        hook.remove()
    features = seen[0]
    return features.mean([2, 3]) if features.ndim == 4 else features


def without_classifier(model: Network) -> Network:
    """`model`, whose output is now what its classifier would see: float [N, F]. Raises UserError:
    the classifier is no linear layer."""
    *path, name = model.classifiers[0].split(".")
    parent = operator.attrgetter(".".join(path))(model) if path else model
    if not isinstance(getattr(parent, name), nn.Linear):
        raise UserError(
            f"{model.architecture}: its classifier is no linear layer; take `mode: finetune`"
        )
    setattr(parent, name, nn.Identity())
    return model
