"""One model by itself: training, evaluation, pictures of the augmentation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from data_catalog.base.config import UserError
from ppcls_core.cli.console import log
from ppcls_core.runtime.paddle import import_paddle

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
    from ppcls_core.jobs.job import load_job

    job = load_job(config, overrides or [])
    import_paddle()
    from ppcls_core.engine.distributed import join
    from ppcls_core.jobs import train as training
    from ppcls_core.jobs.vdl import scalars_to

    if dry_run:
        return training.try_out(job, log)
    is_first = join().is_first
    say = log if is_first else _unheard
    vdl = vdl_dir or (job.vdl_dir and Path(job.vdl_dir))
    folder = training.train(job, say, scalars_to(vdl) if vdl and is_first else None)
    return say(f"written: {folder}")


def evaluate(
    config: File,
    overrides: Overrides = None,
    per_class: Annotated[
        Path | None, typer.Option(help="The accuracy of each class goes here (CSV).")
    ] = None,
) -> None:
    """Measure the accuracy of weights on the validation images of a configuration."""
    from ppcls_core.jobs.job import load_job

    job = load_job(config, overrides or [])
    if per_class and per_class.is_dir():
        raise UserError(f"--per-class {per_class}: is a folder; give the name of a file")
    import_paddle()
    from ppcls_core.engine.distributed import join
    from ppcls_core.jobs.train import evaluate_job

    say = log if join().is_first else _unheard
    accuracy = evaluate_job(job, say, per_class)
    say(f"top1:{accuracy.top1:.4f} top5:{accuracy.top5:.4f} images:{accuracy.num_images}")
    for reason, count in accuracy.rejected.items():
        say(f"left out as {reason}: {count}")


def augment_gallery(
    image: Annotated[Path, typer.Argument(help="A photograph.")],
    out: Annotated[Path, typer.Option(help="The picture (.png or .jpg).")] = Path("gallery.png"),
    seed: Annotated[int, typer.Option(help="Of the random draws.")] = 0,
) -> None:
    """Draw what each augmentation does to a photograph."""
    from ppcls_core.data.augment.gallery import draw_gallery

    draw_gallery(image, out, seed)
    log(f"drawn: {out}")


def _unheard(line: str) -> None:
    """What a process that is not the first of its launch has to say."""
