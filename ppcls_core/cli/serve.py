"""An exported model behind HTTP, and its client."""

import os
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from data_catalog.base.config import YAML, override, parse
from ppcls_core.cli.common import log, tell
from ppcls_core.cli.export import Threads
from ppcls_core.cli.lazy import OVERRIDE
from ppcls_core.cli.predict import Device, Folder, Precision, ResultOptions, report

TOKEN = "SSLD_TOKEN"
TokenFile = Annotated[
    Path | None, typer.Option(help=f"Holds the server's token; by default {TOKEN} does.")
]


def serve(  # noqa: PLR0913 - a command's options
    model: Folder,
    host: Annotated[
        str, typer.Option(help="Address to listen on; one that others reach needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one.")] = 8000,
    token_file: TokenFile = None,
    precision: Precision = "fp32",
    device: Device = None,
    threads: Threads = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(*OVERRIDE, help="max_batch=16, max_wait_ms=2 and other limits."),
    ] = None,
) -> None:
    """Serve a model: POST /predict with images, GET / for a page to drop a picture on.

    Images of many requests run as one batch. /health, /ready, /metrics (Prometheus) and
    /openapi.json are there too. Ctrl-C or SIGTERM ends it after what is under way.
    """
    from ppcls_core.inference.exported import find_exported
    from ppcls_core.serving.access import access_to, read_token
    from ppcls_core.serving.limits import ServeConfig

    exported = find_exported(model, tell)
    config = parse(ServeConfig, override({}, overrides or []), "ppcls serve")
    access = access_to(host, read_token(token_file, os.environ.get(TOKEN)))
    from ppcls_core.serving import server
    from ppcls_core.serving.app import ModelService, ServedModel
    from ppcls_core.serving.engine import engine

    cores = len(os.sched_getaffinity(0))
    settings = {"precision": precision, "threads": threads or cores, "device": device}
    given = Path(model)
    name = given.stem if given.suffix in YAML else given.name
    recipe = "" if exported.directory == given else name
    served = ServedModel(exported.sidecar, lambda: engine(exported.directory, settings), recipe)
    with server.listen(host, port) as bound:
        service = ModelService(served, config, access, cores)
        server.serve(service, bound, log)


def client(
    url: Annotated[str, typer.Argument(metavar="URL", help="Of a server: http://HOST:PORT.")],
    asked: ResultOptions,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Requests at a time.")] = 4,
    token_file: TokenFile = None,
) -> None:
    """Send images to `ppcls serve` and write their classes.

    An image that has none is a row with the reason; then the exit status is 1.
    """
    from ppcls_core.inference.inputs import given_images
    from ppcls_core.serving.access import read_token
    from ppcls_core.serving.client import Client

    asked.check()
    given = given_images(asked.images)
    token, counts = read_token(token_file, os.environ.get(TOKEN)), Counter[str]()
    with Client(url, token, concurrency) as server, asked.opened(asked.top_k) as writer:
        for row in server.classify_all(given, asked.top_k):
            writer.write([row])
            counts[row.reason] += 1
    report(counts, given.lost, asked.out)
