"""Training from stored outputs of the teacher: the same views, nearly the same loss, no teacher."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from data_catalog.base.config import UserError
from data_catalog.images.columns import read_images
from ppcls_core.engine.device import to_device
from ppcls_core.engine.objectives import distillation, replay
from ppcls_core.labels.labeller import check_labels
from ppcls_core.labels.store import LabelStore
from ppcls_core.runtime.monitor import SilentMonitor
from tasks.recipe import load_recipe
from tasks.run.stage import Work
from tasks.stages.training import new_student, run_of, stored_outputs, teacher_model
from tests.conftest import TINY
from tests.flows.conftest import run_stages

RUNNING = ["distill.teacher_batch_norm=running", "finetune.teacher_batch_norm=running"]
REPLAY = [*RUNNING, "label.views=2", "distill.teacher=replay", "finetune.teacher=replay"]


@pytest.fixture(scope="module")
def replayed(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("replay") / "store"
    shutil.copytree(finished, store, copy_function=shutil.copy2)
    _, ran = run_stages(store, REPLAY, until="finetune")
    assert ran == ["views", "distill", "finetune"]
    return store


def losses(store: Path, settings: list[str]) -> tuple[list[float], list[float]]:
    """Of a student on each batch of two epochs: (by the teacher itself, by what is stored)."""
    done, _ = run_stages(store, settings, until="views")
    recipe = load_recipe(str(TINY), settings)
    work = Work("distill", recipe, store, "", done, SilentMonitor())
    name, config = "select/train.arrow", recipe.distill
    online, stored = run_of(work, name, config), run_of(work, name, config, stored_outputs(work))
    student = new_student(work)
    student.train()
    both = (
        (distillation([teacher_model(work)], "ssld", "running"), online.loader),
        (replay("ssld"), stored.loader),
    )
    batches = [list(each.batches(0, 0, 2)) for _, each in both]
    for one, other in zip(*batches, strict=True):
        assert np.array_equal(one.pixels, other.pixels)
    by_teacher, by_store = (
        [float(objective(student, to_device(batch).parts[0])[0]) for batch in parts]
        for (objective, _), parts in zip(both, batches, strict=True)
    )
    return by_teacher, by_store


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "bound"),
    [([], 0.02), (["label.precision=fp32"], 1e-4)],
)
def test_losses_are_those_of_the_teacher_itself(replayed, settings, bound) -> None:
    online, stored = losses(replayed, [*REPLAY, *settings])
    assert np.allclose(online, stored, rtol=bound)
    assert online != stored


def test_every_view_of_every_image_is_labelled_once(replayed: Path) -> None:
    done, ran = run_stages(replayed, REPLAY, until="views")
    assert ran == []
    store = LabelStore.open(done["views"].directory)
    images = list(read_images(done["select"].path("train.arrow"), {}).ids)
    assert len(store) == 2 * len(images) == done["views"].counts["out"]
    first, second = (store.logprobs(images, view) for view in (1, 2))
    assert not np.allclose(first, second)
    with pytest.raises(UserError, match="view 3"):
        store.logprobs(images[:1], 3)


def test_a_sample_labelled_again_agrees(replayed: Path) -> None:
    done, _ = run_stages(replayed, REPLAY, until="views")
    for stage in ("label", "views"):
        drift = check_labels(done[stage].directory, 20, 1)
        assert drift.num == 20
        assert drift.agreement.top1 >= 0.9
        assert drift.agreement.kl < 0.01


def test_labels_of_other_weights_are_refused(replayed: Path) -> None:
    done, _ = run_stages(replayed, REPLAY, until="views")
    weights = done["teacher"].path("model.pdparams")
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        with pytest.raises(UserError, match="labelled with teacher"):
            check_labels(done["views"].directory, 4, 1)
    finally:
        weights.write_bytes(content)


def test_labels_of_other_code_are_refused(replayed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done, _ = run_stages(replayed, REPLAY, until="views")
    monkeypatch.setattr("ppcls_core.labels.labeller.VERSION", 99)
    with pytest.raises(UserError, match="labelled with preprocessing"):
        check_labels(done["views"].directory, 4, 1)


@pytest.mark.slow
def test_labels_are_the_same_from_any_number_of_processes(
    replayed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, _ = run_stages(replayed, REPLAY, until="label")
    shutil.rmtree(before["label"].directory)
    monkeypatch.setenv("OMP_NUM_THREADS", str(1 + int(os.environ["OMP_NUM_THREADS"])))
    again, ran = run_stages(replayed, REPLAY, until="label")
    assert ran == ["label"]
    assert again["label"].digest == before["label"].digest


@pytest.mark.slow
def test_one_label_an_image_serves_all_its_views(replayed: Path) -> None:
    settings = [*REPLAY, "label.views=0"]
    done, ran = run_stages(replayed, settings, until="finetune")
    assert ran == ["views", "distill", "finetune"]
    images = list(read_images(done["select"].path("train.arrow"), {}).ids)
    # Those of the pool have their labels already.
    own = LabelStore.open(done["views"].directory)
    num_there = int(LabelStore.open(done["label"].directory).has(images, 0).sum())
    assert len(own) == done["views"].counts["out"] == len(images) - num_there
    assert 0 < num_there < len(images)
    work = Work("distill", load_recipe(str(TINY), settings), replayed, "", done, SilentMonitor())
    run = run_of(work, "select/train.arrow", work.recipe.distill, stored_outputs(work))
    assert run.replay
    known = {row.tobytes() for row in run.replay.store.logprobs(images, 0)}
    batches = list(run.loader.batches(0, 0, 2))
    assert all(row.tobytes() in known for batch in batches for row in batch.targets)


def test_other_learning_rates_use_the_same_labels(replayed: Path) -> None:
    _, ran = run_stages(replayed, [*REPLAY, "distill.lr=0.01"], until="distill")
    assert ran == ["distill"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["distill.teacher=replay", "label.views=2"], "needs `teacher_batch_norm: running`"),
        ([*REPLAY, "distill.mix={name: Mixup}"], "exclude each other"),
        ([*REPLAY, "finetune.image_size=48"], "needs the augmentation and image_size of"),
    ],
)
def test_what_cannot_be_replayed_is_refused(settings: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_recipe(str(TINY), settings)
