"""Functions whose module is imported when they are first called: Paddle takes seconds to import."""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Later:
    """The function `name`, "module:function"."""

    name: str

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return pkgutil.resolve_name(self.name)(*args, **kwargs)

    @property
    def module(self) -> str:
        """Name of the module that defines it."""
        return self.name.partition(":")[0]
