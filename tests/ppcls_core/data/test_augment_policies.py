"""AutoAugment and RandAugment: what is drawn, how often, and which way."""

import math
from collections import Counter

import numpy as np
import pytest

from ppcls_core.data.augment import AutoAugment, RandAugment, policies
from ppcls_core.data.augment.operations import NAMES
from ppcls_core.data.augment.policies import POLICY

IMAGE = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)


@pytest.fixture
def calls(monkeypatch):
    """(name, amount) of each operation, none of them done."""
    seen = []

    def record(image, name, amount, fill):
        seen.append((name, amount))
        return image

    monkeypatch.setattr(policies, "operate", record)
    return seen


def near(count, num, prob):
    return abs(count - num * prob) <= 4 * math.sqrt(num * prob * (1 - prob))


# Table 9 of Cubuk et al. 2018 in short: operation, probability in tenths (a: 1), magnitude index.
PUBLISHED = """
P48R69 S65A65 E88E63 P67P66 E47S24 E44R88 S63E67 P85Ea2 R23S68 E68P46 R88C40 R49E62 E07E88
I64Ea8 C64Ka8 R88Ca2 C88S87 H47I68 X65Ea9 C40E63 E47S24 S65A65 I64Ea8 C64Ka8 E88E63
"""
LETTERS = {"contrast": "K", "sharpness": "H", "shear_x": "X"}  # others: their first letter


def test_the_policy_is_the_published():
    short = [
        "".join(
            f"{LETTERS.get(name, name[0].upper())}{round(10 * prob):x}{index}"
            for name, prob, index in steps
        )
        for steps in POLICY
    ]
    assert short == PUBLISHED.split()
    assert len(POLICY) == 25
    assert len(set(POLICY)) == 20
    steps = [step for policy in POLICY for step in policy]
    assert {name for name, _, _ in steps} <= set(NAMES)
    assert all(0 <= prob <= 1 and 0 <= index <= 9 for _, prob, index in steps)


def test_sub_policies_and_steps_are_as_likely_as_published(calls):
    num, draws = 20_000, np.random.default_rng(5)
    for _ in range(num):
        AutoAugment()(IMAGE, draws, 0.0)
    seen = Counter((name, round(abs(amount) * 9)) for name, amount in calls)
    expected = Counter()
    for policy in POLICY:
        for name, prob, index in policy:
            expected[name, index] += prob / len(POLICY)
    assert set(seen) == {key for key, prob in expected.items() if prob}
    for key, prob in expected.items():
        assert abs(seen[key] - num * prob) <= 4 * math.sqrt(num * max(prob, 1e-9)), key
    signs = [amount > 0 for _, amount in calls if amount]
    assert near(sum(signs), len(signs), 0.5)


def test_the_steps_of_one_sub_policy_are_independent(calls):
    draws, pairs = np.random.default_rng(6), Counter()
    for _ in range(20_000):
        del calls[:]
        AutoAugment()(IMAGE, draws, 0.0)
        pairs[tuple((name, round(abs(amount) * 9)) for name, amount in calls)] += 1
    both = pairs[("posterize", 8), ("rotate", 9)]
    first, second = pairs[(("posterize", 8),)], pairs[(("rotate", 9),)]
    # Another sub-policy has the same rotation first.
    for count, prob in ((both, 0.4 * 0.6), (first, 0.4 * 0.4), (second, 0.6 * 0.6 + 0.4 * 0.4)):
        assert near(count, 20_000, prob / 25)


def test_rand_augment_draws_all_operations_alike_and_both_ways(calls):
    num, draws = 7000, np.random.default_rng(7)
    for _ in range(num):
        RandAugment()(IMAGE, draws, 0.0)
    assert len(calls) == 2 * num
    assert {abs(amount) for _, amount in calls} == {0.5}
    for name in NAMES:
        ups = sum(amount > 0 for seen, amount in calls if seen == name)
        downs = sum(amount < 0 for seen, amount in calls if seen == name)
        assert near(ups + downs, 2 * num, 1 / 14)
        assert near(ups, ups + downs, 0.5)
    pairs = Counter(zip([n for n, _ in calls[::2]], [n for n, _ in calls[1::2]], strict=True))
    chi_square = sum((pairs[a, b] - num / 196) ** 2 / (num / 196) for a in NAMES for b in NAMES)
    assert chi_square < 262  # 195 degrees of freedom: exceeded by 1 sample of 1000


@pytest.mark.parametrize("operator", [AutoAugment(), RandAugment()])
def test_images_change(operator):
    """The original AutoAugment operator returned nothing; this one gives many images."""
    draws = np.random.default_rng(8)
    outs = [operator(IMAGE, draws, 0.0) for _ in range(200)]
    assert all(out.shape == IMAGE.shape for out in outs)
    assert len({out.tobytes() for out in outs}) > 20


def test_magnitude_nought_leaves_only_what_has_no_weaker_form(calls):
    RandAugment(magnitude=0, num_layers=50)(IMAGE, np.random.default_rng(0), 0.0)
    assert {amount for _, amount in calls} == {0}


def test_fill_reaches_the_operations():
    outs = [
        RandAugment(num_layers=1, magnitude=10, fill=(1, 2, 3))(
            np.full((30, 30, 3), 200, np.uint8), np.random.default_rng(seed), 0.0
        )
        for seed in range(60)
    ]
    assert any((out == (1, 2, 3)).all(axis=2).any() for out in outs)
