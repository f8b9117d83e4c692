"""The wheel holds all that a run needs, and works from any folder; building it needs the index."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import PROJECT

PACKAGES = ("flows", "tasks", "ppcls_core", "data_catalog", "configs")
MAX_MBYTES = 16
DEPLOYMENTS = "from flows import services as s; print((s.PROJECT / s.DEPLOYMENTS).is_file())"
pytestmark = pytest.mark.slow


def called(*words: object, cwd: Path, **variables: str) -> str:
    """What the command prints; it has to succeed."""
    command = [sys.executable, *map(str, words)]
    environment = {**os.environ, **variables}
    return subprocess.run(
        command, cwd=cwd, env=environment, check=True, capture_output=True, text=True, timeout=600
    ).stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the tracked files."""
    folder = tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(
        ["git", "ls-files", "-z", *PACKAGES, "pyproject.toml", "README.md"],
        cwd=PROJECT,
        check=True,
        capture_output=True,
    ).stdout
    for name in filter(None, listed.decode().split("\0")):
        target = folder / "source" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((PROJECT / name).read_bytes())
    called("-m", "pip", "wheel", "--no-deps", "-w", folder, folder / "source", cwd=folder)
    (path,) = folder.glob("*.whl")
    return path


def test_it_holds_every_file_of_the_packages(wheel: Path) -> None:
    assert wheel.stat().st_size < MAX_MBYTES * 1e6
    source = wheel.parent / "source"
    tracked = {str(p.relative_to(source)) for n in PACKAGES for p in (source / n).rglob("*.*")}
    tracked.discard("data_catalog/README.md")  # of the folder, for readers of the source
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {"configs/ssld/demo.yaml", "configs/prefect.yaml"} <= names
    assert tracked <= names, tracked - names
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == set(PACKAGES)


def test_it_works_from_any_folder(wheel: Path, tmp_path: Path) -> None:
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    called("-m", "pip", "install", "--no-deps", "--target", site, wheel, cwd=empty)
    variables = {"PYTHONPATH": str(site), "XDG_DATA_HOME": str(tmp_path / "data")}
    variables |= {"XDG_CACHE_HOME": str(tmp_path / "cache"), "SSLD_HOME": ""}
    assert called("-m", "flows.cli", "--version", cwd=empty, **variables).startswith("ssld ")
    status = called("-m", "flows.cli", "status", "demo", cwd=empty, **variables)
    assert "not run yet" in status and "waits for" in status
    assert called("-c", DEPLOYMENTS, cwd=empty, **variables) == "True\n"
    home = "from tasks.run.store import Store; print(Store.default().root)"
    assert called("-c", home, cwd=empty, **variables) == f"{tmp_path}/data/ssld/store\n"
    assert not list(empty.iterdir())
