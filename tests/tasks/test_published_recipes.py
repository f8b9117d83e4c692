"""The recipes of the published students against their tables, typed here a second time."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from data_catalog.base.config import Config, UserError, load_yaml
from data_catalog.catalog import DATASETS
from data_catalog.published import published_weights
from data_catalog.recipes import RECIPES
from ppcls_core.data.augment import AutoAugment, Mixup, RandomCrop, RandomFlip
from ppcls_core.engine.config import DistillTraining, FixTraining, LabelTraining
from ppcls_core.engine.optimizers import Momentum, Regularizer
from ppcls_core.engine.precision import Precision
from ppcls_core.engine.schedules import Cosine, CosineWarmup, Piecewise, Schedule
from tasks.recipe import load_recipe

FOLDER = RECIPES / "published"
FIGURES = re.compile(r"^# published: ((?:\w+ \d+\.\d+(?:, )?)+)$", re.MULTILINE)
STEPS = Piecewise(decay_epochs=(30, 60, 90), gamma=0.1)
WARMUP = CosineWarmup(warmup_epochs=5.0)
WSL, SSLD = "ResNeXt101_32x16d_wsl", "ResNet50_vd_ssld"  # teachers, by the name of their weights
WEIGHTS = {
    WSL: "ResNeXt101_32x16_wsl_pretrained.pdparams",
    SSLD: "ResNet50_vd_ssld_pretrained.pdparams",
}
CROP_AND_FLIP = (
    RandomCrop(size=None, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), interpolation="linear"),
    RandomFlip(prob=0.5, axis="horizontal"),
)


@dataclass(frozen=True)
class Run:
    """Epochs, L2 factor, batch and base rate, as the tables have them."""

    epochs: int
    l2: float
    batch: int
    lr: float
    schedule: Schedule = WARMUP
    size: int = 224

    def settings(self) -> dict[str, object]:
        return {
            "epochs": self.epochs,
            "batch_size": self.batch,
            "image_size": self.size,
            "lr": self.lr,
            "schedule": self.schedule,
            "optimizer": Momentum(momentum=0.9),
            "regularizer": Regularizer(name="L2", factor=self.l2),
            "clip_norm": None,
            "accumulate": 1,
            "ema_decay": None,
            "precision": Precision(dtype="fp32"),
            "eval_every": 10,
        }


@dataclass(frozen=True)
class Row:
    """What a recipe must be; `figures` are top-1 in percent."""

    student: str
    teacher: str
    distill: Run
    finetune: Run
    baseline: Run
    figures: dict[str, float]
    smoothing: float = 0.0
    mixup: bool = False
    auto_augment: bool = False
    fix: Run = field(default=Run(10, 1e-4, 512, 0.008, Cosine(), 320))


V3_BASELINE = Run(360, 2e-5, 4096, 2.6)
VD_BASELINE = Run(200, 7e-5, 256, 0.1, Cosine())
LARGE_BASELINE = Run(200, 1e-4, 256, 0.1, Cosine())
V2 = Run(360, 2e-5, 1024, 0.4), Run(60, 2e-5, 1024, 0.004), VD_BASELINE
FIXRES = Run(56, 1e-4, 512, 0.008, Piecewise(decay_epochs=(30,), gamma=0.1), 320)

TABLE = {
    "MobileNetV1_ssld": Row(
        "MobileNetV1",
        SSLD,
        Run(360, 3e-5, 4096, 1.6),
        Run(30, 3e-5, 4096, 0.016),
        Run(120, 3e-5, 256, 0.1, STEPS),
        {"baseline": 71.0, "distill": 77.65, "finetune": 77.89},
    ),
    "MobileNetV2_ssld": Row(
        "MobileNetV2",
        SSLD,
        Run(360, 1e-5, 3072, 0.54),
        Run(30, 1e-5, 3072, 0.0054),
        Run(240, 4e-5, 256, 0.045, Cosine()),
        {"baseline": 72.2, "distill": 76.34, "finetune": 76.73},
    ),
    "MobileNetV3_large_x1_0_ssld": Row(
        "MobileNetV3_large_x1_0",
        SSLD,
        Run(360, 1e-5, 5760, 3.65625),
        Run(30, 1e-5, 2048, 0.008),
        V3_BASELINE,
        {"baseline": 75.3, "distill": 78.54, "finetune": 78.96},
        smoothing=0.1,
    ),
    "MobileNetV3_small_x1_0_ssld": Row(
        "MobileNetV3_small_x1_0",
        SSLD,
        Run(360, 1e-5, 5760, 3.65625),
        Run(30, 1e-5, 6400, 0.025),
        V3_BASELINE,
        {"baseline": 68.2, "distill": 70.11, "finetune": 71.28},
        smoothing=0.1,
    ),
    "ResNet50_vd_ssld": Row(
        "ResNet50_vd",
        WSL,
        Run(360, 7e-5, 1024, 0.4),
        Run(60, 7e-5, 1024, 0.004),
        VD_BASELINE,
        {"baseline": 79.1, "distill": 82.07, "finetune": 82.39},
        smoothing=0.1,
        mixup=True,
    ),
    "ResNet101_vd_ssld": Row(
        "ResNet101_vd",
        WSL,
        Run(360, 7e-5, 1024, 0.4),
        Run(30, 7e-5, 1024, 0.004),
        LARGE_BASELINE,
        {"baseline": 80.2, "distill": 83.41, "finetune": 83.73},
        smoothing=0.1,
        mixup=True,
    ),
    "Res2Net200_vd_26w_4s_ssld": Row(
        "Res2Net200_vd_26w_4s",
        WSL,
        Run(360, 4e-5, 1024, 0.4),
        Run(30, 4e-5, 1024, 0.004),
        LARGE_BASELINE,
        {"baseline": 81.2, "distill": 84.82, "finetune": 85.13},
        smoothing=0.1,
        mixup=True,
    ),
    "ResNet50_vd_ssld_v2": Row(
        "ResNet50_vd",
        WSL,
        *V2,
        {"baseline": 79.1, "finetune": 82.99},
        smoothing=0.1,
        mixup=True,
        auto_augment=True,
    ),
    "Fix_ResNet50_vd_ssld_v2": Row(
        "ResNet50_vd",
        WSL,
        *V2,
        {"baseline": 79.1, "finetune": 82.99, "fix": 84.0},
        smoothing=0.1,
        mixup=True,
        auto_augment=True,
        fix=FIXRES,
    ),
}
every_recipe = pytest.mark.parametrize("name", TABLE)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where downloads go, with an empty file for each teacher."""
    folder = tmp_path / "weights"
    folder.mkdir()
    for name in WEIGHTS.values():
        (folder / name).touch()
    monkeypatch.setenv("SSLD_HOME", str(tmp_path))
    return folder


def figures(name: str) -> dict[str, float]:
    """The accuracies of the recipe's one comment line that names them."""
    (line,) = FIGURES.findall((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    return {key: float(value) for key, value in (part.split() for part in line.split(", "))}


def restated(config: Config, path: str = "") -> list[str]:
    """Paths of the settings that were given and equal their defaults; a `name` only chooses."""
    found = []
    for key in config.model_fields_set - {"name", "options", "pool_options"}:  # set on loading
        value, info = getattr(config, key), type(config).model_fields[key]
        inner = restated(value, f"{path}{key}.") if isinstance(value, Config) else []
        if not inner and value == info.get_default(call_default_factory=True, validated_data={}):
            inner = [path + key]
        found += inner
    return sorted(found)


def test_every_file_has_its_row():
    files = {path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*") if path.is_file()}
    assert files == {f"{name}.yaml" for name in TABLE}


@every_recipe
def test_data_selection_models(name, cache):
    row, recipe = TABLE[name], load_recipe(name)
    assert recipe.name == name
    assert (recipe.data.labelled, recipe.data.pool) == ("imagenet1k", "imagenet22k")
    assert {recipe.data.labelled, recipe.data.pool} <= set(load_yaml(DATASETS))
    assert (recipe.select.k, recipe.select.p, recipe.select.min_score) == (4000, 10, 0.0)
    assert (recipe.student.name, recipe.student.spec) == (row.student, {})
    teacher = recipe.teacher
    architecture = {WSL: "ResNeXt101_32x16d_wsl", SSLD: "ResNet50_vd"}[row.teacher]
    assert (teacher.model.name, teacher.model.spec) == (architecture, {})
    assert teacher.weights == str(cache / WEIGHTS[row.teacher])
    assert (teacher.image_size, teacher.train) == (224, None)


@every_recipe
def test_training(name):
    row, recipe = TABLE[name], load_recipe(name)
    published = {"loss": "ssld", "teacher_batch_norm": "batch", "mix": None}
    extra = (AutoAugment(),) if row.auto_augment else ()
    assert recipe.distill == DistillTraining.model_validate(
        {**row.distill.settings(), **published, "augmentation": CROP_AND_FLIP + extra}
    )
    assert recipe.finetune == DistillTraining.model_validate(
        {**row.finetune.settings(), **published, "augmentation": CROP_AND_FLIP}
    )
    assert recipe.baseline == LabelTraining.model_validate(
        {
            **row.baseline.settings(),
            "label_smoothing": row.smoothing,
            "augmentation": CROP_AND_FLIP,
            "mix": Mixup(alpha=0.2) if row.mixup else None,
        }
    )
    assert recipe.fix == FixTraining.model_validate(row.fix.settings())
    # As data_catalog/published.csv has the one that was published.
    assert recipe.fix.preprocess.short == recipe.fix.image_size


@every_recipe
def test_figures(name):
    assert figures(name) == TABLE[name].figures
    # The model zoo rounds to 0.1 point, and once differs by 0.01.
    zoo = published_weights()[name]
    final = TABLE[name].figures.get("fix", TABLE[name].figures["finetune"])
    assert zoo.arch == TABLE[name].student
    assert 100 * zoo.top1 == pytest.approx(final, abs=0.051)
    plain = published_weights()[zoo.arch]
    assert 100 * plain.top1 == pytest.approx(TABLE[name].figures["baseline"], abs=1e-6)


def test_teachers_are_the_files_that_a_download_keeps():
    for name, file in WEIGHTS.items():
        assert published_weights()[name].url.rpartition("/")[2] == file


@every_recipe
def test_a_recipe_states_only_what_differs(name):
    assert restated(load_recipe(name)) == []


def test_restated_defaults_are_found():
    path = str(FOLDER / "MobileNetV1_ssld.yaml")
    settings = ["select.k=4000", "distill.optimizer.momentum=0.9", "fix.precision={}"]
    settings += ["distill.optimizer.name=Momentum", "baseline.lr=0.1", "baseline.mix=null"]
    wanted = ["baseline.lr", "baseline.mix", "distill.optimizer.momentum"]
    assert restated(load_recipe(path, settings)) == [*wanted, "fix.precision", "select.k"]


def test_absent_teacher_is_told_with_its_place(cache, tmp_path, monkeypatch):
    def offline(*_args, **_settings):
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    (cache / WEIGHTS[SSLD]).unlink()
    with pytest.raises(UserError) as caught:
        load_recipe("MobileNetV1_ssld")
    message = str(caught.value)
    assert "MobileNetV1_ssld.yaml: teacher.weights: " in message
    assert message.endswith(f"or fetch it elsewhere and put it at {cache / WEIGHTS[SSLD]}")
    (tmp_path / "mine.pdparams").touch()
    given = load_recipe("MobileNetV1_ssld", [f"teacher.weights={tmp_path / 'mine'}"])
    assert given.teacher.weights == str(tmp_path / "mine.pdparams")
