"""`ppcls` with a recipe's name in place of a model, and the review of a stage's folder."""

import csv
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pyarrow.parquet as pq
import pytest

from data_catalog.base.files import read_json
from ppcls_core.cli import dedup, serve
from ppcls_core.dedup.decisions import (
    REVIEWED,
    AfterReview,
    Decision,
    append_decision,
    read_decisions,
)
from ppcls_core.dedup.search import Search
from ppcls_core.inference.sidecar import FILES, SIDECAR, read_sidecar
from ppcls_core.runtime.monitor import Monitor
from ppcls_core.runtime.shards import ShardJob, run_shards
from tasks.recipe import load_recipe
from tasks.run.store import Result, Store
from tasks.trace import trail_of
from tests.conftest import TINY
from tests.flows.conftest import run_stages
from tests.support.images import write_jpeg

Ppcls = Callable[..., CompletedProcess[str]]


@pytest.fixture
def done(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Result]:
    """The results of the tiny recipe, in the store of this machine; the current folder is empty."""
    monkeypatch.setenv("SSLD_HOME", str(store.parent))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert Store.default().root == store
    return run_stages(store)[0]


def test_the_students_accuracy_is_that_of_the_report(done: dict[str, Result], ppcls: Ppcls) -> None:
    best = done["export"].metrics["stage"]
    history = read_json(done[best].path("history.json"))[-1]
    for given in (TINY, "tiny"):
        told = ppcls("eval", "-c", given, "--per-class", "classes.csv")
        assert f"top1:{history['top1']:.4f}" in told.stdout
    with Path("classes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sum(int(row["num_images"]) for row in rows) == done["data"].counts["val"]
    told = ppcls("eval", "-c", "tiny", "-o", "topk=3")
    assert told.returncode == 2 and "give topk=3 to `ssld run`" in told.stderr


def test_it_is_exported_and_classifies(done: dict[str, Result], ppcls: Ppcls) -> None:
    write_jpeg(Path("one.jpg"), 1, 80, 90)
    told = ppcls("export", TINY, "--out", "exported")
    assert told.returncode == 0, told.stderr
    assert all(Path("exported", name).is_file() for name in FILES)
    ours, theirs = (
        read_sidecar(at / SIDECAR) for at in (Path("exported"), done["export"].directory)
    )
    assert ours.model_copy(update={"digest": theirs.digest}) == theirs
    rows = []
    Path("tiny").mkdir()  # as of photographs, after which `ssld init` names the recipe
    Path("one.jpg").rename("tiny/one.jpg")
    for model in ("tiny", "exported"):
        told = ppcls("py-infer", model, "tiny/one.jpg", "--format", "json", "-k", "3")
        rows.append(json.loads(told.stdout))
        assert "is taken" not in told.stderr
    assert rows[0] == rows[1]
    assert ppcls("infer", "tiny", "tiny", "--format", "json").returncode == 0
    Path("exported").rename("tiny/exported")
    Path("tiny").rename("photos")
    Path("photos/exported").rename("tiny")
    told = ppcls("py-infer", "tiny", "photos/one.jpg", "--format", "json", "-k", "3")
    assert json.loads(told.stdout)["predictions"] == rows[0]["predictions"]
    assert "the exported model of that name is taken" in told.stderr


def test_its_baseline_is_exported(done: dict[str, Result], ppcls: Ppcls) -> None:
    told = ppcls("export", "tiny", "--baseline", "--out", "exported")
    assert told.returncode == 0, told.stderr
    ours, best = read_sidecar(Path("exported") / SIDECAR), done["export"].path(SIDECAR)
    assert ours.classes == read_sidecar(best).classes
    assert ours.preprocess.size == load_recipe(str(TINY)).baseline.image_size
    weights = "inference.pdiparams"
    assert Path("exported", weights).read_bytes() != done["export"].path(weights).read_bytes()
    write_jpeg(Path("one.jpg"), 1, 80, 90)
    told = ppcls("infer", "tiny", "one.jpg", "--baseline", "--format", "json")
    assert told.returncode == 0, told.stderr
    told = ppcls("export", "ResNet50_vd", "--baseline", "--out", "other")
    assert told.returncode == 2
    assert "--baseline: got ResNet50_vd, expected a recipe of `ssld run`" in told.stderr


@pytest.mark.slow
def test_it_is_quantised_with_the_recipes_images(done: dict[str, Result], ppcls: Ppcls) -> None:
    told = ppcls("quantize", "tiny", "--out", "int8", "--num-images", "8")
    assert told.returncode == 0, told.stderr
    assert "calibration: the labelled images of the recipe tiny" in told.stdout
    with Path("int8/compared.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["num_images"] for row in rows} == {str(done["data"].counts["val"])}
    trail = trail_of(Path("int8"), Store.default())
    assert trail.made_by == done["export"]
    assert {file.name for file in trail.beside} == {
        "compared.csv",
        "int8.json",
        "int8.pdiparams",
        "int8.pdmodel",
    }


def test_a_server_is_given_the_folder(
    done: dict[str, Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []
    monkeypatch.setattr("ppcls_core.serving.app.ServedModel", lambda *args: given.append(args))
    monkeypatch.setattr("ppcls_core.serving.app.ModelService", lambda *args: None)
    monkeypatch.setattr("ppcls_core.serving.engine.engine", lambda folder, settings: folder)
    monkeypatch.setattr("ppcls_core.serving.server.serve", lambda *args: None)
    serve.serve(Path("tiny"), port=0)
    ((_, opening, recipe),) = given
    assert (opening(), recipe) == (done["export"].directory, "tiny")


@pytest.mark.parametrize("stage", ["dedup", "overlap"])
@pytest.mark.slow
def test_a_stages_pairs_are_judged_into_a_file_for_the_recipe(
    done: dict[str, Result], ppcls: Ppcls, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    folder, shown = done[stage].directory, []
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    pairs = pq.read_table(folder / "pairs.parquet").to_pylist()

    def judge(search: Search, file: Path, after: AfterReview, say: Callable[[str], None]) -> None:
        shown.append(search)
        assert f"dedup: {{reviewed: {file}}}" in after.then and "removed.json" not in after.then
        depends = ", if overlap.remove=true" if stage == "overlap" else ""
        assert after.if_same == f"remove it{depends}"
        for row in pairs[:1]:
            append_decision(file, Decision.on(row, "refused"))

    monkeypatch.setattr(dedup, "resolve_name", lambda name: judge)
    monkeypatch.setattr(dedup, "_has_no_pairs", lambda folder: False)  # as overlap's has here
    told = ppcls("dedup", "--review", folder)
    assert told.returncode == 0, told.stderr
    (search,) = shown
    assert search.out == folder
    assert len(search.pool) == done[stage].counts["in"]
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    if stage == "overlap":
        return
    assert len(read_decisions(Path(REVIEWED))) == 1
    assert f"dedup: {{reviewed: {Path(REVIEWED).absolute()}}}" in told.stdout
    assert ppcls("dedup", "--review", TINY).returncode == 0
    assert shown[1].out == folder
    _, ran = run_stages(Store.default().root, [f"dedup.reviewed={Path(REVIEWED).absolute()}"])
    assert {"overlap", "dedup", "label"} <= set(ran)


@pytest.mark.slow
def test_a_new_file_holds_what_the_stage_honours_already(
    done: dict[str, Result], ppcls: Ppcls, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (row, *_) = pq.read_table(done["dedup"].path("pairs.parquet")).to_pylist()
    append_decision(tmp_path / "old.jsonl", Decision.on(row, "refused"))
    setting = f"dedup.reviewed={tmp_path / 'old.jsonl'}"
    again, _ = run_stages(Store.default().root, [setting], until="dedup")
    monkeypatch.setattr(dedup, "resolve_name", lambda name: lambda *args: None)
    told = ppcls("dedup", "--review", again["dedup"].directory)
    assert "judged: refused 1" in told.stdout
    assert read_decisions(Path(REVIEWED)).digest == read_decisions(tmp_path / "old.jsonl").digest


def test_a_stage_without_pairs_is_told(done: dict[str, Result], ppcls: Ppcls) -> None:
    told = ppcls("dedup", "--review", done["export"].directory)
    assert told.returncode == 2
    assert "is of the stage export" in told.stderr and "dedup or overlap" in told.stderr


@pytest.mark.slow
def test_stages_spread_over_a_cluster(
    store: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Both searches give the cluster the same work as this machine, whatever index they use."""
    asked = []

    def run_on(cluster: str, job: ShardJob, monitor: Monitor) -> int:
        asked.append(cluster)
        return run_shards(pickle.loads(pickle.dumps(job)), monitor)

    monkeypatch.setattr("ppcls_core.dedup.run.run_on", run_on)
    there, _ = run_stages(tmp_path / "there", ["run_time.cluster=head.example"], until="dedup")
    here, _ = run_stages(store, until="dedup")
    assert asked == ["head.example"] * 2
    for stage in ("overlap", "dedup"):
        assert there[stage].digest == here[stage].digest
