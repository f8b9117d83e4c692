"""Versions of the packages that made a result, whichever distribution provides them."""

import importlib
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from importlib.util import find_spec

PROJECT = "ssld"


def installed_versions(modules: Sequence[str]) -> dict[str, str]:
    """Version of the project and of those of `modules` that are installed, by the name of the
    distribution that provides each.

    `faiss` comes as faiss-cpu, faiss-gpu-cu12 or, from conda, without any record of a distribution:
    then by its own name and `__version__`, as does a project that is not installed.
    """
    found = [_provided(module) for module in modules if find_spec(module)]
    return dict([_project(), *(entry for entries in found for entry in entries)])


def _project() -> tuple[str, str]:
    try:
        return PROJECT, version(PROJECT)
    except PackageNotFoundError:
        return PROJECT, "not installed"


@cache
def _provided(module: str) -> tuple[tuple[str, str], ...]:
    names = sorted(set(_distributions().get(module, ())))
    if names:  # several, as of two builds of OpenCV, which overwrite one another
        return tuple((name, version(name)) for name in names)
    return ((module, str(getattr(importlib.import_module(module), "__version__", "unknown"))),)


@cache
def _distributions() -> dict[str, list[str]]:
    """Module -> distributions; cached, for it reads the record of every one (0.3 s)."""
    return dict(packages_distributions())
