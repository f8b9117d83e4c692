"""Typed configuration: strict YAML in, frozen pydantic objects out, errors that name the remedy.

Every floor declares its settings as a `Config` beside the code that uses them and reads files
through `load_yaml` and `parse`; nothing else in the project reads YAML.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import ErrorDetails

from data_catalog.base.errors import UserError
from data_catalog.base.words import counted

MAX_BYTES = 32_768  # of a file of settings: PyYAML reads them in half a second
MAX_VALUES = 20_000  # in it, an alias counted as what it stands for
MAX_DIGITS = 100  # of a number, which takes quadratic time to read
MAX_NAMES = 50  # in the path of an override
MAX_MISTAKES = 10  # shown


class Config(BaseModel):
    """Base of every settings object: immutable; unknown keys, infinity and NaN are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_flag_for_a_number(cls, data: Any) -> Any:
        """YAML reads `yes` and `on` as true, which Python takes for 1: as text it is refused."""
        if not isinstance(data, dict):
            return data
        kinds = {
            name: set(_kinds_in(cls.model_fields[name].annotation))
            for name in data.keys() & cls.model_fields.keys()
            if isinstance(data[name], bool)
        }
        numbers = [name for name, k in kinds.items() if k & {int, float} and bool not in k]
        return data | {name: str(data[name]) for name in numbers}


_OTHER_BASE = re.compile(r"[+-]?0[0-9_]|.*:")  # 010 is 8 and 1:30 is 90 in YAML 1.1
C = TypeVar("C", bound=Config)


def load_yaml(path: Path, repeated: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Content of the YAML mapping in `path`; its keys are text, at every depth.

    `repeated` is called with a message for every key given twice, of which then the last counts;
    without it such a key is a UserError. So are: no such file, one over MAX_BYTES, not YAML, a key
    that is no text, too much of anything, not a mapping.
    """
    data = _load(_read(path), str(path), repeated)
    if not isinstance(data, dict):
        raise UserError(f"{path}: got {type(data).__name__}, expected `key: value` lines")
    return data


YAML = (".yaml", ".yml")  # how such a file's name ends


def yaml_file(given: str | Path) -> Path | None:
    """The file that `given` means: itself, or where there is none, the one that ends in .yaml or
    .yml besides; None of neither."""
    path = Path(given)
    if path.suffix in YAML:
        return path if path.exists() else None
    ways = (path, *(Path(f"{given}{end}") for end in YAML))
    return next((way for way in ways if way.is_file()), None)


def no_such_yaml(path: Path) -> UserError:
    """The error that there is no file `path`, with those beside it that may be meant."""
    near = closest_path(path, lambda way: way.suffix in YAML)
    return UserError(f"{path}: no such file{near or '; give the path of a YAML file'}")


def _read(path: Path) -> str:
    try:
        if not path.exists():
            raise no_such_yaml(path)
        # Opening a FIFO would wait for its writer.
        if not path.is_file():
            raise UserError(f"{path}: is a folder or a device; give the path of a YAML file")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise UserError(f"{path}: more than {MAX_BYTES:,} bytes, expected settings alone")
        return content.decode()
    except (OSError, ValueError) as error:
        remedy = "give the path of a YAML file"
        raise UserError(f"{path}: cannot be read ({error}); {remedy}") from error


def parse_value(text: str, key: str) -> Any:
    """Value of one command-line override, read as YAML (`0.1`, `[1, 2]`, `true`, `name`).

    Raises UserError, which names the setting `key`: it is no YAML.
    """
    try:
        return _load(text, f"value '{_cut(text)}'")
    except UserError as error:
        remedy = f"text goes in quotes of its own: {_cut(key)}='\"...\"'"
        raise UserError(f"{_cut(key)}: {error}; {remedy}") from None


def _load(text: str, where: str, repeated: Callable[[str], None] | None = None) -> Any:
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _Checked(repeated or _refuse).size(node)
        return loader.construct_document(node)
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # such as the date 2020-13-45
        raise UserError(f"{where}: not valid YAML: {_reason(error)}") from error
    except RecursionError:
        raise UserError(f"{where}: nested too deeply; write it flatter") from None


def _reason(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        mark, parts = error.problem_mark, filter(None, (error.context, error.problem))
        return f"{', '.join(parts)} (line {mark.line + 1}, column {mark.column + 1})"
    return " ".join(str(error).split())


def _refuse(repeated: str) -> None:
    raise yaml.YAMLError(f"{repeated}: keep one")


@dataclass
class _Checked:
    """Nodes, checked for what would be misread or take for ever before values are made of them."""

    _repeated: Callable[[str], None]
    _sizes: dict[int, int] = field(default_factory=dict)  # by node's id; 0 while it is counted

    def size(self, node: yaml.Node) -> int:
        """Number of values in `node`, an alias counted as what it stands for. Raises YAMLError: too
        many, an alias within itself, too long a number, a key that is not text."""
        size = self._sizes.get(id(node))
        if size is None:
            self._sizes[id(node)] = 0
            size = self._sizes[id(node)] = 1 + sum(map(self.size, self._parts(node)))
        if size == 0:
            raise _mistake("an alias within itself", node)
        if size > MAX_VALUES:
            raise _mistake(
                f"more than {MAX_VALUES:,} values, aliases written out: write fewer", node
            )
        return size

    def _parts(self, node: yaml.Node) -> list[yaml.Node]:
        if isinstance(node, yaml.MappingNode):
            self._check_keys(node)
            return [part for pair in node.value for part in pair]
        if isinstance(node, yaml.SequenceNode):
            return node.value
        if node.tag.endswith((":int", ":float")) and len(node.value) > MAX_DIGITS:
            raise _mistake(f"a number of {len(node.value):,} characters", node)
        if node.tag.endswith((":int", ":float")) and _OTHER_BASE.match(node.value):
            what = f"{node.value} counts in eights or sixties"
            raise _mistake(f"{what}: write a decimal number without leading 0, or text", node)
        return []

    def _check_keys(self, node: yaml.MappingNode) -> None:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.tag != "tag:yaml.org,2002:str":
                raise _mistake(f"the key {_shown(key.value)} is not text: put it in quotes", key)
            if key.value in seen:
                line = key.start_mark.line + 1
                self._repeated(f"key {_shown(key.value)} is given twice, again in line {line}")
            seen.add(key.value)


def _mistake(problem: str, node: yaml.Node) -> yaml.YAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


def override(data: Mapping[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """Copy of `data` with each `a.b=value` of `assignments` applied, the later over the earlier.

    Sections that are missing are made; in a list a name is a position, from 0.
    """
    result: Any = dict(data)
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        names, where = path.split("."), f"override '{_cut(assignment)}'"
        if not equals or not all(names) or len(names) > MAX_NAMES:
            raise UserError(f"{where}: expected the form a.b=value")
        result = _with(result, names, parse_value(text, path), where)
    return result


def _with(node: Any, names: Sequence[str], value: Any, where: str) -> Any:
    """`node` with `value` at the path `names` below it."""
    if not names:
        return value
    name, rest = names[0], names[1:]
    if node is None or isinstance(node, dict):
        section = node or {}
        return {**section, name: _with(section.get(name), rest, value, where)}
    if not isinstance(node, list):
        raise UserError(f"{where}: '{name}' is below the value {_shown(node)}, not in a section")
    if name not in map(str, range(len(node))):
        expected = f"no position in a list of {len(node)}; 0 is the first"
        raise UserError(f"{where}: '{name}' is {expected}")
    place = int(name)
    return [*node[:place], _with(node[place], rest, value, where), *node[place + 1 :]]


def parse(
    model: type[C], data: Mapping[str, Any], where: str, key_of: Callable[[str], str] = str
) -> C:
    """`data` as a `model`. Raises UserError: one line per mistake: `where`, the key's path as
    `key_of` gives it, what is wrong, the closest known key."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        # A default that is made of a wrong value is no mistake of its own.
        own = (each for each in error.errors() if each["type"] != "default_factory_not_called")
        lines = list(dict.fromkeys(_explain(model, mistake, key_of) for mistake in own))
        if len(lines) > MAX_MISTAKES:
            lines[MAX_MISTAKES:] = [f"and {counted(len(lines) - MAX_MISTAKES, 'more mistake')}"]
        raise UserError("\n".join(f"{where}: {line}" for line in lines)) from None


def _explain(model: type[Config], mistake: ErrorDetails, key_of: Callable[[str], str]) -> str:
    loc, kind = mistake["loc"], mistake["type"]
    path = ".".join(str(part) for part in loc if not _BRANCH.fullmatch(str(part)))
    within, dot, name = key_of(path).rpartition(".")
    path = _cut(f"{within}{dot}{name}")
    if kind == "extra_forbidden":
        fields = [config.model_fields for config in _configs_at(model, loc[:-1])]
        known = [field.alias or name for each in fields for name, field in each.items()]
        return f"unknown setting '{path}'{closest(name, known, _cut(within) + dot)}"
    if kind == "missing":
        return f"setting '{path}' is required"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        tag = str(mistake.get("ctx", {}).get("tag", ""))
        near = closest(tag, filter(None, map(_tag, _configs_at(model, loc))))
        return f"{path}: " + (f"unknown name '{_cut(tag)}'" if tag else "a name is required") + near
    # What a whole section should be says which of its settings it means.
    got = "" if isinstance(mistake["input"], dict) else f", got {_shown(mistake['input'])}"
    return f"{path or 'settings'}: {_expectation(mistake['msg'])}{got}"


# What pydantic puts into a path to tell which type of a union it tried.
_BRANCH = re.compile(r"constrained-(int|float|str)|(tuple|list|dict)\[.*")
_NOUNS = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "string": "text",
    "list": "a list",
    "tuple": "a list",
    "dictionary": "`key: value` lines",
}


def _expectation(message: str) -> str:
    """Pydantic's message in the words of this project."""
    noun = re.match(r"Input should be a valid (\w+)", message)
    if noun:
        return f"expected {_NOUNS.get(noun[1], noun[1])}"
    message = re.sub(r"^Input should be (?=greater|less)", "Expected a value ", message)
    message = re.sub(r"^Input should be", "Expected", message).removeprefix("Value error, ")
    return message[0].lower() + message[1:]


def _configs_at(model: type[Config], loc: Iterable[int | str]) -> list[type[Config]]:
    """The Configs that the value at `loc`, below a `model`, may be."""
    found = [model]
    for part in loc:
        if isinstance(part, int) or _BRANCH.fullmatch(part):
            continue  # the place in a list, or the type of a union
        tagged = [config for config in found if _tag(config) == part]
        fields = [c.model_fields[part] for c in found if part in c.model_fields]
        kinds = [kind for field in fields for kind in _kinds_in(field.annotation)]
        found = tagged or [c for c in kinds if isinstance(c, type) and issubclass(c, Config)]
    return found


def _kinds_in(kind: Any) -> Iterator[Any]:
    """The types that `kind` is made of: union, tuple, list, annotated."""
    parts = get_args(kind)
    if not parts:
        yield kind
    for part in parts:
        yield from _kinds_in(part)


def _tag(config: type[Config]) -> str | None:
    """The `name` that tells a member of a discriminated union from the others."""
    field = config.model_fields.get("name")
    return field.default if field and isinstance(field.default, str) else None


def _shown(value: Any) -> str:
    return _cut(repr(value))


def _cut(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."


def closest(name: str, known: Iterable[str], within: str = "") -> str:
    """`; did you mean 'x'?` for the name of `known` nearest to `name` in any case, else all; what
    is meant has `within` before it, as `a.` of a.x."""
    known = sorted(set(known))
    near = _near(name, known)
    if near:
        return _meant(f"{within}{n}" for n in near)
    return f"; known: {', '.join(known)}" if known and len(known) <= 30 else ""


def closest_path(path: Path, fits: Callable[[Path], bool] = Path.exists) -> str:
    """`; did you mean 'a/x'?` of `path`, which is not there: with that of its name in the current
    folder, or else with the paths that are spelt like it but for the first part that is missing;
    they exist and `fits`. "" where there is none."""
    missing, here = path, Path(path.name).absolute()
    with suppress(OSError, ValueError):  # a folder that may not be looked into
        if path.name and here.exists() and fits(here):  # where paths start from another folder
            return _meant([str(here)])
        while missing.parent != missing and not missing.parent.exists():
            missing = missing.parent
        rest = path.relative_to(missing)
        ways = {each: each / rest for each in missing.parent.glob("[!.]*")}
        found = {each.stem: way for each, way in ways.items() if way.exists() and fits(way)}
        if near := _near(missing.stem, found):  # the ends, such as .yaml, make none alike
            return _meant(str(found[name]) for name in near)
    return ""


def _near(name: str, known: Iterable[str]) -> list[str]:
    by_lower = {each.lower(): each for each in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.6)
    return [by_lower[each] for each in close]


def _meant(names: Iterable[str]) -> str:
    return "; did you mean " + " or ".join(f"'{name}'" for name in names) + "?"
