"""Typed configuration: strict YAML in, frozen pydantic objects out, errors that name the remedy.

Every floor declares its settings as a `Config` beside the code that uses them and reads files
through `load_yaml` and `parse`; nothing else in the project reads YAML.
"""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails


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
        lines = dict.fromkeys(_explain(model, mistake) for mistake in error.errors())
        raise UserError("\n".join(f"{where}: {line}" for line in lines)) from None


def _explain(model: type[Config], mistake: ErrorDetails) -> str:
    loc, kind, got = mistake["loc"], mistake["type"], mistake["input"]
    path = ".".join(map(str, loc))
    if kind == "extra_forbidden":
        known = [name for config in _configs_at(model, loc[:-1]) for name in config.model_fields]
        return f"unknown setting '{path}'{closest(str(loc[-1]), known)}"
    if kind == "missing":
        return f"setting '{path}' is required"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        tag = str(mistake.get("ctx", {}).get("tag", ""))
        near = closest(tag, filter(None, map(_tag, _configs_at(model, loc))))
        return f"{path}: unknown name '{tag}'{near}" if tag else f"{path}: a name is required{near}"
    message = mistake["msg"].removeprefix("Value error, ")
    return f"{path or 'settings'}: {message[0].lower()}{message[1:]}, got {got!r}"


def _configs_at(model: type[Config], loc: Iterable[int | str]) -> list[type[Config]]:
    """The Configs that the value at `loc`, below a `model`, may be."""
    found = [model]
    for part in loc:
        if isinstance(part, int):
            continue  # the place in a list
        tagged = [config for config in found if _tag(config) == part]
        fields = [c.model_fields[part] for c in found if part in c.model_fields]
        found = tagged or [c for field in fields for c in _configs_in(field.annotation)]
    return found


def _configs_in(kind: Any) -> Iterator[type[Config]]:
    """The Configs among the types that `kind` is made of: union, tuple, list, annotated."""
    if isinstance(kind, type) and issubclass(kind, Config):
        yield kind
    for part in get_args(kind):
        yield from _configs_in(part)


def _tag(config: type[Config]) -> str | None:
    """The `name` that tells a member of a discriminated union from the others."""
    field = config.model_fields.get("name")
    return field.default if field and isinstance(field.default, str) else None


def closest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the name of `known` nearest to `name`, else the list of all."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    if near:
        return "; did you mean " + " or ".join(f"'{n}'" for n in near) + "?"
    return f"; known: {', '.join(known)}" if known and len(known) <= 30 else ""
