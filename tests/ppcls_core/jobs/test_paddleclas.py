"""PaddleClas's YAML of 2020 as typed jobs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from data_catalog.base.config import UserError
from ppcls_core.data.augment import (
    AutoAugment,
    CutMix,
    Cutout,
    FMix,
    GridMask,
    HideAndSeek,
    Mixup,
    RandAugment,
    RandomCrop,
    RandomErasing,
    RandomFlip,
)
from ppcls_core.data.transforms import Preprocess
from ppcls_core.engine.config import CLASSIC, DistillTraining, LabelTraining
from ppcls_core.engine.optimizers import Momentum, Regularizer, RMSProp
from ppcls_core.engine.precision import Precision
from ppcls_core.engine.schedules import (
    Cosine,
    CosineWarmup,
    ExponentialWarmup,
    Linear,
    Piecewise,
)
from ppcls_core.jobs.job import Job, load_job
from ppcls_core.jobs.paddleclas import key_of
from ppcls_core.jobs.paddleclas.settings import (
    ImageSection,
    LearningRate,
    OptimizerParams,
    OptimizerSection,
    PaddleClasConfig,
    RateParams,
    RegularizerSection,
    Train,
    Valid,
)
from ppcls_core.jobs.train import images_of

FILE = """
mode: 'train'
ARCHITECTURE:
    name: 'ResNet50_vd'
    params:
        lr_mult_list: [0.1, 0.1, 0.2, 0.2, 0.3]
pretrained_model: "./pretrained/ResNet50_vd_ssld_pretrained"
model_save_dir: "./output/"
classes_num: 102
total_images: 1020
save_interval: 1
validate: True
valid_interval: 1
epochs: 20
topk: 5
image_shape: [3, 224, 224]
use_mix: False
ls_epsilon: 0.1
fuse_elewise_add_act_ops: True
fuse_elewise_add_act_ops: True

LEARNING_RATE:
    function: 'Cosine'
    params:
        lr: 0.00375

OPTIMIZER:
    function: 'Momentum'
    params:
        momentum: 0.9
    regularizer:
        function: 'L2'
        factor: 0.000001

TRAIN:
    batch_size: 32
    num_workers: 4
    file_list: "./dataset/flowers102/train_list.txt"
    data_dir: "./dataset/flowers102/"
    shuffle_seed: 0
    transforms:
        - DecodeImage:
            to_rgb: True
            to_np: Fals
            channel_first: False
        - RandCropImage:
            size: 224
        - RandFlipImage:
            flip_code: 1
        - NormalizeImage:
            scale: 1./255.
            mean: [0.485, 0.456, 0.406]
            std: [0.229, 0.224, 0.225]
            order: ''
        - RandomErasing:
            EPSILON: 0.25
            sl: 0.05
            r1: 0.5
            mean: [0., 0., 0.]
        - ToCHWImage:

VALID:
    batch_size: 20
    num_workers: 4
    file_list: "./dataset/flowers102/val_list.txt"
    data_dir: "./dataset/flowers102/"
    shuffle_seed: 0
    transforms:
        - DecodeImage:
            to_rgb: True
        - ResizeImage:
            resize_short: 256
            interpolation: 2
        - CropImage:
            size: 224
        - NormalizeImage:
            scale: 1.0/255.0
            mean: [0.485, 0.456, 0.406]
            std: [0.229, 0.224, 0.225]
            order: ''
        - ToCHWImage:
"""


def job(tmp_path: Path, *settings: str, text: str = FILE) -> Job:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return load_job(path, list(settings))


def test_a_published_file(tmp_path):
    got = job(tmp_path)
    assert got.model.name == "ResNet50_vd"
    assert got.model.spec == {"lr_mult_list": [0.1, 0.1, 0.2, 0.2, 0.3]}
    assert (got.num_classes, got.seed, got.workers, got.output) == (102, 0, 4, "./output/")
    assert got.weights == "./pretrained/ResNet50_vd_ssld_pretrained"
    assert got.train and got.val
    assert got.train.list == "./dataset/flowers102/train_list.txt"
    assert got.val.root == "./dataset/flowers102/"
    assert got.preprocess == Preprocess(size=224, short=256, interpolation="cubic")
    assert got.training == LabelTraining(
        epochs=20,
        batch_size=32,
        image_size=224,
        lr=0.00375,
        schedule=Cosine(),
        optimizer=Momentum(momentum=0.9),
        regularizer=Regularizer(name="L2", factor=1e-6),
        eval_every=1,
        label_smoothing=0.1,
        augmentation=(
            RandomCrop(size=224),
            RandomFlip(axis="horizontal"),
            RandomErasing(prob=0.25, area=(0.05, 0.4), aspect=(0.5, 2.0)),
        ),
    )


@pytest.mark.parametrize(
    ("transform", "operator"),
    [
        ("AutoAugment", AutoAugment()),
        ("AA", AutoAugment()),
        ("RandAugment: {num_layers: 2, magnitude: 5}", RandAugment(num_layers=2, magnitude=5)),
        ("Cutout: {n_holes: 1, length: 112}", Cutout(num_holes=1, length=112)),
        ("HideAndSeek", HideAndSeek()),
        ("RandFlipImage: {flip_code: -1}", RandomFlip(axis="both")),
        (
            "GridMask: {d1: 96, d2: 224, rotate: 1, ratio: 0.6, mode: 1}",
            GridMask(d=(96, 224), rotate=1, ratio=0.6, mode=1),
        ),
    ],
)
def test_transforms(tmp_path, transform, operator):
    got = job(tmp_path, f"TRAIN.transforms=[{{RandCropImage: {{size: 224}}}}, {{{transform}}}]")
    assert got.training and got.training.augmentation == (RandomCrop(size=224), operator)


@pytest.mark.parametrize(
    ("mix", "operator"),
    [
        ("MixupOperator: {alpha: 0.2}", Mixup(alpha=0.2)),
        ("CutmixOperator: {alpha: 0.2}", CutMix(alpha=0.2)),
        ("FmixOperator: {alpha: 1.0, decay_power: 3.0}", FMix(alpha=1.0, decay=3.0)),
    ],
)
def test_mixes(tmp_path, mix, operator):
    got = job(tmp_path, "use_mix=true", f"TRAIN.mix=[{{{mix}}}]")
    assert got.training and got.training.mix == operator


@pytest.mark.parametrize(
    ("function", "params", "schedule"),
    [
        ("Linear", "{lr: 0.5, steps: 475800, end_lr: 0.1}", Linear(steps=475800, end_lr=0.1)),
        (
            "Piecewise",
            "{lr: 0.5, decay_epochs: [30, 60], gamma: 0.1}",
            Piecewise(decay_epochs=(30, 60), gamma=0.1),
        ),
        ("CosineWarmup", "{lr: 0.5, warmup_epoch: 3}", CosineWarmup(warmup_epochs=3)),
        ("CosineWarmup", "{lr: 0.5}", CosineWarmup(warmup_epochs=5)),
        ("ExponentialWarmup", "{lr: 0.5, warmup_epoch: 5}", ExponentialWarmup(warmup_epochs=5)),
    ],
)
def test_schedules(tmp_path, function, params, schedule):
    got = job(tmp_path, f"LEARNING_RATE={{function: {function}, params: {params}}}")
    assert got.training and (got.training.lr, got.training.schedule) == (0.5, schedule)


def test_rmsprop_average_and_mixed_precision(tmp_path):
    got = job(
        tmp_path,
        "OPTIMIZER.function=RMSProp",
        "OPTIMIZER.params={momentum: 0.8, rho: 0.7, epsilon: 0.01}",
        "use_ema=true",
        "ema_decay=0.99",
        "use_fp16=true",
        "amp_scale_loss=128",
        "ls_epsilon=-1",
    )
    training = got.training
    assert isinstance(training, LabelTraining)
    assert training.optimizer == RMSProp(momentum=0.8, rho=0.7, epsilon=0.01)
    assert (training.ema_decay, training.label_smoothing) == (0.99, 0.0)
    precision = training.precision
    assert (precision.dtype, precision.loss_scale, precision.dynamic) == ("fp16", 128, False)


def test_a_distillation_is_named_by_both(tmp_path):
    got = job(
        tmp_path,
        "ARCHITECTURE.name=ResNeXt101_32x16d_wsl_distill_ResNet50_vd",
        "use_distillation=true",
        'pretrained_model=["./pretrain/teacher", "./pretrained/student/"]',
    )
    assert got.training is None
    assert isinstance(got.distill, DistillTraining)
    assert got.distill.loss == "ssld"
    assert got.teacher and got.teacher.model.name == "ResNeXt101_32x16d_wsl"
    assert (got.teacher.weights, got.weights) == ("./pretrain/teacher", "./pretrained/student")
    assert got.model.spec  # the parameters are the student's
    assert not got.teacher.model.spec


@pytest.mark.parametrize(
    "section",
    [
        {"params": {"is_test": False, "override_params": {"drop_connect_rate": 0.1}}},
        {"params": {"drop_connect_rate": 0.1, "data_format": "NHWC"}},
        {"drop_connect_rate": 0.1},
    ],
)
def test_a_model_s_settings_lie_at_three_depths(tmp_path, section):
    section = {"name": "EfficientNetB0", "padding_type": "SAME", **section}
    data = {**yaml.safe_load(FILE), "ARCHITECTURE": section}
    got = job(tmp_path, text=yaml.safe_dump(data))
    assert got.model.spec == {"padding_type": "SAME", "drop_connect_rate": 0.1}


@pytest.mark.parametrize(
    ("given", "name", "spec"),
    [
        ("CSPResNet50", "CSPResNet50_leaky", {}),
        ("ResNet_ACNet", "ResNet50_ACNet", {}),
        ("ShuffleNetV2_x1_0", "ShuffleNetV2", {}),
        ("GhostNet_0_5", "GhostNet_x0_5", {}),
        (
            "EfficientNetLite0",
            "EfficientNetB0",
            {"squeeze_excite": False, "fix_head_stem": True, "relu_fn": True},
        ),
    ],
)
def test_other_names_of_models(tmp_path, given, name, spec):
    got = job(tmp_path, f"ARCHITECTURE={{name: {given}}}")
    assert (got.model.name, got.model.spec) == (name, spec)


def test_the_form_of_april_2020(tmp_path):
    data = yaml.safe_load(FILE)
    del data["ARCHITECTURE"]
    text = yaml.safe_dump({"architecture": "VGG11", **data})
    assert job(tmp_path, text=text).model.name == "VGG11"
    assert job(tmp_path, "ARCHITECTURE.name=VGG13", text=text).model.name == "VGG13"


def test_a_file_of_an_evaluation_alone(tmp_path):
    data = yaml.safe_load(FILE)
    kept = ("ARCHITECTURE", "pretrained_model", "classes_num", "image_shape", "VALID", "topk")
    got = job(tmp_path, text=yaml.safe_dump({"mode": "valid"} | {k: data[k] for k in kept}))
    assert got.training is None
    assert got.val
    assert got.workers == 4


FP16 = """
use_dali: True
image_channel: &image_channel 4
image_shape: [*image_channel, 224, 224]
AMP:
    scale_loss: 128.0
    use_dynamic_loss_scaling: True
    use_pure_fp16: &use_pure_fp16 True
"""
TO_FP16 = {
    "image_shape: [3, 224, 224]\n": "",
    "momentum: 0.9\n": "momentum: 0.9\n        multi_precision: *use_pure_fp16\n",
    "order: ''\n": (
        "order: ''\n            output_fp16: *use_pure_fp16\n"
        "            channel_num: *image_channel\n"
    ),
}


def test_mixed_precision_with_anchors_and_a_fourth_channel(tmp_path, caplog):
    text = FP16 + FILE
    for old, new in TO_FP16.items():
        text = text.replace(old, new)
    got = job(tmp_path, text=text)
    assert got.training
    assert got.training.precision == Precision(
        dtype="fp16", level="O2", loss_scale=128, dynamic=True
    )
    assert "a fourth channel, which is empty" in caplog.text


@pytest.mark.parametrize(
    ("settings", "told", "expected"),
    [
        (
            ["LEARNING_RATE={function: Cosine, params: {warmup_epoch: 3}}"],
            "Cosine with a warmup_epoch is taken as CosineWarmup",
            {"schedule": CosineWarmup(warmup_epochs=3)},
        ),
        (
            ["LEARNING_RATE={function: CosineWarmup, params: {gamma: 0.1}}"],
            "LEARNING_RATE.params.gamma is passed over; CosineWarmup has none",
            {"schedule": CosineWarmup()},
        ),
        (
            ["LEARNING_RATE={function: CosineWarmup, params: {warmup_epoch: 9}}", "epochs=2"],
            "LEARNING_RATE.params.warmup_epoch is 9, so the rate rises to the end of the training",
            {"schedule": CosineWarmup(warmup_epochs=9)},
        ),
        (["TRAIN.mix=[{MixupOperator: null}]"], "TRAIN.mix is passed over", {"mix": None}),
        (
            ["use_mix=true", "use_dali=true"],
            "the mixup of its DALI reader, alpha 0.2, is taken",
            {"mix": Mixup(alpha=0.2)},
        ),
        (["TRAIN.transforms=null"], "a random crop and a flip", {"augmentation": CLASSIC}),
        (["use_aa=true"], "AutoAugment belongs into TRAIN.transforms", {}),
        (
            ["profiler_options=x"],
            "unknown setting 'profiler_options' is passed over",
            {},
        ),
        ([], "key 'fuse_elewise_add_act_ops' is given twice", {}),
    ],
)
def test_what_is_passed_over_is_told(tmp_path, caplog, settings, told, expected):
    got = job(tmp_path, *settings)
    assert told in caplog.text
    assert got.training
    assert got.training == got.training.model_copy(update=expected)


@pytest.mark.parametrize(
    ("setting", "smoothing"),
    [("ls_epsilon=-1", 0.0), ("LOSS={function: CELoss, params: {epsilon: 0.2}}", 0.2)],
)
def test_label_smoothing(tmp_path, setting, smoothing):
    got = job(tmp_path, setting, *(["ls_epsilon=null"] if "LOSS" in setting else []))
    assert isinstance(got.training, LabelTraining)
    assert got.training.label_smoothing == smoothing


def test_a_dali_file_is_tested_at_the_image_shape(tmp_path):
    got = job(tmp_path, "VALID.transforms=null", "image_shape=[3, 256, 256]", "TRAIN=null")
    assert got.preprocess == Preprocess(size=256)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("epoch=3", "unknown setting 'epoch'; did you mean 'epochs'"),
        ("learning_rate=3", "unknown setting 'learning_rate'; did you mean 'LEARNING_RATE'"),
        ("TRAIN.transforms=[RandomErase]", "unknown name 'RandomErase'; did you mean 'Rando"),
        (
            "TRAIN.transforms=[{Cutout: {hole: 1}}]",
            r"'TRAIN\.transforms\.0\.Cutout\.hole'; did you mean 'TRAIN\..*\.Cutout\.n_holes'",
        ),
        (
            "TRAIN.batchsize=3",
            r"unknown setting 'TRAIN\.batchsize'; did you mean 'TRAIN\.batch_size'",
        ),
        ("ARCHITECTURE.name=ResNet5", "ARCHITECTURE: unknown model 'ResNet5'; did you mean"),
        ("ARCHITECTURE.name=InceptionV5", "did you mean 'InceptionV[34]'"),
        ("ARCHITECTURE.params={widht: 3}", "unknown setting 'widht'; did you mean 'width'"),
        ("image_shape=[3, 299, 299]", r"image_shape is \[3, 299, 299\], but TRAIN.transforms give"),
        ("image_shape=[3, 224, 192]", "make them agree"),
        ("LEARNING_RATE.params={lr: 0.1, gama: 1}", r"LEARNING_RATE\.params\.gama'; did you mean"),
        ("OPTIMIZER.params={momentun: 0}", "did you mean 'OPTIMIZER.params.momentum'"),
        (
            "OPTIMIZER.regularizer={function: L2, facotr: 1}",
            "did you mean 'OPTIMIZER.regularizer.factor'",
        ),
        ("LEARNING_RATE={functoin: Cosine}", "did you mean 'LEARNING_RATE.function'"),
        ("use_mix=true", "use_mix is True, but TRAIN.mix has 0 operators"),
        ("use_distillation=true", "use_distillation is True, but ARCHITECTURE.name is"),
        ("LOSS={function: JSDivLoss}", "LOSS.function is JSDivLoss, but"),
        ("epochs=null", "setting 'epochs' is required"),
        ("ARCHITECTURE=null", "setting 'ARCHITECTURE' is required"),
        ("TRAIN.file_list=null", r"setting 'TRAIN\.file_list' is required"),
        ("OPTIMIZER.regularizer={function: L2}", r"'OPTIMIZER\.regularizer\.factor' is required"),
        (
            "VALID.transforms=[ResizeImage: {resize_short: 36}, CropImage: {size: 64}]",
            "cuts out 64 pixels, but ResizeImage leaves a short side of 36; raise resize_short",
        ),
        ("VALID.transforms=[ToCHWImage]", "expected a ResizeImage to a resize_short, then a Crop"),
        ("Arch={name: ResNet50}", "form of mid-2021 on"),
    ],
)
def test_mistakes_are_named(tmp_path, setting, message):
    with pytest.raises(UserError, match=message):
        job(tmp_path, setting)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("TRAIN.batch_size=many", "TRAIN.batch_size: expected a whole number, got 'many'"),
        ("TRAIN.batch_size=yes", "TRAIN.batch_size: expected a whole number, got 'True'"),
        ("TRAIN.batch_size=0", "TRAIN.batch_size: expected a value greater than 0, got 0"),
        ("classes_num=0", "classes_num: expected a value greater than 0, got 0"),
        ("epochs=1.5", "epochs: expected a whole number, got 1.5"),
        ("ls_epsilon=.nan", "ls_epsilon: expected a finite number, got nan"),
        ("TRAIN=5", "TRAIN: expected `key: value` lines, got 5"),
        ("ARCHITECTURE.params=[1]", "ARCHITECTURE.params: expected `key: value` lines, got [1]"),
        ("image_shape=224", "image_shape: expected a list, got 224"),
        ("pretrained_model=5", "pretrained_model.0: expected text, got 5"),
        ("validate=maybe", "validate: expected true or false, got 'maybe'"),
        ("LEARNING_RATE.params.lr=fast", "LEARNING_RATE.params.lr: expected a number, got 'fast'"),
        ("LEARNING_RATE.function=Cosin", "LEARNING_RATE.function: expected 'Cosine', "),
        ("OPTIMIZER.function=Adamw", "OPTIMIZER.function: expected 'Adam', "),
        ("OPTIMIZER.regularizer.factor=-1", "expected a value greater than or equal to 0, got -1"),
        ("LOSS={function: MSE}", "LOSS.function: expected 'CELoss', "),
        ("multilabel=true", "multilabel: expected False, got True"),
        ("VALID.file_list=2020-01-01", "VALID.file_list: expected text, got datetime.date("),
        (
            "TRAIN.transforms.1.RandCropImage.size=[a, 2]",
            "TRAIN.transforms.1.RandCropImage.size.0: expected a whole number, got 'a'",
        ),
        (
            "TRAIN.transforms=[{RandomErasing: {r1: 0}}]",
            "TRAIN.transforms.0.RandomErasing.r1: expected a value greater than 0, got 0",
        ),
        ("TRAIN.transforms=[{RandomErasing: {mean: [1, 0, 0]}}]", "expected a `mean` of 0"),
        ("TRAIN.transforms=[{RandomErasing: {sl: 0.5}}]", "expected `sl` above 0 and at most `sh`"),
        ("TRAIN.transforms=[{GridMask: {d1: 300}}]", "expected `d1` below `d2`"),
        ("TRAIN.transforms=[{ResizeImage: {}}]", "expected one of `resize_short` and `size`"),
        ("TRAIN.transforms=[{Cutout: 5}]", "expected `key: value` lines below Cutout"),
        (
            "TRAIN.transforms=[{Cutout: null, length: 5}]",
            "TRAIN.transforms.0: expected one name, its settings indented below it",
        ),
        ("TRAIN.transforms=[{DecodeImage: {to_rgb: false}}]", "to_rgb: expected True, got False"),
        (
            "TRAIN.transforms=[{NormalizeImage: {scale: 1/128}}]",
            "NormalizeImage differs in TRAIN.transforms and VALID.transforms",
        ),
        (
            "TRAIN.transforms=[{NormalizeImage: {scale: open(0)}}]",
            "TRAIN.transforms.0.NormalizeImage.scale: expected a number, got 'open(0)'",
        ),
        ("TRAIN.transforms=[{NormalizeImage: {scale: 1/0}}]", "expected a number, got '1/0'"),
    ],
)
def test_a_value_of_another_type_or_range_is_named_with_its_path(tmp_path, setting, message):
    with pytest.raises(UserError) as caught:
        job(tmp_path, setting)
    assert message in str(caught.value)


# A setting with another value than FILE's, for every setting that is accepted: at the top, then
# below the sections. Each must change the job, be refused, or be told as without effect.
SETTINGS = """
mode=valid; ARCHITECTURE.name=ResNet101_vd; ARCHITECTURE.params={lr_mult_list: [1, 1, 1, 1, 1]}
pretrained_model=other; model_save_dir=elsewhere; classes_num=7; total_images=3; save_interval=2
validate=false; valid_interval=2; epochs=3; topk=1; image_shape=[3, 192, 192]; use_mix=true
ls_epsilon=-1; use_distillation=true; use_ema=true; ema_decay=0.9; use_fp16=true
use_pure_fp16=true; amp_scale_loss=2; use_dynamic_loss_scaling=true; use_dali=true; use_aa=true
enable_addto=true; fuse_bn_act_ops=true; print_interval=3; vdl_dir=scalars; checkpoints=no/such
data_format=NHWC; image_channel=4; is_distributed=true; last_epoch=3; load_static_weights=true
multi_precision=true; support_to_static=true; use_gpu=true; use_xpu=true; multilabel=true
LEARNING_RATE.function=CosineWarmup; LEARNING_RATE.params.lr=0.1
LEARNING_RATE.params.warmup_epoch=3; LEARNING_RATE.params.decay_epochs=[3]
LEARNING_RATE.params.gamma=0.5; LEARNING_RATE.params.steps=3; LEARNING_RATE.params.end_lr=0.01
OPTIMIZER.function=RMSProp; OPTIMIZER.params.momentum=0.8; OPTIMIZER.params.rho=0.8
OPTIMIZER.params.beta1=0.8; OPTIMIZER.params.beta2=0.8
OPTIMIZER.params.epsilon=0.01; OPTIMIZER.params.multi_precision=true
OPTIMIZER.regularizer.function=L1; OPTIMIZER.regularizer.factor=0.1
LOSS.function=JSDivLoss; LOSS={function: CELoss, params: {epsilon: 0.05}}
TRAIN.batch_size=3; TRAIN.num_workers=3; TRAIN.file_list=other; TRAIN.data_dir=other
TRAIN.shuffle_seed=3; TRAIN.delimiter=","; TRAIN.transforms=null; TRAIN.mix=[MixupOperator]
VALID.batch_size=3; VALID.file_list=other; VALID.data_dir=other; VALID.shuffle_seed=3
VALID.delimiter=","; VALID.num_workers=3; VALID.transforms=null
TRAIN.transforms.0.DecodeImage.to_rgb=false; TRAIN.transforms.0.DecodeImage.to_np=true
TRAIN.transforms.0.DecodeImage.channel_first=true; TRAIN.transforms.1.RandCropImage.size=192
TRAIN.transforms.1.RandCropImage.scale=[0.2, 1]; TRAIN.transforms.1.RandCropImage.ratio=[1, 2]
TRAIN.transforms.1.RandCropImage.interpolation=2; TRAIN.transforms.2.RandFlipImage.flip_code=0
TRAIN.transforms.3.NormalizeImage.scale=1; TRAIN.transforms.3.NormalizeImage.mean=[0, 0, 0]
TRAIN.transforms.3.NormalizeImage.std=[1, 1, 1]; TRAIN.transforms.3.NormalizeImage.order=hwc
TRAIN.transforms.3.NormalizeImage.channel_first=true
TRAIN.transforms.3.NormalizeImage.output_fp16=true
TRAIN.transforms.3.NormalizeImage.channel_num=4; TRAIN.transforms.4.RandomErasing.EPSILON=0.1
TRAIN.transforms.4.RandomErasing.sl=0.1; TRAIN.transforms.4.RandomErasing.sh=0.3
TRAIN.transforms.4.RandomErasing.r1=0.4; TRAIN.transforms.4.RandomErasing.attempt=3
TRAIN.transforms.4.RandomErasing.mean=[1, 1, 1]
VALID.transforms.1.ResizeImage.resize_short=300; VALID.transforms.1.ResizeImage.size=300
VALID.transforms.1.ResizeImage.interpolation=1; VALID.transforms.2.CropImage.size=192
"""
ALL = [setting.strip() for line in SETTINGS.strip().splitlines() for setting in line.split("; ")]


@pytest.mark.parametrize("setting", ALL)
def test_a_setting_has_its_effect_or_is_refused_or_told(tmp_path, caplog, setting):
    before = job(tmp_path)
    caplog.clear()
    *sections, name = setting.partition("=")[0].split(".")
    try:
        after = job(tmp_path, setting)
    except UserError as error:
        assert any(part in str(error) for part in (*sections, name) if not part.isdigit())
    else:
        told = "fuse_*" if name.startswith("fuse_") else name
        assert after != before or re.search(rf"(?<!\w){re.escape(told)}(?!\w)", caplog.text)


@pytest.mark.parametrize("part", ["TRAIN", "VALID"])
def test_no_setting_of_the_images_is_forgotten(part):
    tried = {setting.partition("=")[0] for setting in ALL}
    section = {"TRAIN": Train, "VALID": Valid}[part]
    assert {f"{part}.{name}" for name in section.model_fields} <= tried


def test_no_setting_is_forgotten():
    tried = {setting.partition("=")[0].split(".")[-1] for setting in ALL}
    tried |= {"fuse_*", "LOSS.params", "epsilon"}
    sections = [PaddleClasConfig, ImageSection, Valid, Train, LearningRate, RateParams]
    sections += [OptimizerSection, OptimizerParams, RegularizerSection]
    for section in sections:
        for field, info in section.model_fields.items():
            parts = ("TRAIN", "VALID", "ARCHITECTURE", "LEARNING_RATE", "OPTIMIZER", "LOSS")
            if field not in (*parts, "regularizer"):
                assert (info.alias or field) in {*tried, "params"}, field


@pytest.mark.parametrize("value", ["-1", "text", "{a: {b: 1}}"])
def test_an_error_names_the_user_s_keys_and_none_of_ours(tmp_path, value):
    for name in dict.fromkeys(setting.partition("=")[0] for setting in ALL):
        try:
            job(tmp_path, f"{name}={value}")
        except UserError as error:
            message = str(error).replace(str(tmp_path), "")
            parts = [part for part in name.split(".") if not part.isdigit()]
            assert any(part in message for part in parts), (name, message)
            assert not OURS.search(message), (name, message)


OURS = re.compile(r"\b(training|distill|preprocess|num_classes|save_every|log_every|workers)\b")


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("num_classes", "classes_num"),
        ("val.root", "VALID.data_dir"),
        ("training.lr", "LEARNING_RATE.params.lr"),
        ("distill.schedule.CosineWarmup.warmup_epochs", "LEARNING_RATE.params.warmup_epoch"),
        ("training.schedule.Piecewise.decay_epochs.1", "LEARNING_RATE.params.decay_epochs.1"),
        ("training.optimizer.Momentum.momentum", "OPTIMIZER.params.momentum"),
        ("model.spec.width", "ARCHITECTURE.params.width"),
        ("training.schedule.name", "LEARNING_RATE.function"),
        ("teacher.model.name", "ARCHITECTURE.name"),
        ("preprocess.short", "VALID.transforms"),
        ("training.precision.level", "use_pure_fp16"),
        ("RandomCrop", "RandCropImage"),
        ("topk", "topk"),
        ("training.clip_norm", ""),
        ("distill.teacher_batch_norm", ""),
    ],
)
def test_our_settings_by_their_names_in_a_file_of_paddleclas(name, theirs):
    assert key_of(name) == theirs


def test_every_setting_of_a_job_has_a_name_of_paddleclas_s():
    same = {"vdl_dir", "topk", "distill"}
    for name in Job.model_fields.keys() - same:
        assert key_of(name) != name
    for name in LabelTraining.model_fields.keys() | DistillTraining.model_fields:
        assert not key_of(f"training.{name}").startswith("epochs.")


@pytest.mark.parametrize("setting", ALL)
def test_what_a_setting_changes_is_called_by_a_name_of_its_own_form(tmp_path, setting):
    before = leaves(job(tmp_path).model_dump())
    try:
        got = job(tmp_path, setting)
    except UserError:
        return
    name, after = setting.partition("=")[0], leaves(got.model_dump())
    for changed in (n for n in before.keys() | after if before.get(n) != after.get(n)):
        key = got.key(changed)
        top = key.partition(".")[0]
        assert top in PaddleClasConfig.model_fields or top == "validate", (name, changed, key)
        assert not OURS.search(key), (name, changed, key)


def leaves(settings: dict[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= (
            leaves(value, f"{above}{name}.")
            if isinstance(value, dict) and value
            else {above + name: value}
        )
    return found


@pytest.mark.parametrize("delimiter", [r'"\t"', '" "', '","'])
def test_lists_with_any_delimiter(tmp_path, delimiter):
    root = tmp_path / "images"
    root.mkdir()
    space = yaml.safe_load(delimiter)
    (tmp_path / "list.txt").write_text(f"a b.jpg{space}1\nc.jpg{space}0\n")
    got = job(
        tmp_path,
        f"TRAIN.delimiter={delimiter}",
        f"TRAIN.file_list={tmp_path / 'list.txt'}",
        f"TRAIN.data_dir={root}",
    )
    (images,) = images_of(got, "train")
    assert images.ids == ["a b.jpg", "c.jpg"]
    assert images.labels.tolist() == [1, 0]


def test_each_list_has_a_delimiter_of_its_own(tmp_path):
    (tmp_path / "train.txt").write_text("a.jpg,1\nb.jpg,0\n")
    (tmp_path / "val.txt").write_text("c.jpg 1\n")
    settings = [f"{part}.data_dir={tmp_path}" for part in ("TRAIN", "VALID")]
    for part, name in (("TRAIN", "train"), ("VALID", "val")):
        settings.append(f"{part}.file_list={tmp_path / name}.txt")
    with pytest.raises(UserError, match=r"set `TRAIN.delimiter: \",\"` for it"):
        images_of(job(tmp_path, *settings), "train", "val")
    got = images_of(job(tmp_path, *settings, "TRAIN.delimiter=','"), "train", "val")
    assert [images.labels.tolist() for images in got] == [[1, 0], [1]]
    with pytest.raises(UserError, match=r"white space .*not ',': leave `VALID.delimiter` out"):
        images_of(job(tmp_path, *settings, "VALID.delimiter=','"), "val")


def test_checkpoints_are_those_of_this_training_or_refused(tmp_path, caplog, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"no no/such, nor no/such.pdparams; correct the path"):
        job(tmp_path, "checkpoints=no/such")
    (tmp_path / "output/ResNet50_vd/3").mkdir(parents=True)
    (tmp_path / "output/ResNet50_vd/3/ppcls.pdparams").touch()
    prefix = "checkpoints=output/ResNet50_vd/3/ppcls"
    with pytest.raises(UserError, match="is not of a training in output/ResNet50_vd; give the"):
        job(tmp_path, prefix)
    (tmp_path / "output/ResNet50_vd/checkpoint.pdckpt").touch()
    job(tmp_path, prefix)
    assert "goes on from the newest checkpoint in output/ResNet50_vd" in caplog.text
    with pytest.raises(UserError, match="is not of a training in other/ResNet50_vd"):
        job(tmp_path, prefix, "model_save_dir=other")


NORMALIZE = "NormalizeImage: {scale: %s, mean: [0.5, 0.5, 0.25], std: [0.5, 0.25, 1.0]}"


def normalized(scale: str) -> list[str]:
    item = NORMALIZE % scale
    return [f"TRAIN.transforms.3={{{item}}}", f"VALID.transforms.3={{{item}}}"]


@pytest.mark.parametrize(
    ("scale", "mean", "std"),
    [
        ("1./255.", (0.5, 0.5, 0.25), (0.5, 0.25, 1.0)),
        ("0.00392157", (0.5, 0.5, 0.25), (0.5, 0.25, 1.0)),  # rounded in a file
        ("1/127.5", (0.25, 0.25, 0.125), (0.25, 0.125, 0.5)),  # values in [0, 2]
    ],
)
def test_other_means_become_the_network_s(tmp_path, scale, mean, std):
    got = job(tmp_path, *normalized(scale))
    assert got.model.spec["mean"] == pytest.approx(mean)
    assert got.model.spec["std"] == pytest.approx(std)
    both = job(
        tmp_path,
        *normalized(scale),
        "ARCHITECTURE.name=ResNet50_distill_ResNet18",
        'pretrained_model=""',
        "ARCHITECTURE.params={}",
    )
    assert both.teacher and both.teacher.model.spec == both.model.spec


def test_training_and_validation_are_normalised_alike(tmp_path):
    with pytest.raises(UserError, match="NormalizeImage differs in TRAIN"):
        job(tmp_path, normalized("1/255")[0])


def test_defaults_are_the_manual_s(tmp_path):
    got = job(tmp_path, "LEARNING_RATE=null", "topk=null", "save_interval=null")
    assert got.training and got.training.schedule == Linear()
    assert (got.training.lr, got.topk, got.save_every) == (0.1, 5, 1)


@pytest.mark.parametrize(("interpolation", "is_told"), [(1, True), (2, False), ("null", True)])
def test_an_efficientnet_that_is_not_resized_by_cubics_is_warned_of(
    tmp_path, caplog, interpolation, is_told
):
    settings = [
        "ARCHITECTURE={name: EfficientNetB0}",
        f"TRAIN.transforms.1.RandCropImage.interpolation={interpolation}",
    ]
    job(tmp_path, *settings)
    told = "TRAIN.transforms: EfficientNetB0 wants cubic interpolation" in caplog.text
    assert told == is_told
    assert "VALID.transforms: EfficientNetB0" not in caplog.text  # has interpolation: 2


def test_more_weights_than_networks_are_refused(tmp_path):
    with pytest.raises(UserError, match="pretrained_model names 2 weights, expected one"):
        job(tmp_path, "pretrained_model=[one, two]")
