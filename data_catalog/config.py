"""Typed configuration: strict YAML in, frozen pydantic objects out, errors that name the remedy.

Every floor declares its settings as a `Config` beside the code that uses them and reads files
through `load_yaml` and `parse`; nothing else in the project reads YAML.
"""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError


class UserError(Exception):
    """A mistake that the user can mend: shown as its message alone, never with a traceback.

    The message says what was got, what was expected and what to do.
    """


class Config(BaseModel):
    """Base of every settings object: immutable, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


C = TypeVar("C", bound=Config)


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses duplicate keys, of which YAML silently takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: list[Any] = []  # no set: a YAML key need not be hashable
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key '{key}' is given twice: keep one", key_node.start_mark
                )
            seen.append(key)
        return super().construct_mapping(node, deep)


def load_yaml(path: Path) -> dict[str, Any]:
    """Content of the YAML mapping in `path`.

    Raises:
        UserError: no such file, not YAML, a duplicate key, or not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: cannot be read ({error}); give the path of a YAML file"
        ) from error
    data = _load(text, str(path))
    if not isinstance(data, dict):
        raise UserError(f"{path}: got {type(data).__name__}, expected `key: value` lines")
    return data


def parse_value(text: str) -> Any:
    """Value of one command-line override, read as YAML (`0.1`, `[1, 2]`, `true`, `name`)."""
    return _load(text, f"value '{text}'")


def _load(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        raise UserError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from error


def override(data: Mapping[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """Copy of `data` with each `a.b=value` of `assignments` applied, the later over the earlier."""
    result = _copy(data)
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path:
            raise UserError(f"override '{assignment}': expected the form a.b=value")
        *parents, leaf = path.split(".")
        node = result
        for name in parents:
            node = node.setdefault(name, {})
            if not isinstance(node, dict):
                raise UserError(f"override '{assignment}': '{name}' is a value, not a section")
        node[leaf] = parse_value(text)
    return result


def _copy(data: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _copy(v) if isinstance(v, Mapping) else v for k, v in data.items()}


def parse(model: type[C], data: Mapping[str, Any], where: str) -> C:
    """`data` as a `model`.

    Raises:
        UserError: one line per mistake: `where`, the key's path, what is wrong, the closest known
        key.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        lines = [_explain(model, e["loc"], e["type"], e["msg"], e["input"]) for e in error.errors()]
        raise UserError("\n".join(f"{where}: {line}" for line in lines)) from None


def _explain(model: type[Config], loc: tuple[int | str, ...], kind: str, msg: str, got: Any) -> str:
    path = ".".join(map(str, loc))
    if kind == "extra_forbidden":
        return f"unknown setting '{path}'{closest(str(loc[-1]), _fields_at(model, loc[:-1]))}"
    if kind == "missing":
        return f"setting '{path}' is required"
    message = msg.removeprefix("Value error, ")
    return f"{path or 'settings'}: {message[0].lower()}{message[1:]}, got {got!r}"


def _fields_at(model: Any, loc: Iterable[int | str]) -> list[str]:
    """Field names of the Config found by walking `loc` down from `model`."""
    for name in loc:
        field = model.model_fields.get(name) if _is_config(model) else None
        if field is None:
            continue  # a list index or a union's tag
        types = [field.annotation, *get_args(field.annotation)]
        model = next((t for t in types if _is_config(t)), None)
    return list(model.model_fields) if _is_config(model) else []


def _is_config(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Config)


def closest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the name of `known` nearest to `name`, else the list of all."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    if near:
        return "; did you mean " + " or ".join(f"'{n}'" for n in near) + "?"
    return f"; known: {', '.join(known)}" if known and len(known) <= 30 else ""
