"""Every way to predict gives the same logits, for a network of each family.

Tolerances are of the largest logit: 1e-4 for the training engine on the exported program, which
computes the same operations; 1e-3 for the inference engine and onnxruntime, which fuse
convolutions with batch norms and so round otherwise.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import PROJECT, others_slow
from tests.ppcls_core.models.families.test_networks import EXPORTED, FAMILIES

TOLERANCES = {
    "py-infer": 1e-4,
    "predict": 1e-3,
    "predict --no-onednn": 1e-3,
    "onnxruntime": 1e-3,
}
# paddle2onnx 2.1 gives each leaky ReLU the same slope; `ppcls export --onnx` notices and refuses.
WITHOUT_ONNX = {"CSPResNet50_leaky"}


@pytest.fixture(scope="module")
def deviations(request, tmp_path_factory):
    """By family and way, of the families that are asked for."""
    folder = tmp_path_factory.mktemp("ways")
    asked = [i.callspec.params["family"] for i in request.session.items if i.path == request.path]
    command = [sys.executable, str(PROJECT / "tests" / "support" / "ways.py"), str(folder), *asked]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads((folder / "deviations.json").read_text())


@pytest.mark.parametrize("family", others_slow(FAMILIES, EXPORTED[:1]))
def test_all_ways_give_the_same_logits(deviations, family):
    found = deviations[family]
    assert found.keys() == TOLERANCES.keys()
    without = {"onnxruntime"} if family in WITHOUT_ONNX else set()
    assert {way for way, d in found.items() if not d <= TOLERANCES[way]} == without
