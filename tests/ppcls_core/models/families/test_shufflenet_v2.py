"""ShuffleNetV2's shuffle."""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F

from ppcls_core.models.networks.shufflenet_v2 import ShuffleBlock


def test_kept_and_convolved_channels_alternate():
    paddle.seed(1)
    x = paddle.randn([2, 8, 5, 5])
    block = ShuffleBlock((8, 8), 1, F.relu)
    got = block(x)
    assert got.shape == x.shape
    np.testing.assert_array_equal(got[:, ::2].numpy(), x[:, :4].numpy())
    convolved = block._conv_linear(block._conv_dw(block._conv_pw(x[:, 4:])))
    np.testing.assert_array_equal(got[:, 1::2].numpy(), convolved.numpy())


def test_a_strided_block_sees_all_channels_twice():
    block = ShuffleBlock((6, 16), 2, F.relu)
    assert block(paddle.randn([2, 6, 9, 8])).shape == [2, 16, 5, 4]
    assert block._conv_dw_1.parameters()[0].shape == [6, 1, 3, 3]
    assert block._conv_pw_2.parameters()[0].shape == [8, 6, 1, 1]
