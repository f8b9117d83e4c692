"""Mixed precision: what is computed in 16 bits, and how small gradients survive it.

The parameters stay float32 and are cast where they are used, at O2 too. They are their own master
weights: optimizer, average, checkpoint and evaluation know nothing of the precision.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from data_catalog.base.config import Config, UserError

if TYPE_CHECKING:
    import paddle


class Precision(Config):
    """O1 computes convolutions and matrix products in `dtype`, O2 all but the batch norm's part."""

    dtype: Literal["fp32", "bf16", "fp16"] = "fp32"  # bf16 and fp16 for GPUs alone
    level: Literal["O1", "O2"] = "O1"  # how much of the network, see above
    loss_scale: float = Field(default=65536.0, gt=0)  # fp16 alone: the scale at the start
    dynamic: bool = True  # fp16 alone: halve it after an overflow, double it after 2,000 good steps

    def check(self) -> None:
        """Raise UserError where this machine cannot compute in `dtype`."""
        import paddle

        if self.dtype == "fp32":
            return
        amp, device = paddle.amp, paddle.device.get_device()
        is_bf16 = self.dtype == "bf16"
        is_supported = amp.is_bfloat16_supported() if is_bf16 else amp.is_float16_supported()
        # On a CPU Paddle calls bfloat16 supported, but has no kernel to train with.
        if device == "cpu" or not is_supported:
            raise UserError(
                f"`precision.dtype`: {self.dtype} cannot be trained on the device '{device}'; "
                "leave it out, for fp32, or take a GPU that has it"
            )

    def autocast(self) -> AbstractContextManager[None]:
        """The block in which a forward pass is computed in this precision."""
        import paddle

        if self.dtype == "fp32":
            return nullcontext()
        # Without promotion: a float32 bias would make all that follows float32.
        dtype = "bfloat16" if self.dtype == "bf16" else "float16"
        return paddle.amp.auto_cast(level=self.level, dtype=dtype, use_promote=False)

    def scaler(self) -> paddle.amp.GradScaler:
        """Scales the loss in fp16 and does nothing otherwise; a step that overflows is left out."""
        import paddle

        class LossScaler(paddle.amp.GradScaler):
            """Paddle's, whose message about an overflow fails under NumPy 2.4."""

            def _update(self) -> None:
                self._scale = self._scale.reshape([])  # the message wants it without an axis
                super()._update()
                self._scale = self._scale.reshape([1])

        return LossScaler(
            enable=self.dtype == "fp16",
            init_loss_scaling=self.loss_scale,
            use_dynamic_loss_scaling=self.dynamic,
        )
