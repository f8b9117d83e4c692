"""The only door to the models: names and specs at once, networks when asked for.

This module does not import Paddle, so that a recipe's model can be checked in milliseconds;
`build_model` imports it.

    spec_of("ResNet18_vd", {"width": 16})
    build_model("ResNet50_vd_ssld", num_classes=102, pretrained=True)
"""

from __future__ import annotations

import logging
import pkgutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from data_catalog.base.config import Config, UserError, closest, parse
from data_catalog.base.words import counted
from data_catalog.published import PublishedWeights, published_weights
from ppcls_core.models.specs import (
    ModelSpec,
    densenet,
    efficientnet,
    ghostnet,
    hrnet,
    inception,
    mobilenet,
    plain,
    residual,
    resnet,
    shufflenet_v2,
    xception,
)

if TYPE_CHECKING:
    import paddle

    from ppcls_core.models.networks.layers import Network

MAX_CLASSES = 100_000
_log = logging.getLogger(__name__)

FAMILIES: tuple[Mapping[str, ModelSpec], ...] = tuple(
    module.VARIANTS
    for module in (
        *(resnet, mobilenet, plain, densenet, shufflenet_v2, ghostnet),
        *(inception, efficientnet, xception, hrnet, residual),
    )
)
"""Name to spec of every architecture, family by family, in the order in which they are listed."""


def merged(families: Iterable[Mapping[str, ModelSpec]]) -> dict[str, ModelSpec]:
    """All variants of `families` by name. Raises ValueError: two families have a variant of the
    same name."""
    variants: dict[str, ModelSpec] = {}
    for family in families:
        if taken := variants.keys() & family.keys():
            raise ValueError(f"architectures of two families: {', '.join(sorted(taken))}")
        variants |= family
    return variants


_VARIANTS = merged(FAMILIES)


class ModelConfig(Config):
    """A model of the registry, `spec` overriding fields of its variant."""

    name: str  # an architecture, or published weights: `ppcls models`
    spec: dict[str, Any] = Field(default={})  # fields of its spec, to make it narrower or shallower


def known_models() -> list[str]:
    """Architectures that `build_model` takes, family by family."""
    return list(_VARIANTS)


def architecture_of(name: str) -> str:
    """The architecture of that name, or the one of the published weights of that name. Raises
    UserError: neither, with the closest known names."""
    if name in _VARIANTS:
        return name
    published = published_weights()
    if name not in published:
        near = closest(name, {*_VARIANTS, *published}) or "; `ppcls models` lists them"
        raise UserError(f"unknown model '{name}'{near}")
    return published[name].arch


def published_of(name: str) -> PublishedWeights | None:
    """The published weights of that name, or else those named as its architecture, if any.

    Raises:
        UserError: as `architecture_of`.
    """
    rows = published_weights()
    return rows.get(name) or rows.get(architecture_of(name))


def spec_of(name: str, overrides: Mapping[str, object] | None = None) -> ModelSpec:
    """The variant's spec with the fields in `overrides` replaced. Raises UserError: unknown name or
    field (with the closest known ones), or a value of the wrong type or range."""
    spec = _VARIANTS[architecture_of(name)]
    return parse(type(spec), {**spec.model_dump(), **(overrides or {})}, f"model {name}")


def check_image_size(model: ModelConfig, size: int) -> None:
    """Raise UserError where the model sees nothing of images of `size` pixels, or as `spec_of`."""
    smallest = spec_of(model.name, model.spec).min_size
    if size < smallest:
        raise UserError(
            f"got images of {size} pixels, expected at least {smallest}, below which "
            f"{model.name} sees nothing"
        )


def build_model(
    name: str,
    *,
    num_classes: int = 1000,
    spec: Mapping[str, object] | None = None,
    pretrained: bool | str | Path | None = None,
) -> Network:
    """The network `name` in training mode: float images [N, 3, H, W] to logits [N, num_classes].

    Without `pretrained` the weights are random, from Paddle's global generator (`paddle.seed`).
    Paddle's names of the parameters, which an optimizer's state and an exported program refer to,
    depend on the network alone, so that a checkpoint fits in whatever order models are built;
    two models therefore share names and must not share an optimizer.

    Args:
        name: an architecture or published weights: `known_models()`, `published_weights()`.
        num_classes: width of the classifier, 1 to 100,000.
        spec: fields of the variant's spec to override, as in `spec_of`.
        pretrained: True for the weights published under `name`, as `published_file`; or the path
            or published name of others, as in `find_weights`. A classifier for another number of
            classes stays random, and that is logged.

    Raises:
        UserError: as `spec_of`, `published_file` and `load_weights`, or `num_classes` out of range.
    """
    resolved = spec_of(name, spec)
    if not 1 <= num_classes <= MAX_CLASSES:
        raise UserError(
            f"model {name}: got {counted(num_classes, 'class')}, expected 1 to {MAX_CLASSES:,}; "
            "check the number of labels in the manifest or the recipe"
        )
    # By name: NumPy and the formats are not needed to check a recipe.
    weights = "ppcls_core.models.weights"
    published_file = pkgutil.resolve_name(f"{weights}.files:published_file")
    path = published_file(name) if pretrained is True else pretrained
    # Not above: Paddle takes seconds to import.
    from paddle.utils import unique_name

    with unique_name.guard():
        model = pkgutil.resolve_name(resolved.network)(resolved, num_classes)
    model.architecture = architecture_of(name)
    model.mean, model.std = resolved.mean, resolved.std
    if path is not None and path is not False:
        load_weights = pkgutil.resolve_name(f"{weights}.state:load_weights")
        load_weights(model, Path(path), _log.warning)
    return model


def classifier_parameters(model: Network) -> list[paddle.Tensor]:
    """Weight and bias of the layer that gives the logits: what Fix trains, the rest frozen."""
    return model.classifier.parameters()


def num_classes_of(model: Network) -> int:
    """Width of the logits that `model` puts out."""
    return classifier_parameters(model)[-1].shape[0]
