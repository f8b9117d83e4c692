"""The floors of the house: imports run one way, and without cycles."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
FLOORS = ["data_catalog", "ppcls_core", "tasks", "flows"]  # each may import itself and those before
BANNED = {"data_catalog": {"paddle", "prefect"}, "ppcls_core": {"prefect"}}
FILES = [path for floor in FLOORS for path in sorted((PROJECT / floor).rglob("*.py"))]


def imports(path: Path, nested: bool) -> set[str]:
    """Modules that `path` imports, also inside functions when `nested`."""
    tree = ast.parse(path.read_text())
    nodes = list(ast.walk(tree)) if nested else tree.body
    found = {a.name for n in nodes if isinstance(n, ast.Import) for a in n.names}
    for node in (n for n in nodes if isinstance(n, ast.ImportFrom)):
        assert node.level == 0, f"{path}: relative import"
        found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def module_of(path: Path) -> str:
    parts = path.relative_to(PROJECT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("floor", FLOORS)
def test_no_import_goes_up(floor: str) -> None:
    above = set(FLOORS[FLOORS.index(floor) + 1 :]) | BANNED.get(floor, set())
    for path in (p for p in FILES if p.relative_to(PROJECT).parts[0] == floor):
        wrong = {name for name in imports(path, nested=True) if name.split(".")[0] in above}
        assert not wrong, f"{path} imports {wrong}"


def test_no_cycle_at_import_time() -> None:
    modules = {module_of(path): path for path in FILES}
    graph = {name: imports(path, nested=False) & modules.keys() for name, path in modules.items()}
    order = list(TopologicalSorter(graph).static_order())
    assert len(order) == len(FILES)


def test_command_line_and_status_need_neither_paddle_nor_prefect() -> None:
    import subprocess
    import sys

    code = (
        "import sys, flows.cli, flows.status, tasks.dag, tasks.recipe; print(sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "'paddle'" not in done.stdout
    assert "'prefect'" not in done.stdout
