"""ResNeSt: what neither the goldens nor the tests of all networks show."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from ppcls_core.models.networks.residual import SplitAttention
from ppcls_core.models.registry import build_model

TINY = {"depths": [1, 1, 1, 1], "width": 4, "stem_width": 4}


@pytest.mark.parametrize(("radix", "share"), [(1, 0.5), (2, 0.5), (4, 0.25)])
def test_undecided_attention_takes_an_equal_share_of_every_split(radix, share):
    attention = SplitAttention(8, radix)
    attention.eval()
    attention.conv3.weight.set_value(paddle.zeros_like(attention.conv3.weight))
    x = paddle.to_tensor(np.random.default_rng(0).standard_normal((2, 8, 5, 7), dtype=np.float32))
    splits = attention.conv1(x).numpy().reshape(2, radix, 8, 5, 7)
    np.testing.assert_allclose(attention(x).numpy(), share * splits.sum(1), rtol=1e-5, atol=1e-6)


def test_weight_decay_is_kept_off_all_batch_norms():
    """With decay alone, from gradients of zero, convolutions shrink and batch norms stay."""
    model = build_model("ResNeSt50", num_classes=5, spec=TINY)
    optimizer = paddle.optimizer.Momentum(0.5, parameters=model.parameters(), weight_decay=0.1)
    before = {key: tensor.numpy() for key, tensor in model.state_dict().items()}
    (model(paddle.ones([2, 3, 64, 64])).sum() * 0.0).backward()
    optimizer.step()
    for key, parameter in model.named_parameters():
        if parameter.trainable and not key.endswith("bias"):
            kept = 1.0 if "_batch_norm" in key else 0.95
            np.testing.assert_allclose(parameter.numpy(), kept * before[key], rtol=1e-5)
