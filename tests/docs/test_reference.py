"""The reference has every command, option, setting and message of the code, each with a meaning."""

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest
import typer

from data_catalog.base.config import Config
from tests.conftest import PROJECT
from tests.support.documents import PAGES, anchor_of

PATH = os.environ.get("PYTHONPATH", "")


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", PROJECT / "docs" / "reference.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pages(reference: ModuleType) -> dict[str, str]:
    return reference.pages()


def test_the_pages_are_those_that_the_code_makes(pages: dict[str, str]) -> None:
    """`make acknowledge` writes them anew."""
    written = {path.name: path.read_text() for path in (PROJECT / "docs/reference").glob("*.md")}
    assert written == {Path(path).name: text for path, text in pages.items()}


def test_every_command_and_option_stands_there(reference, pages) -> None:
    text = pages["reference/commands.md"]
    for program, app in reference.PROGRAMS.items():
        group = typer.main.get_command(app)
        context = group.make_context(program, [], resilient_parsing=True)
        for name in group.list_commands(context):
            _, _, section = text.partition(f"\n### {program} {name}\n")
            section = section.partition("\n### ")[0].partition("\n## ")[0]
            command = group.resolve_command(context, [name])[1]
            for option in command.params:
                spelling = option.opts[0] if option.opts[0].startswith("-") else option.metavar
                assert f"`{spelling or option.name.upper()}`" in section, (name, option.name)
                assert option.help, f"{name}: {option.name} has no meaning"


def test_help_fits_a_terminal_and_nothing_in_it_is_cut(
    reference: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 80)
    for program, app in reference.PROGRAMS.items():
        group = typer.main.get_command(app)
        context = group.make_context(program, [], resilient_parsing=True)
        for name in group.list_commands(context):
            command = group.resolve_command(context, [name])[1]
            command.get_help(command.make_context(name, [], context, resilient_parsing=True))
            lines = [line.strip("│ ") for line in capsys.readouterr().out.splitlines()]
            text = "\n".join(lines)
            assert max(map(len, lines)) <= 80
            for option in command.params:
                choices = get_args(option.type_descriptor.annotation)
                names = [
                    *option.opts,
                    *option.secondary_opts,
                    *(c for c in choices if isinstance(c, str)),
                ]
                shown = names if option.opts[0].startswith("-") else [option.metavar]
                assert [part for part in shown if part not in text] == [], (name, option.name)
            for paragraph in command.help.split("\n\n")[1:]:
                if paragraph.startswith(f"{program} "):  # to be copied as they are
                    assert set(paragraph.splitlines()) <= set(lines), name
                else:
                    assert "\n" not in paragraph  # which would break the lines a second time


def test_troubleshooting_has_every_message_by_its_cause(reference) -> None:
    """But for a server's, which are JSON and say cause and remedy in fields of their own."""
    page = (PROJECT / "docs" / "troubleshooting.md").read_text()
    spans = re.findall(r"``\s?(.+?)\s?``|`([^`]+)`", " ".join(page.split()))
    quoted = [" ".join(pair).strip().replace("`", "") for pair in spans]
    parts = "|".join(re.escape(text).replace(r"\.\.\.", ".*") for text in quoted if len(text) > 7)
    missing = [
        text
        for module, texts in reference.messages().items()
        for text in texts
        if not module.startswith("ppcls_core.serving.")
        and not re.search(parts, re.sub(r"\{.*?\}", "X", text.replace("`", "")), re.IGNORECASE)
    ]
    assert not missing


def configs(reference: ModuleType) -> list[type[Config]]:
    found: dict[type[Config], None] = {}
    for root, *_ in reference.ROOTS.values():
        found |= dict.fromkeys(reference._below(root, {}))
    return [*found, *{type(spec) for family in reference.FAMILIES for spec in family.values()}]


def test_every_setting_stands_there_with_its_meaning(reference, pages) -> None:
    text = "\n".join(pages.values())
    sections = configs(reference)
    assert len(sections) > 50
    for section in sections:
        for name, field in section.model_fields.items():
            rows = re.findall(rf"^\| `{field.alias or name}` \|.*\|$", text, re.MULTILINE)
            assert rows, f"{section.__name__}.{name}"
            meaning = reference.meanings(section).get(name) or reference._implied(field)
            assert meaning, f"{section.__name__}.{name}: no comment beside it, nor a string below"
            assert any(f" | {meaning} | " in row for row in rows), f"{section.__name__}.{name}"


def test_meanings_are_those_beside_the_fields(reference) -> None:
    meanings = reference.meanings(reference.Recipe)
    assert meanings["shard_size"] == "images a shard, the unit of resuming"
    assert (
        meanings["teacher"] == "Of several the mean of their probabilities, weighted by `weight`."
    )


def test_every_message_to_users_stands_there(reference, pages) -> None:
    text = pages["reference/errors.md"]
    count = 0
    for module in reference.modules():
        for node in ast.walk(reference.tree_of(module)):
            for part in literals(node):
                assert part in text, f"{module}:{node.lineno}: {part}"
                count += 1
    assert count > 300


def literals(node: Any) -> list[str]:
    """The fixed parts of the text with which a UserError is made."""
    if not (isinstance(node, ast.Call) and getattr(node.func, "id", "") == "UserError"):
        return []
    texts = [a for a in node.args if isinstance(a, ast.Constant | ast.JoinedStr)]
    parts = [p for t in texts for p in (t.values if isinstance(t, ast.JoinedStr) else [t])]
    words = (" ".join(str(p.value).split()) for p in parts if isinstance(p, ast.Constant))
    return [word for word in words if re.search(r"[a-z]{3}", word)]


def test_links_lead_into_the_reference_and_within_it(pages) -> None:
    texts = {f"docs/{name}": text for name, text in pages.items()}
    texts |= {str(p.relative_to(PROJECT)): p.read_text() for p in PAGES if p.parent.name == "docs"}
    for page, text in texts.items():
        for file, anchor in re.findall(r"\]\(([\w./]*)#([\w-]+)\)", text):
            target = os.path.normpath(Path(page).parent / file) if file else page
            headings = re.findall(r"^#+ (.*)$", texts[target], re.MULTILINE)
            assert anchor in map(anchor_of, headings), f"{page}: {file}#{anchor}"


@pytest.mark.slow
@pytest.mark.parametrize(("added", "code"), [("", 0), ("[dead](nowhere.md)", 1)])
def test_dead_links_fail_the_build_and_nothing_comes_from_the_network(
    tmp_path: Path, added: str, code: int
) -> None:
    pytest.importorskip("mkdocs", reason="`make docs` installs it")
    shutil.copytree(PROJECT / "docs", tmp_path / "docs")
    shutil.copy(PROJECT / "mkdocs.yml", tmp_path)
    with (tmp_path / "docs" / "gpu.md").open("a") as file:
        file.write(added)
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", "site"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(PROJECT), PATH]))}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    for page in (tmp_path / "site").rglob("*.html"):
        loaded = r'<(?:script|link|img)[^>]*(?:src|href)="?(?:https?:)?//'
        assert not re.search(loaded, page.read_text()), page
