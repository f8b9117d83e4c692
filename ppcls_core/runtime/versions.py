"""Versions of the packages that made a result, whichever distribution provides them.

`python -m ppcls_core.runtime.versions [cu126]` checks what is installed, as `check_builds` says.
"""

import importlib
import re
import sys
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from importlib.util import find_spec
from pathlib import Path

from data_catalog.base.errors import UserError
from ppcls_core.runtime.terminal import run_app

BUILDS = ("paddle", "faiss", "cv2")  # modules of which several distributions have a build
PROJECT = "ssld"


def installed_versions(modules: Sequence[str]) -> dict[str, str]:
    """Version of the project and of those of `modules` that are installed, by the name of the
    distribution that provides each.

    `faiss` comes as faiss-cpu, faiss-gpu-cu12 or, from conda, without any record of a distribution:
    then by its own name and `__version__`, as does a project that is not installed.
    """
    found = [_provided(module) for module in modules if find_spec(module)]
    return dict([_project(), *(entry for entries in found for entry in entries)])


def check_builds(cuda: str = "") -> None:
    """Raise UserError unless each of BUILDS is there once, and Paddle's is for `cuda`, such as
    cu126; without it, for the CPU. Nothing is imported."""
    for module in BUILDS:
        names = sorted(set(_distributions().get(module, ())))
        if len(names) != 1:
            raise UserError(
                f"{module}: got {' and '.join(names) or 'no distribution'}, expected one: of "
                "several each overwrites the other's files. Remove .venv and run `make setup` again"
            )
    found = cuda_of_paddle()
    if found != cuda:
        builds = [f"for {name}" if name else "for the CPU" for name in (found, cuda)]
        raise UserError(f"Paddle: got the build {builds[0]}, expected the one {builds[1]}")


def cuda_of_paddle() -> str:
    """The CUDA for which the installed Paddle is built, such as cu126; "" if it is for the CPU."""
    spec = find_spec("paddle")
    if not spec or not spec.origin:
        raise UserError("Paddle is not installed: make setup")
    text = Path(spec.origin).with_name("version").joinpath("__init__.py").read_text()
    found = re.search(r"^cuda_version *= *'(\d+)\.(\d+)", text, re.MULTILINE)
    return f"cu{found[1]}{found[2]}" if found else ""


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


if __name__ == "__main__":
    run_app(lambda: check_builds(*sys.argv[1:2]))
