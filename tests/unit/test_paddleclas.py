"""PaddleClas's YAML of 2020 as typed jobs."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from data_catalog.config import UserError
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
from ppcls_core.engine.config import DistillTraining, LabelTraining
from ppcls_core.engine.optimizers import Momentum, Regularizer, RMSProp
from ppcls_core.engine.schedules import (
    Cosine,
    CosineWarmup,
    ExponentialWarmup,
    Linear,
    Piecewise,
)
from ppcls_core.job import Job, load_job

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
            to_np: False
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


@pytest.mark.parametrize("nested", [True, False])
def test_efficientnet_s_parameters(tmp_path, nested):
    params = {"padding_type": "SAME", "override_params": {"drop_connect_rate": 0.1}}
    section = {"name": "EfficientNetB0", "params": {"is_test": False, **params}}
    if not nested:
        section = {"name": "EfficientNetB0", "padding_type": "SAME", "drop_connect_rate": 0.1}
    data = {**yaml.safe_load(FILE), "ARCHITECTURE": section}
    got = job(tmp_path, text=yaml.safe_dump(data))
    assert got.model.spec == {"padding_type": "SAME", "drop_connect_rate": 0.1}


def test_a_file_of_an_evaluation_alone(tmp_path):
    data = yaml.safe_load(FILE)
    kept = ("ARCHITECTURE", "pretrained_model", "classes_num", "image_shape", "VALID", "topk")
    got = job(tmp_path, text=yaml.safe_dump({"mode": "valid"} | {k: data[k] for k in kept}))
    assert got.training is None
    assert got.val


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("epoch=3", "unknown setting 'epoch'; did you mean 'epochs'"),
        ("TRAIN.transforms=[RandomErase]", "unknown transform 'RandomErase'; did you mean 'Rando"),
        (
            "TRAIN.transforms=[{Cutout: {hole: 1}}]",
            "Cutout: unknown setting 'hole'; did you mean 'n_holes'",
        ),
        ("TRAIN.batchsize=3", "TRAIN: unknown setting 'batchsize'; did you mean 'batch_size'"),
        ("ARCHITECTURE.name=ResNet5", "unknown model 'ResNet5'; did you mean 'ResNet50'"),
        ("ARCHITECTURE.params={widht: 3}", "unknown setting 'widht'; did you mean 'width'"),
        ("image_shape=[3, 299, 299]", r"image_shape is \[3, 299, 299\], but the transforms give"),
        ("LEARNING_RATE.function=Cosin", "unknown name 'Cosin'; did you mean 'Cosine'"),
        ("LEARNING_RATE.params={lr: 0.1, gama: 1}", "unknown setting 'gama'"),
        ("OPTIMIZER.function=Adamw", "unknown name 'Adamw'; did you mean 'Adam'"),
        ("use_mix=true", "use_mix is True, but TRAIN.mix has 0 operators"),
        ("use_distillation=true", "use_distillation is True, but the architecture is"),
        (
            "TRAIN.transforms=[{NormalizeImage: {scale: 1/128}}]",
            "expected ImageNet's mean and deviation, and a scale of 1/255",
        ),
        ("TRAIN.transforms=[{NormalizeImage: {scale: open(0)}}]", "a scale of 1/255"),
        ("image_shape=224", "another form than in PaddleClas's files"),
        ("image_shape=[3, 224, 192]", "make them agree"),
        ("TRAIN=5", "another form than in PaddleClas's files"),
        ("ARCHITECTURE=ResNet50", "another form than in PaddleClas's files"),
        ("OPTIMIZER.regularizer={function: L2}", "another form than in PaddleClas's files"),
        ("OPTIMIZER.regularizer={function: L2, facotr: 1}", "did you mean 'factor'"),
        ("LEARNING_RATE={functoin: Cosine}", "did you mean 'function'"),
        ("LOSS={function: MSE}", "LOSS: got MSE, expected CELoss"),
        ("TRAIN.transforms=[{RandomErasing: {r1: 0}}]", "division by zero"),
        ("pretrained_model=5", "pretrained_model is 5, expected paths"),
        ("ls_epsilon=.nan", "label_smoothing"),
        ("classes_num=0", "num_classes: .*greater than 0"),
        ("VALID.transforms=[ToCHWImage]", "expected CropImage or ResizeImage with a size"),
    ],
)
def test_mistakes_are_named(tmp_path, setting, message):
    with pytest.raises(UserError, match=message):
        job(tmp_path, setting)
