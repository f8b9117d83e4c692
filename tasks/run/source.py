"""The project's own modules that a module reaches by its imports, read without importing any.

A stage's VERSION says when equal inputs give other outputs, and only people can know that. The hash
of all that a stage reaches tells when to ask them (tests/golden/stage_sources.json).
"""

import ast
import re
import threading
from functools import cache
from hashlib import sha256
from pathlib import Path

from data_catalog.recipes import PROJECT

PACKAGES = ("flows", "tasks", "ppcls_core", "data_catalog")
# A module that is imported late, by name: "package.module:object" or "package.module".
_LATE = re.compile(rf"((?:{'|'.join(PACKAGES)})(?:\.\w+)+)(?::[\w.]+)?")
# Python 3.11 counts the depth of a tree in one place for all threads: of two that parse, one may
# fail with a SystemError. Stages run beside one another.
_PARSING = threading.Lock()
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@cache
def modules() -> dict[str, Path]:
    """The file of each module of the project, packages included, by dotted name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((PROJECT / package).rglob("*.py")):
            parts = path.relative_to(PROJECT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def tree_of(module: str) -> ast.Module:
    """The syntax tree of one of `modules`."""
    return _parsed(modules()[module].read_text())


def _parsed(code: str) -> ast.Module:
    with _PARSING:
        return ast.parse(code)


def names_imported(tree: ast.AST) -> set[str]:
    """Dotted names imported anywhere in `tree`, nested and TYPE_CHECKING imports included."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


@cache
def imports_of(module: str) -> frozenset[str]:
    """The project's modules that `module` imports."""
    return frozenset(names_imported(tree_of(module)) & modules().keys() - {module})


@cache
def late_imports_of(module: str) -> frozenset[str]:
    """The project's modules that `module` names in strings, to be imported when used."""
    texts = (n.value for n in ast.walk(tree_of(module)) if isinstance(n, ast.Constant))
    names = (_LATE.fullmatch(text) for text in texts if isinstance(text, str))
    return frozenset({name[1] for name in names if name} & modules().keys() - {module})


def reached(module: str) -> set[str]:
    """`module` and all modules of the project that it reaches, by imports and late names."""
    found, pending = set(), [module]
    while pending:
        name = pending.pop()
        if name not in found:
            found.add(name)
            pending += imports_of(name) | late_imports_of(name) | _packages(name)
    return found


def _packages(module: str) -> set[str]:
    """The packages whose __init__ runs before `module`."""
    parts = module.split(".")
    return {".".join(parts[:n]) for n in range(1, len(parts))} & modules().keys()


def source_hash(module: str) -> str:
    """sha256 (hex) of the code that `module` reaches, blind to comments, docstrings and layout."""
    parts = (f"{name} {_module_hash(name)}\n" for name in sorted(reached(module)))
    return sha256("".join(parts).encode()).hexdigest()


@cache
def _module_hash(module: str) -> str:
    return code_hash(modules()[module].read_text())


def code_hash(code: str) -> str:
    """sha256 (hex) of the syntax tree of a module's `code` without its docstrings."""
    tree = _parsed(code)  # to parse again takes a fifth of the time of a copy
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node):
            del node.body[0]
    # Versions of Python differ in the empty fields that nodes have.
    return sha256(re.sub(r"\w+=\[\]|, ", "", ast.dump(tree)).encode()).hexdigest()
