"""Labelled images that show validation images: told, measured without, and removed on request; a
person's decisions on pairs, which the recipe names."""

import shutil
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from data_catalog.base.config import UserError
from data_catalog.base.files import read_json
from data_catalog.images.columns import read_images
from flows import dashboard
from ppcls_core.cli import dedup as command
from ppcls_core.dedup.decisions import REVIEWED, Decision, append_decision
from ppcls_core.dedup.search import INDEX
from ppcls_core.runtime.monitor import Interrupted, SilentMonitor
from tasks.dag import STAGES, needed_for
from tasks.recipe import load_recipe
from tasks.run.counts import TAKEN_OVER, left_out
from tasks.run.session import Session
from tasks.run.store import RUN, Result, Store
from tasks.stages.report import clean_accuracies
from tests.conftest import TINY
from tests.flows.conftest import run_stages

FEW = TINY.parent / "few"


class Notes(SilentMonitor):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


@pytest.fixture(scope="module")
def leaking(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Settings of a data set whose train/ shows two of the validation images."""
    root = tmp_path_factory.mktemp("leaking")
    for name in ("train", "val"):
        with tarfile.open(FEW / f"{name}.tar") as archive:
            archive.extractall(root / name, filter="data")
    first, second = sorted((root / "val").rglob("*.jpg"))[:2]
    (root / "train" / first.parent.name / "again.jpg").write_bytes(first.read_bytes())
    mirrored = np.ascontiguousarray(cv2.imread(str(second))[:, ::-1])
    cv2.imwrite(str(root / "train" / second.parent.name / "mirror.png"), mirrored)
    (root / "data.yaml").write_text(
        f"root: {root}\ntrain: train\nval: val\npool: {FEW}/pool.tar\nplanted: {FEW}/planted.csv\n"
    )
    return [f"data.{name}={root / 'data.yaml'}" for name in ("labelled", "pool")]


def run_until(
    store: Path, settings: list[str], until: str, monitor: SilentMonitor | None = None
) -> dict[str, Result]:
    session = Session(load_recipe(str(TINY), settings), Store(store))
    for stage in needed_for(until):
        result = session.find(stage).result
        if result:
            session.accept(result)
        else:
            session.run(stage, monitor or SilentMonitor())
    return session.done


def ids(result: Result, name: str) -> list[str]:
    return list(read_images(result.path(name), {}).ids)


def test_they_are_told_and_stay_unless_removal_is_asked_for(
    leaking: list[str], tmp_path: Path
) -> None:
    monitor = Notes()
    done = run_until(tmp_path, leaking, "overlap", monitor)
    same = [done[n].path("train.arrow").read_bytes() for n in ("data", "overlap")]
    assert same[0] == same[1]  # so nothing that follows is made anew
    metrics = done["overlap"].metrics
    assert (metrics["labelled"], metrics["val"], metrics["removed"]) == (2, 2, False)
    assert any("2 labelled images show 2 of the validation images" in n for n in monitor.notes)
    assert any("overlap.remove=true leaves such images out" in note for note in monitor.notes)
    removing = [*leaking, "overlap.remove=true"]
    monitor = Notes()
    cleaned = run_until(tmp_path, removing, "overlap", monitor)["overlap"]
    gone = set(ids(done["data"], "train.arrow")) - set(ids(cleaned, "train.arrow"))
    assert {Path(name).name for name in gone} == {"again.jpg", "mirror.png"}
    assert set(ids(cleaned, "teacher.arrow")).isdisjoint(gone)
    assert cleaned.counts["out"] == cleaned.counts["in"] - 2
    assert [row.number for row in left_out([done["overlap"], cleaned])] == [2]
    assert any("taken over" in note for note in monitor.notes)  # nothing is searched again
    assert cleaned.metrics[TAKEN_OVER] == str(done["overlap"].directory)
    assert pq.read_table(cleaned.path("pairs.parquet")) == pq.read_table(
        done["overlap"].path("pairs.parquet")
    )


def test_a_search_that_was_taken_over_in_part_is_gone_on_with(
    leaking: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removing, copy = [*leaking, "overlap.remove=true"], shutil.copytree
    run_until(tmp_path, leaking, "overlap")

    def stopped(source: Path, target: Path, **how: bool) -> None:
        copy(source, target, **how)
        if source.name == INDEX:
            (target / "index.json").write_text("")  # as a copy of it that has only begun
            raise Interrupted

    monkeypatch.setattr(shutil, "copytree", stopped)
    with pytest.raises(Interrupted):
        run_until(tmp_path, removing, "overlap")
    monkeypatch.undo()
    done = run_until(tmp_path, removing, "overlap")["overlap"]
    assert done.counts["out"] == done.counts["in"] - 2
    assert not list(done.directory.glob(".tmp-*"))


@pytest.mark.slow
def test_the_dashboard_shows_the_pairs_of_both_searches(
    leaking: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = list[tuple[str, str]]()
    kinds = ("create_table_artifact", "create_image_artifact")
    for kind in kinds:

        def create(*data: object, key: str, description: str, kind: str = kind) -> None:
            shown.append((kind, key))

        monkeypatch.setattr(dashboard.artifacts, kind, create)
    session = Session(load_recipe(str(TINY), leaking), Store(tmp_path))
    for stage in needed_for("dedup"):
        result = session.run(stage, SilentMonitor())
        if stage.name != "data":
            dashboard.publish(session, result)
    table, image = kinds
    assert shown == [
        (table, "tiny-overlap-stage"),
        (image, "tiny-overlap"),
        (table, "tiny-dedup-stage"),
        (image, "tiny-duplicates"),
    ]


@pytest.mark.slow
def test_a_persons_decisions_are_among_the_settings_of_a_run(store: Path, tmp_path: Path) -> None:
    done, _ = run_stages(store)
    (row, *_) = pq.read_table(done["dedup"].path("pairs.parquet")).to_pylist()
    append_decision(tmp_path / "mine.jsonl", Decision.on(row, "accepted"))
    again, _ = run_stages(store, [f"dedup.reviewed={tmp_path / 'mine.jsonl'}"])
    a, b = (read_json(each["report"].path(RUN))["settings"] for each in (done, again))
    assert "reviewed" not in a["dedup"]
    assert b["dedup"].pop("reviewed").startswith("mine.jsonl (sha256 ")
    assert a == b


@pytest.mark.slow
def test_each_model_is_measured_without_them(leaking: list[str], tmp_path: Path) -> None:
    done = run_until(tmp_path, leaking, "report")
    rows = {row.label: row for row in clean_accuracies(done)}
    answers = pq.read_table(done["evaluate"].path("predictions.parquet")).to_pylist()
    shown = set(pq.read_table(done["overlap"].path("pairs.parquet"))["val_id"].to_pylist())
    assert len(shown) == 2
    for row in read_json(done["evaluate"].path("accuracy.json")):
        own = [a["rank"] < 1 for a in answers if a["model"] == row["label"]]
        left = [
            a["rank"] < 1
            for a in answers
            if a["model"] == row["label"] and a["image_id"] not in shown
        ]
        assert rows[row["label"]].num_images == len(left) == len(own) - 2
        assert rows[row["label"]].clean_top1 == pytest.approx(np.mean(left))
        assert rows[row["label"]].top1 == pytest.approx(row["top1"])
    page = done["report"].path("report.html").read_text()
    assert "2 labelled images show 2 of the validation images" in page
    assert "again.jpg" in page
    assert "bad_cut.jpg" in page  # what was rejected is named
    card = done["report"].path("model_card.md").read_text()
    assert "2 labelled images show 2 of the validation images; such images were trained on." in card


def test_decisions_are_honoured_and_the_search_is_not_made_again(
    finished: Path, store: Path, tmp_path: Path
) -> None:
    before, _ = run_stages(finished)
    (row, *_) = pq.read_table(before["dedup"].path("pairs.parquet")).to_pylist()
    file, monitor = tmp_path / REVIEWED, Notes()
    append_decision(file, Decision.on(row, "refused"))
    append_decision(file, Decision.on(row | {"pool_sha256": "0" * 64}, "accepted"))
    settings = [f"dedup.reviewed={file}"]
    done = run_until(store, settings, "dedup", monitor)
    assert row["pool_id"] in ids(done["dedup"], "kept.arrow")
    assert done["dedup"].metrics["decisions"] == {"accepted": 0, "refused": 1, "not found": 0}
    assert done["overlap"].metrics["decisions"] == {}  # the labelled images are not concerned
    assert monitor.notes.count("decisions of a person on pairs: 1 refused") == 1
    told = [note for note in monitor.notes if "on other images than these" in note]
    assert [note[:1] for note in told] == ["2", "1"]  # overlap, dedup
    assert any("taken over" in note for note in monitor.notes)
    session = Session(load_recipe(str(TINY), settings), Store(store))
    for name in ("data", "overlap"):
        session.accept(session.find(STAGES[name]).result or pytest.fail(name))
    elsewhere = Path(file.rename(tmp_path / "moved.jsonl"))
    moved = Session(load_recipe(str(TINY), [f"dedup.reviewed={elsewhere}"]), Store(store))
    moved.done.update(session.done)
    assert moved.find(STAGES["dedup"]).result  # what was decided counts, not where it lies
    append_decision(elsewhere, Decision.on(row, "accepted"))
    again = Session(moved.recipe, moved.store, done=dict(session.done))
    assert not again.find(STAGES["dedup"]).result


def test_a_file_of_decisions_that_is_not_there_is_told() -> None:
    with pytest.raises(UserError, match=r"dedup\.reviewed: .*no such file"):
        load_recipe(str(TINY), ["dedup.reviewed=/nowhere/reviewed.jsonl"])


def test_a_review_of_a_stage_leaves_nothing_but_decisions(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder,) = (finished / "dedup").iterdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("SSLD_HOME", str(tmp_path / "home"))
    seen = []

    def page(*_: object) -> None:
        seen.append(sorted(Path().iterdir()))
        with pytest.raises(UserError, match="another review, process"):
            command._review_stage(folder, "mine")

    monkeypatch.setattr(command, "resolve_name", lambda _: page)
    command._review_stage(folder, "mine")
    assert seen == [[]]
    assert list(Path().iterdir()) == []
