"""A command line whose commands are imported when they are called; its help imports none of them.

    app = lazy_app("What it does.", {"train": "ppcls_core.cli.training:train"})

The line of a command in the help is the first of its function's docstring, read from the source.
A function may take a dataclass, whose fields are then options of their own: commands share them.
`-o a=1 b=2` is `-o a=1 -o b=2`, as in PaddleClas, for all names of that option.
"""

import ast
import inspect
import pkgutil
import re
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from difflib import get_close_matches
from functools import cache, wraps
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from data_catalog.base.errors import UserError
from ppcls_core.runtime.terminal import CtrlC


def lazy_app(text: str, commands: Mapping[str, str]) -> typer.Typer:
    """The command line with the help `text` and these commands, each given as "module:function"."""

    class Commands(_LazyGroup):
        places = commands

    app = typer.Typer(
        cls=Commands,
        help=text,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )
    app.callback()(_options)
    return app


def _show_version(is_asked: bool) -> None:
    if is_asked:
        versions = pkgutil.resolve_name("ppcls_core.runtime.versions:installed_versions")
        ((name, number),) = versions(()).items()
        typer.echo(f"{name} {number}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Options of a program, before those of its commands."""


_ASSIGNMENT = re.compile(r"[\w.*]+=")
_EXAMPLE = re.compile("(ssld|ppcls) [a-z]")  # how a paragraph of commands begins
OVERRIDE = ("-o", "--override", "--set")  # the names of the option that takes a.b=value


class _LazyGroup(TyperGroup):
    places: Mapping[str, str]

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = {name: TyperCommand(name) for name in self.places}

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command as far as the help of the group shows it."""
        if cmd_name not in self.places:
            return None
        return TyperCommand(cmd_name, help=_summary(self.places[cmd_name]))

    def invoke(self, ctx: Any) -> Any:
        """Run the command that the call names."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise CtrlC from error

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The whole command, its module imported, for a call."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command and _command(self.places[str(name)], str(name)), rest


_WORD = re.compile("[a-z]{4,}")


class _Command(TyperCommand):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, _one_each(args))
        except Exception as error:  # Click's NoSuchOption, of which Typer has a copy
            if not getattr(error, "possibilities", True):
                # No option is spelt alike: those whose help has the word, or one spelt alike.
                words = set(_WORD.findall(vars(error)["option_name"]))
                vars(error)["possibilities"] = [
                    each.opts[0]
                    for each in self.params
                    if any(get_close_matches(word, _words_of_help(each), 1, 0.8) for word in words)
                ]
            raise


def _words_of_help(parameter: Any) -> list[str]:
    return _WORD.findall((getattr(parameter, "help", "") or "").lower())


def _one_each(args: list[str]) -> list[str]:
    """`args` with the override option before each of its values."""
    found: list[str] = []
    option, previous = "", ""
    for arg in args:
        if arg.startswith("=") and set(OVERRIDE) & set(found):
            raise UserError(f"got '{previous} {arg}', expected a.b=value without a blank")
        if arg in OVERRIDE:
            option = arg
        elif previous not in OVERRIDE and not _ASSIGNMENT.match(arg):
            option = ""
        elif option and previous not in OVERRIDE:
            found.append(option)
        found.append(arg)
        previous = arg
    return found


def _command(place: str, name: str) -> Any:  # Click's Command, of which Typer has a copy
    single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    single.command(name, cls=_Command)(_flat(pkgutil.resolve_name(place)))
    command: Any = typer.main.get_command(single)
    command.help = _flowing(command.help)
    for parameter in command.params:
        if parameter.param_type_name == "argument":  # as the help's text calls it
            parameter.metavar = parameter.metavar or parameter.name.upper()
        elif set(OVERRIDE) & set(parameter.opts):
            parameter.metavar = "A.B=VALUE"
    return command


def _flowing(text: str) -> str:
    """A help's paragraphs without the source's line breaks, but for those of commands alone."""
    paragraphs = text.split("\n\n")
    return "\n\n".join(p if _EXAMPLE.match(p) else p.replace("\n", " ") for p in paragraphs)


def _flat(function: Callable[..., None]) -> Callable[..., None]:
    """`function` with the fields of its dataclasses as parameters, as Typer needs them."""
    groups: dict[str, tuple[type, list[str]]] = {}
    flat: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
        kind, fields = parameter.annotation, [parameter]
        if isinstance(kind, type) and is_dataclass(kind):
            fields = list(inspect.signature(kind, eval_str=True).parameters.values())
            groups[name] = kind, [field.name for field in fields]
        flat += fields

    @wraps(function)
    def command(**given: Any) -> None:
        for name, (kind, fields) in groups.items():
            given[name] = kind(**{field: given.pop(field) for field in fields})
        function(**given)

    # Of keywords alone: one without a default may follow one that has some.
    keywords = [field.replace(kind=inspect.Parameter.KEYWORD_ONLY) for field in flat]
    command.__signature__ = inspect.Signature(keywords)  # type: ignore[attr-defined]
    command.__annotations__ = {field.name: field.annotation for field in flat}
    return command


def _summary(place: str) -> str:
    module, _, function = place.partition(":")
    for node in _tree(module).body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            return (ast.get_docstring(node) or "").partition("\n\n")[0]
    raise AssertionError(f"no function {place}")


@cache
def _tree(module: str) -> ast.Module:
    spec = find_spec(module)
    assert spec and spec.origin, module
    return ast.parse(Path(spec.origin).read_text())
