"""Who may ask: holders of the token, and on the loopback interface only those who mean it.

A page on the internet can make its visitor's browser send requests to 127.0.0.1. It gives itself
away by its Origin, or, when its own name leads to 127.0.0.1 (DNS rebinding), by the Host.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from data_catalog.base.config import UserError
from ppcls_core.serving.limits import Refused, cut

OPEN = ("/", "/health", "/ready")  # without a token: the page asks for it, probes have none
MIN_TOKEN = 16  # characters


def is_loopback(host: str) -> bool:
    """True for a name or address that leads to this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_token(file: Path | None, value: str | None) -> str | None:
    """The token in `file`, else `value`, that of the environment. Raises UserError: it is too
    short, or no text for a header."""
    try:
        token = file.read_text(encoding="utf-8").strip() if file else value
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not text; write the token into it") from error
    if token is None or (len(token) >= MIN_TOKEN and re.fullmatch("[!-~]+", token)):
        return token
    raise UserError(
        f"{file or 'SSLD_TOKEN'}: got a token of {len(token)} characters, expected at least "
        f"{MIN_TOKEN} of ASCII without spaces; openssl rand -hex 16 makes one"
    )


def access_to(host: str, token: str | None) -> Access:
    """The rules for a server that listens on `host`. Raises UserError if they need a token."""
    local = is_loopback(host)
    if not local and token is None:
        raise UserError(
            f"--host {host}: others can reach it, and no token is given; write one into a file "
            "(openssl rand -hex 16) and give --token-file FILE, or set SSLD_TOKEN"
        )
    return Access(local, token)


@dataclass(frozen=True)
class Access:
    """`local`: listens on the loopback interface alone; `token`: what a request has to bear."""

    local: bool
    token: str | None

    def check(self, path: str, headers: Mapping[str, str]) -> None:
        """Raises Refused (401, 403, 421)."""
        if self.local:
            _check_host(headers.get("host", ""))
            _check_origin(headers.get("origin"), headers.get("host", ""))
        if self.token is not None and path not in OPEN:
            _check_token(headers.get("authorization"), self.token)


def _check_host(host: str) -> None:
    if not is_loopback(_place(f"//{host}")[0]):
        raise Refused(
            421,
            f"Host {cut(host)}",
            "localhost or a loopback address",
            "ask for http://localhost:PORT; a proxy before this server sets the Host header",
        )


def _check_origin(origin: str | None, host: str) -> None:
    if origin is not None and _place(origin)[1] != host.lower():
        raise Refused(
            403,
            f"Origin {cut(origin)}",
            f"a page of {cut(host)} itself, or a program",
            "use this server's own page, or ask from a program",
        )


def _place(url: str) -> tuple[str, str]:
    """Host, and host with port, of a URL; empty if it is none."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "", ""
    return parts.hostname or "", parts.netloc.lower()


def _check_token(authorization: str | None, token: str) -> None:
    if authorization is None:
        got = "no Authorization header"
    else:
        scheme, _, given = authorization.partition(" ")
        # Encoded, because compare_digest takes text of ASCII alone.
        right = hmac.compare_digest(given.strip().encode(), token.encode())
        if scheme.lower() == "bearer" and right:
            return
        got = "another token" if scheme.lower() == "bearer" else "another kind of Authorization"
    raise Refused(401, got, "Authorization: Bearer TOKEN", "send the token this server was given")
