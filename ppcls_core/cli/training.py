"""One model by itself: training, evaluation, pictures of the augmentation."""

from pathlib import Path
from typing import Annotated

import typer

from data_catalog.base.config import UserError
from ppcls_core.cli.common import late, log
from ppcls_core.data.augment.gallery import draw_gallery
from ppcls_core.jobs.job import load_job

File = Annotated[Path, typer.Option("-c", "--config", help="YAML: ours or PaddleClas's of 2020.")]
Overrides = Annotated[
    list[str] | None, typer.Option("-o", "--override", help="a.b=value over it. Repeatable.")
]


def train(
    config: File,
    overrides: Overrides = None,
    vdl_dir: Annotated[
        Path | None,
        # The second is PaddleClas's spelling.
        typer.Option("--vdl-dir", "--vdl_dir", help="Scalars for VisualDL go here."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="One step on synthetic images; reads no data.")
    ] = False,
) -> None:
    """Train a model; the same command again goes on where a training stopped.

    On several devices: python -m paddle.distributed.launch --nproc_per_node N $(which ppcls) train
    """
    job = load_job(config, overrides or [])
    if vdl_dir:
        job = job.model_copy(update={"vdl_dir": str(vdl_dir)})
    late(f"ppcls_core.jobs.train:{'try_out' if dry_run else 'train'}")(job, log)


def evaluate(
    config: File,
    overrides: Overrides = None,
    per_class: Annotated[
        Path | None, typer.Option(help="The accuracy of each class goes here (CSV).")
    ] = None,
) -> None:
    """Measure the accuracy of weights on the validation images of a configuration."""
    job = load_job(config, overrides or [])
    if per_class and per_class.is_dir():
        raise UserError(f"--per-class {per_class}: is a folder; give the name of a file")
    late("ppcls_core.jobs.train:evaluate_job")(job, log, per_class)


def augment_gallery(
    image: Annotated[Path, typer.Argument(help="A photograph.")],
    out: Annotated[Path, typer.Option(help="The picture (.png or .jpg).")] = Path("gallery.png"),
    seed: Annotated[int, typer.Option(help="Of the random draws.")] = 0,
) -> None:
    """Draw what each augmentation does to a photograph."""
    draw_gallery(image, out, seed)
    log(f"drawn: {out}")
