"""Versions are those of what is imported, whatever its distribution is called."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest

from ppcls_core.runtime import versions
from ppcls_core.runtime.versions import installed_versions


@pytest.fixture(autouse=True)
def _fresh() -> None:
    versions._provided.cache_clear()


def test_a_module_is_told_by_the_distribution_that_provides_it() -> None:
    found = installed_versions(["numpy", "yaml", "no_such_module"])
    assert found["numpy"] == version("numpy")
    assert found["PyYAML"] == version("PyYAML")
    assert set(found) == {"ssld", "numpy", "PyYAML"}


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
