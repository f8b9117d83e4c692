"""Seeds depend on every part of their key and on nothing else."""

import subprocess
import sys

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ppcls_core.runtime.randomness import generator, seed_of

PART = st.one_of(
    st.integers(-(2**63), 2**63), st.text(max_size=8).filter(lambda t: "\x1f" not in t)
)


@given(st.lists(PART, max_size=4), st.lists(PART, max_size=4))
def test_different_keys_have_different_seeds(one, other):
    same = [str(part) for part in one] == [str(part) for part in other] and len(one) == len(other)
    if not (one and other):  # no part and one empty part are written alike
        return
    assert (seed_of(*one) == seed_of(*other)) == same


@given(st.lists(PART, max_size=4))
def test_a_seed_fits_a_signed_64_bit_integer(key):
    assert 0 <= seed_of(*key) < 2**63


def test_another_process_has_the_same_seeds():
    code = "from ppcls_core.runtime.randomness import seed_of; print(seed_of(3, 7, 'n0/ä.jpg'))"
    options = {"capture_output": True, "text": True, "check": True}
    done = subprocess.run([sys.executable, "-c", code], **options)
    assert int(done.stdout) == seed_of(3, 7, "n0/ä.jpg")


def test_generators_start_anew_and_differ_by_key():
    draws = [generator(0, epoch, "a").random(4) for epoch in (0, 0, 1)]
    assert np.array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])


def test_seeds_of_following_images_look_independent():
    first = np.array([generator(0, 0, f"{i}.jpg").random() for i in range(4000)])
    assert abs(first.mean() - 0.5) < 4 * np.sqrt(1 / 12 / 4000)
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 4 / np.sqrt(4000)
