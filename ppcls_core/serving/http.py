"""The parts that every server here has in common: refusals in one form, and a page of its own."""

import base64
import hashlib
import re
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from starlette.exceptions import HTTPException

from ppcls_core.serving.limits import Refused, cut


def new_api(title: str, paths: Collection[str], **settings: Any) -> FastAPI:
    """An application that answers every mistake in the form of `Refused`; `paths`: those that it
    serves, `settings`: others of FastAPI."""
    api = FastAPI(
        title=title,
        docs_url=None,  # they would load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={
            HTTPException: _http_error,
            RequestValidationError: _validation_error,
            Refused: _refusal,
            Exception: _server_error,
        },
        **settings,
    )
    api.state.paths = paths
    return api


def page_response(name: str) -> HTMLResponse:
    """The page `name`, a file of this folder with one script and one style."""
    html, policy = _html_and_policy(name)
    headers = {"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer"}
    return HTMLResponse(html, headers=headers)


@cache
def _html_and_policy(name: str) -> tuple[str, str]:
    """The file, and a content security policy that allows its own script and style alone."""
    html = (Path(__file__).parent / name).read_text(encoding="utf-8")
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


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    remedy = "see /openapi.json"
    got = f"{request.method} {cut(request.url.path)}"
    is_known = error.status_code != 404
    expected = str(error.detail) if is_known else f"one of {', '.join(request.app.state.paths)}"
    headers = dict(error.headers or {})
    if error.status_code == 405:
        # The guard makes a GET of a HEAD.
        allowed = set(headers.get("Allow", "").split(", "))
        headers["Allow"] = ", ".join(sorted(allowed | {"HEAD"} if "GET" in allowed else allowed))
        expected = f"one of {headers['Allow']}"
    response = Refused(error.status_code, got, expected, remedy).response()
    response.headers.update(headers)
    return response


async def _validation_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first: dict[str, Any] = error.errors()[0]
    where, got = ".".join(map(str, first["loc"])), cut(str(first["input"]))
    return Refused(422, f"{where}: {got}", first["msg"], "correct the parameter").response()


async def _refusal(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return error.response()


async def _server_error(_: Request, error: Exception) -> Response:
    """Starlette raises `error` again, so that the log has it."""
    return Refused(
        500, type(error).__name__, "an answer", "report it with the server's log"
    ).response()
