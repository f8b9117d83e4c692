"""Makes the pages in reference/ from the code: `make acknowledge` calls it.

Commands come from their parsers, settings from the pydantic classes that read them, with the
comment or docstring that stands beside each in the source; messages from every place that raises a
UserError.
"""

from __future__ import annotations

import ast
import inspect
import re
import types
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from textwrap import dedent
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from data_catalog.base.config import Config
from data_catalog.base.files import write_bytes
from data_catalog.base.words import counted
from data_catalog.sources import FilesConfig
from flows.cli import app as ssld
from ppcls_core.cli.app import app as ppcls
from ppcls_core.jobs.job import Job
from ppcls_core.models.registry import FAMILIES
from ppcls_core.models.specs import ModelSpec
from ppcls_core.serving.limits import ServeConfig
from tasks.recipe import STUDENTS, Recipe
from tasks.run.source import modules, tree_of

PROGRAMS = {"ssld": ssld, "ppcls": ppcls}
ROOTS: dict[str, tuple[type[Config], str, str]] = {
    "recipe": (Recipe, "Recipe", "What `ssld run FILE` reads; `--set a.b=value` overrides it."),
    "data": (
        FilesConfig,
        "Data set",
        "The file that `data.labelled` or `data.pool` of a recipe names.",
    ),
    "job": (Job, "Training job", "What `ppcls train -c FILE` and `ppcls eval -c FILE` read."),
    "serve": (ServeConfig, "Server", "The limits of `ppcls serve`, each set by `-o NAME=VALUE`."),
}
_LEFT_OUT = "[as left out](../pipeline.md#what-a-recipe-may-leave-out)"
_SUPPLIED = {(Recipe, "name"): "the file's name"}  # by who reads the file
_SUPPLIED |= {(Recipe, training): _LEFT_OUT for training in STUDENTS}
_WORDS = {int: "whole number", float: "number", str: "text", bool: "true or false"}
_WORDS |= {type(None): "none", Any: "anything", Path: "path"}
_SIGNS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤", "multiple_of": "a multiple of"}


def pages() -> dict[str, str]:
    """Markdown of each page, by its path below docs/."""
    found = {"reference/commands.md": commands_page(), "reference/errors.md": errors_page()}
    seen: dict[type[Config], str] = {}
    for name in ROOTS:
        found[f"reference/{name}.md"] = settings_page(name, seen)
    found["reference/models.md"] = models_page(seen)
    return found


def write() -> None:
    """Write the pages anew."""
    for path, text in pages().items():
        write_bytes(Path(__file__).parent / path, text.encode())


# ---- commands


def commands_page() -> str:
    """Every command of both programs with its arguments and options."""
    parts = ["# Commands", "`ssld` runs the pipeline, `ppcls` everything about single models."]
    for program, app in PROGRAMS.items():
        group = typer.main.get_command(app)
        context = group.make_context(program, [], resilient_parsing=True)
        parts += [f"## {program}", _cell(group.help), _options(group, context)]
        for name in group.list_commands(context):
            command = group.resolve_command(context, [name])[1]
            parts += [f"### {program} {name}", _help(command.help), _options(command, context)]
    return "\n\n".join(parts) + "\n"


def _help(text: str) -> str:
    """A command's help; paragraphs of commands alone are blocks of them."""
    parts = dedent(text).split("\n\n")
    starts = tuple(f"{program} " for program in PROGRAMS)
    return "\n\n".join(
        f"```sh\n{part}\n```" if all(li.startswith(starts) for li in part.splitlines()) else part
        for part in parts
    )


def _options(command: Any, context: Any) -> str:
    rows = [
        (_spelling(option), _cell(option.help), _given(option), _type_of(option))
        for option in command.get_params(context)
        if option.name != "help"
    ]
    return table(("option", "meaning", "default", "type"), rows)


def _spelling(option: Any) -> str:
    if option.param_type_name == "argument":
        return f"`{option.metavar or option.name.upper()}`"
    return ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))


def _type_of(option: Any) -> str:
    if getattr(option, "is_flag", False):
        return "flag"
    low, high = option.min, option.max
    text = _kind(option.type_descriptor.annotation, "", {})
    text += "" if low is None else f", ≥ {low:,}" if high is None else f", {low:,} to {high:,}"
    return text


def _given(option: Any) -> str:
    if option.required:
        return "required"
    if getattr(option, "is_flag", False) or option.default in (None, [], ()):
        return ""
    default = option.default[0] if isinstance(option.default, list) else option.default
    return f"`{default}`"


# ---- settings


def settings_page(name: str, seen: dict[type[Config], str]) -> str:
    """The root `name` and the sections below it, each as a table; those in `seen` have a page."""
    root, title, text = ROOTS[name]
    sections = list(_below(root, seen))
    seen |= dict.fromkeys(sections, f"{name}.md")
    parts = [f"# {title}", text]
    for section in sections:
        heading = [] if section is root else [f"## {section.__name__}"]
        parts += [*heading, inspect.cleandoc(section.__doc__ or ""), _fields(section, name, seen)]
    return "\n\n".join(filter(None, parts)) + "\n"


def models_page(seen: dict[type[Config], str]) -> str:
    """The fields of each family's spec, and its variants."""
    parts = [
        "# Model specs",
        "`spec` of a model (`student: {name: ResNet18_vd, spec: {width: 8}}`) overrides fields of "
        "its row: fewer or narrower layers. `ppcls models` has the published figures.",
    ]
    variants: dict[type[ModelSpec], list[str]] = defaultdict(list)
    for family in FAMILIES:
        for name, spec in family.items():
            variants[type(spec)].append(name)
    seen |= dict.fromkeys(variants, "models.md")
    for kind, names in variants.items():
        parts += [f"## {kind.__name__}", inspect.cleandoc(kind.__doc__ or "")]
        parts += ["Of " + ", ".join(f"`{name}`" for name in names) + ".", _fields(kind, "", seen)]
    return "\n\n".join(parts) + "\n"


def _fields(section: type[Config], page: str, seen: dict[type[Config], str]) -> str:
    said = meanings(section)
    rows = [
        (
            f"`{field.alias or name}`",
            said.get(name, "") or _implied(field),
            _SUPPLIED.get((section, name)) or _default(field),
            _kind(field.annotation, page, seen) + _bounds(field),
        )
        for name, field in section.model_fields.items()
    ]
    return table(("setting", "meaning", "default", "type"), rows)


def _implied(field: FieldInfo) -> str:
    """The meaning of what the source need not say: a kind's own name, a section."""
    if get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1:
        return "names this kind"
    classes = [t for t in _types(field.annotation) if issubclass(t, Config) or _is_row(t)]
    if len(classes) != 1:
        return "a section of one of these kinds" if classes else ""
    return _cell(inspect.cleandoc(classes[0].__doc__ or "").split("\n\n")[0])


def _below(root: type[Config], seen: dict[type[Config], str]) -> Iterator[type[Config]]:
    """`root` and the sections that its settings may hold, in the order of the settings."""
    waiting, found = [root], dict.fromkeys(seen)
    while waiting:
        section = waiting.pop(0)
        if section in found:
            continue
        found[section] = None
        yield section
        kinds = (kind for f in section.model_fields.values() for kind in _types(f.annotation))
        waiting = [*(kind for kind in kinds if issubclass(kind, Config)), *waiting]


def _types(annotation: Any) -> Iterator[type]:
    """The types that `annotation` is made of."""
    if isinstance(annotation, type):
        yield annotation
    for part in get_args(annotation):
        yield from _types(part)


def _is_row(kind: type) -> bool:
    """Whether it is a named tuple, which a recipe writes as a list."""
    return hasattr(kind, "_fields")


def _kind(annotation: Any, page: str, seen: dict[type[Config], str]) -> str:
    """The type in a user's words, sections as links."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(parts[0], page, seen)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in parts)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_kind(part, page, seen) for part in parts))
    if origin is list or (origin is tuple and parts[-1:] == (Ellipsis,)):
        return f"list of {_kind(parts[0], page, seen)}"
    if origin is tuple:
        return f"list of {len(parts)}: {_kind(parts[0], page, seen)}"
    if origin is dict or annotation is dict:
        return "`key: value` lines"
    if annotation in _WORDS:
        return _WORDS[annotation]
    if _is_row(annotation):
        return f"`[{', '.join(annotation._fields)}]`"
    name = annotation.__name__
    there = seen.get(annotation, "")
    return f"[{name}]({'' if there == f'{page}.md' else there}#{name.lower()})"


def _bounds(field: FieldInfo) -> str:
    found = [(s, getattr(m, n)) for m in field.metadata for n, s in _SIGNS.items() if hasattr(m, n)]
    return "".join(f", {sign} {value:,}" for sign, value in found)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default is PydanticUndefined:
        return "computed"
    return _value(field.default)


def _value(value: Any) -> str:
    if isinstance(value, Config):
        own = value.model_dump(exclude_defaults=True)
        name = getattr(value, "name", "")
        text = ", ".join(filter(None, (str(name), *(f"{k}: {v}" for k, v in own.items()))))
        return f"`{text}`" if text else "its defaults"
    if isinstance(value, tuple) and value and isinstance(value[0], Config):
        return ", ".join(map(_value, value))
    if value is None or isinstance(value, bool):
        return f"`{str(value).lower()}`" if value is not None else ""
    if isinstance(value, tuple):
        items = [list(item) if isinstance(item, tuple) else item for item in value]
        more = f" and {len(items) - 1} more" if len(items) > 5 else ""
        return f"`{items[0]}`{more}" if more else f"`{items}`"
    return f"`{value}`"


@cache
def meanings(section: type[Config]) -> dict[str, str]:
    """What stands beside each field in the source: the string below it, or the comment."""
    found: dict[str, str] = {}
    for kind in reversed(section.__mro__):
        if not (issubclass(kind, Config) and kind is not Config):
            continue
        source = dedent(inspect.getsource(kind))
        lines = source.splitlines()
        body = ast.parse(source).body[0].body  # type: ignore[attr-defined]
        for node, below in zip(body, [*body[1:], None], strict=True):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                text = _docstring(below) or _comment(lines, node)
                found[node.target.id] = text or found.get(node.target.id, "")
    return found


def _docstring(node: ast.stmt | None) -> str:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return _cell(str(node.value.value))
    return ""


def _comment(lines: list[str], node: ast.AnnAssign) -> str:
    """The comment at the end of the field, else the lines of comment over it."""
    assert node.end_lineno and node.end_col_offset
    last = lines[node.end_lineno - 1].encode()[node.end_col_offset :].decode().strip()
    if last.startswith("#") and not last.startswith("# type:"):
        return _cell(last[1:])
    above = []
    for line in reversed(lines[: node.lineno - 1]):
        if not line.strip().startswith("#"):
            break
        above.insert(0, line.strip()[1:].strip())
    return _cell(" ".join(above))


# ---- messages


def errors_page() -> str:
    """Every text that a user can be told, by the module that tells it."""
    parts = [
        "# Error messages",
        "All texts with which the programs refuse something, by the part that refuses; `{...}` "
        "stands for what is filled in. Causes and remedies in order: "
        "[Troubleshooting](../troubleshooting.md).",
    ]
    for module, texts in messages().items():
        title = (ast.get_docstring(tree_of(module)) or module).split("\n\n")[0]
        title = " ".join(title.split()).rstrip(".").replace("<", "&lt;")
        parts += [f"## {title}", f"`{module}`"]
        parts += ["\n".join(f"- {_code(text)}" for text in dict.fromkeys(texts))]
    return "\n\n".join(parts) + "\n"


def messages() -> dict[str, list[str]]:
    """Texts of the UserErrors that each module raises, of what its settings refuse, and of what a
    server answers."""
    found: dict[str, list[str]] = defaultdict(list)
    for module in modules():
        for call in _refusals(tree_of(module)):
            parts = [_template(argument) for argument in call.args if _is_text(argument)]
            if parts:
                found[module].append(" ".join("; ".join(parts).split()))
    return dict(found)


def _refusals(tree: ast.AST) -> Iterator[ast.Call]:
    """Calls that make an error for users: a validator's ValueError becomes one."""
    validators = (
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        and any("validator" in ast.unparse(each) for each in function.decorator_list)
        for node in ast.walk(function)
    )
    for names, nodes in ((("UserError", "Refused"), ast.walk(tree)), (("ValueError",), validators)):
        for node in nodes:
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in names:
                yield node


def _is_text(node: ast.expr) -> bool:
    constants = (n.value for n in ast.walk(node) if isinstance(n, ast.Constant))
    return any(isinstance(value, str) and re.search(r"[a-z]{2}", value) for value in constants)


def _template(node: ast.expr) -> str:
    """The text of a string in the source, with names for what is filled in."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_template, node.values))
    if isinstance(node, ast.BinOp):
        return _template(node.left) + _template(node.right)
    if isinstance(node, ast.FormattedValue):
        node = node.value
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "counted":
        return counted(2, *map(_template, node.args[1:])).replace("2", "{...}", 1)
    name = getattr(node, "id", getattr(node, "attr", "..."))
    return "{" + name + "}"


# ---- Markdown


def table(titles: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table, which style.css stacks on a phone; nothing where there are no rows."""
    if not rows:
        return ""
    lines = [titles, tuple("---" for _ in titles), *rows]
    rows_of_it = "\n".join(f"| {' | '.join(row)} |" for row in lines)
    return f'<div class="reference" markdown>\n\n{rows_of_it}\n\n</div>'


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


def _code(text: str) -> str:
    fence = "``" if "`" in text else "`"
    space = " " if fence == "``" else ""
    return f"{fence}{space}{text}{space}{fence}"


if __name__ == "__main__":
    write()
