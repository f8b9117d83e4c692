"""Loss scaling for fp16."""

from __future__ import annotations

import paddle


class LossScaler(paddle.amp.GradScaler):
    """Paddle's, whose message about an overflow fails under NumPy 2.4."""

    def _update(self) -> None:
        self._scale = self._scale.reshape([])  # the message wants it without an axis
        super()._update()
        self._scale = self._scale.reshape([1])
