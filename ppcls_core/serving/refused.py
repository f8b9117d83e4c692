"""A request that is not answered: the status, and a JSON body that says why and what to do."""

from __future__ import annotations

import math
from dataclasses import dataclass

from starlette.responses import JSONResponse


@dataclass(eq=False)
class Refused(Exception):
    """An error for the asker: the thing got, the thing expected and the remedy, each a phrase."""

    status: int
    got: str
    expected: str
    remedy: str
    retry_after: float | None = None  # seconds
    reason: str | None = None  # BadImage's, where it is the image's fault

    def response(self) -> JSONResponse:
        """{"error": {"status", "got", "expected", "remedy"}}, and "reason" if there is one.

        With Retry-After if it may pass.
        """
        headers = {}
        if self.retry_after is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after)))
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        parts = {"got": self.got, "expected": self.expected, "remedy": self.remedy}
        if self.reason is not None:
            parts["reason"] = self.reason
        return JSONResponse({"error": {"status": self.status, **parts}}, self.status, headers)


def cut(text: str) -> str:
    """`text`, quoted, its middle left out if it is long."""
    return repr(text if len(text) <= 80 else f"{text[:40]}...{text[-30:]}")
