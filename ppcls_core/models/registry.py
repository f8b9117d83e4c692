"""The only door to the models: names and specs at once, networks when asked for.

This module does not import Paddle, so that a recipe's model can be checked in milliseconds;
`build_model` imports it.

    spec_of("ResNet18_vd", {"width": 16})
    build_model("ResNet50_vd", num_classes=102)
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from data_catalog.config import UserError, closest, parse
from ppcls_core.models.specs import ModelSpec, mobilenet_v3, resnet_vd, resnext101_wsl

if TYPE_CHECKING:
    import paddle

MAX_CLASSES = 100_000

_VARIANTS: dict[str, ModelSpec] = {
    **resnet_vd.VARIANTS,
    **mobilenet_v3.VARIANTS,
    **resnext101_wsl.VARIANTS,
}


def known_models() -> list[str]:
    """Names that `build_model` takes, family by family."""
    return list(_VARIANTS)


def spec_of(name: str, overrides: Mapping[str, object] | None = None) -> ModelSpec:
    """The variant's spec with the fields in `overrides` replaced.

    Raises:
        UserError: unknown name or field (with the closest known ones), or a value of the wrong
            type or range.
    """
    if name not in _VARIANTS:
        raise UserError(f"unknown model '{name}'{closest(name, _VARIANTS)}")
    spec = _VARIANTS[name]
    return parse(type(spec), {**spec.model_dump(), **(overrides or {})}, f"model {name}")


def build_model(
    name: str,
    *,
    num_classes: int = 1000,
    spec: Mapping[str, object] | None = None,
    pretrained: Path | None = None,
) -> paddle.nn.Layer:
    """The network `name` in training mode: float images [N, 3, H, W] to logits [N, num_classes].

    Without `pretrained` the weights are random, from Paddle's global generator (`paddle.seed`).
    Paddle's names of the parameters, which an optimizer's state and an exported program refer to,
    depend on the network alone, so that a checkpoint fits in whatever order models are built;
    two models therefore share names and must not share an optimizer.

    Args:
        name: one of `known_models()`.
        num_classes: width of the classifier, 1 to 100,000.
        spec: fields of the variant's spec to override, as in `spec_of`.
        pretrained: weights for exactly this network; for weights trained on other classes build
            without and call `weights.load_weights` with `allow_other_classes=True`.

    Raises:
        UserError: as `spec_of` and `load_weights`, or `num_classes` out of range.
    """
    resolved = spec_of(name, spec)
    if not 1 <= num_classes <= MAX_CLASSES:
        raise UserError(
            f"model {name}: got {num_classes} classes, expected 1 to {MAX_CLASSES:,}; "
            "check the number of labels in the manifest or the recipe"
        )
    # Not above: Paddle takes seconds to import, and NumPy as long as the rest of this module.
    from paddle.utils import unique_name

    from ppcls_core.models.weights import load_weights

    with unique_name.guard():
        model = pkgutil.resolve_name(resolved.network)(resolved, num_classes)
    if pretrained is not None:
        load_weights(model, pretrained, allow_other_classes=False)
    return model


def classifier_parameters(model: paddle.nn.Layer) -> list[paddle.Tensor]:
    """Weight and bias of the classifier: what the Fix stage trains while the rest is frozen."""
    return getattr(model, model.classifier).parameters()
