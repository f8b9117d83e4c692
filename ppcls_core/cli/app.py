"""`ppcls`: the command line of the models; each command lies in `commands/`."""

from __future__ import annotations

import typer

from ppcls_core.cli import dedup, export, labels, predict, quantize, serve, training, zoo
from ppcls_core.runtime.terminal import run_app

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def _ppcls() -> None:
    """Models: what there is, what it costs, training, evaluation, duplicates, soft labels, use."""


for command in (zoo.models, zoo.benchmark, zoo.convert, training.train):
    app.command()(command)
app.command("eval")(training.evaluate)
for command in (training.augment_gallery, dedup.dedup, labels.select, labels.labels):
    app.command()(command)
for command in (export.export, export.export_serving):
    app.command()(command)
for command in (predict.predict, predict.infer, predict.py_infer):
    app.command()(command)
for command in (serve.serve, serve.client):
    app.command()(command)
for command in (quantize.quantize, quantize.export_lite, quantize.lite_benchmark):
    app.command()(command)


def main() -> None:
    """Entry point of `ppcls`."""
    run_app(app)


if __name__ == "__main__":
    main()
