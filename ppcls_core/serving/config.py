"""The limits of a server: what is beyond them is refused."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from data_catalog.base.config import Config
from ppcls_core.data.decode import MAX_PIXELS

MIB = 2**20


class ServeConfig(Config):
    """Batching and limits; what goes beyond a limit is refused with a 4xx or 503."""

    max_batch: int = Field(default=8, ge=1, le=1024)  # images; 1: no batching
    max_wait_ms: float = Field(default=5, ge=0, le=1000)  # of an image for others on their way
    max_queue: int = Field(default=64, ge=1, le=65_536)  # images taken on and not yet answered
    max_images: int = Field(default=32, ge=1)  # of a request
    max_pixels: int = Field(default=25_000_000, ge=1, le=MAX_PIXELS)  # of an image
    max_body_bytes: int = Field(default=16 * MIB, ge=1)  # of a request
    max_held_bytes: int = Field(default=256 * MIB, ge=1)  # of all requests under way
    max_connections: int = Field(default=256, ge=1)
    header_seconds: float = Field(default=10, gt=0)  # for a request's head; idle connections too
    body_seconds: float = Field(default=30, gt=0)  # for its body
    stop_seconds: int = Field(default=10, ge=1)  # for what is under way at a stop

    @model_validator(mode="after")
    def _requests_fit(self) -> Self:
        if self.max_images > self.max_queue:
            raise ValueError("max_images is above max_queue: such a request would never be taken")
        if self.max_body_bytes > self.max_held_bytes:
            raise ValueError("max_body_bytes is above max_held_bytes: lower one or raise the other")
        return self
