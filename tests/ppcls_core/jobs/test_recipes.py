"""PaddleClas's recipes of 2020: what they hold, typed here a second time, and how they run."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from data_catalog.base.config import UserError
from ppcls_core.data.augment import (
    AutoAugment,
    CutMix,
    Cutout,
    GridMask,
    HideAndSeek,
    Mixup,
    RandAugment,
    RandomErasing,
)
from ppcls_core.engine.optimizers import Momentum, RMSProp
from ppcls_core.engine.schedules import Cosine, CosineWarmup, ExponentialWarmup, Piecewise
from ppcls_core.jobs.job import Job, load_job
from ppcls_core.jobs.paddleclas.recipes import recipe_name, recipe_rows, recipe_text
from ppcls_core.jobs.train import evaluate_job, train
from ppcls_core.models.registry import known_models

NAMES = tuple(recipe_rows())
STEPS = Piecewise(decay_epochs=(30, 60, 90), gamma=0.1)
WARMUP = CosineWarmup(warmup_epochs=5)


def load(name: str, *settings: str) -> Job:
    return load_job(Path(name), list(settings))


def test_every_recipe_becomes_a_job_of_its_own_and_no_setting_is_passed_over(caplog):
    jobs = {name: load(name) for name in NAMES}
    assert len(jobs) == 127
    assert len({job.folder for job in jobs.values()}) == 127
    assert not caplog.records
    assert {job.model.name for job in jobs.values()} <= {*known_models()}
    for name, job in jobs.items():
        assert (job.learning is None) == (name == "eval")
        assert (job.num_classes == 102) == name.startswith("quick_start/")
        assert job.save_every == 1


def test_a_recipe_s_text_is_the_recipe(tmp_path):
    for name in NAMES[::10]:
        path = tmp_path / "my.yaml"
        path.write_text(recipe_text(name))
        assert load_job(path, []) == load(name)


@pytest.mark.parametrize(
    ("name", "epochs", "batch", "lr", "schedule", "l2", "smoothing", "mix"),
    [
        ("ResNet/ResNet50", 120, 256, 0.1, STEPS, 1e-4, 0.0, None),
        ("ResNet/ResNet50_vd", 200, 256, 0.1, Cosine(), 7e-5, 0.1, Mixup(alpha=0.2)),
        ("VGG/VGG19", 150, 256, 0.01, Cosine(), 4e-4, 0.0, None),
        ("MobileNetV1/MobileNetV1_x0_25", 120, 256, 0.1, STEPS, 3e-5, 0.0, None),
        ("MobileNetV3/MobileNetV3_large_x0_5", 360, 2048, 1.3, WARMUP, 2e-5, 0.1, None),
        ("ResNeSt/ResNeSt50", 300, 256, 0.1, WARMUP, 7e-5, 0.1, CutMix(alpha=0.2)),
        ("EfficientNet/EfficientNetB0", 360, 512, 0.032, ExponentialWarmup(), 1e-5, 0.1, None),
        ("kunlun/ResNet50", 120, 20, 0.0078125, STEPS, 1e-4, 0.0, None),
        ("quick_start/ResNet50_vd_finetune", 20, 32, 0.00375, Cosine(), 1e-6, 0.0, None),
    ],
)
def test_trainings(name, epochs, batch, lr, schedule, l2, smoothing, mix):  # noqa: PLR0913
    training = load(name).training
    assert training
    got = (training.epochs, training.batch_size, training.lr, training.schedule)
    assert got == (epochs, batch, lr, schedule)
    assert training.regularizer.factor == pytest.approx(l2)
    assert (training.label_smoothing, training.mix) == (smoothing, mix)
    is_efficient = name.startswith("EfficientNet")
    optimizer = RMSProp(momentum=0.9, rho=0.9, epsilon=1e-3) if is_efficient else Momentum()
    assert training.optimizer == optimizer
    assert training.ema_decay == (0.9999 if is_efficient else None)


@pytest.mark.parametrize(
    ("name", "operator"),
    [
        ("AutoAugment", AutoAugment()),
        ("RandAugment", RandAugment(num_layers=2, magnitude=5)),
        ("Cutout", Cutout(num_holes=1, length=112)),
        ("RandomErasing", RandomErasing(prob=0.5, area=(0.02, 0.4), aspect=(0.3, 1 / 0.3))),
        ("HideAndSeek", HideAndSeek()),
        ("GridMask", GridMask(d=(96, 224), rotate=1, ratio=0.5, mode=0)),
    ],
)
def test_augmentations(name, operator):
    training = load(f"DataAugment/ResNet50_{name}").training
    assert training and training.augmentation[2:] == (operator,)
    assert (training.epochs, training.schedule) == (300, Cosine())


def test_distillations_and_the_evaluation():
    job = load("Distillation/ResX101_32x16d_wsl_distill_R50_vd")
    assert job.teacher and job.distill
    assert (job.teacher.model.name, job.model.name) == ("ResNeXt101_32x16d_wsl", "ResNet50_vd")
    assert job.teacher.weights == "./pretrained/ResNeXt101_32x16d_wsl_pretrained"
    assert (job.distill.loss, job.distill.epochs, job.distill.lr) == ("ssld", 120, 0.4)
    job = load("eval")
    assert (job.weights, job.train) == ("./pretrained_model/ResNet50_vd_pretrained", None)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "ResNet/ResNet5_vd",
            "no such file, and no such recipe; did you mean 'ResNet/ResNet50_vd'",
        ),
        ("resnet50_VD", "did you mean 'ResNet/ResNet50_vd' or 'quick_start/ResNet50_vd'?"),
        ("resnet", "recipes are called so in part: `ppcls recipe '*resnet*'`"),
        ("darknet", "did you mean 'DarkNet/DarkNet53'?"),
        ("ResNet50_vd_finetune", "did you mean 'quick_start/ResNet50_vd_finetune'?"),
        ("nothing like it", "`ppcls recipe --list` names them all"),
        ("none.yaml", "none.yaml: no such file"),
    ],
)
def test_unknown_names(given, message):
    with pytest.raises(UserError) as caught:
        load(given)
    assert message in str(caught.value)


def test_the_manual_s_paths_are_names_where_there_is_no_such_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = "./configs/quick_start/ResNet50_vd.yaml"
    assert load(path) == load("quick_start/ResNet50_vd")
    Path("configs/quick_start").mkdir(parents=True)
    Path(path).write_text(recipe_text("VGG/VGG11"))
    assert load(path).model.name == "VGG11"
    Path("eval").mkdir()
    assert load("eval").val  # a folder is no file


SMALL = [
    *("classes_num=3", "epochs=2", "TRAIN.batch_size=4", "image_shape=[3, 32, 32]"),
    *("TRAIN.transforms.1.RandCropImage.size=32", "VALID.transforms.1.ResizeImage.resize_short=36"),
    *("VALID.transforms.2.CropImage.size=32", "TRAIN.num_workers=1"),
]
NET = "MobileNetV3_small_x0_35"


@pytest.mark.slow
def test_recipes_one_after_the_other_each_from_the_weights_of_the_last(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("dataset/flowers102")
    folder.mkdir(parents=True)
    rng, lines = np.random.default_rng(0), []
    for row in range(9):
        cv2.imwrite(str(folder / f"{row}.png"), rng.integers(0, 256, (40, 40, 3), np.uint8))
        lines.append(f"{row}.png {row % 3}\n")
    for split in ("train", "val", "train_extra"):
        (folder / f"{split}_list.txt").write_text("".join(lines))

    def run(name: str, network: str, weights: object) -> Path:
        settings = [f"ARCHITECTURE.name={network}", f"pretrained_model={weights}"]
        return train(load(f"quick_start/{name}", *SMALL, *settings), lambda line: None)

    first = run("ResNet50_vd", NET, "")
    second = run("ResNet50_vd_ssld_random_erasing_finetune", NET, first / "1/ppcls")
    weights = f"[{second}/1/ppcls, {first}]"  # of the teacher and of the student
    third = run("R50_vd_distill_MV3_large_x1_0", f"{NET}_distill_{NET}", weights)
    assert second == Path(f"output/quick_start/ResNet50_vd_ssld_random_erasing_finetune/{NET}")
    for made in (first, second, third):
        assert (made / "1/ppcls.pdparams").is_file()
    taught = [*SMALL, f"ARCHITECTURE.name={NET}_distill_{NET}", f"pretrained_model={third}"]
    with pytest.raises(UserError, match="is the teacher's, give a list with the student's second"):
        evaluate_job(load("quick_start/R50_vd_distill_MV3_large_x1_0", *taught), print)
    settings = [f"ARCHITECTURE.name={NET}", f"pretrained_model={third}", *SMALL, "TRAIN=null"]
    job = load("quick_start/MobileNetV3_large_x1_0_finetune", *settings)
    assert evaluate_job(job, print).num_images == 9


@pytest.mark.parametrize("pattern", ["resnet/*", "RESNET/*"])
def test_recipes_match_in_any_case(ppcls, pattern):
    lines = ppcls("recipe", pattern).stdout.split()
    assert lines == [name for name in NAMES if name.startswith("ResNet/")]
    assert lines == ppcls("recipe", "ResNet/*", "--list").stdout.split()


def test_a_recipe_may_be_called_by_its_file():
    for given in ("./configs/ResNet/ResNet50_vd.yaml", "ResNet/ResNet50_vd.yaml"):
        assert recipe_name(given) == "ResNet/ResNet50_vd"


def test_a_recipe_s_file_is_a_pattern_too(ppcls):
    found = ppcls("recipe", "./configs/ResNet/ResNet50_vd.yaml", "--list")
    assert found.stdout.split() == ["ResNet/ResNet50_vd"]
