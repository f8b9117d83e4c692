"""Objectives: what they compute, and that distillation leaves the teacher as it is."""

import numpy as np
import paddle
import pytest

from ppcls_core.data.batch import Batch
from ppcls_core.engine.device import to_device
from ppcls_core.engine.losses import LOSSES
from ppcls_core.engine.objectives import AUXILIARY_WEIGHT, cross_entropy, distillation
from ppcls_core.models.networks.layers import normalize
from ppcls_core.models.registry import build_model
from ppcls_core.models.weights.state import state_of

NARROW = {"depths": [1, 1, 1, 1], "width": 4}
DROPOUT = {"dropout": 0.8}
LABELS = np.array([0, 1, 2, 3, 0, 1])


def resnet(seed):
    paddle.seed(seed)
    return build_model("ResNet18_vd", num_classes=4, spec=NARROW)


def mobilenet(seed, spec=None):
    paddle.seed(seed)
    return build_model("MobileNetV3_small_x0_35", num_classes=4, spec=spec)


def pictures(seed=0):
    """Dark images, far from what the fresh running statistics expect."""
    return batch_of(np.random.default_rng(seed).integers(0, 60, (6, 3, 32, 32), np.uint8), LABELS)


def batch_of(*fields):
    """A batch on the device."""
    return to_device(Batch(*fields)).parts[0]


def logits_of(model, batch):
    with paddle.no_grad():
        return model(normalize(batch.pixels, model))


def loss_of(objective, model, batch):
    return float(objective(model, batch)[0])


def mean_cross_entropy(logits, labels, smoothing):
    """Of each image, from the definition: float64 [N]."""
    logits = logits.numpy().astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    target = np.eye(logits.shape[1])[labels] * (1 - smoothing) + smoothing / logits.shape[1]
    return -(target * log_p).sum(1)


@pytest.mark.parametrize("batch_norm", ["batch", "running"])
@pytest.mark.parametrize("make", [resnet, mobilenet])
def test_teacher_keeps_parameters_and_running_statistics(make, batch_norm):
    teacher, student = make(0), resnet(1)
    before, student_before = state_of(teacher), state_of(student)
    objective = distillation([teacher], "ssld", batch_norm)
    optimizer = paddle.optimizer.Momentum(0.1, parameters=student.parameters())
    for seed in range(3):
        loss, _ = objective(student, pictures(seed))
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
    objective = distillation([teacher], name, "running")
    student.eval()  # so that its logits do not depend on how often it is asked
    loss, logits = objective(student, pictures())
    expected = LOSSES[name](logits_of(student, pictures()), logits_of(teacher, pictures()))
    assert float(loss) == float(expected) > 0
    assert np.array_equal(logits.numpy(), logits_of(student, pictures()).numpy())
    assert logits.stop_gradient


def test_labels_are_not_used_and_mixed_images_are_images():
    student = resnet(1)
    student.eval()
    objective = distillation([resnet(0)], "ssld", "running")
    batch = pictures()
    mixed = batch_of(batch.pixels.numpy(), LABELS * 0 - 1, LABELS, np.full(6, 0.3, np.float32))
    assert loss_of(objective, student, mixed) == loss_of(objective, student, batch)


@pytest.mark.parametrize("name", LOSSES)
def test_several_teachers_give_the_mean_of_the_losses(name):
    student = resnet(1)
    student.eval()
    teachers = [resnet(2), mobilenet(3), resnet(4)]
    single = [loss_of(distillation([t], name, "batch"), student, pictures()) for t in teachers]
    together = loss_of(distillation(teachers, name, "batch"), student, pictures())
    assert together == pytest.approx(sum(single) / 3, rel=1e-5)


@pytest.mark.parametrize("name", ["kl", "ce"])
def test_several_teachers_teach_the_mean_of_their_probabilities(name):
    student, gradients = resnet(1), []
    student.eval()
    teachers = [resnet(2), resnet(4)]
    distillation(teachers, name, "running")(student, pictures())[0].backward()
    gradients.append(student.fc.weight.grad.numpy())
    student.clear_gradients()
    logits = student(normalize(pictures().pixels, student))
    mean = sum(paddle.nn.functional.softmax(logits_of(t, pictures())) for t in teachers) / 2
    LOSSES[name](logits, mean.log()).backward()
    assert np.allclose(student.fc.weight.grad.numpy(), gradients[0], rtol=1e-4, atol=1e-7)


def test_batch_uses_the_statistics_of_the_batch_and_running_those_learned():
    batch, student = pictures(), resnet(1)
    student.eval()
    reference = resnet(0)
    with_batch = logits_of(reference, batch)  # in training mode: no dropout in a ResNet
    reference = resnet(0)
    reference.eval()
    with_running = logits_of(reference, batch)
    assert np.abs((with_batch - with_running).numpy()).max() > 0.01
    for batch_norm, target in (("batch", with_batch), ("running", with_running)):
        got = loss_of(distillation([resnet(0)], "ssld", batch_norm), student, batch)
        assert got == float(LOSSES["ssld"](logits_of(student, batch), target))


def test_batch_of_the_teacher_normalises_each_channel():
    teacher = resnet(0)
    distillation([teacher], "ssld", "batch")
    with paddle.no_grad():
        images = normalize(pictures().pixels, teacher)[:, :2]
        normalised = teacher.stem[0].bn(images).numpy()
    assert np.allclose(normalised.mean((0, 2, 3)), 0, atol=1e-5)
    assert np.allclose(normalised.std((0, 2, 3)), 1, atol=1e-3)


@pytest.mark.parametrize("batch_norm", ["batch", "running"])
def test_dropout_of_the_teacher_is_off_and_that_of_the_student_on(batch_norm):
    student, batch = resnet(1), pictures()
    student.eval()
    objective = distillation([mobilenet(0, DROPOUT)], "ssld", batch_norm)
    losses = set()
    for seed in range(4):
        paddle.seed(seed)
        losses.add(loss_of(objective, student, batch))
    assert len(losses) == 1
    learner = mobilenet(2, DROPOUT)
    for seed in range(4):
        paddle.seed(seed)
        losses.add(loss_of(objective, learner, batch))
    assert len(losses) == 5


def test_the_students_mode_and_statistics_are_its_own():
    student = resnet(1)
    before = state_of(student)
    distillation([resnet(0)], "ssld", "batch")(student, pictures())
    assert student.training
    moved = [n for n, v in state_of(student).items() if not np.array_equal(v, before[n])]
    assert moved
    assert all(name.endswith(("_mean", "_variance")) for name in moved)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_with_label_smoothing(smoothing):
    model, batch = resnet(0), pictures()
    model.eval()
    logits = logits_of(model, batch)
    loss, got = cross_entropy(smoothing)(model, batch)
    assert loss.shape == []
    assert float(loss) == pytest.approx(
        mean_cross_entropy(logits, LABELS, smoothing).mean(), rel=1e-5
    )
    assert np.array_equal(got.numpy(), logits.numpy())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_mixed_batch_weighs_the_cross_entropies_of_each_image(smoothing):
    model, plain = resnet(0), pictures()
    model.eval()
    others, weight = LABELS[::-1].copy(), np.linspace(0, 1, 6, dtype=np.float32)
    batch = batch_of(plain.pixels.numpy(), LABELS, others, weight)
    logits = logits_of(model, plain)
    one, two = (mean_cross_entropy(logits, labels, smoothing) for labels in (LABELS, others))
    expected = (weight * one + (1 - weight) * two).mean()
    assert loss_of(cross_entropy(smoothing), model, batch) == pytest.approx(expected, rel=1e-5)
    whole = batch_of(plain.pixels.numpy(), LABELS, others, np.ones(6, np.float32))
    assert loss_of(cross_entropy(smoothing), model, whole) == pytest.approx(
        loss_of(cross_entropy(smoothing), model, plain), rel=1e-6
    )


def test_auxiliary_outputs_count_three_tenths_each():
    rng = np.random.default_rng(0)
    outputs = tuple(paddle.to_tensor(rng.normal(size=(6, 4)).astype(np.float32)) for _ in range(3))
    main, *auxiliary = (mean_cross_entropy(out, LABELS, 0.1).mean() for out in outputs)
    loss, logits = cross_entropy(0.1)(lambda images: outputs, pictures())
    assert AUXILIARY_WEIGHT == 0.3
    assert float(loss) == pytest.approx(main + 0.3 * sum(auxiliary), rel=1e-5)
    assert np.array_equal(logits.numpy(), outputs[0].numpy())


def test_googlenet_in_training_has_three_outputs_that_all_learn():
    paddle.seed(0)
    model = build_model("GoogLeNet", num_classes=4)
    loss, logits = cross_entropy(0.0)(
        model, batch_of(pictures().pixels.numpy()[:2].repeat(2, 2), LABELS[:2])
    )
    loss.backward()
    assert logits.shape == [2, 4]
    assert all(p.grad is not None for p in model.parameters())
