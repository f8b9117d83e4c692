"""Selection equals sorting everything, in little memory, however the labels come."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppcls_core.labels.select import SELECTION, SelectConfig, TopK, softmax


def full_sort(ids, logits, config):
    """(image_id, class, score) by (class, -score, image_id), each class cut at k."""
    rows = []
    for image_id, z in zip(ids, logits, strict=True):
        scores = softmax(z[None])[0]
        best = sorted(range(len(z)), key=lambda c: (-scores[c], c))[: config.p]
        rows += [(image_id, c, scores[c]) for c in best if scores[c] >= config.min_score]
    rows.sort(key=lambda row: (row[1], -row[2], row[0]))
    kept, held = [], dict.fromkeys(range(logits.shape[1]), 0)
    for row in rows:
        held[row[1]] += 1
        if held[row[1]] <= config.k:
            kept.append(row)
    return kept


def selected(table):
    assert table.schema.equals(SELECTION)
    columns = [table[name].to_pylist() for name in SELECTION.names]
    return [(i, c, np.float32(s)) for i, c, s in zip(*columns, strict=True)]


@st.composite
def labels(draw):
    """(ids, logits) with many ties within an image and among images."""
    num, classes = draw(st.integers(0, 40)), draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    levels = draw(st.sampled_from([1, 2, 4, 1000]))
    logits = rng.integers(0, levels, (num, classes)).astype(np.float32) * (8 / levels)
    ids = [f"{draw(st.sampled_from('aZä'))}{number}" for number in rng.permutation(num)]
    return ids, logits


CONFIGS = st.builds(
    SelectConfig,
    k=st.integers(1, 50),
    p=st.integers(1, 8),
    min_score=st.sampled_from([0.0, 0.2, 1 / 3, 0.9]),
)


@settings(max_examples=150, deadline=None)
@given(labels(), CONFIGS, st.data())
def test_equals_a_full_sort_whatever_the_shards(labels, config, data):
    ids, logits = labels
    expected = full_sort(ids, logits, config)
    order = np.array(data.draw(st.permutations(range(len(ids)))), np.int64)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(ids)), max_size=5)))
    best = TopK(logits.shape[1], config)
    for part in np.split(order, cuts):
        best.add([ids[row] for row in part], logits[part])
    got = selected(best.result())
    assert got == expected
    assert len({(image_id, c) for image_id, c, _ in got}) == len(got)  # once a class


def test_a_score_does_not_depend_on_the_shard_it_comes_in():
    logits = np.random.default_rng(0).normal(0, 5, (257, 1000)).astype(np.float32)
    whole = softmax(logits)
    for start, size in ((0, 1), (3, 2), (17, 100), (256, 1)):
        part = logits[start : start + size]
        assert np.array_equal(softmax(part), whole[start : start + size])


def test_large_random_selection_with_pruning_equals_a_full_sort():
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 2, (3000, 10)).astype(np.float16).astype(np.float32)
    ids = [f"{number:05}" for number in rng.permutation(3000)]
    config = SelectConfig(k=20, p=3)
    best, held = TopK(10, config), []
    for start in range(0, 3000, 50):
        best.add(ids[start : start + 50], logits[start : start + 50])
        held.append([sum(len(part) for part in parts) for parts in best._ids])
    assert np.max(held) <= 4 * config.k  # what is offered first and pruned at once not counted
    assert selected(best.result()) == full_sort(ids, logits, config)


def test_result_can_be_taken_more_than_once_and_added_to():
    logits = np.random.default_rng(2).normal(0, 2, (60, 4)).astype(np.float32)
    ids, config = [f"{n:02}" for n in range(60)], SelectConfig(k=5, p=2)
    best = TopK(4, config)
    best.add(ids[:30], logits[:30])
    assert selected(best.result()) == full_sort(ids[:30], logits[:30], config)
    best.add(ids[30:], logits[30:])
    assert selected(best.result()) == selected(best.result()) == full_sort(ids, logits, config)


def test_an_image_may_serve_p_classes_and_no_more():
    logits = np.array([[3, 2, 1, 0]], np.float32)
    for p, classes in ((1, [0]), (2, [0, 1]), (10, [0, 1, 2, 3])):
        best = TopK(4, SelectConfig(k=9, p=p))
        best.add(["x"], logits)
        assert best.result()["class_id"].to_pylist() == classes


@pytest.mark.parametrize(("min_score", "kept"), [(0.0, 2), (0.49, 2), (0.5, 2), (0.51, 0)])
def test_least_score_is_kept(min_score, kept):
    best = TopK(2, SelectConfig(k=9, min_score=min_score))
    best.add(["x"], np.zeros((1, 2), np.float32))
    assert best.result()["score"].to_pylist() == [0.5] * kept


def test_nothing_offered_gives_an_empty_table():
    best = TopK(3, SelectConfig())
    assert best.result().num_rows == 0
    best.add([], np.empty((0, 3), np.float32))
    assert best.result().schema.equals(SELECTION)


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_softmax_is_finite_and_sums_to_one(scale):
    logits = (np.random.default_rng(0).normal(size=(5, 9)) * scale).astype(np.float32)
    scores = softmax(logits)
    assert scores.dtype == np.float32
    assert np.allclose(scores.sum(1), 1, atol=1e-6)
    exact = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    assert np.allclose(scores, exact / exact.sum(1, keepdims=True), rtol=1e-5, atol=1e-7)
