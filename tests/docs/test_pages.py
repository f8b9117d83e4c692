"""The documents say what is there: links, commands with their options, settings, and no more."""

import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml

from data_catalog.base.config import load_yaml, parse
from data_catalog.sources import FilesConfig
from flows.cli import app as ssld
from ppcls_core.cli.app import app as ppcls
from ppcls_core.jobs.job import load_job
from tasks.recipe import load_recipe
from tests.conftest import PROJECT
from tests.support.documents import PAGES, all_blocks, anchor_of, blocks

PROGRAMS = {"ssld": ssld, "ppcls": ppcls}
GROUP_OPTIONS = {"--help", "--version", "--install-completion", "--show-completion"}


def commands_in(line: str) -> list[list[str]]:
    """The words of each call of our programs in a line of shell, up to a pipe."""
    words = shlex.split(line, comments=True)
    return [words] if words and words[0] in PROGRAMS else []


COMMANDS = [
    (block.page.name, words)
    for block in all_blocks("sh")
    for line in block.text.replace("\\\n", "").splitlines()
    for words in commands_in(line)
]


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=[" ".join(w) for _, w in COMMANDS])
def test_commands_exist_with_their_options(page: str, words: list[str]) -> None:
    group = typer.main.get_command(PROGRAMS[words[0]])
    if words[1].startswith("-"):
        assert words[1] in GROUP_OPTIONS
        return
    context = group.make_context(words[0], [], resilient_parsing=True)
    command = group.resolve_command(context, [words[1]])[1]
    known = {name for option in command.params for name in option.opts}
    given = {word.partition("=")[0] for word in words[2:] if re.match(r"--?[a-z]", word)}
    assert given <= known, f"{page}: {given - known}"


def test_there_are_commands_in_the_documents() -> None:
    called = {words[1] for _, words in COMMANDS}
    assert {"run", "up", "down", "status", "dedup", "export", "serve", "train"} <= called


@pytest.mark.parametrize("block", all_blocks("yaml"), ids=lambda block: block.page.stem)
def test_settings_in_the_documents_can_be_read(block, tmp_path: Path) -> None:
    path = tmp_path / "block.yaml"
    path.write_text(block.text)
    assert load_yaml(path)


def test_theirs_and_ours_are_one_training(tmp_path: Path) -> None:
    page = PROJECT / "docs" / "training.md"
    ours, theirs = [block.text for block in blocks(page) if block.language == "yaml"][:2]
    for name, text in (("ours", ours), ("theirs", theirs)):
        (tmp_path / f"{name}.yaml").write_text(text)
    jobs = [load_job(tmp_path / f"{name}.yaml", []) for name in ("ours", "theirs")]
    # PaddleClas validates after every epoch by default.
    assert jobs[0].training == jobs[1].training.model_copy(update={"eval_every": 10})
    assert (jobs[0].train, jobs[0].val) == (jobs[1].train, jobs[1].val)
    assert (jobs[0].model, jobs[0].num_classes) == (jobs[1].model, jobs[1].num_classes)


def test_the_recipe_for_own_data_is_one(tmp_path: Path) -> None:
    page = PROJECT / "docs" / "own_data.md"
    data, recipe = [block.text for block in blocks(page) if block.language == "yaml"]
    (tmp_path / "my.yaml").write_text(recipe)
    (tmp_path / "my_teacher.pdparams").touch()
    assert load_recipe(str(tmp_path / "my.yaml")).select.k == 4000
    assert parse(FilesConfig, yaml.safe_load(data), "garden.yaml").pool == "unlabelled"


def test_the_readme_is_short() -> None:
    assert len((PROJECT / "README.md").read_text().splitlines()) <= 120


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    targets = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    for target in targets:
        file, _, anchor = target.partition("#")
        path = (page.parent / file) if file else page
        assert path.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(path), f"{page.name}: {target}"


def anchors(path: Path) -> set[str]:
    """Anchors of a page's headings."""
    return set(map(anchor_of, re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)))


def test_every_page_is_in_the_navigation() -> None:
    text = (PROJECT / "mkdocs.yml").read_text()
    navigation = str(yaml.safe_load(text)["nav"])
    assert all(f"'{page.name}'" in navigation for page in PAGES[1:])
