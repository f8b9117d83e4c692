"""Golden data: what PaddleClas's networks are made of and what they put out."""

from __future__ import annotations

import importlib.util
import json
import lzma
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

GOLDEN = Path(__file__).parents[4] / "tests" / "golden"


@pytest.fixture(scope="session")
def golden() -> dict[str, dict[str, Any]]:
    """By model: size, scale, the first 16 logits, argmax; dtype where float64."""
    return json.loads((GOLDEN / "models.json").read_text())


@pytest.fixture(scope="session")
def golden_shapes() -> dict[str, dict[str, list[int]]]:
    """By model: the shape of every state-dict entry, in order."""
    return json.loads(lzma.decompress((GOLDEN / "state_dicts.json.xz").read_bytes()))


@pytest.fixture(scope="session")
def filler() -> ModuleType:
    """The module golden/fill.py."""
    spec = importlib.util.spec_from_file_location("golden_fill", GOLDEN / "fill.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
