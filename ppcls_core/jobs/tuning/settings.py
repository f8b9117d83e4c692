"""How to search: for the command line and the flow, which check it before Optuna is imported."""

from importlib.util import find_spec
from typing import Literal

from pydantic import Field

from data_catalog.base.config import Config
from data_catalog.base.errors import UserError

Sampler = Literal["grid", "bayes", "random"]


class SearchSettings(Config):
    """How to search; `trials` are points, by default all of a grid, else a tenth of the space."""

    sampler: Sampler = "bayes"
    trials: int | None = Field(default=None, gt=0)
    repeats: int = Field(default=1, gt=0)  # seeds a point, whose mean counts
    prune: bool = True
    storage: str | None = None  # URL of a database; by default a file in the search's folder


def check_installed() -> None:
    """Raise UserError, with the command that installs it, if Optuna is not there."""
    if find_spec("optuna") is None:
        raise UserError("a search needs optuna, not installed: pip install 'ssld[search]'")
