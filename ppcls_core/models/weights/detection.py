"""Trained backbones for PaddleDetection: the same weights under its names."""

from collections.abc import Iterator, Mapping
from typing import TypeVar

from data_catalog.base.config import UserError
from data_catalog.base.words import counted
from ppcls_core.models.registry import spec_of
from ppcls_core.models.specs import ModelSpec
from ppcls_core.models.specs.mobilenet import MobileNetV3Spec
from ppcls_core.models.specs.resnet import LAYOUTS, ResNetSpec, block_name

Value = TypeVar("Value")
_NORM = ("weight", "bias", "_mean", "_variance")
_V3_HEAD = ("last_second_conv.", "last_conv.", "fc.")


def detection_state(model: str | ModelSpec, state: Mapping[str, Value]) -> dict[str, Value]:
    """Weights of a ResNet or MobileNetV3 as PaddleDetection's backbone of that name has them.

    ResNets are of any depth, plain, vc or vd. `state` is the state dict of the network of that name
    or spec, with any number of classes. What comes after the last block is left out, which
    PaddleDetection's backbones have not; the batch norms' running statistics stay. Values are
    passed on as they are.

    Raises UserError: unknown name; another network; or `state` is not the model's.
    """
    spec = spec_of(model) if isinstance(model, str) else model
    if isinstance(spec, MobileNetV3Spec):
        names, head = dict(_v3_names(spec)), _V3_HEAD
    elif isinstance(spec, ResNetSpec) and _is_plain(spec):
        names, head = dict(_resnet_names(spec)), (f"{LAYOUTS[spec.layout].classifier}.",)
    else:
        raise UserError(
            f"got {model!r}, expected a ResNet, ResNet_vc, ResNet_vd or MobileNetV3: "
            "PaddleDetection's backbones take the weights of these alone"
        )
    backbone = [key for key in state if not key.startswith(head)]
    misfits = sorted(names.keys() ^ set(backbone))
    if misfits:
        raise UserError(
            f"weights of another model: {counted(len(misfits), 'entry is', 'entries are')} missing "
            f"or unexpected, such as '{misfits[0]}'; give the name or spec that they were trained "
            "with"
        )
    return {names[key]: state[key] for key in backbone}


def _is_plain(spec: ResNetSpec) -> bool:
    own = (spec.cardinality, spec.group_width, spec.scales, spec.reduction, spec.spatial)
    return own == (1, None, 1, None, "plain")


def _v3_names(spec: MobileNetV3Spec) -> Iterator[tuple[str, str]]:
    """Our name and PaddleDetection's, whose blocks are called conv2, conv3 and so on."""
    paths = [("conv", "conv1")]
    for index, block in enumerate(spec.blocks):
        parts = ["expand_conv", "bottleneck_conv", "linear_conv"]
        paths += [(f"blocks.{index}.{part}", f"conv{index + 2}.{part}") for part in parts]
        if block.squeeze_excite:
            for layer in ("conv1", "conv2"):
                ours, theirs = f"blocks.{index}.mid_se.{layer}", f"conv{index + 2}.mid_se.{layer}"
                yield from ((f"{ours}.{entry}", f"{theirs}.{entry}") for entry in _NORM[:2])
    for ours, theirs in paths:
        yield f"{ours}.conv.weight", f"{theirs}.conv.weight"
        yield from ((f"{ours}.bn.{entry}", f"{theirs}.bn.{entry}") for entry in _NORM)


def _resnet_names(spec: ResNetSpec) -> Iterator[tuple[str, str]]:
    """Our name and PaddleDetection's of every entry but the classifier's."""
    conv, norm = LAYOUTS[spec.layout].unit
    for ours, theirs in _units(spec):
        yield f"{ours}.{conv}.weight", f"{theirs}.conv.weight"
        for entry in _NORM:
            yield f"{ours}.{norm}.{entry}", f"{theirs}.norm.{entry}"


def _units(spec: ResNetSpec) -> Iterator[tuple[str, str]]:
    """Our path and PaddleDetection's of every convolution with its batch norm."""
    layout = LAYOUTS[spec.layout]
    if spec.deep_stem:
        for number, path in enumerate(layout.deep_stem, start=1):
            yield path, f"conv1.conv1_{number}"
    else:
        yield layout.stem, "conv1.conv1"
    for stage, index, path in spec.blocks():
        block = f"res{stage + 2}.{block_name(stage, index, spec.depths[stage])}"
        for number, letter in enumerate("abc" if spec.bottleneck else "ab"):
            yield f"{path}.{layout.conv.format(number)}", f"{block}.branch2{letter}"
        if index == 0:
            # There the averaging is a layer of its own beside the convolution.
            averages = spec.average_shortcut and stage > 0
            yield f"{path}.{layout.short}", f"{block}.short" + (".conv" if averages else "")
