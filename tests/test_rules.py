"""The rules of the house that can be read off the source: floors, names, docstrings, versions.

KNOWN_... are exceptions, or how many there are, that are still to go.
"""

import ast
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tasks.dag import STAGES
from tasks.run.source import (
    PACKAGES,
    code_hash,
    imports_of,
    late_imports_of,
    modules,
    names_imported,
    tree_of,
)
from tests.conftest import PROJECT
from tests.support import stage_sources

# Each floor may import itself and the floors before it; of two on one line neither the other.
FLOORS = (
    ("data_catalog",),
    ("ppcls_core.runtime",),
    ("ppcls_core.data",),
    ("ppcls_core.models",),
    ("ppcls_core.engine",),
    ("ppcls_core.inference",),
    ("ppcls_core.labels", "ppcls_core.dedup"),
    ("ppcls_core.jobs",),
    ("ppcls_core.report",),
    ("ppcls_core.serving",),
    ("ppcls_core.cli",),
    ("tasks",),
    ("flows",),
)
RANK = {name: rank for rank, names in enumerate(FLOORS) for name in names}
FOREIGN = {"data_catalog": {"paddle", "prefect"}, "ppcls_core": {"prefect"}}
PROCESSES = {"threading", "subprocess", "signal", "concurrent.futures", "multiprocessing"}
COMMANDS = ("tasks.stages.", "ppcls_core.cli.", "flows.commands", "flows.cli")
BANNED = {
    "look",
    "rival",
    "rivals",
    "scattered",
    "watch",
    "form",
    "means",
    "told",
    "heeded",
    "twice",
}
MAX_LAZY = 30
PERCENT = re.compile("[0-9]%")
COUNTED = re.compile(
    " ([a-z]+ )?(images|classes|files|epochs|steps|pairs|entries|labels|places|copies|shards"
    r"|cores|threads|processes|hosts|GPUs|trials|recipes|lines|mistakes|tars)\b(?!/)"
)

KNOWN_UPWARD: set[tuple[str, str]] = set()
KNOWN_CIRCLES: set[tuple[str, str]] = set()
KNOWN_TWINS: set[str] = set()
KNOWN_NAMES: set[str] = set()
KNOWN_LAZY = 9
KNOWN_UNDOCUMENTED = 0
KNOWN_BEGINNINGS = 0


def floor_of(module: str) -> str:
    parts = module.split(".")
    return next(n for n in (".".join(parts[:2]), parts[0]) if n in RANK or n == "ppcls_core")


def test_no_import_goes_up() -> None:
    upward = set()
    for module in modules():
        for other in imports_of(module):
            here, there = floor_of(module), floor_of(other)
            if "ppcls_core" in (here, there):  # its __init__, which runs before everything in it
                continue
            if RANK[there] > RANK[here] or (RANK[there] == RANK[here] and here != there):
                upward.add((module, other))
    assert upward <= KNOWN_UPWARD


@pytest.mark.parametrize("package", FOREIGN)
def test_no_floor_imports_what_it_must_not_know(package: str) -> None:
    for module in (name for name in modules() if name.split(".")[0] == package):
        wrong = {n for n in names_imported(tree_of(module)) if n.split(".")[0] in FOREIGN[package]}
        assert not wrong, f"{module} imports {wrong}"


def test_no_import_is_relative() -> None:
    for module in modules():
        nodes = (n for n in ast.walk(tree_of(module)) if isinstance(n, ast.ImportFrom))
        assert not [node.lineno for node in nodes if node.level], module


def test_no_circle() -> None:
    graph = {
        name: {other for other in imports_of(name) if (name, other) not in KNOWN_CIRCLES}
        for name in modules()
    }
    order = TopologicalSorter(graph).static_order()
    assert len(list(order)) == len(modules())


def test_late_names_are_there() -> None:
    pattern = re.compile(rf"((?:{'|'.join(PACKAGES)})(?:\.\w+)+):(\w+)[\w.]*")
    texts = {
        node.value
        for module in modules()
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    found = [match for text in texts if (match := pattern.fullmatch(text))]
    assert len(found) > 20
    for match in found:
        assert match[2] in names_defined(match[1]), match[0]


def names_defined(module: str) -> set[str]:
    names = names_imported(tree_of(module))
    found = {name.rpartition(".")[2] for name in names}
    for node in tree_of(module).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            found |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    return found


def test_few_imports_of_own_modules_inside_functions() -> None:
    found = defaultdict(int)
    for module in modules():
        for node in ast.walk(tree_of(module)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                inner = (n for n in ast.walk(node) if isinstance(n, ast.ImportFrom))
                found[module] += sum((n.module or "").split(".")[0] in PACKAGES for n in inner)
    assert sum(found.values()) < max(MAX_LAZY, KNOWN_LAZY), dict(found)


def test_stages_and_commands_start_no_thread_or_process() -> None:
    found = {
        f"{module}: {name}"
        for module in modules()
        if module.startswith(COMMANDS)
        for name in names_imported(tree_of(module)) & PROCESSES
    }
    assert not found


def test_a_public_class_name_is_given_once() -> None:
    places = defaultdict(list)
    for module in modules():
        # Networks have blocks of their own; PaddleClas's form has the classes of its settings.
        if ".networks." in module or module.startswith("ppcls_core.jobs.paddleclas"):
            continue
        for node in tree_of(module).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(module)
    assert {name for name, where in places.items() if len(where) > 1} <= KNOWN_TWINS


def public(
    node: ast.AST, place: str
) -> Iterator[tuple[str, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Public classes, functions and methods, by dotted place."""
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if inner.name.startswith("_"):
                continue
            yield f"{place}.{inner.name}", inner
            if isinstance(inner, ast.ClassDef):
                yield from public(inner, f"{place}.{inner.name}")


def documented() -> Iterator[tuple[str, str | None]]:
    """(place, docstring) of every module and public thing."""
    for module in modules():
        yield module, ast.get_docstring(tree_of(module))
        for place, node in public(tree_of(module), module):
            yield place, ast.get_docstring(node)


def test_everything_public_has_a_docstring() -> None:
    bad = [place for place, text in documented() if not text]
    assert len(bad) <= KNOWN_UNDOCUMENTED, bad


def test_a_docstring_begins_with_what_a_thing_is() -> None:
    bad = [place for place, text in documented() if re.match(r"(Of|What)\b", text or "")]
    assert len(bad) <= KNOWN_BEGINNINGS, bad


def test_names_are_the_fields_own() -> None:
    words = re.compile(r"[A-Z]?[a-z]+")
    found = {
        place
        for module in modules()
        for place, node in public(tree_of(module), module)
        if BANNED & {word.lower() for word in words.findall(node.name)}
    }
    assert found <= KNOWN_NAMES


def f_strings() -> Iterator[tuple[str, str, ast.expr, ast.FormattedValue, str]]:
    """(module, text before, value, the whole of its braces, text after) of each value in one."""
    for module in modules():
        for node in ast.walk(tree_of(module)):
            for parts in three(node.values) if isinstance(node, ast.JoinedStr) else ():
                before, value, after = parts
                if isinstance(value, ast.FormattedValue):
                    yield module, text_of(before), value.value, value, text_of(after)


def three(parts: list[ast.expr]) -> Iterator[tuple[ast.expr, ast.expr, ast.expr]]:
    """Each of `parts` between its neighbours, of which the ends have empty ones."""
    nothing = ast.Constant("")
    return zip([nothing, *parts], parts, [*parts[1:], nothing], strict=False)


def text_of(part: ast.expr) -> str:
    """A constant of a string; of anything else none."""
    return str(part.value) if isinstance(part, ast.Constant) else ""


def test_a_percentage_has_a_blank_before_its_sign() -> None:
    """As in "95 % interval": neither Python's own format, `:.1%`, nor Rich's bars write one."""
    bad = {
        module
        for module, _, _, whole, after in f_strings()
        if after.startswith("%")
        or (whole.format_spec and ast.unparse(whole.format_spec).endswith("%'"))
    }
    bad |= {
        module
        for module in modules()
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("Progress", "track", "TaskProgressColumn")
        and not any(isinstance(argument, ast.Starred) for argument in node.args)
    }
    bad |= {path.name for path in (PROJECT / "docs").glob("*.md") if PERCENT.search(plain(path))}
    bad |= {path.name for path in (PROJECT / "ppcls_core").rglob("*.html") if "}}%" in plain(path)}
    assert not bad


def plain(path: Path) -> str:
    """A page without its style."""
    return re.sub("(?s)<style.*?</style>", "", path.read_text())


def test_a_number_and_its_noun_agree() -> None:
    """What may be one thing is written by `counted`: nobody says "1 images"."""
    bad = {
        f"{module}: {ast.unparse(value)}{after[:20]}"
        for module, before, value, whole, after in f_strings()
        if COUNTED.match(after)
        and not before.endswith((" of ", " the ", " no "))  # "1 of 3 images"
        and ast.unparse(value) != "kind"  # of images, a word
        and not ast.unparse(value).isupper()  # a constant
        and not (whole.format_spec and ast.unparse(whole.format_spec).endswith("f'"))  # a measure
    }
    assert not bad


def test_command_line_and_status_need_neither_paddle_nor_prefect() -> None:
    code = (
        "import sys, flows.commands, ppcls_core.cli.app, tasks.dag; "
        "print({'paddle', 'prefect'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("name", STAGES)
def test_changed_code_of_a_stage_is_acknowledged(name: str) -> None:
    """Raise the stage's version if equal inputs now give other outputs; then `make acknowledge`."""
    assert stage_sources.recorded().get(name) == stage_sources.current()[name]


def test_only_code_counts_in_a_source_hash() -> None:
    code = 'def f(x):\n    """Doc."""\n    return x + 1  # why\n'
    same = "def f(\n    x,\n):\n    return (x + 1)\n"
    assert code_hash(code) == code_hash(same)
    assert code_hash(code) != code_hash(code.replace("1", "2"))


def test_a_stage_reaches_what_it_names_late() -> None:
    assert "ppcls_core.models.networks.resnet" in late_imports_of("ppcls_core.models.specs.resnet")
