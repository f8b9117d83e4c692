"""What comes back of a teacher's logits, and what that does to the published loss."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppcls_core.labels.encoding import NUM_TOP, decode, encode, raw_columns, rest_bytes

ENCODINGS = ("int8", "fp16", "topk")


def log_softmax(z):
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def restored(logits, encoding="int8", k=NUM_TOP):
    columns = encode(logits, encoding, k)
    return decode({n: columns[n] for n in raw_columns(encoding)}, encoding, logits.shape[1])


def published_loss(student, teacher):
    """(loss, its gradient for the student's logits) of each image, in float64."""
    log_p, log_q = log_softmax(student), log_softmax(teacher)
    p, q = np.exp(log_p), np.exp(log_q)
    divergence = (p * (log_p - log_q)).sum(-1, keepdims=True)
    loss = 0.5 * ((p - q) * (log_p - log_q)).sum(-1)
    return loss, 0.5 * (p - q + p * (log_p - log_q - divergence))


def deviation(student, teacher, encoding, k=NUM_TOP):
    """(difference of a batch's mean loss, 1 - cosine of its gradient) from the exact ones."""
    loss, gradient = published_loss(student, teacher.astype(np.float64))
    other, moved = published_loss(student, restored(teacher, encoding, k).astype(np.float64))
    norms = np.linalg.norm(gradient) * np.linalg.norm(moved)
    return abs(other.mean() - loss.mean()), 1 - (gradient * moved).sum() / norms


TEACHERS = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**32),
        "num": st.sampled_from([256, 300, 512]),
        "classes": st.one_of(st.integers(2, 60), st.integers(61, 1000)),
        "spread": st.sampled_from([0.05, 0.5, 1.0, 2.0, 3.0]),  # flat to sharp
        "lead": st.sampled_from([0.0, 5.0, 10.0, 20.0]),  # of the best classes over the others
        "tops": st.integers(1, 5),  # classes that are nearly equally good
        "heavy_tailed": st.booleans(),
        "offset": st.sampled_from([0.0, -30.0, 30.0]),
    }
)
STUDENTS = {  # from one that knows nothing to one that is nearly there
    "fresh": (0.0, 0.3),
    "halfway": (0.5, 0.5),
    "off by 1.5": (1.0, 1.5),
    "off by 1": (1.0, 1.0),
    "off by 0.5": (1.0, 0.5),
    "off by 0.3": (1.0, 0.3),
}


def teacher_logits(rng, case):
    shape = case["num"], case["classes"]
    logits = rng.standard_t(4, shape) if case["heavy_tailed"] else rng.normal(0, 1, shape)
    logits *= case["spread"]
    for _ in range(case["tops"]):
        least = 0.98 if case["tops"] > 1 else 0.0
        lead = case["lead"] * rng.uniform(least, 1, len(logits))
        logits[np.arange(len(logits)), rng.integers(0, case["classes"], len(logits))] += lead
    logits[0] = 1.0  # all classes alike
    return (logits + case["offset"]).astype(np.float32)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(TEACHERS)
def test_int8_keeps_the_published_loss_and_its_gradient(case):
    """The claim: over a batch of at least 256 images, 1e-4 and 0.9999.

    A single image's loss may differ by 2e-3: errors of a tail's classes are independent, and it is
    their mean that stays small.
    """
    rng = np.random.default_rng(case["seed"])
    teacher = teacher_logits(rng, case)
    for name, (share, noise) in STUDENTS.items():
        student = share * teacher.astype(np.float64) + rng.normal(0, noise, teacher.shape)
        loss, cosine = deviation(student, teacher, "int8")
        assert loss <= 1e-4, name
        assert cosine <= 1e-4, name


@settings(max_examples=25, deadline=None)
@given(TEACHERS)
def test_fp16_keeps_them_more_closely(case):
    rng = np.random.default_rng(case["seed"])
    teacher = teacher_logits(rng, case)
    for share, noise in STUDENTS.values():
        student = share * teacher.astype(np.float64) + rng.normal(0, noise, teacher.shape)
        loss, cosine = deviation(student, teacher, "fp16")
        assert loss <= 5e-5
        assert cosine <= 1e-6


def test_topk_is_far_off_and_less_so_with_more_classes():
    rng = np.random.default_rng(0)
    teacher = rng.normal(0, 2, (256, 1000)).astype(np.float32)
    teacher[np.arange(256), rng.integers(0, 1000, 256)] += 10
    student = rng.normal(0, 0.3, teacher.shape)
    found = [deviation(student, teacher, "topk", k) for k in (16, 100, 500, 1000)]
    losses, cosines = zip(*found, strict=True)
    assert losses == pytest.approx((0.86, 0.50, 0.13, 0), abs=0.01)
    assert cosines == pytest.approx((0.0045, 0.0028, 0.0008, 0), abs=1e-4)


LOGITS = st.tuples(st.integers(0, 9), st.integers(1, 40), st.integers(0, 2**32)).map(
    lambda drawn: np.random.default_rng(drawn[2]).normal(0, 4, drawn[:2]).astype(np.float32)
)


@pytest.mark.parametrize("encoding", ENCODINGS)
@settings(max_examples=40, deadline=None)
@given(LOGITS)
def test_the_best_classes_are_exact_and_in_order(encoding, logits):
    columns, exact = encode(logits, encoding), log_softmax(logits.astype(np.float64))
    order = np.argsort(-exact.astype(np.float32), axis=1, kind="stable")[:, :NUM_TOP]
    assert np.array_equal(columns["top_class"], order)
    best = np.take_along_axis(exact, order, 1).astype(np.float32)
    assert np.array_equal(columns["top_logprob"], best)
    assert columns["entropy"] == pytest.approx(-(np.exp(exact) * exact).sum(1), rel=1e-6)
    back = restored(logits, encoding)
    assert back.dtype == np.float32
    assert back.shape == logits.shape
    assert np.array_equal(np.take_along_axis(back, order, 1), best)


@settings(max_examples=40, deadline=None)
@given(LOGITS)
def test_the_tail_is_within_half_a_step(logits):
    exact = log_softmax(logits.astype(np.float64))
    below = exact.max(1, keepdims=True) - exact
    assert (np.abs(restored(logits, "fp16") - exact) <= below * 2.0**-11 + 1e-6).all()
    step = np.ptp(exact, axis=1, keepdims=True) * 2 / 239  # the lowest; fitting moves it a little
    assert (np.abs(restored(logits, "int8") - exact) <= step).all()


@pytest.mark.parametrize(("spread", "classes"), [(0.5, 100), (2, 300), (4, 1000)])
def test_errors_over_the_tail_add_up_to_nothing(spread, classes):
    """Evenly and weighted by probability; independent ones would not."""
    logits = np.random.default_rng(0).normal(0, spread, (64, classes)).astype(np.float32)
    exact = log_softmax(logits.astype(np.float64))
    errors = restored(logits) - exact
    rms = np.sqrt((errors**2).mean(1))
    independent = rms / np.sqrt(classes)
    assert (np.abs(errors.mean(1)) < 0.05 * independent).all()
    tail = np.where(errors == 0, 0, np.exp(exact))
    weights = tail / tail.sum(1, keepdims=True)
    assert (np.abs((weights * errors).sum(1)) < 0.05 * independent).all()


def test_probabilities_add_up():
    rng = np.random.default_rng(0)
    for spread, classes in ((0.5, 20), (2, 100), (4, 1000)):
        logits = rng.normal(0, spread, (64, classes)).astype(np.float32)
        for encoding in ENCODINGS:
            assert np.exp(restored(logits, encoding)).sum(1) == pytest.approx(1, abs=1e-3), encoding


def test_topk_spreads_the_rest_evenly():
    logits = np.log(np.array([[0.5, 0.3, 0.1, 0.06, 0.04]], np.float32))
    assert np.exp(restored(logits, "topk", 2))[0] == pytest.approx(
        [0.5, 0.3, 0.2 / 3, 0.2 / 3, 0.2 / 3]
    )
    assert encode(logits, "topk", 3)["top_class"].tolist() == [[0, 1, 2]]


def test_equal_classes_are_ordered_by_number():
    columns = encode(np.zeros((2, 40), np.float32), "int8")
    assert columns["top_class"].tolist() == [list(range(16))] * 2
    for encoding in ENCODINGS:
        assert restored(np.zeros((2, 40), np.float32), encoding) == pytest.approx(-np.log(40))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_infinite_logits_stay_finite_and_in_order(encoding):
    logits = np.array([[np.inf, 1e6, 70000, 3, -1e6, -np.inf], [0] * 6], np.float32)
    back = restored(logits, encoding)
    assert np.isfinite(back).all()
    assert back[0, 0] == back[0, 1] == back[0, 2] > back[0, 3] > back[0, 4] >= back[0, 5]
    nothing = np.full((1, 6), -np.inf, np.float32)
    assert restored(nothing, encoding) == pytest.approx(-np.log(6))


def test_a_teacher_that_excludes_classes_keeps_the_others():
    """A teacher of 22,000 classes with all but 1,000 at -inf, say."""
    logits = np.random.default_rng(0).normal(0, 2, (50, 200)).astype(np.float32)
    masked = logits.copy()
    masked[:, 100:] = -np.inf
    exact = log_softmax(logits[:, :100].astype(np.float64))
    for encoding, error in (("int8", 0.5), ("fp16", 0.01)):
        back = restored(masked, encoding)
        assert np.abs(back[:, :100] - exact).max() < error
        floor = exact.max(1, keepdims=True) - 104
        assert np.abs(back[:, 100:] - floor).max() < error
        assert (np.exp(back[:, 100:]) == 0).all()


def test_an_offset_changes_nothing():
    logits = np.random.default_rng(0).integers(-8, 8, (20, 100)).astype(np.float32)
    for encoding in ENCODINGS:
        assert np.array_equal(restored(logits + 64, encoding), restored(logits, encoding))


def test_bytes_of_an_image():
    columns = encode(np.zeros((3, 1000), np.float32), "int8")
    assert columns["rest"].shape == (3, rest_bytes("int8", 1000)) == (3, 1000)
    assert encode(np.zeros((3, 50), np.float32), "fp16")["rest"].shape == (3, 100)
    assert "rest" not in encode(np.zeros((3, 50), np.float32), "topk")
