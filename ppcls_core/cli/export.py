"""From weights to a model that runs elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ppcls_core.cli.console import log
from ppcls_core.cli.paddle import late, start_paddle
from ppcls_core.inference.exported import Exported
from ppcls_core.inference.outputs import check_folder
from ppcls_core.inference.sidecar import FILES, ONNX
from ppcls_core.jobs.trained import Choice, find_trained

Model = Annotated[
    str, typer.Argument(help="A name of `ppcls models`, or a YAML file as `ppcls train` takes it.")
]
Weights = Annotated[
    Path | None,
    typer.Option(help="By default those of the YAML file, or those published under the name."),
]
Classes = Annotated[
    Path | None, typer.Option(help="Names, one a line; by default the classes' numbers.")
]
Size = Annotated[
    int | None, typer.Option(min=16, max=4096, help="Side of the images, pixels; as published.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("-o", "--override", help="num_classes=10, or any a.b=value of the YAML file."),
]


def export(  # noqa: PLR0913 - a command's options
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    weights: Weights = None,
    classes: Classes = None,
    size: Size = None,
    overrides: Overrides = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="Also model.onnx, for any batch.")] = False,
) -> None:
    """Export a model for inference: program, weights, and how to use them (sidecar.json).

    The same form serves a trained model and a published one:
    ppcls export resnet.yaml --weights output/ResNet50/best.pdparams --out exported;
    ppcls export ResNet50_vd_ssld --out exported.
    What is written is checked against the network.
    """
    trained = find_trained(model, Choice(weights, classes, size, tuple(overrides or ())))
    check_folder(out, (*FILES, ONNX), trained.weights)
    start_paddle(None)
    if onnx:
        late("ppcls_core.inference.onnx:check_installed")()
    network = trained.network()
    (out / ONNX).unlink(missing_ok=True)  # of what was exported here before
    found = late("ppcls_core.inference.export:export")(network, trained.sidecar(), out)
    log(f"written: {out} ({len(trained.classes):,} classes, logits within {found:.0e})")
    if onnx:
        found = late("ppcls_core.inference.onnx:export_onnx")(network, Exported(out))
        log(f"written: {out / ONNX} (logits within {found:.0e})")


def export_serving(  # noqa: PLR0913 - a command's options
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    weights: Weights = None,
    classes: Classes = None,
    size: Size = None,
    overrides: Overrides = None,
) -> None:
    """Export a model for Paddle Serving: the folders serving_server and serving_client.

    The program is of Paddle 2's format, which Paddle Serving 0.9 reads; its logits are checked.
    Classes and preprocessing are in serving_client/sidecar.json.
    """
    check_folder(out, (), None)
    trained = find_trained(model, Choice(weights, classes, size, tuple(overrides or ())))
    start_paddle(None)
    write = late("ppcls_core.inference.paddle_serving:export_serving")
    found = write(trained.network(), trained.sidecar(), out)
    log(f"written: {out} ({len(trained.classes):,} classes, logits within {found:.0e})")
