"""The page that a browser gets: one file without anything from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from pathlib import Path

from fastapi.responses import HTMLResponse


@cache
def _html_and_policy() -> tuple[str, str]:
    """page.html, and a content security policy that allows its own script and style alone."""
    html = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")
    script, style = (
        "'sha256-" + base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode() + "'"
        for tag in ("script", "style")
        for inner in re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    )
    policy = (
        f"default-src 'none'; script-src {script}; style-src {style}; img-src blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return html, policy


async def page() -> HTMLResponse:
    """The page on which one drops a picture and sees its classes."""
    html, policy = _html_and_policy()
    headers = {"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer"}
    return HTMLResponse(html, headers=headers)
