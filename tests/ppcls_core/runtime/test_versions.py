"""Versions are those of what is imported, whatever its distribution is called."""

import re
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from data_catalog.base.config import UserError
from ppcls_core.runtime import versions
from ppcls_core.runtime.versions import check_builds, cuda_of_paddle, installed_versions
from tests.conftest import PROJECT


@pytest.fixture(autouse=True)
def _fresh() -> None:
    versions._provided.cache_clear()


def test_a_module_is_told_by_the_distribution_that_provides_it() -> None:
    found = installed_versions(["numpy", "yaml", "no_such_module"])
    assert found["numpy"] == version("numpy")
    assert found["PyYAML"] == version("PyYAML")
    assert set(found) == {"ssld", "numpy", "PyYAML"}


CPU = {"paddle": ["paddlepaddle"], "faiss": ["faiss-cpu"], "cv2": ["opencv-python-headless"]}


@pytest.mark.parametrize(
    ("changed", "found", "wanted", "words"),
    [
        ({}, "", "", None),
        ({"paddle": ["paddlepaddle-gpu"]}, "cu126", "cu126", None),
        ({}, "", "cu126", "got the build for the CPU, expected the one for cu126"),
        ({"paddle": ["paddlepaddle-gpu"]}, "cu118", "cu126", "build for cu118, expected .* cu126"),
        (
            {"paddle": ["paddlepaddle", "paddlepaddle-gpu"]},
            "cu126",
            "cu126",
            "paddle: got paddlepaddle and paddlepaddle-gpu, expected one",
        ),
        ({"faiss": ["faiss-cpu", "faiss-gpu-cu12"]}, "", "", "faiss: got faiss-cpu and faiss-gpu"),
        ({"faiss": []}, "", "", "faiss: got no distribution"),
    ],
)
def test_one_build_of_each_is_installed(
    changed: dict[str, list[str]],
    found: str,
    wanted: str,
    words: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(versions, "_distributions", lambda: CPU | changed)
    monkeypatch.setattr(versions, "cuda_of_paddle", lambda: found)
    if words is None:
        return check_builds(wanted)
    with pytest.raises(UserError, match=words):
        check_builds(wanted)
    return None


@pytest.mark.parametrize(("said", "cuda"), [("12.6", "cu126"), ("11.8", "cu118"), ("False", "")])
def test_the_cuda_of_a_build_is_read_without_importing_it(
    said: str, cuda: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "version").mkdir()
    (tmp_path / "version" / "__init__.py").write_text(f"nccl = 0\ncuda_version     = '{said}'\n")
    spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(versions, "find_spec", lambda name: spec)
    assert cuda_of_paddle() == cuda


def test_the_lock_for_gpus_differs_in_the_build_of_paddle_alone() -> None:
    """`make requirements-gpu.lock` makes it so. Neither names an address."""
    cpu, gpu = (
        (PROJECT / f"requirements{kind}.lock").read_text().splitlines() for kind in ("", "-gpu")
    )
    lines = zip(cpu, gpu, strict=True)
    ((one, other),) = [(a.split()[0], b.split()[0]) for a, b in lines if a != b]
    assert one.split("==")[0] == "paddlepaddle"
    assert other == one.replace("paddlepaddle", "paddlepaddle-gpu")
    assert not [line for line in cpu + gpu if "//" in line or line.startswith("-")]
    assert re.search(rf'"{other}"', (PROJECT / "pyproject.toml").read_text())


@pytest.mark.parametrize("name", ["faiss-cpu", "faiss-gpu-cu12"])
def test_another_build_of_faiss_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "_distributions", lambda: {"faiss": [name]})
    monkeypatch.setattr(versions, "version", {name: "1.2", "ssld": "0"}.__getitem__)
    assert installed_versions(["faiss"]) == {"ssld": "0", name: "1.2"}


def test_without_a_distribution_the_module_says_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "undistributed.py").write_text("__version__ = '7'")
    monkeypatch.syspath_prepend(tmp_path)
    assert installed_versions(["undistributed"])["undistributed"] == "7"
    assert isinstance(sys.modules.pop("undistributed"), ModuleType)


def test_nothing_looks_for_a_build_of_faiss_by_name() -> None:
    root = Path(versions.__file__).parents[2]
    folders = ("flows", "tasks", "ppcls_core", "data_catalog")
    sources = [path for folder in folders for path in (root / folder).rglob("*.py")]
    assert len(sources) > 100
    assert [str(p) for p in sources if '"faiss-' in p.read_text(encoding="utf-8")] == []
