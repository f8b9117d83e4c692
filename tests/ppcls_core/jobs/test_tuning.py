"""`ppcls search`: spaces, studies, trials, and what becomes of searches that are killed."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import yaml
from optuna.trial import TrialState

from data_catalog.base.errors import UserError
from data_catalog.base.files import LockHeld, locked
from ppcls_core.jobs.job import load_job
from ppcls_core.jobs.tuning import run as tuning
from ppcls_core.jobs.tuning import study as studies
from ppcls_core.jobs.tuning.rows import TrialRow, Trials
from ppcls_core.jobs.tuning.settings import SearchSettings, check_installed
from ppcls_core.jobs.tuning.space import load_space
from ppcls_core.jobs.tuning.study import HyperSearch, found, next_trial, open_study, rows_of
from ppcls_core.jobs.tuning.trial import run_trial
from ppcls_core.report.page import render_tuning
from ppcls_core.report.tuning import write_search_results
from ppcls_core.runtime.monitor import Interrupted
from tests.conftest import PROJECT
from tests.support.images import write_lists

OWN = """
model: {name: ResNet18_vd, spec: {depths: [1, 1, 1, 1], width: 4}}
num_classes: 3
train: {list: train.txt, root: images}
val: {list: val.txt, root: images}
preprocess: {size: 32}
training: {epochs: 2, batch_size: 4, image_size: 32, lr: 0.05, eval_every: 1}
workers: 1
"""
PADDLECLAS = """
ARCHITECTURE: {name: ResNet50_vd}
epochs: 20
classes_num: 102
LEARNING_RATE: {function: Linear, params: {lr: 0.01, steps: 10}}
OPTIMIZER: {function: Momentum, params: {momentum: 0.9}, regularizer: {function: L2, factor: 0.1}}
TRAIN: {batch_size: 32, file_list: train.txt, data_dir: images}
VALID: {batch_size: 64, file_list: val.txt, data_dir: images}
"""
SPACE = """
training.lr: [0.1, 0.01, 1e-3]
training.label_smoothing: [0, 0.1]
"""
PARENT = SimpleNamespace(stop_requested=False)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_lists(tmp_path)
    Path("job.yaml").write_text(OWN)
    Path("paddleclas.yaml").write_text(PADDLECLAS)
    Path("space.yaml").write_text(SPACE)
    return tmp_path


def ignore(line: str) -> None:
    """Take a line of the log."""


def make(*settings: str, space: str = "space.yaml", **how: object) -> HyperSearch:
    given = SearchSettings.model_validate(how)
    return tuning.make_search(Path("job.yaml"), list(settings), space, given, ignore)


def run(search: HyperSearch, number: int = 1000) -> list[TrialRow]:
    """Run trials in this process, at most `number`; what they were."""
    rows, study = [], open_study(search)
    while len(rows) < number and (row := run_trial(search, study, PARENT)):
        rows.append(row)
    return rows


def fake(monkeypatch: pytest.MonkeyPatch, top1, told: list | None = None) -> None:
    """In place of a training, `top1` of its job: an epoch's each, or what it raises."""

    def train(job, log, supervisor):
        curve = top1(job)
        for epoch, value in enumerate(curve, 1):
            supervisor.after_epoch({"epoch": epoch, "top1": value})
        if told is not None:
            told.append(job)
        job.folder.mkdir(parents=True)
        (job.folder / "history.json").write_text(json.dumps([{"top1": v} for v in curve]))
        (job.folder / "job.json").write_text(json.dumps({"inputs": {"training images": "a"}}))
        return job.folder

    monkeypatch.setattr("ppcls_core.jobs.tuning.trial.train", train)


def by_rate(job) -> list[float]:
    return [0.9 - abs(job.training.lr - 0.01) - job.training.label_smoothing / 10] * 2


# Spaces.


@pytest.mark.parametrize("config", ["job.yaml", "paddleclas.yaml"])
def test_the_manuals_space_has_its_196_points_in_either_form(folder, config):
    space = load_space("transfer", Path(config), [])
    jobs = [
        load_job(Path(config), list(space.overrides(point))).training for point in space.points()
    ]
    points = {
        (job.lr, job.regularizer.factor, job.label_smoothing, job.mix and job.mix.alpha)
        for job in jobs
    }
    assert space.size == len(points) == 196
    assert {lr for lr, *_ in points} == {0.1, 0.03, 0.01, 0.003, 0.001, 3e-4, 1e-4}
    assert {l2 for _, l2, *_ in points} == {1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6}
    assert {(ls, mix) for *_, ls, mix in points} == {(0, None), (0.1, None), (0, 0.2), (0.1, 0.2)}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("training.lrr: [0.1, 0.2]", "unknown setting 'training.lrr'; did you mean 'training.lr'"),
        ("training.lr: [0.1, high]", "training.lr: expected a number, got 'high'"),
        ("training.lr: [0.1, -1]", "training.lr: expected a value greater than 0"),
        ("training.lr: 3", "expected a list of values, {low: a, high: b}, or choices by name"),
        ("training.lr: [0.1]", "nothing to choose from"),
        ("training.lr: []", "nothing to choose from"),
        ("training.lr: [0.1, 0.1]", "given twice"),
        ("training.lr: {low: 1, high: 0.1}", "expected low < high"),
        ("training.lr: {low: 0, high: 0.1, log: true}", "0 < low under `log`"),
        ("workers: [1, 2]", "workers: does nothing here: 1 and 2 make the same training"),
        ("output: [a, b]", "output: does nothing here"),
        ("model.spec.lr_mult_list: [[1, 1, 1, 1, 1], [1, 1]]", "lr_mult_list"),
        ("{}", "is empty"),
        ("", "expected `key: value` lines"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused(folder, text, words):
    Path("space.yaml").write_text(text)
    with pytest.raises(UserError, match=re.escape(words)):
        make()


def test_keys_that_do_nothing_in_paddleclas_file_are_refused(folder):
    for key in ("unknown_key", "LEARNING_RATE.params.gamma", "topk"):
        Path("space.yaml").write_text(f"{key}: [1, 2]")
        with pytest.raises(UserError, match=f"{key}: does nothing here"):
            load_space("space.yaml", Path("paddleclas.yaml"), [])


def test_ranges_and_named_choices_and_factors_are_searched(folder):
    Path("space.yaml").write_text(
        "training.lr: {low: 1e-4, high: 1e-1, log: true}\n"
        "training.batch_size: {low: 2, high: 6}\n"
        "model.spec.lr_mult_list: [[1, 1, 1, 1, 1], [0.1, 0.1, 0.2, 0.2, 0.3]]\n"
        "both: {weak: {training.epochs: 1, seed: 3}, strong: {training.epochs: 2}}\n"
    )
    search = make(sampler="random", trials=6)
    assert search.space.size is None
    study = open_study(search)
    for _ in range(6):
        with next_trial(search, study) as trial:
            (job,) = search.jobs(search.overrides(trial))
            study.tell(trial, 0.5)
        assert 1e-4 <= job.training.lr <= 0.1
        assert 2 <= job.training.batch_size <= 6
        assert len(job.model.spec["lr_mult_list"]) == 5
        assert (job.training.epochs, job.seed) in {(1, 3), (2, 0)}
    with pytest.raises(UserError, match="the space has a range"):
        make(sampler="grid")


def test_a_search_without_validations_is_refused(folder):
    with pytest.raises(UserError, match="no epoch is validated"):
        make("training.eval_every=0")


def test_without_optuna_the_command_that_installs_it_is_told(monkeypatch):
    monkeypatch.setattr("ppcls_core.jobs.tuning.settings.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'ssld\[search\]'"):
        check_installed()


# Trials.


def test_a_grid_is_trained_and_its_best_file_trains_the_best(folder):
    search = make(sampler="grid", trials=2)
    rows = run(search)
    assert [row.state for row in rows] == ["complete", "complete"]
    lines: list[str] = []
    trials = write_search_results(search, lines.append)
    assert trials.best is not None
    job = load_job(search.folder / "best.yaml", [])
    assert f"training.lr={job.training.lr}" in trials.best.overrides
    with (search.folder / "trials.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["state"] for row in table] == ["complete", "complete"]
    assert [float(row["training.lr"]) for row in table if row["top1"]]
    page = (search.folder / "search.html").read_text()
    assert page.count("data:image/svg+xml") == 2  # too few for importances
    assert "http://" not in page.replace("http://www.w3.org", "")
    # Weights are kept of the best alone.
    kept = {path.parents[2].name for path in search.folder.rglob("*.pdparams")}
    assert kept == {search.trial_folder(trials.best.overrides).name}
    assert run(search) == []
    assert len(run(make(sampler="grid", trials=3))) == 1  # more of the same search


def test_every_point_of_a_grid_is_tried_once_and_no_other_sampler_repeats_one(folder, monkeypatch):
    fake(monkeypatch, by_rate)
    for sampler in ("grid", "random", "bayes"):
        search = make(f"output={sampler}", sampler=sampler, trials=1000)
        rows = run(search)
        assert len({row.overrides for row in rows}) == len(rows) == 6
        best = found(search, open_study(search)).best
        assert best.overrides == ("training.lr=0.01", "training.label_smoothing=0")


def test_seeds_are_repeated_and_their_mean_counts(folder, monkeypatch):
    jobs: list = []
    fake(monkeypatch, lambda job: [0.1 * job.seed], jobs)
    (row,) = run(make("seed=5", repeats=3, trials=1))
    assert [job.seed for job in jobs] == [5, 6, 7]
    assert row.top1 == pytest.approx((0.5, 0.6, 0.7))
    assert row.mean == pytest.approx(0.6)


def test_hopeless_trials_are_pruned_unless_asked_not_to(folder, monkeypatch):
    Path("space.yaml").write_text("training.lr: [0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.09, 0.08, 0.07]")
    fake(monkeypatch, lambda job: [job.training.lr] * 3)
    settings = {"sampler": "random", "trials": 9}
    assert {row.state for row in run(make(prune=False, **settings))} == {"complete"}
    rows = run(make("output=pruned", "training.epochs=3", **settings))
    assert "pruned" not in {row.state for row in rows[:5]}
    assert any(row.state == "pruned" and row.mean is None for row in rows)


def test_what_cannot_be_pruned_is_told(folder):
    lines: list[str] = []
    for settings in (["training.eval_every=2"], [], LONG):
        tuning.make_search(Path("job.yaml"), settings, "space.yaml", SearchSettings(), lines.append)
    assert len(lines) == 1
    assert "no trial can be pruned" in lines[0]


def test_a_failed_trial_is_counted_and_told_and_all_failing_is_an_error(folder, monkeypatch):
    def nan(job):
        if job.training.lr > 0.05:
            raise UserError("the loss is nan at step 3")
        return by_rate(job)

    fake(monkeypatch, nan)
    search = make(sampler="grid")
    rows = run(search)
    assert [row.state for row in rows].count("failed") == 2
    trials = found(search, open_study(search))
    assert trials.count("failed") == 2
    assert len(trials.rows) == 6
    (line, *_) = [tuning.trial_line(row) for row in rows if row.state == "failed"]
    assert "the loss is nan at step 3" in line
    assert "the loss is nan at step 3" in render_tuning(trials, "", "")

    fake(monkeypatch, lambda job: nan(job.model_copy(update={"training": HIGH})))
    search = make("output=all", sampler="grid")
    run(search)
    with pytest.raises(
        UserError, match=r"all 6 trials failed; the first, with .*: the loss is nan"
    ):
        write_search_results(search, ignore)


LONG = ["training.epochs=10", "training.eval_every=7"]
HIGH = SimpleNamespace(lr=1.0)


def test_a_loss_that_is_not_finite_fails_the_trial(folder):
    Path("space.yaml").write_text("training.lr: [1e30, 1e32]")
    search = make("training.schedule={name: CosineWarmup, warmup_epochs: 0}", sampler="grid")
    rows = run(search)
    assert [row.state for row in rows] == ["failed", "failed"]
    assert all("finite" in row.reason or "nan" in row.reason for row in rows)
    assert list(search.folder.rglob("*.pdckpt")) == []


def test_changed_images_fail_the_trials_that_saw_them(folder):
    search = make(sampler="grid", trials=2)
    assert run(search, 1)[0].state == "complete"
    cv2.imwrite("images/0.png", np.zeros((40, 40, 3), np.uint8))
    (row,) = run(search, 1)
    assert "training images and validation images have changed since the first trial" in row.reason


# Storages.


@pytest.mark.parametrize("storage", [None, "sqlite:///search.db"])
def test_a_storage_of_another_search_is_refused_and_the_difference_named(folder, storage):
    open_study(make(storage=storage))
    with pytest.raises(UserError, match=r"training\.training\.epochs: 2 there, 3 here"):
        open_study(make("training.epochs=3", storage=storage))
    with pytest.raises(UserError, match="repeats: 1 there, 2 here"):
        open_study(make(storage=storage, repeats=2))
    Path("space.yaml").write_text("training.lr: [0.1, 0.2]\ntraining.label_smoothing: [0, 0.1]")
    with pytest.raises(UserError, match=r"space\.training\.lr"):
        open_study(make(storage=storage))
    Path("space.yaml").write_text(SPACE)
    open_study(make("workers=2", storage=storage, trials=3, sampler="grid"))
    if storage:
        with pytest.raises(UserError, match="folder: "):
            open_study(make("output=other", storage=storage))


@pytest.mark.parametrize(
    ("storage", "words"),
    [
        ("search.db", "expected a URL"),
        ("nonsense://x", "cannot be opened"),
        ("sqlite:////nowhere/x.db", "cannot be opened"),
    ],
)
def test_a_storage_that_cannot_be_opened_is_told(folder, storage, words):
    with pytest.raises(UserError, match=words):
        open_study(make(storage=storage))


def test_a_damaged_journal_is_told(folder):
    search = make()
    open_study(search)
    journal = search.folder / studies.JOURNAL
    journal.write_bytes(b"x\n" + journal.read_bytes())
    with pytest.raises(UserError, match="cannot be opened"):
        open_study(search)


# Deaths.


@pytest.mark.parametrize("storage", [None, "sqlite:///search.db"])
def test_a_trial_whose_process_died_is_tried_again_and_counted_once(folder, monkeypatch, storage):
    fake(monkeypatch, by_rate)
    search = make(sampler="grid", storage=storage, prune=False)
    study = open_study(search)
    with next_trial(search, study) as lost:  # left without a word to the study: as if killed
        point = search.overrides(lost)
        with next_trial(search, open_study(search)) as other:  # of a live process: another point
            assert search.overrides(other) != point
            assert len(rows_of(search, study)) == 2
            other.set_user_attr(studies.TOP1, [0.5])
            study.tell(other, 0.5)
    rows = run(search)
    assert rows[0].overrides == point
    assert len(rows) == 5
    trials = found(search, study)
    assert len({row.overrides for row in trials.rows}) == len(trials.rows) == 6
    assert trials.count("complete") == 6
    assert {t.state for t in study.trials if t.number == lost.number} == {TrialState.FAIL}


def test_a_point_that_kills_its_process_again_and_again_fails(folder, monkeypatch):
    fake(monkeypatch, by_rate)
    search = make(sampler="grid")
    points = set()
    for _ in range(studies.MAX_ATTEMPTS):
        with next_trial(search, open_study(search)) as trial:
            points.add(search.overrides(trial))
    assert len(points) == 1
    rows = run(search)
    assert len(rows) == 5
    (row,) = [row for row in rows_of(search, open_study(search)) if row.state == "failed"]
    assert row.reason == "its process was killed 3 times"
    assert row.overrides in points


def test_searches_at_once_share_the_points(folder, monkeypatch):
    fake(monkeypatch, by_rate)
    search = make(sampler="bayes", trials=6)
    made: list[list[TrialRow]] = []
    threads = [threading.Thread(target=lambda: made.append(run(search))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = [row for each in made for row in each]
    assert len({row.overrides for row in rows}) == len(rows) == 6


def test_a_trial_that_ends_just_after_it_was_read_is_not_taken_for_lost(folder, monkeypatch):
    search = make(sampler="grid", trials=2)
    study = open_study(search)
    with next_trial(search, study) as trial:
        running = study.get_trials(states=(TrialState.RUNNING,))
        study.tell(trial, 0.5)
    assert [each.number for each in running] == [trial.number]
    read = study.get_trials
    monkeypatch.setattr(study, "get_trials", lambda **how: running if how.get("states") else read())
    with next_trial(search, study) as other:
        assert search.overrides(other) != search.overrides(trial)
    assert read()[trial.number].state == TrialState.COMPLETE


def test_a_stopped_trial_goes_on_from_its_checkpoint(folder):
    search = make(sampler="grid", trials=1)
    parent = SimpleNamespace(stop_requested=True)
    with pytest.raises(Interrupted):
        run_trial(search, open_study(search), parent)
    (log,) = search.folder.rglob("log.txt")
    assert "resumes" not in log.read_text()
    (row,) = run(search)
    assert row.state == "complete"
    assert "resumes at step 1 of 6" in log.read_text()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_search_survives_the_kill_of_a_worker_and_its_own(folder):
    command = [sys.executable, "-m", "ppcls_core.cli.app", "search", "-c", "job.yaml"]
    # Not pruned: which point the others judge depends on which of them end first.
    command += ["--space", "space.yaml", "--sampler", "grid", "--jobs", "2", "--no-prune"]
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "PYTHONPATH": str(PROJECT)}
    search = make("training.epochs=40", sampler="grid")
    command += ["-o", "training.epochs=40"]

    def started(number: int) -> list[Path]:
        return [p for p in search.folder.glob("trials/*/log.txt") if "step" in p.read_text()][
            :number
        ]

    def start() -> subprocess.Popen:
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    def wait(number: int) -> None:
        end = time.monotonic() + 300
        while len(started(number)) < number and time.monotonic() < end:
            time.sleep(0.05)
        assert len(started(number)) == number

    first = start()
    wait(2)
    (lock, *_) = [p for p in search.folder.glob("trials/*/lock") if _is_locked(p)]
    os.kill(int(lock.read_text()), signal.SIGKILL)  # a worker: another takes its place
    wait(3)
    first.kill()
    first.communicate()
    second = start()
    out, _ = second.communicate(timeout=500)
    assert second.returncode == 0, out
    rows = rows_of(search, open_study(search))
    assert len({row.overrides for row in rows}) == len(rows) == 6
    assert {row.state for row in rows} == {"complete"}


def _is_locked(path: Path) -> bool:
    try:
        with locked(path):
            return False
    except LockHeld:
        return True


# The page.


def test_the_page_shows_what_there_is(folder):
    rows = tuple(
        TrialRow(n, "complete", {"lr": str(n), "mix": "null"}, (f"lr={n}",), (n / 10,), (), 61.0)
        for n in range(1, 6)
    )
    trials = Trials(rows, rows[-1], {"lr": 0.9, "mix": 0.1})
    page = render_tuning(trials, "lr: <5>", "about")
    assert page.count("data:image/svg+xml") == 3
    assert "lr: &lt;5&gt;" in page
    assert page == render_tuning(trials, "lr: <5>", "about")  # the same bytes each time
    empty = render_tuning(Trials((), None), "", "")
    assert "No trial is complete yet" in empty


def test_the_best_file_of_paddleclas_form_is_read_again(folder, monkeypatch):
    fake(monkeypatch, lambda job: [job.training.lr])
    how = SearchSettings(sampler="grid", trials=3)
    search = tuning.make_search(Path("paddleclas.yaml"), [], "transfer", how, ignore)
    run(search)
    best = tuning.write_results(search).best
    data = yaml.safe_load((search.folder / "best.yaml").read_text())
    assert f"LEARNING_RATE.params.lr={data['LEARNING_RATE']['params']['lr']}" in best.overrides
    assert load_job(search.folder / "best.yaml", []).training.lr == best.mean
