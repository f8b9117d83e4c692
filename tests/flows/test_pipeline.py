"""The stages together: results, caching, staleness, repair, resuming; without Prefect."""

import errno
import random
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from data_catalog.base.config import UserError
from data_catalog.base.files import read_json, write_json
from data_catalog.images.columns import read_images
from data_catalog.recipes import INIT
from flows.status import statuses
from ppcls_core.dedup.canaries import recall
from ppcls_core.runtime import shards
from ppcls_core.runtime.monitor import Interrupted, SilentMonitor
from ppcls_core.runtime.processes import ChildDied
from tasks.dag import STAGES, following, needed_for
from tasks.recipe import DISTILLED, load_recipe
from tasks.run.counts import TAKEN_OVER, has_pool, left_out, shown_counts
from tasks.run.session import Session
from tasks.run.stage import Work
from tasks.run.store import Store
from tasks.stages import export, label
from tests.conftest import TINY
from tests.flows.conftest import run_stages


def digests(store: Path) -> dict[str, str]:
    done, ran = run_stages(store)
    assert ran == []
    return {name: result.digest for name, result in done.items()}


def states(store: Path, *settings: str) -> dict[str, tuple[str, str]]:
    session = Session(load_recipe(str(TINY), settings), Store(store))
    return {row.stage: (row.state, row.detail) for row in statuses(session)}


def test_all_stages_finish_and_count(finished: Path) -> None:
    done, ran = run_stages(finished)
    assert ran == []
    assert list(done) == list(STAGES)
    counts = done["dedup"].counts
    rejected = sum(n for name, n in counts.items() if name.startswith("rejected"))
    assert counts["in"] == done["data"].counts["pool"]
    assert counts["in"] == counts["kept"] + counts["duplicates"] + rejected
    assert rejected == 5  # the bad files of few.yaml
    told = sum(row.number for row in left_out([done["dedup"]]) if row.stage == "dedup")
    not_searched = sum(done["dedup"].metrics["val_rejected"].values())
    assert told == counts["duplicates"] + rejected + not_searched  # in report and card
    assert done["label"].counts["in"] == counts["kept"]
    select = done["select"].counts
    assert select["in"] == select["kept"] + sum(n for k, n in select.items() if "rejected" in k)
    assert select["out"] == select["kept"] + done["data"].counts["train"]


def test_the_student_that_is_best_on_val_is_exported(store: Path, tmp_path: Path) -> None:
    session = Session(load_recipe(str(TINY)), Store(store))
    for stage in STAGES.values():
        session.accept(session.find(stage).result or pytest.fail(stage.name))
    work = replace(session.work(STAGES["export"], SilentMonitor()), directory=tmp_path / "out")
    work.directory.mkdir()
    for best, found in {"distill": (0.5, 0.4, 0.3), "fix": (0.3, 0.5, 0.5)}.items():
        for name, top1 in zip(DISTILLED, found, strict=True):
            path = work.input(f"{name}/history.json")
            rows = read_json(path)
            write_json(path, [*rows[:-1], rows[-1] | {"top1": top1}])
        assert export.run(work).metrics["stage"] == best
        weights = work.input(f"{best}/model.pdparams").read_bytes()
        assert work.path("student.pdparams").read_bytes() == weights
        seen = getattr(session.recipe, best).preprocess
        assert read_json(work.path("sidecar.json"))["preprocess"]["size"] == seen.size


def test_rejected_rows_name_every_image_that_is_not_kept(finished: Path) -> None:
    done, _ = run_stages(finished)
    pool = read_images(done["data"].path("pool.arrow"), {})
    kept = read_images(done["dedup"].path("kept.arrow"), {})
    rejected = pq.read_table(done["dedup"].path("rejected.parquet")).to_pylist()
    assert Counter(pool.ids) == Counter(kept.ids) + Counter(r["image_id"] for r in rejected)
    assert all(row["reason"] and row["detail"] for row in rejected)


def test_canaries_are_counted_nowhere_else(finished: Path) -> None:
    done, _ = run_stages(finished)
    dedup = done["dedup"]
    canaries = pq.read_table(dedup.path("canaries.parquet"))
    assert len(canaries) == 35
    assert dedup.metrics["canaries"] == recall(canaries)
    assert sum(found for found, _ in dedup.metrics["canaries"].values()) >= 20
    pool = set(read_images(done["data"].path("pool.arrow"), {}).ids)
    assert dedup.counts["in"] == len(pool)
    for name in ("pairs", "refused"):
        assert set(pq.read_table(dedup.path(f"{name}.parquet"))["pool_id"].to_pylist()) <= pool
    page = done["report"].path("report.html").read_text()
    assert "Recall estimate on this data set" in page
    assert "sticker 40 %" in page


def test_selection_is_the_teachers_top_k(finished: Path) -> None:
    done, _ = run_stages(finished)
    selection = pq.read_table(done["select"].path("selection.parquet"))
    per_class = np.bincount(selection["class_id"].to_numpy(), minlength=10)
    assert per_class.max() <= 4
    merged = read_images(done["select"].path("train.arrow"), {})
    assert len(set(merged.ids)) == len(merged)
    assert set(selection["image_id"].to_pylist()) <= set(merged.ids)


def test_report_page_holds_the_accuracies(finished: Path) -> None:
    done, _ = run_stages(finished)
    page = done["report"].path("report.html").read_text()
    for row in read_json(done["evaluate"].path("accuracy.json")):
        assert f"{100 * row['top1']:.1f}" in page


def test_hits_of_the_classes_add_up_to_the_accuracies(finished: Path) -> None:
    done, _ = run_stages(finished)
    table = pq.read_table(done["evaluate"].path("per_class.parquet")).to_pylist()
    names = read_images(done["data"].path("val.arrow"), {}).classes
    for row in read_json(done["evaluate"].path("accuracy.json")):
        own = [line for line in table if line["model"] == row["label"]]
        assert [line["class"] for line in own] == list(names)
        assert [line["class_id"] for line in own] == list(range(len(names)))
        total = row["num_images"]
        assert sum(line["num_images"] for line in own) == total
        for k in (1, 5):
            assert sum(line[f"top{k}_hits"] for line in own) / total == row[f"top{k}"]


@pytest.mark.parametrize(
    ("setting", "first"),
    [
        ("select.k=3", "select"),
        pytest.param("finetune.lr=0.001", "finetune", marks=pytest.mark.slow),
        pytest.param("dedup.min_inliers=6", "overlap", marks=pytest.mark.slow),
    ],
)
def test_one_setting_changes_its_stage_and_what_follows(
    store: Path, setting: str, first: str
) -> None:
    before = states(store, setting)
    assert before[first][0] == "stale"
    assert setting.split("=")[0] in before[first][1]
    _, ran = run_stages(store, [setting])
    after = {stage.name for stage in following(first)}
    assert first in ran
    assert set(ran) <= after  # equal output of a stage spares what follows it
    assert run_stages(store)[1] == []  # the results under the old settings are still there


@pytest.mark.slow
def test_stale_is_told_against_the_nearest_run(store: Path) -> None:
    run_stages(store, ["finetune.lr=0.3", "finetune.epochs=2"])
    assert states(store, "finetune.lr=0.4")["finetune"] == ("stale", "finetune.lr: 0.005 -> 0.4")


@pytest.mark.slow
def test_links_lead_to_the_latest_model_and_report(store: Path) -> None:
    place, name = Store(store), load_recipe(str(TINY)).name
    for settings in ((), ["fix.lr=0.3"], ()):
        done, _ = run_stages(store, settings)
        for stage in ("export", "report"):
            assert place.latest(name, stage).resolve() == done[stage].directory.resolve()
    assert (place.latest(name, "report") / "report.html").is_file()


def test_run_time_settings_change_nothing(store: Path) -> None:
    assert run_stages(store, ["run_time.workers=1", "run_time.checkpoint_seconds=5"])[1] == []


@pytest.mark.parametrize(
    ("stage", "name"),
    [
        ("teacher", "model.pdparams"),
        pytest.param("label", "shard-00001.labels.parquet", marks=pytest.mark.slow),
        ("data", "val.arrow"),
    ],
)
@pytest.mark.parametrize("how", ["deleted", "altered", "truncated"])
def test_a_damaged_artifact_reruns_its_stage_alone(
    store: Path, stage: str, name: str, how: str
) -> None:
    want = {name: r.digest for name, r in run_stages(store)[0].items()}
    path = run_stages(store)[0][stage].path(name)
    if how == "deleted":
        path.unlink()
    elif how == "altered":
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    else:
        path.write_bytes(path.read_bytes()[:-10])
    assert states(store)[stage][0] == "damaged"
    assert run_stages(store)[1] == [stage]
    assert digests(store) == want


def test_a_bit_flipped_under_an_unchanged_time_is_found_by_deep(store: Path) -> None:
    import os

    result = run_stages(store)[0]["select"]
    path = result.path("train.arrow")
    stat, data = path.stat(), bytearray(path.read_bytes())
    data[50] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert list(result.damages()) == []
    assert list(result.damages(deep=True)) == ["train.arrow was altered"]


def test_weights_that_are_not_here_are_told_and_those_not_asked_for_are_not(store: Path) -> None:
    (manifest,) = store.glob("teacher/*/manifest.json")
    content = read_json(manifest)
    content["settings"]["teacher"]["weights"] = "published"  # as of a run that had them
    write_json(manifest, content)
    recipe = load_recipe(str(TINY), ["teacher.image_size=48"])
    asked = recipe.with_teachers(lambda _, teacher: teacher.model_copy(update={"weights": "x"}))
    told = []
    for each in (recipe, asked.without_weights(lambda teacher: teacher.weights == "x")):
        rows = {row.stage: row for row in statuses(Session(each, Store(store)))}
        told.append((rows["teacher"].state, rows["teacher"].detail))
    given = "teacher.weights: published -> None"
    missing = "teacher.weights: not on this machine, `ssld run` downloads them"
    size = "teacher.image_size: 32 -> 48"
    assert told == [("stale", f"{size}; {given}"), ("stale", f"{size}; {missing}")]


def test_a_raised_version_is_stale_and_says_so(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    was = STAGES["select"].version
    monkeypatch.setitem(STAGES, "select", replace(STAGES["select"], version=99))
    assert states(store)["select"] == ("stale", f"code version {was} -> 99")


class Stopper(SilentMonitor):
    """Asks to stop after a number of progress reports."""

    def __init__(self, after: int) -> None:
        self.left = after

    @property
    def stop_requested(self) -> bool:
        return self.left <= 0

    def progress(self, done: int, total: int, unit: str) -> None:
        self.left -= 1


def run_with_stops(store: Path, after: Sequence[int]) -> int:
    """Run the recipe, stopping `after` as many reports, drawn, and going on; how many stops."""
    stops, rng = 0, random.Random(0)
    session = Session(load_recipe(str(TINY), ["run_time.checkpoint_seconds=0.05"]), Store(store))
    for stage in needed_for("export"):
        while True:
            try:
                session.run(stage, Stopper(rng.choice(after)))
                break
            except Interrupted:
                stops += 1
    return stops


@pytest.mark.slow
@pytest.mark.parametrize(("after", "least"), [([2, 8, 10**9], 5), ([1, 1, 2, 4, 8, 10**9], 9)])
def test_interrupted_runs_end_with_the_same_digests(
    finished: Path, tmp_path: Path, after: list[int], least: int
) -> None:
    assert run_with_stops(tmp_path, after) >= least
    want = {n: r.digest for n, r in run_stages(finished)[0].items() if n != "report"}
    got = {n: r.digest for n, r in run_stages(tmp_path, until="export")[0].items()}
    assert {n: d for n, d in want.items() if n in got} == got


def test_finished_shards_are_not_made_again(tmp_path: Path) -> None:
    session = Session(load_recipe(str(TINY)), Store(tmp_path))
    for name in ("data", "overlap"):
        session.run(STAGES[name], SilentMonitor())
    with pytest.raises(Interrupted):
        session.run(STAGES["dedup"], Stopper(35 + 40))  # 35 canaries, then 40 of the pool
    with session.store.lock("dedup", session.key(STAGES["dedup"])):
        assert states(tmp_path)["dedup"][0] == "running"
    (first,) = tmp_path.glob("dedup/*/shards/shard-00000.json")
    stamp = first.stat().st_mtime_ns
    state, detail = states(tmp_path)["dedup"]
    assert state == "partial"
    assert re.fullmatch(r"stopped at \d+ of (69|35) .*; goes on from what is saved", detail)
    session.run(STAGES["dedup"], SilentMonitor())
    assert first.stat().st_mtime_ns == stamp


def test_the_same_stage_twice_at_once_is_refused(finished: Path) -> None:
    session = Session(load_recipe(str(TINY)), Store(finished))
    stage = STAGES["data"]
    told = pytest.raises(UserError, match=r"being run by process \d+; wait for it or cancel it")
    with Store(finished).lock("data", session.key(stage)), told:
        session.run(stage, SilentMonitor())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), r"cannot write .*No space .*free space"),
        (MemoryError("Unable to allocate 3 GiB"), r"dedup: not enough memory \(Unable .*; give it"),
    ],
)
def test_what_the_machine_lacks_is_said_and_finished_work_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, told: str
) -> None:
    session = Session(load_recipe(str(TINY)), Store(tmp_path))
    for name in ("data", "overlap"):
        session.run(STAGES[name], SilentMonitor())
    write, calls = shards._write, []

    def fail_third(directory: Path, number: int, tables: object) -> None:
        calls.append(number)
        if len(calls) == 3:
            raise error
        write(directory, number, tables)  # type: ignore[arg-type]

    monkeypatch.setattr(shards, "_write", fail_third)
    with pytest.raises(UserError, match=told):
        session.run(STAGES["dedup"], SilentMonitor())
    assert len(list(tmp_path.glob("dedup/*/shards/shard-*.json"))) == 2
    assert not list(tmp_path.glob("dedup/*/manifest.json"))
    monkeypatch.undo()
    session.run(STAGES["dedup"], SilentMonitor())
    assert calls[:2] == [0, 1]


def test_an_engine_that_dies_while_precisions_are_compared_is_told_with_the_remedy(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(load_recipe(str(TINY)), Store(finished))
    work = Work("label", session.recipe, finished, "", {}, SilentMonitor())
    monkeypatch.setattr("ppcls_core.labels.teacher.fast_precisions", lambda: ("bf16",))
    died = ChildDied("it has ended with -9 (SIGKILL: killed, as for want of memory)")
    with pytest.raises(UserError, match=r"SIGKILL.*set `label.precision: fp32`"):
        label._compared(work, Mock(side_effect=died), 4)


class Remover(SilentMonitor):
    """Removes a folder when it hears of progress."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def progress(self, done: int, total: int, unit: str) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.parametrize("removed", ["", "dedup"])
def test_results_that_are_removed_meanwhile_are_told(tmp_path: Path, removed: str) -> None:
    session = Session(load_recipe(str(TINY)), Store(tmp_path / "store"))
    for name in ("data", "overlap"):
        session.run(STAGES[name], SilentMonitor())
    with pytest.raises(UserError, match=r"was removed while the stage ran; run again"):
        session.run(STAGES["dedup"], Remover(tmp_path / "store" / removed))
    assert "dedup" in run_stages(tmp_path / "store", until="dedup")[1]


def test_following_and_needed_agree() -> None:
    for name in STAGES:
        for other in needed_for(name):
            assert name in {stage.name for stage in following(other.name)}


def fail(work: object) -> None:
    raise OSError("458752 requested and 368512 written")  # as NumPy says it, without errno


def test_a_full_disk_is_told_from_other_failures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    stage = replace(STAGES["data"], function=f"{__name__}:fail")
    session = Session(load_recipe(str(TINY)), Store(tmp_path))
    with pytest.raises(OSError, match="requested"):
        session.run(stage, SilentMonitor())
    monkeypatch.setattr(Store, "is_full", lambda store: True)
    with pytest.raises(UserError, match="free space or set SSLD_HOME"):
        session.run(stage, SilentMonitor())


@pytest.mark.slow
def test_a_recipe_of_data_teacher_and_student_runs(tmp_path: Path) -> None:
    """All that it leaves out suits all else; settings alone make it small."""
    whole = yaml.safe_load(TINY.read_text())
    short = {name: whole[name] for name in ("data", "teacher", "student")}
    for name in ("labelled", "pool"):
        short["data"][name] = str(TINY.parent / "few.yaml")
    (tmp_path / "short.yaml").write_text(yaml.safe_dump(short))
    settings = ["distill.epochs=1", "distill.batch_size=8", "distill.image_size=32"]
    settings.append("dedup.canaries=0")
    session = Session(load_recipe(str(tmp_path / "short.yaml"), settings), Store(tmp_path / "s"))
    for stage in needed_for("report"):
        session.run(stage, SilentMonitor())
    assert session.done["evaluate"].metrics


@pytest.mark.slow
def test_a_recipe_without_a_pool_says_so_wherever_it_is_read(store: Path, tmp_path: Path) -> None:
    """The training images stand for the pool, and what `ssld init` left out is told with them."""
    names = ("few.yaml", *(f"few/{name}.tar" for name in ("train", "val")))
    (tmp_path / "few").mkdir()
    for name in names:
        shutil.copyfile(TINY.parent / name, tmp_path / name)
    data = (tmp_path / "few.yaml").read_text().replace("pool.tar", "train.tar")
    (tmp_path / "few.yaml").write_text(data.replace("planted: planted.csv\n", ""))
    lost = {"reason": "is a copy", "number": 4, "names": ["a/1.jpg", "a/2.jpg", "a/3.jpg"]}
    write_json(tmp_path / INIT, {"left_out": [lost]})
    recipe = tmp_path / "no_pool.yaml"
    recipe.write_text(TINY.read_text())
    session = Session(load_recipe(str(recipe), ["select.policy=none"]), Store(store))
    monitor = Mock(spec=SilentMonitor, stop_requested=False)
    for stage in needed_for("report"):
        session.run(stage, monitor)
    done = session.done
    assert not has_pool(done["data"])
    assert done["dedup"].metrics[TAKEN_OVER] == str(done["overlap"].directory)
    pairs = [pq.read_table(done[name].path("pairs.parquet")) for name in ("overlap", "dedup")]
    assert pairs[0] == pairs[1]
    assert shown_counts(done["data"], done) == {"train": 30, "val": 27, "pool": 0}
    shown = {"in": 30, "kept": 0, "with the labelled ones": 30}
    assert shown_counts(done["select"], done) == shown
    rows = [(row.stage, row.number) for row in left_out(done.values()) if row.number]
    assert rows == [("ssld init", 4)]
    page = done["report"].path("report.html").read_text()
    card = done["report"].path("model_card.md").read_text()
    for text in (page, card):
        assert re.search(r"(<strong>)?30(</strong>)? labelled images alone, without a pool", text)
        assert "is a copy" in text
        assert "pool image" not in text
        assert "not among the best" not in text
    assert (
        "was trained in this run from random weights on the 30 images of `train`, 2 epochs" in card
    )
    assert "| train and teacher | 30 |" in card
    assert "| pool |" not in card
