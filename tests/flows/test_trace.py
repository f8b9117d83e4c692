"""A file leads back to all that made it, wherever it was copied to, and a foreign one says so."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from rich.console import Console

from data_catalog.base.config import UserError
from data_catalog.base.files import read_json, sha256_file, write_json
from flows.tracing import trace
from ppcls_core.inference import int8
from ppcls_core.inference.sidecar import FILES, ONNX, PROGRAM, SIDECAR, WEIGHTS, read_sidecar
from tasks.dag import STAGES, needed_for
from tasks.run.store import MANIFEST, Store
from tasks.trace import damages, outside, trail_of
from tests.flows.conftest import run_stages


def folder_of(store: Path, stage: str) -> Path:
    (folder,) = (store / stage).iterdir()
    return folder


def stages_to(stage: str) -> list[str]:
    return [one.name for one in needed_for(stage)]


@pytest.mark.parametrize(
    "file",
    [
        "distill/model.pdparams",
        "dedup/removed.json",
        "dedup/kept.parquet",
        "export",
        "report/model_card.md",
        "data/train.arrow",
    ],
)
def test_a_copied_file_leads_to_every_stage_that_made_it(
    finished: Path, tmp_path: Path, file: str
) -> None:
    stage, _, name = file.partition("/")
    source, copy = folder_of(finished, stage) / name, tmp_path / "copied"
    if source.is_dir():
        shutil.copytree(source, copy)
        (copy / MANIFEST).unlink()
    else:
        shutil.copyfile(source, copy)
    trail = trail_of(copy, Store(finished))
    assert [result.stage for result in trail.results] == stages_to(stage)
    assert trail.missing == ()
    assert trail == trail_of(source, Store(finished))
    assert list(damages(trail)) == []
    assert set(outside(trail.results[0])) == {"labelled data set"}


def test_each_result_has_what_the_next_ones_read(finished: Path) -> None:
    trail = trail_of(folder_of(finished, "report"), Store(finished))
    made = {result.stage: result for result in trail.results}
    assert list(made) == list(STAGES)
    for result in trail.results:
        for name, digest in result.inputs.items():
            stage, slash, pattern = name.partition("/")
            if slash:
                assert made[stage].digest_of(pattern) == digest


def test_what_was_altered_is_named(store: Path) -> None:
    path = folder_of(store, "select") / "selection.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    weights = folder_of(store, "distill") / "model.pdparams"
    trail = trail_of(weights, Store(store))
    assert list(damages(trail)) == [("select", "selection.parquet was altered")]
    manifest = folder_of(store, "dedup") / MANIFEST
    data = read_json(manifest)
    data["files"]["pairs.csv"]["sha256"] = "0" * 64
    write_json(manifest, data)
    found = dict(damages(trail_of(weights, Store(store))))
    assert found["dedup"] == "pairs.csv was altered"


def test_a_removed_result_is_missing_and_the_rest_is_told(store: Path) -> None:
    shutil.rmtree(folder_of(store, "views"))
    trail = trail_of(folder_of(store, "fix") / "model.pdparams", Store(store))
    assert trail.missing == ("views",)
    assert "distill" in [result.stage for result in trail.results]


def test_of_equal_results_that_is_taken_which_agrees_with_the_others(store: Path) -> None:
    """Another selection of the same images, finished later, came of other labels."""
    select = folder_of(store, "select")
    other = Path(shutil.copytree(select, select.with_name("0" * 20)))
    data = read_json(other / MANIFEST)
    data["inputs"]["label/shard-*.labels.parquet"] = "0" * 64
    data["record"]["finished"] = "2999-01-01T00:00:00Z"
    write_json(other / MANIFEST, data | {"key": "0" * 64})
    trail = trail_of(folder_of(store, "distill") / "model.pdparams", Store(store))
    assert trail.missing == ()
    assert select in [result.directory for result in trail.results]


def test_of_equal_results_that_is_taken_which_was_read(store: Path) -> None:
    """Another recipe's results with the same files, made since, had no part in it."""
    before = trail_of(folder_of(store, "export"), Store(store))
    later, ran = run_stages(store, ["shard_size=9"], until="dedup")
    assert ran == ["overlap", "dedup"]
    kept = {each.stage: each for each in before.results}
    assert later["overlap"].digest_of("train.arrow") == kept["overlap"].digest_of("train.arrow")
    assert trail_of(folder_of(store, "export"), Store(store)) == before


def test_a_manifest_beside_a_file_speaks_for_it(finished: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder_of(finished, "export"), tmp_path / "copy"))
    trail = trail_of(copy / "inference.pdiparams", Store(tmp_path / "another store"))
    assert [result.stage for result in trail.results] == ["export"]
    assert set(trail.missing) == {"data", "distill", "finetune", "fix"}


def exported_with(finished: Path, folder: Path, *names: str) -> Path:
    """The exported student as `ppcls export` writes it to `folder`, with more files beside it."""
    folder.mkdir()
    for name in FILES:
        shutil.copyfile(folder_of(finished, "export") / name, folder / name)
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


@pytest.mark.parametrize(
    "names", [(ONNX,), (int8.PROGRAM, int8.WEIGHTS, int8.RECORD, int8.COMPARED), ("notes.txt",)]
)
def test_what_was_made_of_a_student_leads_back_to_it(
    finished: Path, tmp_path: Path, names: tuple[str, ...]
) -> None:
    folder, store = exported_with(finished, tmp_path / "out", *names), Store(finished)
    trail, plain = trail_of(folder, store), trail_of(folder_of(finished, "export"), store)
    assert trail.results == plain.results
    assert {file.name for file in trail.beside} == {*names}
    assert plain.beside == ()
    for name in names:
        if name == "notes.txt":
            with pytest.raises(UserError, match=r"has notes\.txt"):
                trail_of(folder / name, store)
        else:
            assert trail_of(folder / name, store).results == plain.results


def test_another_size_and_a_training_with_int8s_rounding_lead_back(
    finished: Path, tmp_path: Path
) -> None:
    trained = f"{int8.AWARE}/{WEIGHTS}"
    folder, store = exported_with(finished, tmp_path / "out", trained), Store(finished)
    found = read_sidecar(folder / SIDECAR)
    (folder / PROGRAM).write_bytes(b"of another size")
    found.write(folder)
    trail = trail_of(folder, store)
    assert trail.made_by.stage == "export"
    assert {file.name for file in trail.beside} == {PROGRAM, SIDECAR, WEIGHTS}
    assert trail_of(folder / trained, store).made_by == trail.made_by


def test_altered_weights_are_foreign_whatever_lies_beside_them(
    finished: Path, tmp_path: Path
) -> None:
    folder = exported_with(finished, tmp_path / "out", ONNX)
    (folder / WEIGHTS).write_bytes(b"others")
    for path in (folder, folder / ONNX):
        with pytest.raises(UserError, match="no result of"):
            trail_of(path, Store(finished))


def test_a_list_is_told_with_its_own_number_of_images(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SSLD_HOME", str(finished.parent))
    monkeypatch.setattr(Store, "default", lambda: Store(finished))
    trace(folder_of(finished, "report"), full=True)
    lists = re.findall(r"images +(\S+) \((\S+) images?\): sha256 (\w+)", capsys.readouterr().out)
    rows = {
        sha256_file(path): pa.ipc.open_file(str(path)).read_all().num_rows
        for path in finished.glob("*/*/*.arrow")
    }
    assert {name for name, *_ in lists} >= {"train.arrow", "val.arrow", "kept.arrow"}
    for _, number, digest in lists:
        assert int(number.replace(",", "")) == rows[digest]


def test_the_recipe_and_a_line_a_stage_are_told_first(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SSLD_HOME", str(finished.parent))
    monkeypatch.setattr("flows.tracing.console", Console(width=500))
    monkeypatch.setattr(Store, "default", lambda: Store(finished))
    trace(folder_of(finished, "export"))
    first, second, _, _, *lines = capsys.readouterr().out.splitlines()
    assert first == "recipe: an earlier run of one: no recipe has this result now"
    assert second == f"result: {folder_of(finished, 'export')}"
    *rows, last = lines
    assert [row.split()[0] for row in rows] == stages_to("export")
    assert "--full" in last
    told = dict(zip(stages_to("export"), rows, strict=True))
    assert "student.name=ResNet18_vd, epochs=" in told["distill"]
    assert re.search(r"\d in, .*rule=balanced", told["dedup"])
    key = read_json(folder_of(finished, "export") / MANIFEST)["key"]
    monkeypatch.setattr("flows.tracing.known_recipes", lambda: {"mine": Path(), "other": Path()})
    keys = {"mine": {"export": key}}
    monkeypatch.setattr(Store, "last", lambda _, recipe: keys.get(recipe, {}))
    trace(folder_of(finished, "export"))
    assert capsys.readouterr().out.startswith("recipe: mine\n")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"other weights", "no result of .* has foreign.pdparams .*SSLD_HOME"),
        (None, "no such file"),
    ],
)
def test_a_foreign_file_says_so(
    finished: Path, tmp_path: Path, content: bytes | None, told: str
) -> None:
    path = tmp_path / "foreign.pdparams"
    if content:
        path.write_bytes(content)
    with pytest.raises(UserError, match=told):
        trail_of(path, Store(finished))
    if content:
        with pytest.raises(UserError, match="holds no result; set SSLD_HOME"):
            trail_of(path, Store(tmp_path / "empty"))
