"""The inference engine in a process of its own.

Paddle's predictor keeps Python's lock while it runs: in the server's own process no request could
be received, decoded or answered meanwhile, and /health would wait for a batch.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np

from data_catalog.base.config import parse
from ppcls_core.inference.exported import Exported, Logits
from ppcls_core.runtime.processes import Child, Parent

# Threads that wait for one another sleep, instead of keeping a core from the decoders.
ENVIRONMENT = {"KMP_BLOCKTIME": "0"}


@contextmanager
def engine(directory: Path, settings: dict[str, Any]) -> Iterator[Logits]:
    """The model of an exported folder in a process that ends with this one, however that ends.

    `settings` are those of EngineOptions, `threads` among them.

    Raises UserError: at the first batch: the model cannot be loaded; at any: the process has ended.
    """
    threads = {"OMP_NUM_THREADS": str(settings["threads"])}
    with Child(
        f"{__name__}:open_engine",
        (directory, settings),
        name="the inference process",
        remedy="lower max_batch if memory was short, else see its messages above; start again",
        environment={**ENVIRONMENT, **os.environ, **threads},
    ) as child:
        yield child


def open_engine(
    directory: Path, settings: dict[str, Any]
) -> Callable[[np.ndarray, Parent], np.ndarray]:
    """The child's function: logits of a batch of uint8 pixels."""
    kind = resolve_name("ppcls_core.inference.predictor:EngineOptions")  # imports Paddle
    predict = Exported(directory).on_engine(parse(kind, settings, "ppcls serve"))
    return lambda pixels, parent: predict(pixels)
