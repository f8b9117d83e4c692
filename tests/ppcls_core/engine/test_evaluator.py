"""Accuracy is exact, against brute force; the model is left as it was."""

import cv2
import numpy as np
import paddle
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from data_catalog.base.config import UserError
from data_catalog.images.columns import loose_images
from ppcls_core.data.transforms import Preprocess
from ppcls_core.engine import evaluator
from ppcls_core.engine.evaluator import (
    PREDICTIONS,
    EvalData,
    accuracy_of,
    count_hits,
    evaluate,
    predict_logits,
    predictions,
)
from ppcls_core.models.registry import build_model
from ppcls_core.models.specs import MEAN, STD
from ppcls_core.models.weights.state import state_of
from ppcls_core.runtime.monitor import Interrupted, SilentMonitor
from tests.support.images import image_set

NARROW = {"depths": [1, 1, 1, 1], "width": 4}
TIED = st.sampled_from([-1.0, 0.0, 0.5, float("nan"), float("inf"), -float("inf")])


def is_hit(logits, label, k):
    """Whether fewer than k other classes are not strictly below the label's, the long way."""
    others = [z for c, z in enumerate(logits) if c != label]
    return sum(not z < logits[label] for z in others) < k


class Lookup(paddle.nn.Layer):
    """Logits by an image's grey level: row `level // 10` of `table`."""

    def __init__(self, table):
        super().__init__()
        self.table, self.batches = table, []
        self.dropout = paddle.nn.Dropout(0.9)  # ruins the logits unless in eval mode

    def forward(self, images):
        red = images.numpy()[:, 0].mean((1, 2))
        rows = ((red * STD[0] + MEAN[0]) * 255 / 10).astype(int)
        self.batches.append(len(rows))
        return self.dropout(paddle.to_tensor(self.table[rows]))


def grey_images(folder, labels, bad=()):
    """Images of the levels 5, 15, 25 ..."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{i}.png" for i in range(len(labels))]
    for i, path in enumerate(paths):
        cv2.imwrite(str(path), np.full((40, 50, 3), 10 * i + 5, np.uint8))
        if i in bad:
            path.write_bytes(b"")
    return loose_images(folder, [path.name for path in paths], labels)


def assert_equals_brute_force(accuracy, table, labels, bad=()):
    rows = [i for i in range(len(labels)) if i not in bad]
    hits = [[labels[i] for i in rows if is_hit(table[i], labels[i], k)] for k in (1, 5)]
    found = [[labels[i] for i in rows], *hits]
    expected = [[part.count(c) for c in range(table.shape[1])] for part in found]
    assert accuracy.by_class.tolist() == expected
    shares = [accuracy.top1, accuracy.topk]
    assert shares == [len(hit) / len(rows) for hit in hits]
    assert accuracy.num_images == len(rows)
    assert accuracy.lost == ({"empty": len(bad)} if bad else {})
    assert accuracy.counts["in"] == len(labels)
    assert accuracy.counts["out"] == len(rows)


@pytest.mark.parametrize("batch_size", [1, 4, 64])
@pytest.mark.parametrize("num_classes", [2, 4, 5, 6, 20])
def test_equals_brute_force(tmp_path, monkeypatch, batch_size, num_classes):
    monkeypatch.setattr(evaluator, "BATCH_SIZE", batch_size)
    rng = np.random.default_rng(num_classes)
    table = rng.integers(0, 8, (21, num_classes)).astype(np.float32)  # with ties
    labels, bad = rng.integers(0, num_classes, 21), (0, 7, 8)
    images, model = grey_images(tmp_path, labels, bad), Lookup(table)
    accuracy = evaluate(model, EvalData(images, Preprocess(size=32), 2, 0.2), SilentMonitor())
    assert_equals_brute_force(accuracy, table, labels, bad)
    assert sum(model.batches) == 18
    assert model.training
    if num_classes <= 5:
        assert accuracy.topk == 1
    else:
        assert accuracy.top1 < accuracy.topk < 1


@settings(max_examples=200, deadline=None)
@given(
    st.data(),
    st.integers(1, 8).flatmap(
        lambda c: st.integers(1, 5).flatmap(lambda n: arrays(np.float32, (n, c), elements=TIED))
    ),
)
def test_hits_equal_brute_force_with_ties_and_values_that_are_no_numbers(data, logits):
    num, classes = logits.shape
    labels = np.array([data.draw(st.integers(0, classes - 1)) for _ in range(num)], np.int32)
    expected = np.zeros((3, classes), int)
    for z, y in zip(logits, labels, strict=True):
        expected[:, y] += [1, is_hit(z, y, 1), is_hit(z, y, 5)]
    assert count_hits(logits, labels).tolist() == expected.tolist()


def test_predictions_add_up_to_the_accuracy(tmp_path):
    rng = np.random.default_rng(0)
    table = rng.integers(0, 8, (21, 7)).astype(np.float32)
    labels, bad = rng.integers(0, 7, 21), (0, 7, 8)
    images, found = grey_images(tmp_path, labels, bad), [PREDICTIONS.empty_table()]

    def record(rows, logits):
        ids = [images.ids[row] for row in rows]
        found.append(predictions(ids, images.labels[list(rows)], logits[0]))

    data = EvalData(images, Preprocess(size=32), 2, 0.2)
    accuracy = evaluate(Lookup(table), data, SilentMonitor(), record)
    rows = pa.concat_tables(found)
    at = [int(name.removesuffix(".png")) for name in rows["image_id"].to_pylist()]
    assert sorted(at) == [row for row in range(21) if row not in bad]
    assert (accuracy_of(rows, 7, {}).by_class == accuracy.by_class).all()
    shares = np.exp(table) / np.exp(table).sum(1, keepdims=True)
    np.testing.assert_allclose(rows["probability"].to_numpy(), shares.max(1)[at], rtol=1e-5)
    assert rows["predicted"].to_pylist() == table.argmax(1)[at].tolist()


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_a_model_that_says_nothing_scores_nothing(tmp_path, value):
    images = grey_images(tmp_path, [0, 1, 2])
    model = Lookup(np.full((3, 10), value, np.float32))
    accuracy = evaluate(model, EvalData(images, Preprocess(size=32), 1), SilentMonitor())
    assert accuracy.by_class.tolist() == [[1, 1, 1] + [0] * 7, [0] * 10, [0] * 10]
    assert (accuracy.top1, accuracy.topk, accuracy.num_images) == (0, 0, 3)


@pytest.mark.parametrize(
    ("num", "bad", "max_lost", "message"),
    [
        (0, (), 1, "there are no validation images"),
        (2, (0, 1), 1, r"2 of 2 validation images could not be used \(empty: 2\)"),
        (10, (0, 1), 0.1, r"2 of 10 .* a share of 0.1 \(`max_lost`\)"),
        (10, (0,), 0, "1 of 10 validation"),
    ],
)
def test_too_few_readable_images_are_an_error(tmp_path, num, bad, max_lost, message):
    images, table = grey_images(tmp_path, [0] * num, bad), np.zeros((10, 3), np.float32)
    data = EvalData(images, Preprocess(size=32), 1, max_lost)
    with pytest.raises(UserError, match=message):
        evaluate(Lookup(table), data, SilentMonitor())


def test_several_predictors_read_each_image_once(tmp_path, monkeypatch):
    rng, reads = np.random.default_rng(0), []
    labels = rng.integers(0, 4, 9)
    images = grey_images(tmp_path, labels, bad=(3,))
    tables = [rng.integers(0, 8, (9, 4)).astype(np.float32) for _ in range(2)]
    read = evaluator.read_image
    monkeypatch.setattr(evaluator, "read_image", lambda path: reads.append(path) or read(path))

    def predictor(table):
        return lambda pixels: table[(pixels[:, 0].mean((1, 2)) / 10).astype(int)]

    data = EvalData(images, Preprocess(size=32), 2, max_lost=0.2)
    found = evaluator.evaluate_each([predictor(t) for t in tables], data, SilentMonitor())
    for accuracy, table in zip(found, tables, strict=True):
        assert_equals_brute_force(accuracy, table, labels, bad=(3,))
    assert len(reads) == 9


@pytest.fixture
def network():
    paddle.seed(0)
    return build_model("ResNet18_vd", num_classes=7, spec=NARROW)


def test_network_equals_its_logits_one_image_at_a_time(tmp_path, network):
    from ppcls_core.data.decode import read_image

    images = image_set(tmp_path, 30, num_classes=7)
    network.eval()
    pixels = [Preprocess(size=32)(read_image(path))[None] for path in images.sources()]
    logits = np.concatenate([predict_logits(network, p) for p in pixels])
    assert logits.dtype == np.float32
    accuracy = evaluate(network, EvalData(images, Preprocess(size=32), 2), SilentMonitor())
    assert_equals_brute_force(accuracy, logits, images.labels)


def test_every_layers_mode_comes_back_and_nothing_is_learned(tmp_path, network):
    images = image_set(tmp_path, 5)
    network.train()
    network.stem.eval()  # as a frozen part would be
    modes = [layer.training for layer in network.sublayers(include_self=True)]
    before = state_of(network)
    evaluate(network, EvalData(images, Preprocess(size=32), 1), SilentMonitor())
    assert [layer.training for layer in network.sublayers(include_self=True)] == modes
    assert len(set(modes)) == 2
    after = state_of(network)
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)


def test_stop_is_obeyed_and_the_mode_comes_back(tmp_path, monkeypatch, network):
    class Stop(SilentMonitor):
        stop_requested = True

    monkeypatch.setattr(evaluator, "BATCH_SIZE", 2)
    images, model = grey_images(tmp_path, [0] * 6), Lookup(np.zeros((6, 3), np.float32))
    with pytest.raises(Interrupted):
        evaluate(model, EvalData(images, Preprocess(size=32), 1), Stop())
    assert model.batches == [2]
    assert model.training
