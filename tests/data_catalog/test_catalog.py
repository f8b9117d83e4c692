from pathlib import Path

import pytest

from data_catalog.base.config import UserError, load_yaml
from data_catalog.catalog import DATASETS, load_dataset


def mistake(name, options, base=Path()):
    with pytest.raises(UserError) as caught:
        load_dataset(name, options, base)
    return str(caught.value)


@pytest.mark.parametrize("name", load_yaml(DATASETS))
def test_every_entry_loads(name, tmp_path, monkeypatch):
    for variable in ("IMAGENET1K_DIR", "IMAGENET22K_DIR", "SSLD_CLOTHING_DIR"):
        monkeypatch.setenv(variable, str(tmp_path))
    assert load_dataset(name, {}, tmp_path).name == name


def test_entries_are_those_promised():
    assert set(load_yaml(DATASETS)) == {"imagenet1k", "imagenet22k", "clothing", "clothes"}


def test_options_replace_fields():
    dataset = load_dataset("clothes", {"pool": "val.tar", "planted": None}, Path())
    assert (dataset.config.pool, dataset.config.planted) == ("val.tar", None)


def test_unknown_name_gives_the_closest():
    message = mistake("imagenet_1k", {})
    assert "did you mean 'imagenet1k'" in message
    assert mistake("zzz", {}).count("imagenet1k") == 1  # all are known, each told once


def test_unset_variable_names_itself_the_data_set_and_the_remedy(monkeypatch):
    monkeypatch.delenv("IMAGENET1K_DIR", raising=False)
    message = mistake("imagenet1k", {})
    assert "data set 'imagenet1k'" in message
    assert "export IMAGENET1K_DIR=" in message
    assert "`root`" in message


def test_options_spare_the_variable(monkeypatch, tmp_path):
    monkeypatch.delenv("IMAGENET1K_DIR", raising=False)
    dataset = load_dataset("imagenet1k", {"root": "."}, tmp_path)
    assert dataset.root == tmp_path


def test_root_that_is_no_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("IMAGENET1K_DIR", str(tmp_path / "none"))
    assert f"root {tmp_path / 'none'} is no folder" in mistake("imagenet1k", {})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pol": "x"}, "unknown setting 'pol'; did you mean 'pool'"),
        ({"pool": 8}, "pool: "),
        ({"kind": "flies"}, "files"),
    ],
)
def test_bad_options(options, words):
    message = mistake("clothes", options)
    assert message.startswith("data set 'clothes': ")
    assert words in message


def yaml_of_ones_own(folder, text):
    path = folder / "sets" / "mine.yaml"
    path.parent.mkdir()
    path.write_text(text)


def test_yaml_file_relative_to_base_and_its_root_relative_to_the_file(tmp_path):
    yaml_of_ones_own(tmp_path, "kind: files\nroot: images\npool: .\n")
    (tmp_path / "sets/images").mkdir()
    (tmp_path / "sets/images/a.jpg").write_bytes(b"x")
    dataset = load_dataset("sets/mine.yaml", {}, tmp_path)
    assert dataset.name == "mine"
    splits = dataset.build(tmp_path, lambda done, total: None)
    assert splits.pool.ids == ["a.jpg"]
    assert splits.pool.roots == {"images": str(tmp_path / "sets/images")}


def test_root_among_the_options_is_relative_to_base(tmp_path):
    yaml_of_ones_own(tmp_path, "kind: files\nroot: images\npool: .\n")
    (tmp_path / "other").mkdir()
    dataset = load_dataset("sets/mine.yaml", {"root": "other"}, tmp_path)
    assert dataset.root == tmp_path / "other"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kind: flies\nroot: .\npool: .\n", "kind"),
        ("kind: files\nroot: .\n", "at least one of train, val and pool"),
        ("kind: files\nroot: .\npool: .\nplanted: p.csv\n", "need both val and pool"),
        ("kind: files\npool: .\n", "setting 'root' is required"),
    ],
)
def test_bad_yaml_file(tmp_path, text, words):
    yaml_of_ones_own(tmp_path, text)
    assert words in mistake("sets/mine.yaml", {}, tmp_path)


def test_absent_yaml_file(tmp_path):
    assert "none.yaml: no such file" in mistake("none.yaml", {}, tmp_path)
