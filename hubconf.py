"""The models for `paddle.hub`: one function an architecture and one for each published weights.

model = paddle.hub.load("PATH OF THIS FOLDER", "ResNet50_vd_ssld", source="local",
                        pretrained=True, num_classes=102)
"""

from functools import partial as _partial
from functools import update_wrapper as _update_wrapper

from data_catalog.published import published_weights as _published_weights
from ppcls_core.models.registry import build_model as _build_model
from ppcls_core.models.registry import known_models as _known_models

dependencies = ["paddle", "numpy", "pydantic", "rich", "safetensors", "yaml"]


def _entry(name):  # noqa: ANN001, ANN202 (paddle.hub shows the signature of build_model)
    entry = _update_wrapper(_partial(_build_model, name), _build_model)
    entry.__name__ = name
    return entry


globals().update({name: _entry(name) for name in [*_known_models(), *_published_weights()]})
