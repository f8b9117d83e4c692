"""The teacher is not asked again for what an earlier result of the stage has."""

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ppcls_core.dedup.decisions import REVIEWED, Decision, append_decision
from ppcls_core.labels import labeller
from ppcls_core.labels.teacher import Batches
from tasks.run.counts import NUM_TAKEN_OVER, TAKEN_OVER
from tasks.run.store import Result
from tests.flows.conftest import run_stages
from tests.flows.test_overlap import Notes, run_until


def refusing(done: dict[str, Result], folder: Path) -> list[str]:
    """Settings under which a person has refused the first pair found."""
    (row, *_) = pq.read_table(done["dedup"].path("pairs.parquet")).to_pylist()
    append_decision(folder / REVIEWED, Decision.on(row, "refused"))
    return [f"dedup.reviewed={folder / REVIEWED}"]


def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the images that a teacher is asked for, from now on."""
    ids, label = list[str](), labeller.label

    def counting(answered: Batches) -> Batches:
        for good, logits, bad in answered:
            ids.extend(item[0] for item in (*good, *(item for item, _ in bad)))
            yield good, logits, bad

    monkeypatch.setattr(labeller, "label", lambda given, *rest: label(counting(given), *rest))
    return ids


def test_after_a_refusal_one_image_alone_is_labelled(
    finished: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, _ = run_stages(finished)
    settings, ids, monitor = refusing(before, tmp_path), asked(monkeypatch), Notes()
    label = run_until(store, settings, "label", monitor)["label"]
    num = before["label"].counts["out"]
    assert len(ids) == label.counts["in"] - num == 1 + before["label"].counts["in"] - num
    assert label.metrics[TAKEN_OVER] == str(store / "label" / before["label"].directory.name)
    assert label.metrics[NUM_TAKEN_OVER] == num
    told = f"{num} of {label.counts['in']} labels are taken over from {label.metrics[TAKEN_OVER]}"
    assert told in monitor.notes
    monkeypatch.undo()
    shutil.rmtree(store / "label")  # so that all are labelled
    again = run_until(store, settings, "label")["label"]
    assert again.metrics[TAKEN_OVER] == ""
    shards = "shard-*"  # engine.json says in which images precisions were compared
    assert again.digest_of(shards) == label.digest_of(shards)


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["label.encoding=fp16", "teacher.train.lr=0.04"])
def test_labels_of_other_settings_or_another_teacher_are_not_taken(
    store: Path, setting: str
) -> None:
    label = run_until(store, [setting], "label")["label"]
    assert label.metrics[TAKEN_OVER] == ""


@pytest.mark.slow
def test_views_too(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replaying = ["label.views=2", "distill.teacher=replay", "distill.teacher_batch_norm=running"]
    first = run_until(store, replaying, "views")["views"]
    ids = asked(monkeypatch)
    fewer = [*replaying, "select.k=3"]
    views = run_until(store, fewer, "views")["views"]
    assert views.counts["in"] < first.counts["in"]
    assert ids == []
    monkeypatch.undo()
    for name in (first.directory, views.directory):
        shutil.rmtree(name)
    assert run_until(store, fewer, "views")["views"].digest == views.digest
