"""A probe gives a network the classifier that a library's logistic regression finds."""

import numpy as np
import paddle
import pytest
from sklearn.linear_model import LogisticRegression

from data_catalog.base.config import UserError
from ppcls_core.engine.probe import fit_classifier
from ppcls_core.models.features import without_classifier
from ppcls_core.models.registry import build_model

SPEC = {"depths": [1, 1, 1, 1], "width": 8}


def network(num_classes):
    paddle.seed(0)
    model = build_model("ResNet18_vd", num_classes=num_classes, spec=SPEC)
    model.eval()
    return model


def examples(model, num_classes, num=40):
    """Features of random images, shifted by class, and the classes."""
    pixels = np.random.default_rng(0).normal(size=(num * num_classes, 3, 32, 32))
    with paddle.no_grad():
        features = without_classifier(model)(paddle.to_tensor(pixels.astype("float32"))).numpy()
    labels = np.arange(len(features)) % num_classes
    features[np.arange(len(features)), labels] += 2 * features.std()
    return features, labels


@pytest.mark.parametrize("num_classes", [2, 5])
def test_the_classifier_is_the_regressions(num_classes):
    features, labels = examples(network(num_classes), num_classes)
    model = network(num_classes)
    body = {k: v.numpy() for k, v in model.state_dict().items() if "fc" not in k and "out" not in k}
    strength = fit_classifier(model, features, labels, 0)
    logits = model.classifier(paddle.to_tensor(features)).numpy()
    assert (logits.argmax(1) == labels).mean() > 0.9
    mean, deviation = features.mean(0), features.std(0) + 1e-6
    same = LogisticRegression(C=strength, max_iter=1000)
    same.fit((features - mean) / deviation, labels)
    wanted = same.predict_proba((features - mean) / deviation)
    shares = np.exp(logits - logits.max(1, keepdims=True))
    np.testing.assert_allclose(shares / shares.sum(1, keepdims=True), wanted, atol=1e-2)
    after = model.state_dict()
    assert all((after[name].numpy() == value).all() for name, value in body.items())


def test_the_same_seed_gives_the_same_bits():
    features, labels = examples(network(3), 3)
    first, second = network(3), network(3)
    fit_classifier(first, features, labels, 7)
    fit_classifier(second, features, labels, 7)
    assert (first.classifier.weight.numpy() == second.classifier.weight.numpy()).all()


def test_a_class_with_too_few_images():
    features, labels = examples(network(3), 3)
    three, one = (np.flatnonzero((labels != 2) | (np.arange(len(labels)) < n)) for n in (9, 3))
    model = network(3)
    fit_classifier(model, features[three], labels[three], 0)
    assert np.isfinite(model.classifier.weight.numpy()).all()
    with pytest.raises(UserError, match=r"class 2 has 1 labelled image .* two images or more"):
        fit_classifier(model, features[one], labels[one], 0)


def test_a_classifier_that_is_no_linear_layer():
    with pytest.raises(UserError, match=r"SqueezeNet1_0: its classifier is no linear layer"):
        without_classifier(build_model("SqueezeNet1_0", num_classes=3))
