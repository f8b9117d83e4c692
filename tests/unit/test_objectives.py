"""Objectives: what they compute, and that distillation leaves the teacher as it is."""

import numpy as np
import paddle
import pytest

from ppcls_core.engine.objectives import cross_entropy, distillation
from ppcls_core.losses import LOSSES
from ppcls_core.models.registry import build_model
from ppcls_core.models.weights import state_of

NARROW = {"depths": [1, 1, 1, 1], "width": 4}
DROPOUT = {"dropout": 0.8}
LABELS = paddle.to_tensor([0, 1, 2, 3, 0, 1])


def resnet(seed):
    paddle.seed(seed)
    return build_model("ResNet18_vd", num_classes=4, spec=NARROW)


def mobilenet(seed, spec=None):
    paddle.seed(seed)
    return build_model("MobileNetV3_small_x0_35", num_classes=4, spec=spec)


def pictures(seed=0, scale=2.0):
    """Far from what the fresh running statistics expect."""
    rng = np.random.default_rng(seed)
    return paddle.to_tensor(rng.normal(1, scale, (6, 3, 32, 32)).astype(np.float32))


def logits_of(model, images):
    with paddle.no_grad():
        return model(images)


@pytest.mark.parametrize("batch_norm", ["batch", "running"])
@pytest.mark.parametrize("make", [resnet, mobilenet])
def test_teacher_keeps_parameters_and_running_statistics(make, batch_norm):
    teacher, student = make(0), resnet(1)
    before, student_before = state_of(teacher), state_of(student)
    objective = distillation(teacher, "ssld", batch_norm)
    optimizer = paddle.optimizer.Momentum(0.1, parameters=student.parameters())
    for seed in range(3):
        loss = objective(student, pictures(seed, scale=100), LABELS)
        loss.backward()
        optimizer.step()
        assert all(p.grad is None for p in teacher.parameters())
        assert all(p.grad is not None for p in student.parameters() if p.trainable)
        optimizer.clear_grad()
    after, student_after = state_of(teacher), state_of(student)
    assert {n: v.tobytes() for n, v in after.items()} == {n: v.tobytes() for n, v in before.items()}
    assert all(not np.array_equal(v, student_before[n]) for n, v in student_after.items())


@pytest.mark.parametrize("name", LOSSES)
def test_loss_is_between_the_students_and_the_teachers_logits(name):
    teacher, student = resnet(0), resnet(1)
    objective = distillation(teacher, name, "running")
    student.eval()  # so that its logits do not depend on how often it is asked
    loss = objective(student, pictures(), LABELS)
    expected = LOSSES[name](logits_of(student, pictures()), logits_of(teacher, pictures()))
    assert float(loss) == float(expected) > 0
    assert float(objective(student, pictures(), LABELS * 0)) == float(loss)  # labels are not used


def test_batch_uses_the_statistics_of_the_batch_and_running_those_learned():
    images, student = pictures(), resnet(1)
    student.eval()
    reference = resnet(0)
    with_batch = logits_of(reference, images)  # in training mode: no dropout in a ResNet
    reference = resnet(0)
    reference.eval()
    with_running = logits_of(reference, images)
    assert np.abs((with_batch - with_running).numpy()).max() > 0.01
    for batch_norm, target in (("batch", with_batch), ("running", with_running)):
        got = distillation(resnet(0), "ssld", batch_norm)(student, images, LABELS)
        assert float(got) == float(LOSSES["ssld"](logits_of(student, images), target))


def test_batch_of_the_teacher_normalises_each_channel():
    teacher = resnet(0)
    distillation(teacher, "ssld", "batch")
    normalised = logits_of(teacher.stem[0].bn, pictures()[:, :2]).numpy()
    assert np.allclose(normalised.mean((0, 2, 3)), 0, atol=1e-5)
    assert np.allclose(normalised.std((0, 2, 3)), 1, atol=1e-3)


@pytest.mark.parametrize("batch_norm", ["batch", "running"])
def test_dropout_of_the_teacher_is_off_and_that_of_the_student_on(batch_norm):
    student, images = resnet(1), pictures()
    student.eval()
    objective = distillation(mobilenet(0, DROPOUT), "ssld", batch_norm)
    losses = set()
    for seed in range(4):
        paddle.seed(seed)
        losses.add(float(objective(student, images, LABELS)))
    assert len(losses) == 1
    learner = mobilenet(2, DROPOUT)
    for seed in range(4):
        paddle.seed(seed)
        losses.add(float(objective(learner, images, LABELS)))
    assert len(losses) == 5


def test_the_students_mode_and_statistics_are_its_own():
    student = resnet(1)
    before = state_of(student)
    distillation(resnet(0), "ssld", "batch")(student, pictures(), LABELS)
    assert student.training
    moved = [n for n, v in state_of(student).items() if not np.array_equal(v, before[n])]
    assert moved
    assert all(name.endswith(("_mean", "_variance")) for name in moved)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_with_label_smoothing(smoothing):
    model, images = resnet(0), pictures()
    model.eval()
    logits = logits_of(model, images).numpy().astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    target = np.eye(4)[LABELS.numpy()] * (1 - smoothing) + smoothing / 4
    loss = cross_entropy(smoothing)(model, images, LABELS)
    assert loss.shape == []
    assert float(loss) == pytest.approx(-(target * log_p).sum(1).mean(), rel=1e-5)
